//! A vmlinux made of what a kernel says of itself: its symbols and its BTF.
//!
//! Input: symbols as linked, a [`Btf`], a build id. Output: an ELF file with the sections as memory has them (without
//! bytes: a debugger reads those from the target), the symbol table, DWARF 5 of every type, function and typed
//! variable, the build id and the `.BTF` itself.
//!
//! **Addresses are as linked**, not as the kernel runs, so that this file stands wherever the kernel's own would: gdb
//! asks `qOffsets` for it and sees per-CPU symbols as it does with a real one, drgn and crash add the slide of
//! VMCOREINFO themselves, and one file serves every boot of a build.

use super::{
    dwarf,
    elf::{self, Stored},
    layout::Layout,
};
use crate::{
    addr::LinkAddr,
    symbols::{SymbolKind, SymbolTable},
    types::{TypeError, btf::Btf},
};

/// A kernel has some 200,000 symbols.
const MAX_SYMBOLS: usize = 2 << 20;

/// What the file is made of.
pub struct Input<'a> {
    /// The symbols.
    pub symbols: &'a dyn SymbolTable,
    /// The types.
    pub btf: &'a Btf,
    /// Modules' own types, each on top of `btf`, by their names.
    pub modules: &'a [(&'a str, &'a Btf)],
    /// GNU build id.
    pub build_id: Option<&'a [u8]>,
    /// `uname -r`, for the unit's name.
    pub release: Option<&'a str>,
    /// `linux_banner` without its newline: strings follow it that have no symbols, so none tells its length.
    pub banner: Option<&'a str>,
}

/// Why no file can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// The symbols lack what says where the kernel's parts are.
    #[error("{table} has no symbol `{name}`, without which the kernel's sections are not known")]
    NoSymbol {
        /// The symbol table.
        table: String,
        /// The symbol.
        name: &'static str,
    },
    /// The types are damaged.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// What they say never ends.
    #[error(
        "types and functions would take more than {most} entries of DWARF: the target's symbols or BTF are damaged"
    )]
    TooMuch {
        /// As many as are written.
        most: usize,
    },
    /// A value does not fit its form in DWARF.
    #[error("writing DWARF: {0}")]
    Dwarf(#[from] gimli::write::Error),
    /// A value does not fit its form in ELF.
    #[error("writing ELF: {0}")]
    Elf(#[from] object::write::Error),
}

/// A symbol of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) addr: LinkAddr,
    /// As the table says it, or else to the next symbol.
    pub(super) size: u64,
    pub(super) kind: SymbolKind,
    pub(super) global: bool,
    /// Position of its section in the layout; `None` for a value that is no place.
    pub(super) section: Option<usize>,
}

/// What was made, and of how much.
pub struct Synthesized {
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// Symbols in it.
    pub symbols: usize,
    /// Types in it.
    pub types: usize,
    /// Functions with a prototype.
    pub functions: usize,
    /// Variables with a type.
    pub variables: usize,
}

/// Makes the file.
///
/// # Errors
/// [`SynthError`].
pub fn write(input: &Input<'_>) -> Result<Synthesized, SynthError> {
    let layout = Layout::of(input.symbols)?;
    let mut symbols = symbols(input.symbols, &layout);
    if let Some(banner) = input.banner {
        let known = symbols.iter_mut().filter(|symbol| symbol.name == "linux_banner");
        // It ends with a newline and a zero.
        known.for_each(|symbol| symbol.size = symbol.size.min(banner.len() as u64 + 2));
    }
    let debug = dwarf::write(input, &symbols)?;
    let bytes = elf::write(Stored::of_kernel(input), &layout, &symbols, debug.sections)?;
    Ok(Synthesized {
        bytes,
        symbols: symbols.len(),
        types: debug.types,
        functions: debug.functions,
        variables: debug.variables,
    })
}

/// The symbols by section and address, each with a size.
fn symbols(table: &dyn SymbolTable, layout: &Layout) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    table.for_each(&mut |listed| {
        if symbols.len() < MAX_SYMBOLS && !listed.name.is_empty() {
            let section = layout.section_of(listed.addr);
            // kallsyms has one letter per section, and that of 7.2's .data, which holds code too, is `T`.
            let kind = match (listed.kind, layout.is_text(section)) {
                (SymbolKind::Function, false) => SymbolKind::Object,
                (kind, _) => kind,
            };
            symbols.push(Symbol {
                name: listed.name.to_owned(),
                addr: listed.addr,
                size: listed.size,
                kind,
                global: listed.global,
                section,
            });
        }
    });
    symbols.sort_by(|a, b| (a.section, a.addr, &a.name).cmp(&(b.section, b.addr, &b.name)));
    symbols.dedup_by(|a, b| (a.section, a.addr, &a.name) == (b.section, b.addr, &b.name));
    measure(&mut symbols, layout);
    symbols
}

/// Gives each symbol without a size the distance to the next; no size reaches out of its section.
pub(super) fn measure(symbols: &mut [Symbol], layout: &Layout) {
    // The symbol after this one: its section, its address, and the next address after that.
    let mut after: Option<(Option<usize>, LinkAddr, LinkAddr)> = None;
    for symbol in symbols.iter_mut().rev() {
        let section_end = layout.end_of(symbol.section).unwrap_or(symbol.addr);
        let end = match after {
            // Names of one place have one size.
            Some((section, addr, end)) if section == symbol.section && addr == symbol.addr => end,
            Some((section, addr, _)) if section == symbol.section => addr,
            _ => section_end,
        };
        after = Some((symbol.section, symbol.addr, end));
        if symbol.size == 0 && symbol.kind != SymbolKind::Other {
            symbol.size = end.wrapping_offset_from(symbol.addr);
        }
        symbol.size = symbol.size.min(section_end.wrapping_offset_from(symbol.addr));
    }
}
