//! The kernel image as the page tables map it, and what in its bytes says which kernel it is.
//!
//! `_text` is the first address mapped from 0xffffffff80000000 on: `cleanup_highmap()` unmaps what lies outside
//! the image, and `mark_rodata_ro()` leaves executable text, read-only data, then writable data, which is how
//! they are told apart without symbols. Before it, until every initcall has returned, and for ever with `rodata=off`,
//! all is writable and executable; where the text ends is then told by the banner behind it.
//! Source: `init/main.c` (`kernel_init`), `arch/x86/mm/init_64.c`, `arch/x86/kernel/vmlinux.lds.S`
//! (`X86_ALIGN_RODATA_BEGIN`), `include/asm-generic/vmlinux.lds.h` (`NOTES`).

use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr},
    mem::PhysMem,
    paging::runs::{Run, Runs, Tables, runs},
};

use super::banner::{BANNER_START, holds_banner};

/// `__START_KERNEL_map`, the link address that stands for physical `phys_base`.
pub(super) const START_KERNEL_MAP: VirtAddr = VirtAddr::new(0xffff_ffff_8000_0000);

/// Where a kernel image may lie: `__START_KERNEL_map` and the largest `KERNEL_IMAGE_SIZE` of 1 GiB.
pub(super) const KERNEL_SPACE: (VirtAddr, VirtAddr) =
    (START_KERNEL_MAP, VirtAddr::new(0xffff_ffff_bfff_ffff));

/// `CONFIG_PHYSICAL_ALIGN` is at least this on x86-64.
pub(super) const TEXT_ALIGN: u64 = 2 << 20;

/// One table per level, and a page table for each 2 MiB that is not mapped whole: a handful, 512 at worst.
const MAX_TABLES: usize = 5 + 512;

/// The image, as mapped.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Run-time address of `_text`.
    pub(super) text: VirtAddr,
    /// Its physical address.
    pub(super) text_phys: PhysAddr,
    /// The runs that lie as far from their physical addresses as `_text` does, ascending.
    pub(super) runs: Vec<Run>,
    /// Where read-only data begins that is not protected ([`Image::find_unprotected`]).
    unprotected: Option<VirtAddr>,
}

/// Why page tables map no kernel image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoImage {
    #[error("its tables map nothing from {START_KERNEL_MAP} on")]
    Nothing,
    #[error("its table at {0}, which would map the kernel, cannot be read")]
    Unread(PhysAddr),
    #[error("its tables map {0} first, which is not executable")]
    NotText(VirtAddr),
    #[error("its tables map {virt} to {phys}, which is not a multiple of 2 MiB")]
    Unaligned { virt: VirtAddr, phys: PhysAddr },
}

impl Image {
    /// Reads the tables' part for the kernel image.
    pub(super) fn survey(mem: &dyn PhysMem, tables: Tables) -> Result<Self, NoImage> {
        let (first, last) = KERNEL_SPACE;
        let Runs { runs: mut found, unread } = runs(mem, tables, first, last, MAX_TABLES);
        let text = *found.first().ok_or(unread.first.map_or(NoImage::Nothing, NoImage::Unread))?;
        if !text.executable {
            return Err(NoImage::NotText(text.virt));
        }
        if text.phys.offset_in(TEXT_ALIGN) != 0 || text.virt.offset_in(TEXT_ALIGN) != 0 {
            return Err(NoImage::Unaligned { virt: text.virt, phys: text.phys });
        }
        let distance = |run: &Run| run.virt.raw().wrapping_sub(run.phys.raw());
        found.retain(|run| distance(run) == distance(&text));
        Ok(Self { text: text.virt, text_phys: text.phys, runs: found, unprotected: None })
    }

    /// Where the text is writable, looks for the beginning of read-only data: a multiple of 2 MiB behind `_text`, and the
    /// banner or its weak copy. From there to the image's end all may then be read-only data, or writable.
    pub(super) fn find_unprotected(&mut self, mem: &dyn PhysMem) {
        if self.is_protected() {
            return;
        }
        let Some(range) = self.phys_range() else { return };
        let distances = (TEXT_ALIGN..range.len()).step_by(TEXT_ALIGN as usize);
        let places: Vec<PhysAddr> = distances.map(|distance| self.text_phys.wrapping_add(distance)).collect();
        let begins = |bytes: Result<[u8; BANNER_START], _>| bytes.is_ok_and(|bytes| holds_banner(&bytes));
        let place = mem.read_each(&places).into_iter().position(begins).and_then(|index| places.get(index));
        self.unprotected =
            place.map(|place| self.text.wrapping_add(place.raw().wrapping_sub(self.text_phys.raw())));
    }

    /// Whether `mark_rodata_ro()` was here.
    pub(super) fn is_protected(&self) -> bool {
        self.runs.first().is_some_and(|text| !text.writable)
    }

    /// The physical memory of the image: `_text` to the last page mapped.
    pub(super) fn phys_range(&self) -> Option<PhysRange> {
        let last = self.runs.last()?;
        PhysRange::new(self.text_phys, last.phys.checked_add(last.len)?)
    }

    /// Physical address of an address inside the image.
    pub(super) fn phys(&self, addr: VirtAddr) -> Option<PhysAddr> {
        let inside = self.runs.iter().any(|run| run.virt <= addr && addr <= run.last());
        inside.then(|| self.text_phys.wrapping_add(addr.wrapping_offset_from(self.text)))
    }

    /// Whether `addr` is in the text that starts the image.
    pub(super) fn is_text(&self, addr: VirtAddr) -> bool {
        let before_rodata = self.unprotected.is_none_or(|rodata| addr < rodata);
        before_rodata && self.runs.first().is_some_and(|run| run.virt <= addr && addr <= run.last())
    }

    fn read_only(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().skip(1).filter(|run| !run.writable && !run.executable)
    }

    /// The read-only data after the text, from the 2 MiB boundary it is linked at, and where it is not protected, what
    /// may be some.
    ///
    /// The gap before it was given to the page allocator. Who makes such a page read-only in the direct map (BPF
    /// and ftrace do) makes it so here too, so a run may begin early, or be no part of the image's data at all.
    pub(super) fn rodata(&self) -> Option<Run> {
        if let Some(start) = self.unprotected {
            return self.runs.iter().find_map(|run| from(run, start));
        }
        let from_boundary =
            |run: &Run| from(run, VirtAddr::new(run.virt.raw().checked_next_multiple_of(TEXT_ALIGN)?));
        self.read_only().find_map(from_boundary).or_else(|| self.read_only().next().copied())
    }

    /// What is writable, and no text.
    fn data(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().filter_map(|run| match self.unprotected {
            Some(rodata) => from(run, rodata),
            None => (run.writable && !run.executable).then_some(*run),
        })
    }

    /// Physical addresses of the pages of the writable data, which begins with the next 2 MiB after the read-only
    /// data; the gap between was given to the page allocator.
    pub(super) fn data_pages(&self) -> impl Iterator<Item = PhysAddr> {
        let behind_rodata = || self.rodata()?.last().raw().checked_next_multiple_of(TEXT_ALIGN);
        let start = self.unprotected.map(VirtAddr::raw).or_else(behind_rodata);
        let pages = self.data().flat_map(|run| {
            (0..run.len / PAGE_SIZE).map(move |page| {
                (run.virt.wrapping_add(page * PAGE_SIZE), run.phys.wrapping_add(page * PAGE_SIZE))
            })
        });
        pages.filter(move |(virt, _)| start.is_some_and(|start| virt.raw() >= start)).map(|(_, phys)| phys)
    }

    /// The physical memory of what is writable.
    pub(super) fn data_ranges(&self) -> impl Iterator<Item = PhysRange> {
        self.data().filter_map(|run| run.pages())
    }

    /// What the kernel calls `phys_base`.
    pub(super) fn phys_base(&self) -> u64 {
        self.text_phys.raw().wrapping_sub(self.text.wrapping_offset_from(START_KERNEL_MAP))
    }
}

/// The part of `run` from `start` on.
fn from(run: &Run, start: VirtAddr) -> Option<Run> {
    let skipped = start.raw().saturating_sub(run.virt.raw());
    let len = run.len.checked_sub(skipped).filter(|len| *len > 0)?;
    let (virt, phys) = (run.virt.wrapping_add(skipped), run.phys.wrapping_add(skipped));
    Some(Run { virt, phys, len, ..*run })
}

const NT_GNU_BUILD_ID: u32 = 3;
const GNU: &[u8] = b"GNU\0";

/// The GNU build id in the bytes of `.notes`.
pub(super) fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = notes;
    loop {
        let (words, after) = rest.split_at_checked(12)?;
        let (words, _) = words.as_chunks::<4>();
        let &[name_len, desc_len, kind] = words else { return None };
        let (name, after) = padded(after, u32::from_le_bytes(name_len))?;
        let (desc, after) = padded(after, u32::from_le_bytes(desc_len))?;
        if name == GNU && u32::from_le_bytes(kind) == NT_GNU_BUILD_ID {
            return is_build_id(desc).then(|| desc.to_vec());
        }
        rest = after;
    }
}

/// A build id among other bytes: the place of its note is not known.
pub(super) fn find_build_id(bytes: &[u8]) -> Option<Vec<u8>> {
    build_ids(bytes).next().map(|(_, id)| id)
}

/// The build ids among other bytes, each with the offset of its note's name.
pub(super) fn build_ids(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let names = memchr::memmem::find_iter(bytes, GNU);
    names.filter_map(|at| Some((at, build_id(bytes.get(at.checked_sub(12)?..)?)?)))
}

fn is_build_id(desc: &[u8]) -> bool {
    (8..=64).contains(&desc.len()) && desc.iter().any(|byte| *byte != 0)
}

/// `len` bytes and what follows their padding to a multiple of four.
fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = len as usize;
    let whole = len.checked_next_multiple_of(4)?.min(bytes.len());
    Some((bytes.get(..len)?, bytes.get(whole..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((desc.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        for part in [name, desc] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn run(virt: u64, len: u64, writable: bool, executable: bool) -> Run {
        let phys = PhysAddr::new(virt - START_KERNEL_MAP.raw());
        Run { virt: VirtAddr::new(virt), phys, len, writable, executable, write_back: true }
    }

    #[test]
    fn read_only_pages_in_the_gap_are_not_the_read_only_data() {
        let text = START_KERNEL_MAP.raw() + 0x100_0000;
        let image = |gap: &[Run]| {
            let rodata = run(text + 0x80_0000, 0x20_0000, false, false);
            let runs = [&[run(text, 0x70_0000, false, true)], gap, &[rodata]].concat();
            Image { text: VirtAddr::new(text), text_phys: PhysAddr::new(0x100_0000), runs, unprotected: None }
        };
        let expected = VirtAddr::new(text + 0x80_0000);
        let page = |at: u64, writable| run(text + at, PAGE_SIZE, writable, false);
        for gap in [&[][..], &[page(0x70_0000, true)], &[page(0x70_1000, false), page(0x70_2000, true)]] {
            let rodata = image(gap).rodata().unwrap();
            assert_eq!((rodata.virt, rodata.len), (expected, 0x20_0000), "{gap:?}");
        }
        let joined = run(text + 0x7f_f000, 0x20_1000, false, false);
        let runs = vec![run(text, 0x70_0000, false, true), joined];
        let rodata = Image { runs, ..image(&[]) }.rodata().unwrap();
        assert_eq!((rodata.virt, rodata.len), (expected, 0x20_0000));
        assert_eq!(rodata.phys, PhysAddr::new(0x180_0000));
    }

    #[test]
    fn the_build_id_among_other_notes() {
        let id: Vec<u8> = (1..=20).collect();
        let mut notes = note(b"Xen\0", 6, b"linux\0");
        notes.extend(note(b"GNU\0", 3, &id));
        notes.extend(note(b"Linux\0", 0x100, b"6.1"));
        assert_eq!(build_id(&notes), Some(id.clone()));
        assert_eq!(build_id(&notes[..40]), None);
        let mut bytes = b"GNU\0 and GNU\0".to_vec();
        bytes.extend(&notes);
        assert_eq!(find_build_id(&bytes), Some(id));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, name_len: u32, desc_len: u32) {
            let mut notes = name_len.to_le_bytes().to_vec();
            notes.extend(desc_len.to_le_bytes());
            notes.extend(&bytes);
            for bytes in [bytes, notes] {
                build_id(&bytes);
                find_build_id(&bytes);
            }
        }
    }
}
