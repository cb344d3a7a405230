//! VMCOREINFO on trial: where its copies are, and whether what they claim can be so.
//!
//! The note may be another boot's, overwritten, cut short or wrong. A kernel is not refused for that: every copy is
//! held against what the page tables and the kernel's own strings say, and one that contradicts them is dropped,
//! with the reason kept for whoever reads the evidence.
//! Source: `kernel/vmcore_info.c` (`vmcoreinfo_note`, `vmcoreinfo_data`), `arch/x86/kernel/vmcore_info_64.c`.

use std::cell::OnceCell;

use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    mem::PhysMem,
    paging::{Levels, VirtMem, runs::Tables},
};

use super::{
    Target,
    image::{Image, TEXT_ALIGN},
    slide::{self, Slide},
    vmcoreinfo::{self, Damage, VmcoreInfo},
};

/// `vmcoreinfo_data`, `vmcoreinfo_size`, `vmcoreinfo_note` and `vmcoreinfo_data_safecopy` are neighbours.
const NEIGHBOURS: u64 = 64;

/// VMCOREINFO, and how it was found.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    pub(super) info: VmcoreInfo,
    pub(super) source: &'static str,
    /// The slide, as it is settled with this copy.
    pub(super) slide: Slide,
}

/// A copy that is not believed.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) source: &'static str,
    pub(super) reason: String,
    /// It is whole and tells of another kernel, or another boot.
    pub(super) contradicts: bool,
}

/// What is known of a kernel without VMCOREINFO.
#[derive(Clone)]
pub(super) struct Seen<'s, 'a> {
    pub(super) target: &'s Target<'a>,
    pub(super) space: &'s dyn VirtMem,
    pub(super) image: &'s Image,
    pub(super) tables: Tables,
    /// `uname -r`, by banner or `init_uts_ns`.
    pub(super) release: Option<String>,
    /// By a vmlinux, and whether that is this kernel's.
    pub(super) slide: Option<(u64, bool)>,
    /// What `boot_params` says of the link address, once it was looked for.
    pub(super) start: OnceCell<Option<u64>>,
}

impl Seen<'_, '_> {
    /// Holds `info` against what is known; the error says what in it cannot be so.
    fn check(&self, info: &VmcoreInfo) -> Result<Slide, String> {
        let Self { image, tables, .. } = self;
        let (noted, known) = (info.get("OSRELEASE"), self.release.as_deref());
        if let Some((noted, known)) = noted.zip(known).filter(|(noted, known)| noted != known) {
            return Err(format!("it says {noted}, the kernel says {known}"));
        }
        let numbers = [
            ("phys_base", image.phys_base()),
            ("pgtable_l5_enabled", u64::from(tables.levels == Levels::Five)),
            ("sme_mask", tables.encryption_mask),
        ];
        for (name, known) in numbers {
            let Some(text) = info.get(&format!("NUMBER({name})")) else { continue };
            match info.number(name) {
                Some(noted) if noted == known => {}
                Some(noted) => {
                    return Err(format!("its {name} is {noted:#x}, by the page tables it is {known:#x}"));
                }
                None => return Err(format!("its {name} is {text:?}, no number")),
            }
        }
        let starts_text =
            |addr: VirtAddr| addr >= image.text && addr.wrapping_offset_from(image.text) < TEXT_ALIGN;
        if let Some(addr) = info.symbol("_stext").filter(|addr| !starts_text(*addr)) {
            return Err(format!("its _stext is {addr}, the text begins at {}", image.text));
        }
        let table = info.top_level_table();
        if let Some(addr) = table.filter(|addr| !self.is_top_level(*addr)) {
            return Err(format!("its swapper_pg_dir {addr} is not the kernel's page table"));
        }
        if let Some(text) = info.get("KERNELOFFSET").filter(|_| info.slide().is_none()) {
            return Err(format!("its KERNELOFFSET is {text:?}, no number"));
        }
        let start = || *self.start.get_or_init(|| slide::preferred_start(self.target, image));
        slide::settle(image, self.slide, info.slide(), start)
    }

    /// Whether the table at `addr` maps the image as the one the kernel was seen through does.
    fn is_top_level(&self, addr: VirtAddr) -> bool {
        self.image.phys(addr).is_some_and(|table| same_image(self.target, table, self.tables.root))
    }

    /// Puts one copy to the test.
    fn judge(
        &self,
        source: &'static str,
        found: Result<VmcoreInfo, String>,
        refused: &mut Vec<Refused>,
    ) -> Option<Noted> {
        let (reason, contradicts) = match found {
            Ok(info) => match self.check(&info) {
                Ok(slide) => return Some(Noted { info, source, slide }),
                Err(reason) => (reason, true),
            },
            Err(reason) => (reason, false),
        };
        log::info!("VMCOREINFO by {source}: {reason}");
        refused.push(Refused { source, reason, contradicts });
        None
    }

    /// The first copy that stands: `seen` by a page scan, then what `variables` (with how they were found) and their
    /// neighbours point to.
    pub(super) fn believed(
        &self,
        seen: Option<&VmcoreInfo>,
        (variables, source): (&[VirtAddr], &'static str),
        refused: &mut Vec<Refused>,
    ) -> Option<Noted> {
        if let Some(noted) = seen.and_then(|info| self.judge("page scan", Ok(info.clone()), refused)) {
            return Some(noted);
        }
        let mut pointers: Vec<VirtAddr> =
            variables.iter().filter_map(|variable| self.space.read_ptr(*variable).ok()).collect();
        pointers.dedup();
        for pointer in pointers {
            let Some(found) = note_at(self.space, pointer) else { continue };
            if let Some(noted) = self.judge(source, found, refused) {
                return Some(noted);
            }
        }
        // Looked at only now: where the note is whole, one read of it is enough.
        let copies = copies_near(self.space, variables);
        copies.into_iter().find_map(|found| self.judge("vmcoreinfo_data", found, refused))
    }
}

/// Whether the last slots of two top-level tables, which map the image, are equal.
pub(super) fn same_image(target: &Target<'_>, table: PhysAddr, other: PhysAddr) -> bool {
    let last = |table: PhysAddr| target.tables.read_u64(table.wrapping_add(PAGE_SIZE - 8)).ok();
    last(table).is_some_and(|entry| Some(entry) == last(other))
}

/// The note at `addr`; `None` where there cannot be one.
fn note_at(space: &dyn VirtMem, addr: VirtAddr) -> Option<Result<VmcoreInfo, String>> {
    if addr.offset_in(PAGE_SIZE) != 0 || !addr.is_upper_half() {
        return None;
    }
    let header = space.read_vec(addr, vmcoreinfo::HEADER_LEN).ok()?;
    let len = vmcoreinfo::HEADER_LEN + vmcoreinfo::text_len(&header).unwrap_or(0);
    let note = space.read_vec(addr, len).map_err(|error| error.to_string());
    Some(note.and_then(|note| VmcoreInfo::parse_note(&note).map_err(|damage| damage.to_string())))
}

/// The texts that the variables' neighbours point to: pages that begin as VMCOREINFO's text does.
fn copies_near(space: &dyn VirtMem, variables: &[VirtAddr]) -> Vec<Result<VmcoreInfo, String>> {
    let wanted: Vec<VirtAddr> = variables.iter().map(|variable| variable.wrapping_sub(NEIGHBOURS)).collect();
    let around: Vec<u8> =
        space.read_vecs(&wanted, 2 * NEIGHBOURS as usize).into_iter().flatten().flatten().collect();
    let (words, _) = around.as_chunks::<8>();
    let pointers = words.iter().map(|word| VirtAddr::new(u64::from_le_bytes(*word)));
    let mut pages: Vec<VirtAddr> =
        pointers.filter(|page| page.is_upper_half() && page.offset_in(PAGE_SIZE) == 0).collect();
    pages.sort_unstable();
    pages.dedup();
    let begun = space.read_vecs(&pages, vmcoreinfo::BEGINNING.len());
    let begins =
        |bytes: &Result<Vec<u8>, _>| bytes.as_ref().is_ok_and(|bytes| bytes == vmcoreinfo::BEGINNING);
    let texts = pages.into_iter().zip(begun).filter(|(_, bytes)| begins(bytes));
    texts
        .map(|(page, _)| {
            let text = space.read_vec(page, PAGE_SIZE as usize).map_err(|error| error.to_string())?;
            VmcoreInfo::parse_text(&text).map_err(|damage: Damage| damage.to_string())
        })
        .collect()
}
