//! The sections of a kernel as its linker script's symbols bound them.
//!
//! Input: a symbol table. Output: sections in the order of addresses, none overlapping another, each in a segment
//! laid out as in a vmlinux (text and read-only data; data; per-CPU data before 6.15; what is freed after boot, bss).
//! Source: `arch/x86/kernel/vmlinux.lds.S`, `include/asm-generic/vmlinux.lds.h`.

use std::borrow::Cow;

use super::vmlinux::SynthError;
use crate::{addr::LinkAddr, symbols::SymbolTable};

/// What a section is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Executed.
    Text,
    /// Read.
    ReadOnly,
    /// Written.
    Data,
    /// Per-CPU data linked at 0.
    ZeroBasedPercpu,
}

/// A section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: Cow<'static, str>,
    pub(super) start: LinkAddr,
    /// Exclusive.
    pub(super) end: LinkAddr,
    pub(super) usage: Use,
    /// Number of the segment it is in.
    pub(super) segment: usize,
}

/// Sections by segment, then ascending. drgn takes where the first and the last are for where the kernel is, so a
/// zero-based per-CPU one has to stand between others, as it does in a vmlinux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) sections: Vec<Section>,
}

/// Name, first and last symbol, use, segment.
const BOUNDS: &[(&str, &str, &str, Use, usize)] = &[
    (".text", "_text", "_etext", Use::Text, 0),
    (".rodata", "__start_rodata", "__end_rodata", Use::ReadOnly, 0),
    (".data", "_sdata", "_edata", Use::Data, 1),
    (".orc_unwind_ip", "__start_orc_unwind_ip", "__stop_orc_unwind_ip", Use::ReadOnly, 1),
    (".orc_unwind", "__start_orc_unwind", "__stop_orc_unwind", Use::ReadOnly, 1),
    (".init.text", "_sinittext", "_einittext", Use::Text, 3),
    (".init.data", "_einittext", "__init_end", Use::Data, 3),
    (".bss", "__bss_start", "__bss_stop", Use::Data, 3),
    (".brk", "__brk_base", "__brk_limit", Use::Data, 3),
];

impl Layout {
    /// The sections of the kernel that has these symbols.
    pub(super) fn of(symbols: &dyn SymbolTable) -> Result<Self, SynthError> {
        let addr = |name: &str| symbols.lookup(name).map(|symbol| symbol.addr);
        let need = |name: &'static str| {
            addr(name).ok_or_else(|| SynthError::NoSymbol { table: symbols.table_name().to_owned(), name })
        };
        let (text, _) = (need("_text")?, need("_etext")?);
        let mut sections: Vec<Section> = BOUNDS
            .iter()
            .filter_map(|&(name, start, end, usage, segment)| {
                Some(Section { name: name.into(), start: addr(start)?, end: addr(end)?, usage, segment })
            })
            .filter(|section| section.start >= text && section.start < section.end)
            .collect();
        sections.sort_by_key(|section| section.start);
        let mut end = text;
        for section in &mut sections {
            section.start = section.start.max(end);
            end = section.end.max(end);
        }
        sections.retain(|section| section.start < section.end);
        close_gaps(symbols, &mut sections);
        if let Some((start, end)) = symbols.zero_based_percpu() {
            let (name, usage) = (".data..percpu".into(), Use::ZeroBasedPercpu);
            sections.push(Section { name, start, end, usage, segment: 2 });
        }
        sections.sort_by_key(|section| section.segment);
        Ok(Self { sections })
    }

    /// Position of the section an address is in, or just past the end of.
    pub(super) fn section_of(&self, addr: LinkAddr) -> Option<usize> {
        let around = (0..).zip(&self.sections).filter(|(_, one)| one.start <= addr && addr <= one.end);
        around.max_by_key(|(_, section)| section.start).map(|(at, _)| at)
    }

    /// Whether a section is executed.
    pub(super) fn is_text(&self, section: Option<usize>) -> bool {
        let section = section.and_then(|section| self.sections.get(section));
        section.is_some_and(|section| section.usage == Use::Text)
    }

    /// Where a section ends.
    pub(super) fn end_of(&self, section: Option<usize>) -> Option<LinkAddr> {
        self.sections.get(section?).map(|section| section.end)
    }
}

/// Lets a section reach to the next one where symbols stand between the two: small tables that the linker script puts
/// there and gives no bounds that all kernels have.
fn close_gaps(symbols: &dyn SymbolTable, sections: &mut [Section]) {
    let starts: Vec<LinkAddr> = sections.iter().skip(1).map(|section| section.start).collect();
    let mut last = vec![None; sections.len()];
    symbols.for_each(&mut |symbol| {
        let after = sections.partition_point(|section| section.start <= symbol.addr);
        if let Some(last) = after.checked_sub(1).and_then(|at| last.get_mut(at)) {
            *last = (*last).max(Some(symbol.addr));
        }
    });
    for ((section, next), last) in sections.iter_mut().zip(starts).zip(last) {
        if last.is_some_and(|last| last > section.end) {
            section.end = next;
        }
    }
}
