//! The ELF file: headers, sections, symbol table.
//!
//! Sections of the kernel have a place and no bytes (`SHT_NOBITS`); what is in the file besides is not loaded. The
//! build id stands in a note without an address for the same reason: gdb complains about a loaded section whose
//! bytes belong to no segment. Headers and their names come first and what gdb does not read, the types, last: it opens
//! the file three times before it reads a section, and fetches 64 KiB wherever it looks. Source: System V ABI, chapters
//! 4 and 5.

use std::borrow::Cow;

use object::{
    Endianness,
    elf::{self, SectionFlags, SectionType},
    write::elf::{FileHeader, ProgramHeader, SectionHeader, SectionIndex, Sym, Writer},
};

use super::{
    layout::{Layout, Section, Use},
    vmlinux::{Input, Symbol, SynthError},
};
use crate::symbols::SymbolKind;

/// Alignment of segments, whose addresses are multiples of it.
const PAGE: u64 = 4096;
/// The kernel's types as it has them, for who reads them there.
const TYPES: &str = ".BTF";
/// `__START_KERNEL_map`: physical addresses of segments are as linked.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// What the file has bytes of.
pub(super) struct Stored<'a> {
    name: &'static str,
    kind: SectionType,
    bytes: Cow<'a, [u8]>,
    align: u64,
}

impl<'a> Stored<'a> {
    /// What a `vmlinux` has beside symbols and debug information.
    pub(super) fn of_kernel(input: &Input<'a>) -> Vec<Self> {
        let note = |id| Stored {
            name: ".note.gnu.build-id",
            kind: elf::SHT_NOTE,
            bytes: build_id_note(id).into(),
            align: 4,
        };
        let plain = |name, bytes: &'a [u8], align| {
            let (kind, bytes) = (elf::SHT_PROGBITS, bytes.into());
            Stored { name, kind, bytes, align }
        };
        let mut stored: Vec<Self> = input.build_id.map(note).into_iter().collect();
        // drgn knows a kernel by a section of this name that is not NOBITS, and only then leaves per-CPU variables alone.
        stored.push(plain(".init.text", &[], 1));
        stored.push(plain(TYPES, input.btf.bytes(), 8));
        stored
    }
}

/// Writes the file.
pub(super) fn write(
    mut stored: Vec<Stored<'_>>,
    layout: &Layout,
    symbols: &[Symbol],
    debug: Vec<(&'static str, Vec<u8>)>,
) -> Result<Vec<u8>, SynthError> {
    for (name, bytes) in debug {
        stored.push(Stored { name, kind: elf::SHT_PROGBITS, bytes: bytes.into(), align: 1 });
    }
    stored.sort_by_key(|section| section.name == TYPES);
    // The table has its local symbols first.
    let mut ordered: Vec<&Symbol> = symbols.iter().collect();
    ordered.sort_by_key(|symbol| symbol.global);

    let size: usize = stored.iter().map(|section| section.bytes.len()).sum();
    let names: usize = symbols.iter().map(|symbol| symbol.name.len() + 32).sum();
    let mut bytes = Vec::with_capacity(size + names + (64 << 10));
    Composer {
        writer: Writer::new(Endianness::Little, true, &mut bytes),
        sections: &layout.sections,
        stored: &stored,
        symbols: &ordered,
    }
    .write()?;
    Ok(bytes)
}

struct Composer<'c> {
    writer: Writer<'c>,
    sections: &'c [Section],
    stored: &'c [Stored<'c>],
    symbols: &'c [&'c Symbol],
}

impl Composer<'_> {
    fn write(mut self) -> object::write::Result<()> {
        let (sections, stored) = (self.sections, self.stored);
        let segments = segments(sections);
        self.writer.reserve_file_header();
        self.writer.reserve_program_headers(segments.len() as u32);
        self.writer.reserve_null_section_index();
        let mut headers = Vec::new();
        for section in sections {
            let name = self.writer.add_section_name(section.name.as_bytes());
            let index = self.writer.reserve_section_index();
            headers.push((name, index));
        }
        let mut stored_names = Vec::new();
        for section in stored {
            stored_names.push(self.writer.add_section_name(section.name.as_bytes()));
            self.writer.reserve_section_index();
        }
        self.writer.reserve_symtab_section_index();
        self.writer.reserve_strtab_section_index();
        self.writer.reserve_shstrtab_section_index();
        self.writer.reserve_shstrtab()?;
        self.writer.reserve_section_headers();
        let mut offsets = Vec::new();
        for (section, name) in stored.iter().zip(stored_names) {
            offsets.push((name, self.writer.reserve(section.bytes.len() as u64, section.align)));
        }
        self.writer.reserve_null_symbol_index();
        let mut names = Vec::with_capacity(self.symbols.len());
        for symbol in self.symbols {
            names.push(self.writer.add_string(symbol.name.as_bytes()));
            self.writer.reserve_symbol_index(index_of(&headers, symbol));
        }
        self.writer.reserve_symtab();
        self.writer.reserve_strtab()?;

        self.writer.write_file_header(&file_header(sections))?;
        self.writer.write_align_program_headers();
        segments.iter().for_each(|segment| self.writer.write_program_header(segment));
        self.writer.write_shstrtab();
        self.writer.write_null_section_header();
        for (section, (name, _)) in sections.iter().zip(&headers) {
            let sh_name = self.writer.section_name_offset(Some(*name));
            self.writer.write_section_header(&SectionHeader { sh_name, ..section_header(section) });
        }
        for (section, (name, offset)) in stored.iter().zip(&offsets) {
            let sh_name = self.writer.section_name_offset(Some(*name));
            let strings = section.name == ".debug_str";
            self.writer.write_section_header(&SectionHeader {
                sh_name,
                sh_type: section.kind,
                sh_flags: if strings { elf::SHF_MERGE | elf::SHF_STRINGS } else { SectionFlags::default() },
                sh_entsize: u64::from(strings),
                sh_offset: *offset,
                sh_size: section.bytes.len() as u64,
                sh_addralign: section.align,
                ..SectionHeader::default()
            });
        }
        let locals = self.symbols.iter().filter(|symbol| !symbol.global).count() as u32 + 1;
        self.writer.write_symtab_section_header(locals);
        self.writer.write_strtab_section_header();
        self.writer.write_shstrtab_section_header();
        for (section, (_, offset)) in stored.iter().zip(&offsets) {
            self.writer.pad_until(*offset);
            self.writer.write(&section.bytes);
        }
        self.writer.write_null_symbol();
        for (symbol, name) in self.symbols.iter().zip(names) {
            let st_name = self.writer.string_offset(Some(name));
            self.writer.write_symbol(&sym(symbol, st_name, index_of(&headers, symbol)));
        }
        self.writer.write_strtab();
        Ok(())
    }
}

fn file_header(sections: &[Section]) -> FileHeader {
    let text = sections.iter().find(|section| section.usage == Use::Text);
    FileHeader {
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: text.map_or(0, physical),
        ..FileHeader::default()
    }
}

fn physical(section: &Section) -> u64 {
    section.start.raw().wrapping_sub(KERNEL_MAP)
}

/// One for each of the layout's, in the order of their numbers.
fn segments(sections: &[Section]) -> Vec<ProgramHeader> {
    let mut numbers: Vec<usize> = sections.iter().map(|section| section.segment).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let segment = |number: usize| {
        let mine = || sections.iter().filter(move |section| section.segment == number);
        let (first, last) = (mine().next()?, mine().next_back()?);
        let has = |usage| mine().any(|section| section.usage == usage);
        let mut flags = elf::PF_R;
        if has(Use::Text) {
            flags |= elf::PF_X;
        }
        if has(Use::Data) || has(Use::ZeroBasedPercpu) {
            flags |= elf::PF_W;
        }
        let start = first.start.align_down(PAGE);
        Some(ProgramHeader {
            p_type: elf::PT_LOAD,
            p_flags: flags,
            p_offset: 0,
            p_vaddr: start.raw(),
            p_paddr: if first.usage == Use::ZeroBasedPercpu {
                0
            } else {
                start.raw().wrapping_sub(KERNEL_MAP)
            },
            p_filesz: 0,
            p_memsz: last.end.wrapping_offset_from(start),
            p_align: PAGE,
        })
    };
    numbers.into_iter().filter_map(segment).collect()
}

fn section_header(section: &Section) -> SectionHeader {
    let flags: SectionFlags = match section.usage {
        Use::Text => elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        Use::ReadOnly => elf::SHF_ALLOC,
        Use::Data | Use::ZeroBasedPercpu => elf::SHF_ALLOC | elf::SHF_WRITE,
    };
    SectionHeader {
        sh_type: elf::SHT_NOBITS,
        sh_flags: flags,
        sh_addr: section.start.raw(),
        sh_size: section.end.wrapping_offset_from(section.start),
        sh_addralign: 1,
        ..SectionHeader::default()
    }
}

fn index_of(headers: &[(object::write::StringId, SectionIndex)], symbol: &Symbol) -> Option<SectionIndex> {
    headers.get(symbol.section?).map(|(_, index)| *index)
}

fn sym(symbol: &Symbol, st_name: u32, section: Option<SectionIndex>) -> Sym {
    let kind = match symbol.kind {
        SymbolKind::Function => elf::STT_FUNC,
        SymbolKind::Object => elf::STT_OBJECT,
        SymbolKind::Other => elf::STT_NOTYPE,
    };
    let bind = if symbol.global { elf::STB_GLOBAL } else { elf::STB_LOCAL };
    Sym {
        section: section.map(|section| section.0),
        st_name,
        st_info: elf::SymbolInfo::new(bind, kind),
        st_other: elf::SymbolOther::default(),
        st_shndx: if section.is_some() { elf::SHN_UNDEF } else { elf::SHN_ABS },
        st_value: symbol.addr.raw(),
        st_size: symbol.size,
    }
}

/// The GNU note of a build id.
pub(super) fn build_id_note(id: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, u32::try_from(id.len()).unwrap_or(0), 3] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"GNU\0");
    note.extend(id);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}
