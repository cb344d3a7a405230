//! The linker of the synthetic kernel: declarations to sections and symbols at link addresses
//! (as arch/x86/kernel/vmlinux.lds.S lays them out).

use super::{
    MachineError,
    c::{Declarations, Section, Variable},
    carried,
    code::{self, Placed},
    description::{Description, PerCpu},
};
use crate::{addr::LinkAddr, symbols::SymbolKind};

/// Where every x86-64 kernel is linked: `__START_KERNEL_map` + `CONFIG_PHYSICAL_START`.
pub(super) const TEXT: LinkAddr = LinkAddr::new(0xffff_ffff_8100_0000);
/// `__START_KERNEL_map`
pub(super) const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Where the mapping of the kernel image ends and that of modules begins (`MODULES_VADDR`).
pub(super) const KERNEL_MAP_END: u64 = 0xffff_ffff_c000_0000;

const LARGE_PAGE: u64 = 2 << 20;
const PAGE: u64 = 4096;
const BRK_LEN: u64 = 0x1_0000;
/// Room for what the kernel says of itself.
const CARRIED_LEN: u64 = 0x8_0000;
/// What the kernel fills `.init.text` with when it is done with it (`POISON_FREE_INITMEM`), and how much of it.
pub(super) const POISON: [u8; 64] = [0xcc; 64];

/// What a section holds, in the order the linker lays them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Text,
    RoData,
    Notes,
    Data,
    PerCpu,
    InitText,
    Init,
    Bss,
    Brk,
}

const ORDER: [(Kind, &str, u64); 9] = [
    (Kind::Text, ".text", LARGE_PAGE),
    (Kind::RoData, ".rodata", LARGE_PAGE),
    (Kind::Notes, ".notes", 4),
    (Kind::Data, ".data", LARGE_PAGE),
    (Kind::PerCpu, ".data..percpu", PAGE),
    (Kind::InitText, ".init.text", PAGE),
    (Kind::Init, ".init.data", PAGE),
    (Kind::Bss, ".bss", PAGE),
    (Kind::Brk, ".brk", PAGE),
];

/// A section of the image.
#[derive(Debug, Clone)]
pub(super) struct LinkedSection {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    /// Link address; 0 for zero-based per-CPU variables.
    pub(super) addr: LinkAddr,
    /// Bytes from `_text` to where it is loaded.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A symbol of the image.
#[derive(Debug, Clone)]
pub(super) struct LinkedSymbol {
    pub(super) name: String,
    pub(super) addr: LinkAddr,
    pub(super) size: u64,
    pub(super) kind: SymbolKind,
    pub(super) external: bool,
    /// Index of its section.
    pub(super) section: usize,
}

/// The linked kernel.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) sections: Vec<LinkedSection>,
    pub(super) symbols: Vec<LinkedSymbol>,
    pub(super) functions: Vec<Placed>,
    pub(super) text: Vec<u8>,
    pub(super) notes: Vec<u8>,
    /// What it says of itself, and where that is.
    pub(super) carried: Option<(LinkAddr, Vec<u8>)>,
    /// Bytes from `_text` to `_end`.
    pub(super) len: u64,
}

/// Places everything `declarations` hold.
pub(super) fn link(
    declarations: &Declarations,
    description: &Description,
    notes: Vec<u8>,
) -> Result<Image, MachineError> {
    let (text, functions) =
        code::assemble(&declarations.functions).map_err(|name| MachineError::NoSymbol { name })?;
    let mut image =
        Image { sections: Vec::new(), symbols: Vec::new(), functions, text, notes, carried: None, len: 0 };
    let mut offset = 0_u64;
    let mut carried_from = TEXT;
    for (kind, name, align) in ORDER {
        offset = offset.next_multiple_of(align);
        let zero_based = kind == Kind::PerCpu && description.percpu == PerCpu::ZeroBased;
        let addr = if zero_based { LinkAddr::new(0) } else { TEXT.wrapping_add(offset) };
        let mut size = image.place(declarations, kind, addr)?;
        if kind == Kind::RoData && description.describes_itself {
            size = size.next_multiple_of(PAGE);
            carried_from = addr.wrapping_add(size);
            size += CARRIED_LEN;
        }
        image.sections.push(LinkedSection { kind, name, addr, offset, size });
        offset += size;
    }
    image.len = offset;
    image.mark();
    if description.describes_itself {
        let (bytes, symbols) = carried::write(declarations, &image, carried_from);
        if bytes.len() as u64 > CARRIED_LEN {
            let reason = format!("it says {} bytes of itself", bytes.len());
            return Err(MachineError::Description { reason });
        }
        image.symbols.extend(symbols);
        image.carried = Some((carried_from, bytes));
    }
    Ok(image)
}

impl Image {
    /// Places the symbols of the section that comes next, and says how long it is.
    fn place(
        &mut self,
        declarations: &Declarations,
        kind: Kind,
        addr: LinkAddr,
    ) -> Result<u64, MachineError> {
        let section = self.sections.len();
        match kind {
            Kind::Text => {
                for function in &self.functions {
                    self.symbols.push(LinkedSymbol {
                        name: function.name.clone(),
                        addr: addr.wrapping_add(function.offset),
                        size: function.size,
                        kind: SymbolKind::Function,
                        external: true,
                        section,
                    });
                }
                Ok(self.text.len() as u64)
            }
            Kind::Notes => Ok(self.notes.len() as u64),
            Kind::InitText => Ok(POISON.len() as u64),
            Kind::Brk => Ok(BRK_LEN),
            _ => {
                let mut end = addr;
                for variable in declarations.variables.iter().filter(|v| kind_of(v.section) == kind) {
                    let (start, size) = position(declarations, variable, end)?;
                    end = start.wrapping_add(size);
                    self.symbols.push(LinkedSymbol {
                        name: variable.name.clone(),
                        addr: start,
                        size,
                        kind: SymbolKind::Object,
                        external: variable.external,
                        section,
                    });
                }
                Ok(end.wrapping_offset_from(addr))
            }
        }
    }

    /// The marks that the linker script sets at both ends of sections.
    fn mark(&mut self) {
        let marks: [(Kind, &[&str], &[&str]); 9] = [
            (Kind::Text, &["_text", "_stext"], &["_etext"]),
            (Kind::RoData, &["__start_rodata"], &[]),
            (Kind::Notes, &["__start_notes"], &["__stop_notes", "__end_rodata"]),
            (Kind::Data, &["_sdata"], &["_edata"]),
            (Kind::PerCpu, &["__per_cpu_start"], &["__per_cpu_end"]),
            (Kind::InitText, &["__init_begin", "_sinittext"], &["_einittext"]),
            (Kind::Init, &[], &["__init_end"]),
            (Kind::Bss, &["__bss_start"], &["__bss_stop"]),
            (Kind::Brk, &["__brk_base"], &["__brk_limit", "_end"]),
        ];
        let mut symbols = Vec::new();
        for (index, section) in self.sections.iter().enumerate() {
            let mut mark = |name: &str, addr| {
                let (name, kind) = (name.to_owned(), SymbolKind::Other);
                symbols.push(LinkedSymbol { name, addr, size: 0, kind, external: true, section: index });
            };
            for (_, starts, ends) in marks.iter().filter(|(kind, ..)| *kind == section.kind) {
                starts.iter().for_each(|name| mark(name, section.addr));
                ends.iter().for_each(|name| mark(name, section.addr.wrapping_add(section.size)));
            }
            if section.kind == Kind::PerCpu {
                mark("__per_cpu_load", TEXT.wrapping_add(section.offset));
            }
        }
        self.symbols.extend(symbols);
    }

    /// The symbol of that name.
    pub(super) fn symbol(&self, name: &str) -> Result<&LinkedSymbol, MachineError> {
        let found = self.symbols.iter().find(|symbol| symbol.name == name);
        found.ok_or_else(|| MachineError::NoSymbol { name: name.to_owned() })
    }

    /// The section of that kind.
    pub(super) fn section(&self, kind: Kind) -> Option<&LinkedSection> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// The address behind the call of `callee` in `caller`.
    pub(super) fn return_addr(&self, caller: &str, callee: &str) -> Result<LinkAddr, MachineError> {
        let function = self.functions.iter().find(|function| function.name == caller);
        let offset = function.and_then(|function| function.return_offset(callee));
        let offset =
            offset.ok_or_else(|| MachineError::NoSymbol { name: format!("{callee} called by {caller}") })?;
        Ok(TEXT.wrapping_add(offset))
    }
}

fn kind_of(section: Section) -> Kind {
    match section {
        Section::RoData => Kind::RoData,
        Section::Data => Kind::Data,
        Section::PerCpu => Kind::PerCpu,
        Section::Init => Kind::Init,
        Section::Bss => Kind::Bss,
    }
}

fn position(
    declarations: &Declarations,
    variable: &Variable,
    end: LinkAddr,
) -> Result<(LinkAddr, u64), MachineError> {
    let types = &declarations.types;
    let align = types.align_of(variable.ty)?.max(variable.align);
    let next = LinkAddr::new(end.raw().next_multiple_of(align));
    let start = variable.at.map_or(next, LinkAddr::new);
    if start < end {
        let reason = format!("{} at {start} overlaps what ends at {end}", variable.name);
        return Err(MachineError::Description { reason });
    }
    Ok((start, types.size_of(variable.ty)?))
}
