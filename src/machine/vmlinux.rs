//! The synthetic kernel's `vmlinux`: an ELF64 executable with the segments the kernel's linker script makes
//! (arch/x86/kernel/vmlinux.lds.S), a symbol table, the build id note, and DWARF.

use object::{
    Endianness, elf,
    write::{
        StringId,
        elf::{FileHeader, ProgramHeader, SectionHeader, SectionIndex, Sym, Writer},
    },
};

use super::{
    MachineError, Truth,
    c::{Declarations, Source},
    code,
    dwarf_writer::{self, Function, SectionBytes, Unit, Variable},
    link::{Image, KERNEL_MAP, Kind, LinkedSection, LinkedSymbol, POISON, TEXT},
};
use crate::{
    symbols::SymbolKind,
    types::{Tag, TypeSource},
};

const PAGE: u64 = 4096;

/// Functions that entry code jumps to: nothing called them.
const OUTERMOST: [&str; 3] = ["secondary_startup_64", "ret_from_fork", "entry_SYSCALL_64"];

/// Types that no variable leads to but that debuggers ask for, and the file that compiles them.
const ASKED_FOR: [(&str, Tag, &str); 28] = [
    ("kernel/sched/core.c", Tag::Struct, "pt_regs"),
    ("kernel/sched/core.c", Tag::Struct, "inactive_task_frame"),
    ("kernel/pid.c", Tag::Struct, "pid"),
    ("kernel/pid.c", Tag::Struct, "xa_node"),
    ("kernel/cpu.c", Tag::Struct, "hrtimer"),
    ("kernel/printk/printk.c", Tag::Struct, "printk_log"),
    ("kernel/printk/printk.c", Tag::Enum, "log_flags"),
    ("kernel/printk/printk.c", Tag::Enum, "desc_state"),
    ("kernel/module/main.c", Tag::Struct, "module"),
    ("kernel/module/main.c", Tag::Struct, "module_use"),
    ("kernel/module/main.c", Tag::Enum, "mod_mem_type"),
    ("fs/namespace.c", Tag::Struct, "mount"),
    ("fs/open.c", Tag::Struct, "path"),
    ("fs/open.c", Tag::Struct, "file"),
    ("fs/open.c", Tag::Struct, "inode"),
    ("fs/open.c", Tag::Struct, "files_struct"),
    ("fs/open.c", Tag::Struct, "fs_struct"),
    ("fs/open.c", Tag::Struct, "ns_common"),
    ("mm/mmap.c", Tag::Struct, "vm_area_struct"),
    ("mm/mmap.c", Tag::Struct, "anon_vma_name"),
    ("mm/mmap.c", Tag::Struct, "vm_special_mapping"),
    ("mm/mmap.c", Tag::Struct, "maple_node"),
    ("mm/mmap.c", Tag::Struct, "maple_range_64"),
    ("mm/mmap.c", Tag::Struct, "maple_arange_64"),
    ("mm/mmap.c", Tag::Enum, "maple_type"),
    ("fs/namespace.c", Tag::Struct, "super_block"),
    ("mm/memory-failure.c", Tag::Struct, "page"),
    ("mm/memory-failure.c", Tag::Enum, "pageflags"),
];

/// Writes the file.
pub(super) fn write(
    declarations: &Declarations,
    sources: &[Source],
    image: &Image,
    truth: &Truth,
) -> Result<Vec<u8>, MachineError> {
    let units = units(declarations, sources, image)?;
    let failed = |reason: String| MachineError::Vmlinux { reason };
    let debug =
        dwarf_writer::write(&declarations.types, &units).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    Layout::new(image, &debug, &mut bytes).write(truth).map_err(|error| failed(error.to_string()))?;
    Ok(bytes)
}

/// One compilation unit for each source file that holds variables or functions.
fn units(declarations: &Declarations, sources: &[Source], image: &Image) -> Result<Vec<Unit>, MachineError> {
    let types: &dyn TypeSource = &declarations.types;
    let mut units: Vec<_> =
        sources.iter().map(|(name, _)| Unit { name: (*name).to_owned(), ..Unit::default() }).collect();
    for variable in &declarations.variables {
        let addr = image.symbol(&variable.name)?.addr;
        let (name, ty, external) = (variable.name.clone(), variable.ty, variable.external);
        if let Some(unit) = units.get_mut(variable.file) {
            unit.variables.push(Variable { name, ty, addr, external });
        }
    }
    for placed in &image.functions {
        let function = Function {
            name: placed.name.clone(),
            addr: TEXT.wrapping_add(placed.offset),
            size: placed.size,
            frame: Some(code::frame(placed.size, OUTERMOST.contains(&placed.name.as_str()))),
        };
        if let Some(unit) = units.get_mut(placed.file) {
            unit.functions.push(function);
        }
    }
    for (file, tag, name) in ASKED_FOR {
        let unit = units.iter_mut().find(|unit| unit.name == file);
        if let (Some(unit), Ok(ty)) = (unit, types.find(tag, name)) {
            unit.types.push(ty);
        }
    }
    units.retain(|unit| !unit.variables.is_empty() || !unit.functions.is_empty());
    Ok(units)
}

/// A PT_LOAD: its sections, from and to, and what it may do.
struct Segment {
    first: Kind,
    last: Kind,
    flags: elf::ProgramFlags,
}

/// Where everything goes in the file.
struct Layout<'i> {
    image: &'i Image,
    debug: &'i [SectionBytes],
    writer: Writer<'i>,
    segments: Vec<Segment>,
    /// File offsets of the image's sections.
    offsets: Vec<u64>,
    symbols: Vec<&'i LinkedSymbol>,
    section_names: Vec<StringId>,
    symbol_names: Vec<StringId>,
}

impl<'i> Layout<'i> {
    fn new(image: &'i Image, debug: &'i [SectionBytes], bytes: &'i mut Vec<u8>) -> Self {
        let writer = Writer::new(Endianness::Little, true, bytes);
        let all = elf::PF_R | elf::PF_W | elf::PF_X;
        let text = Segment { first: Kind::Text, last: Kind::Notes, flags: elf::PF_R | elf::PF_X };
        let zero_based = image.section(Kind::PerCpu).is_some_and(|section| section.addr < TEXT);
        let data = elf::PF_R | elf::PF_W;
        let rest = if zero_based {
            vec![
                Segment { first: Kind::Data, last: Kind::Data, flags: data },
                Segment { first: Kind::PerCpu, last: Kind::PerCpu, flags: data },
                Segment { first: Kind::InitText, last: Kind::Brk, flags: all },
            ]
        } else {
            vec![Segment { first: Kind::Data, last: Kind::Brk, flags: all }]
        };
        let segments = std::iter::once(text).chain(rest).collect();
        // Local symbols come first (System V ABI, "Symbol Table").
        let (local, global): (Vec<_>, Vec<_>) = image.symbols.iter().partition(|symbol| !symbol.external);
        Self {
            image,
            debug,
            writer,
            segments,
            offsets: Vec::new(),
            symbols: [local, global].concat(),
            section_names: Vec::new(),
            symbol_names: Vec::new(),
        }
    }

    fn write(mut self, truth: &Truth) -> object::write::Result<()> {
        let indices = self.reserve()?;
        self.writer.write_file_header(&FileHeader {
            os_abi: elf::ELFOSABI_SYSV,
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_X86_64,
            e_entry: self.image.symbol("startup_64").map_or(0, |symbol| symbol.addr.raw() - KERNEL_MAP),
            ..FileHeader::default()
        })?;
        self.write_program_headers();
        for (section, offset) in self.image.sections.iter().zip(&self.offsets) {
            if in_file(section.kind) {
                self.writer.pad_until(*offset);
                self.writer.write(&contents(self.image, section, truth));
            }
        }
        for (_, bytes) in self.debug {
            self.writer.write(bytes);
        }
        self.write_symbols(&indices);
        self.writer.write_strtab();
        self.writer.write_shstrtab();
        self.write_section_headers();
        Ok(())
    }

    /// Reserves the whole file, in the order in which it is written.
    fn reserve(&mut self) -> object::write::Result<Vec<SectionIndex>> {
        self.writer.reserve_file_header();
        self.writer.reserve_program_headers(self.segments.len() as u32 + 1);
        self.writer.reserve_null_section_index();
        let mut indices = Vec::new();
        let mut segment_start = (0, 0);
        for section in &self.image.sections {
            if self.segments.iter().any(|segment| segment.first == section.kind) {
                segment_start = (self.writer.reserve(0, PAGE), section.offset);
            }
            let offset = segment_start.0 + section.offset - segment_start.1;
            if in_file(section.kind) {
                self.writer.reserve_until(offset);
                self.writer.reserve(section.size, 1);
            }
            self.offsets.push(offset);
            self.section_names.push(self.writer.add_section_name(section.name.as_bytes()));
            indices.push(self.writer.reserve_section_index());
        }
        for (name, bytes) in self.debug {
            self.offsets.push(self.writer.reserve(bytes.len() as u64, 1));
            self.section_names.push(self.writer.add_section_name(name.as_bytes()));
            self.writer.reserve_section_index();
        }
        self.writer.reserve_symtab_section_index();
        self.writer.reserve_strtab_section_index();
        self.writer.reserve_shstrtab_section_index();
        self.writer.reserve_null_symbol_index();
        for symbol in &self.symbols {
            self.symbol_names.push(self.writer.add_string(symbol.name.as_bytes()));
            self.writer.reserve_symbol_index(indices.get(symbol.section).copied());
        }
        self.writer.reserve_symtab();
        self.writer.reserve_strtab()?;
        self.writer.reserve_shstrtab()?;
        self.writer.reserve_section_headers();
        Ok(indices)
    }

    fn section(&self, kind: Kind) -> Option<(&'i LinkedSection, u64)> {
        let sections = self.image.sections.iter().zip(self.offsets.iter().copied());
        sections.into_iter().find(|(section, _)| section.kind == kind)
    }

    fn write_program_headers(&mut self) {
        self.writer.write_align_program_headers();
        let mut headers = Vec::new();
        for Segment { first, last, flags } in &self.segments {
            let in_segment = |section: &&LinkedSection| section.kind >= *first && section.kind <= *last;
            let (Some((start, offset)), Some(end)) =
                (self.section(*first), self.image.sections.iter().rfind(in_segment))
            else {
                continue;
            };
            let stored = self.image.sections.iter().filter(in_segment).rfind(|section| in_file(section.kind));
            let until = |section: &LinkedSection| section.offset + section.size - start.offset;
            headers.push(ProgramHeader {
                p_type: elf::PT_LOAD,
                p_flags: *flags,
                p_offset: offset,
                p_vaddr: start.addr.raw(),
                p_paddr: TEXT.raw() - KERNEL_MAP + start.offset,
                p_filesz: stored.map_or(0, until),
                p_memsz: until(end),
                p_align: PAGE,
            });
        }
        if let Some((notes, offset)) = self.section(Kind::Notes) {
            headers.push(ProgramHeader {
                p_type: elf::PT_NOTE,
                p_flags: elf::PF_R,
                p_offset: offset,
                p_vaddr: notes.addr.raw(),
                p_paddr: TEXT.raw() - KERNEL_MAP + notes.offset,
                p_filesz: notes.size,
                p_memsz: notes.size,
                p_align: 4,
            });
        }
        headers.iter().for_each(|header| self.writer.write_program_header(header));
    }

    fn write_symbols(&mut self, indices: &[SectionIndex]) {
        self.writer.write_null_symbol();
        for (symbol, name) in self.symbols.iter().zip(&self.symbol_names) {
            let kind = match symbol.kind {
                SymbolKind::Function => elf::STT_FUNC,
                SymbolKind::Object => elf::STT_OBJECT,
                SymbolKind::Other => elf::STT_NOTYPE,
            };
            let bind = if symbol.external { elf::STB_GLOBAL } else { elf::STB_LOCAL };
            let section = indices.get(symbol.section).map(|index| index.0);
            let symbol = Sym {
                section,
                st_name: self.writer.string_offset(Some(*name)),
                st_info: elf::SymbolInfo::new(bind, kind),
                st_other: elf::SymbolOther::default(),
                st_shndx: elf::SHN_UNDEF,
                st_value: symbol.addr.raw(),
                st_size: symbol.size,
            };
            self.writer.write_symbol(&symbol);
        }
    }

    fn write_section_headers(&mut self) {
        self.writer.write_null_section_header();
        let (sections, debug) = (self.image.sections.iter(), self.debug.iter());
        let flags = |kind: Kind| match kind {
            Kind::Text | Kind::InitText => elf::SHF_ALLOC | elf::SHF_EXECINSTR,
            Kind::RoData | Kind::Notes => elf::SHF_ALLOC,
            _ => elf::SHF_ALLOC | elf::SHF_WRITE,
        };
        let mut headers = Vec::new();
        for (section, offset) in sections.zip(&self.offsets) {
            let sh_type = match section.kind {
                Kind::Notes => elf::SHT_NOTE,
                kind if in_file(kind) => elf::SHT_PROGBITS,
                _ => elf::SHT_NOBITS,
            };
            headers.push((sh_type, flags(section.kind), section.addr.raw(), *offset, section.size));
        }
        for ((_, bytes), offset) in debug.zip(self.offsets.iter().skip(self.image.sections.len())) {
            let none = elf::SectionFlags::default();
            headers.push((elf::SHT_PROGBITS, none, 0, *offset, bytes.len() as u64));
        }
        for ((sh_type, sh_flags, sh_addr, sh_offset, sh_size), name) in
            headers.into_iter().zip(&self.section_names)
        {
            let header = SectionHeader {
                sh_name: self.writer.section_name_offset(Some(*name)),
                sh_type,
                sh_flags,
                sh_addr,
                sh_offset,
                sh_size,
                sh_addralign: if sh_type == elf::SHT_NOTE { 4 } else { 1 },
                ..SectionHeader::default()
            };
            self.writer.write_section_header(&header);
        }
        let locals = self.symbols.iter().filter(|symbol| !symbol.external).count() as u32 + 1;
        self.writer.write_symtab_section_header(locals);
        self.writer.write_strtab_section_header();
        self.writer.write_shstrtab_section_header();
    }
}

/// Whether a section has bytes in the file.
fn in_file(kind: Kind) -> bool {
    !matches!(kind, Kind::Bss | Kind::Brk)
}

/// A section's bytes as the linker wrote them: variables are zero but for the banner.
fn contents(image: &Image, section: &LinkedSection, truth: &Truth) -> Vec<u8> {
    let mut bytes = match section.kind {
        Kind::Text => return image.text.clone(),
        Kind::Notes => return image.notes.clone(),
        Kind::InitText => return POISON.to_vec(),
        _ => vec![0; usize::try_from(section.size).unwrap_or_default()],
    };
    if let (Kind::RoData, Ok(banner)) = (section.kind, image.symbol("linux_banner")) {
        let start = usize::try_from(banner.addr.wrapping_offset_from(section.addr)).unwrap_or_default();
        if let Some(place) = bytes.get_mut(start..start + truth.banner.len()) {
            place.copy_from_slice(truth.banner.as_bytes());
        }
    }
    bytes
}
