//! A symbol file of what was loaded into a running kernel: its modules.
//!
//! Input: the modules with their symbols and BTF. Output: an ELF file at **run-time addresses**, one section for each
//! part of each module, without bytes; the symbol table; DWARF of the modules' own types and functions. It stands
//! beside a vmlinux, which defines the structs it only declares, and holds as long as no module comes or goes.
//! Per-CPU variables alone are moved, as far as GDB moves those of that vmlinux.

use super::{
    dwarf, elf,
    layout::{Layout, Section, Use},
    vmlinux::{Symbol, SynthError, Synthesized, measure},
};
use crate::{
    addr::LinkAddr,
    kernel::{
        module::{Module, Part},
        module_symbols::LoadedSymbol,
    },
    symbols::SymbolKind,
    types::btf::Btf,
};

/// A module and what is known of it.
pub struct Loaded<'a> {
    /// Where it is.
    pub module: &'a Module,
    /// Its symbols.
    pub symbols: &'a [LoadedSymbol],
    /// Its own types, on top of the kernel's.
    pub types: Option<&'a Btf>,
}

/// Makes the file. `percpu_slide` is how far the kernel's own per-CPU symbols are from where it links them.
///
/// # Errors
/// [`SynthError`].
pub fn write(modules: &[Loaded<'_>], percpu_slide: u64) -> Result<Synthesized, SynthError> {
    let mut sections: Vec<Section> = modules
        .iter()
        .flat_map(|loaded| loaded.module.parts.iter().map(|part| section(part, &loaded.module.name)))
        .collect();
    sections.sort_by_key(|section| section.start);
    let layout = Layout { sections };
    let (mut all, mut described) = (Vec::new(), Vec::new());
    let mut own = Vec::new();
    for loaded in modules {
        let mut symbols: Vec<Symbol> = loaded
            .symbols
            .iter()
            .map(|listed| Symbol {
                addr: addr(listed, loaded.module, percpu_slide),
                ..symbol(listed, &layout)
            })
            .collect();
        symbols.sort_by(|a, b| (a.section, a.addr, &a.name).cmp(&(b.section, b.addr, &b.name)));
        measure(&mut symbols, &layout);
        all.extend(symbols.iter().cloned());
        own.push(symbols);
    }
    for (loaded, symbols) in modules.iter().zip(&own) {
        described.extend(loaded.types.map(|types| (&*loaded.module.name, types, symbols.as_slice())));
    }
    let debug = dwarf::write_modules(&described)?;
    let bytes = elf::write(Vec::new(), &layout, &all, debug.sections)?;
    Ok(Synthesized {
        bytes,
        symbols: all.len(),
        types: debug.types,
        functions: debug.functions,
        variables: debug.variables,
    })
}

fn section(part: &Part, module: &str) -> Section {
    let start = LinkAddr::new(part.start.raw());
    let usage = match part.name.as_str() {
        _ if part.is_text() => Use::Text,
        name if name.contains("rodata") => Use::ReadOnly,
        _ => Use::Data,
    };
    let (name, end) = (format!(".{}.{module}", part.name).into(), start.wrapping_add(part.size));
    Section { name, start, end, usage, segment: 0 }
}

fn addr(listed: &LoadedSymbol, module: &Module, percpu_slide: u64) -> LinkAddr {
    // `elf_type` (kernel/module/kallsyms.c) has the letter of what is absolute for per-CPU symbols too.
    let is_percpu = listed.letter.eq_ignore_ascii_case(&'a')
        && module
            .percpu
            .as_ref()
            .is_some_and(|part| listed.addr.wrapping_offset_from(part.start) < part.size);
    LinkAddr::new(listed.addr.raw().wrapping_add(if is_percpu { percpu_slide } else { 0 }))
}

fn symbol(listed: &LoadedSymbol, layout: &Layout) -> Symbol {
    let addr = LinkAddr::new(listed.addr.raw());
    // Sections of modules ascend: there may be thousands.
    let after = layout.sections.partition_point(|section| section.start <= addr);
    let section = after.checked_sub(1).filter(|at| layout.end_of(Some(*at)).is_some_and(|end| addr <= end));
    let letter = listed.letter.to_ascii_lowercase();
    let kind = match (letter, layout.is_text(section)) {
        ('t' | 'w', true) => SymbolKind::Function,
        _ if section.is_some() => SymbolKind::Object,
        // Offsets in the per-CPU area, versions, values.
        _ => SymbolKind::Other,
    };
    let global = listed.letter.is_ascii_uppercase();
    Symbol { name: listed.name.clone(), addr, size: listed.size, kind, global, section }
}
