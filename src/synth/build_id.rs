//! A `vmlinux` of a few kilobytes that says which kernel it is, and nothing more.
//!
//! It has the sections of the kernel's full debug file, without their bytes, and its build id, by which GDB finds that
//! file on its own machine (`.build-id` under its debug directories, or debuginfod). What GDB then reads from there
//! is moved as the sections here are.
//!
//! One segment holds everything that KASLR moves, so one offset of `qOffsets` is right for all of it. A per-CPU
//! section linked at 0 (before Linux 6.15) is to move with it, as in a GDB that was given the full file. GDB takes a
//! section that starts at 0 for one whose place is unknown, and moves it as the section before it in the section table.
//! `.notes` stands last, outside the segment: its bytes are in the file where no segment has any.
//!
//! The entry point is the full file's: GDB measures from there when it looks for a section's other half.
//!
//! Source: System V ABI, chapters 4 and 5; GDB's `elf_symfile_segments` (elfread.c) and `addr_info_make_relative`
//! (symfile.c) and `matching_obj_sections` (objfiles.c), which do this from GDB 7.10 to 17 and promise nothing.

use std::ops::Range;

use object::{
    Endianness, elf,
    write::elf::{FileHeader, ProgramHeader, SectionHeader, Writer},
};

use super::elf::build_id_note;
use crate::vmlinux::{Section, Vmlinux};

/// Kernels start at `__START_KERNEL_map` or above; below are per-CPU offsets.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const NOTES: &str = ".notes";

/// The file for the kernel whose full debug file is `full`; `None` when that has no build id or no loaded section.
#[must_use]
pub fn write(full: &Vmlinux) -> Option<Vec<u8>> {
    let note = build_id_note(full.build_id()?);
    let sections = ordered(full);
    let moved = sections.iter().filter(|section| section.addr.raw() >= KERNEL_MAP && &*section.name != NOTES);
    let start = moved.clone().map(|section| section.addr.raw()).min()?;
    let end = moved.map(|section| section.addr.raw().saturating_add(section.size)).max()?;
    let mut bytes = Vec::new();
    layout(&mut bytes, full.entry(), &sections, &note, start..end).ok()?;
    Some(bytes)
}

/// The loaded sections: those in the segment, per-CPU ones linked at 0, `.notes`.
fn ordered(full: &Vmlinux) -> Vec<&Section> {
    let loaded = || full.sections().iter().filter(|section| section.is_loaded());
    let is_notes = |section: &&Section| &*section.name == NOTES;
    let is_fixed = |section: &&Section| section.addr.raw() < KERNEL_MAP;
    let moved = loaded().filter(|section| !is_notes(section) && !is_fixed(section));
    moved.chain(loaded().filter(is_fixed)).chain(loaded().filter(is_notes)).collect()
}

fn layout(
    bytes: &mut Vec<u8>,
    entry: u64,
    sections: &[&Section],
    note: &[u8],
    moved: Range<u64>,
) -> object::write::Result<()> {
    let mut writer = Writer::new(Endianness::Little, true, bytes);
    writer.reserve_file_header();
    writer.reserve_program_headers(2);
    let note_at = writer.reserve(note.len() as u64, 4);
    writer.reserve_null_section_index();
    let names: Vec<_> = sections
        .iter()
        .map(|section| {
            writer.reserve_section_index();
            writer.add_section_name(section.name.as_bytes())
        })
        .collect();
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_SYSV,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: entry,
        ..FileHeader::default()
    })?;
    writer.write_align_program_headers();
    let note_len = note.len() as u64;
    let (all, read) = (elf::PF_R | elf::PF_W | elf::PF_X, elf::PF_R);
    for (p_type, p_flags, p_offset, p_vaddr, p_filesz, p_memsz) in [
        (elf::PT_LOAD, all, 0, moved.start, 0, moved.end - moved.start),
        (elf::PT_NOTE, read, note_at, 0, note_len, note_len),
    ] {
        let p_align = if p_type == elf::PT_NOTE { 4 } else { 1 };
        let header =
            ProgramHeader { p_type, p_flags, p_offset, p_vaddr, p_paddr: 0, p_filesz, p_memsz, p_align };
        writer.write_program_header(&header);
    }
    writer.write_align(4);
    writer.write(note);
    writer.write_shstrtab();
    writer.write_null_section_header();
    for (section, name) in sections.iter().zip(names) {
        let is_note = &*section.name == NOTES;
        writer.write_section_header(&SectionHeader {
            sh_name: writer.section_name_offset(Some(name)),
            sh_type: if is_note { elf::SHT_NOTE } else { elf::SHT_NOBITS },
            sh_flags: elf::SHF_ALLOC | if section.is_code() { elf::SHF_EXECINSTR } else { elf::SHF_WRITE },
            sh_addr: section.addr.raw(),
            sh_offset: if is_note { note_at } else { 0 },
            sh_size: if is_note { note_len } else { section.size },
            sh_addralign: if is_note { 4 } else { 1 },
            ..SectionHeader::default()
        });
    }
    writer.write_shstrtab_section_header();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Description, Machine};

    #[test]
    fn it_is_the_kernel_without_its_bytes() {
        let machine = Machine::build(&Description::minimal()).unwrap();
        let full = Vmlinux::from_bytes("full", machine.vmlinux().unwrap()).unwrap();
        let bytes = write(&full).unwrap();
        assert!(bytes.len() < 8 << 10, "{} bytes", bytes.len());
        let stub = Vmlinux::from_bytes("stub", bytes).unwrap();
        assert_eq!(stub.build_id(), full.build_id());
        let places = |file: &Vmlinux| {
            let loaded =
                file.sections().iter().filter(|section| section.is_loaded() && &*section.name != NOTES);
            let mut places: Vec<_> =
                loaded.map(|section| (section.name.clone(), section.addr, section.size)).collect();
            places.sort();
            places
        };
        assert_eq!(places(&stub), places(&full));
        let names: Vec<&str> = stub
            .sections()
            .iter()
            .filter(|section| section.is_loaded())
            .map(|section| &*section.name)
            .collect();
        assert_eq!(names.last_chunk(), Some(&[".data..percpu", NOTES]), "{names:?}");
    }

    #[test]
    fn a_file_without_a_build_id_has_no_stub() {
        let file = crate::vmlinux::testing::TestElf::default().loaded(".text", KERNEL_MAP, 16).bytes();
        assert_eq!(write(&Vmlinux::from_bytes("no build id", file).unwrap()), None);
    }
}
