//! The headers of an ELF core of physical memory, laid out as `/proc/vmcore` has them.
//!
//! What readers rely on: crash wants the program headers right behind the ELF header, `PT_NOTE` first, and takes the
//! offset of the first `PT_LOAD` for the length of all headers; drgn wants the VMCOREINFO note and physical
//! addresses; gdb wants virtual ones.
//! Source: ELF-64 object file format, version 1.5; `fs/proc/vmcore.c`; crash's `netdump.c`; drgn's `program.c`.

use std::fmt::Write as _;

use super::{
    DumpError,
    layout::{Layout, intersect},
};
use crate::{
    addr::{PAGE_SIZE, PhysRange, VirtAddr},
    kernel::KernelMap,
    paging::Levels,
};

/// Where the memory begins. The headers in front have room for some ten thousand ranges and are mostly a hole.
pub const HEADER_LEN: u64 = 1 << 20;

const EHDR_LEN: u64 = 64;
const PHDR_LEN: u64 = 56;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const EV_CURRENT: u32 = 1;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_RWX: u32 = 7;

/// Where the kernel maps its own image, by `phys_base` (`__START_KERNEL_map`).
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

struct Segment {
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    len: u64,
}

/// What the headers have room for beside a note of 32 KiB, twice the longest VMCOREINFO.
const MAX_SEGMENTS: usize = ((HEADER_LEN - (32 << 10)) / PHDR_LEN) as usize;

/// The headers of a core that holds `stored`, at most [`HEADER_LEN`] bytes. What an incomplete dump holds may be in
/// more pieces than there is room for: the rest is left out, for the headers may say less than is there, never more.
///
/// # Errors
/// [`DumpError::NoLayout`] when a stored range has no one place in the file.
pub fn header(map: &KernelMap, layout: &Layout, stored: &[PhysRange]) -> Result<Vec<u8>, DumpError> {
    let image = intersect(stored, map.image);
    let loads = stored.iter().map(|range| direct_map(map, layout, *range));
    let loads = loads.chain(image.into_iter().map(|range| kernel_map(map, layout, range)));
    let loads: Option<Vec<Segment>> = loads.take(MAX_SEGMENTS).collect();
    let loads = loads.ok_or(DumpError::NoLayout("what is stored is not in one place of it"))?;

    let note = note("VMCOREINFO", vmcoreinfo(map).as_bytes());
    let note_at = EHDR_LEN + PHDR_LEN * (1 + loads.len() as u64);
    let note_segment = Segment { kind: PT_NOTE, offset: note_at, virt: 0, phys: 0, len: note.len() as u64 };

    let mut out = file_header(1 + loads.len() as u16);
    out.extend([note_segment].iter().chain(&loads).flat_map(program_header));
    out.extend(note);
    Ok(out)
}

/// A range as the direct map shows it.
fn direct_map(map: &KernelMap, layout: &Layout, range: PhysRange) -> Option<Segment> {
    let base = map.page_offset.map_or(0, VirtAddr::raw);
    Some(load(layout.offset(range)?, base.wrapping_add(range.start.raw()), range))
}

/// A part of the kernel image where it runs: its second mapping.
fn kernel_map(map: &KernelMap, layout: &Layout, range: PhysRange) -> Option<Segment> {
    let virt = map.text.wrapping_add(range.start.wrapping_offset_from(map.text_phys));
    Some(load(layout.offset(range)?, virt.raw(), range))
}

fn load(offset: u64, virt: u64, range: PhysRange) -> Segment {
    Segment { kind: PT_LOAD, offset, virt, phys: range.start.raw(), len: range.len() }
}

fn file_header(segments: u16) -> Vec<u8> {
    // 64-bit, little-endian, version 1, no particular ABI.
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend(ET_CORE.to_le_bytes());
    out.extend(EM_X86_64.to_le_bytes());
    out.extend(EV_CURRENT.to_le_bytes());
    // No entry point; program headers right behind; no section headers; no flags.
    out.extend([0, EHDR_LEN, 0].iter().flat_map(|word| word.to_le_bytes()));
    out.extend(0_u32.to_le_bytes());
    let sizes = [EHDR_LEN as u16, PHDR_LEN as u16, segments, 0, 0, 0];
    out.extend(sizes.iter().flat_map(|half| half.to_le_bytes()));
    out
}

fn program_header(segment: &Segment) -> Vec<u8> {
    let Segment { kind, offset, virt, phys, len } = *segment;
    let flags = if kind == PT_LOAD { PF_RWX } else { 0 };
    let mut out = [kind, flags].map(u32::to_le_bytes).concat();
    // No alignment: by that crash tells a kdump, whose VMCOREINFO it honours, from a netdump.
    out.extend([offset, virt, phys, len, len, 0].iter().flat_map(|word| word.to_le_bytes()));
    out
}

/// An ELF note of type 0.
fn note(name: &str, description: &[u8]) -> Vec<u8> {
    let mut out = [name.len() as u32 + 1, description.len() as u32, 0].map(u32::to_le_bytes).concat();
    for part in [[name.as_bytes(), b"\0"].concat().as_slice(), description] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// VMCOREINFO as the target keeps it; if it does not, the part that readers cannot do without.
fn vmcoreinfo(map: &KernelMap) -> String {
    if let Some(info) = &map.vmcoreinfo {
        return info.text().to_owned();
    }
    let root = map.root.raw().wrapping_sub(map.phys_base).wrapping_add(START_KERNEL_MAP);
    let levels = u32::from(map.levels == Levels::Five);
    let mut text = String::new();
    if let Some(release) = &map.release {
        let _ = writeln!(text, "OSRELEASE={release}");
    }
    if let Some(build_id) = &map.build_id {
        let _ = writeln!(text, "BUILD-ID={}", crate::addr::hex_bytes(build_id));
    }
    let _ = write!(text, "PAGESIZE={PAGE_SIZE}\nSYMBOL(swapper_pg_dir)={root:x}\n");
    let _ = writeln!(text, "NUMBER(phys_base)={}", map.phys_base.cast_signed());
    let _ = write!(text, "NUMBER(pgtable_l5_enabled)={levels}\nNUMBER(sme_mask)={}\n", map.sme_mask);
    if let Some(slide) = map.slide {
        let _ = writeln!(text, "KERNELOFFSET={slide:x}");
    }
    text
}
