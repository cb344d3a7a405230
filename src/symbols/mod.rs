//! Names of places in the kernel: as linked ([`elf`], [`kallsyms`]), and as they are now ([`Relocated`]).

pub mod elf;
pub mod kallsyms;
pub mod lines;
pub mod place;
pub mod profile;

use crate::addr::{LinkAddr, VirtAddr};

/// What a symbol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// Code.
    Function,
    /// A variable.
    Object,
    /// Anything else (section marks, absolute values).
    Other,
}

/// A symbol as the linker wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Where it was linked; for a per-CPU variable of a kernel before 6.15, an offset in the per-CPU area.
    pub addr: LinkAddr,
    /// Bytes, 0 if not known.
    pub size: u64,
    /// What it names.
    pub kind: SymbolKind,
}

/// A symbol as [`SymbolTable::for_each`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymbolRef<'t> {
    /// Its name.
    pub name: &'t str,
    /// As in [`Symbol`].
    pub addr: LinkAddr,
    /// Bytes, 0 if not known.
    pub size: u64,
    /// What it names.
    pub kind: SymbolKind,
    /// Visible to other files.
    pub global: bool,
}

/// No such symbol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{table} has no symbol `{name}`")]
pub struct SymbolError {
    /// The table searched.
    pub table: String,
    /// The name asked for.
    pub name: String,
}

/// Symbols as linked.
pub trait SymbolTable: Send + Sync {
    /// The file or table, for messages.
    fn table_name(&self) -> &str;

    /// Why there are none: a table that is read when it is first needed may turn out to be unreadable.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// Whether there are any.
    fn is_available(&self) -> bool {
        self.unavailable().is_none()
    }

    /// The symbol of that name (the first global one, else the first), or the only one that ThinLTO made of a static one
    /// of that name (`NAME.llvm.HASH`).
    fn lookup(&self, name: &str) -> Option<Symbol>;

    /// The symbol whose range holds `addr`, or the nearest one below it in the same section.
    fn containing(&self, addr: LinkAddr) -> Option<Symbol>;

    /// Where per-CPU variables are linked when that is a range of its own that starts at 0 (before 6.15), as
    /// `start..end`; `None` when they are ordinary addresses.
    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)>;

    /// Visits every symbol once, in any order.
    fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>));
}

/// The name that a static symbol had before ThinLTO made it a global one (`kernel/kallsyms.c`, `cleanup_symbol_name`).
fn before_promotion(name: &[u8]) -> Option<&[u8]> {
    const MARK: &[u8] = b".llvm.";
    let at = memchr::memmem::find(name, MARK)?;
    let hash = name.get(at + MARK.len()..)?;
    (!hash.is_empty() && hash.iter().all(u8::is_ascii_hexdigit)).then(|| name.get(..at)).flatten()
}

/// A symbol table moved by the KASLR slide: the only place where a slide is added.
pub struct Relocated {
    table: Box<dyn SymbolTable>,
    slide: u64,
}

impl Relocated {
    /// `table` as it stands in a kernel that runs `slide` bytes (modulo 2^64) above its link address.
    #[must_use]
    pub fn new(table: Box<dyn SymbolTable>, slide: u64) -> Self {
        Self { table, slide }
    }

    /// The KASLR slide in bytes, modulo 2^64.
    #[must_use]
    pub fn slide(&self) -> u64 {
        self.slide
    }

    /// The table as linked.
    #[must_use]
    pub fn table(&self) -> &dyn SymbolTable {
        &*self.table
    }

    /// Run-time address of an ordinary symbol; for a zero-based per-CPU one, its offset in the per-CPU area.
    ///
    /// # Errors
    /// [`SymbolError`] when the table has no such symbol.
    pub fn addr(&self, name: &str) -> Result<VirtAddr, SymbolError> {
        self.find(name)
            .ok_or_else(|| SymbolError { table: self.table.table_name().to_owned(), name: name.to_owned() })
    }

    /// As [`Relocated::addr`], `None` when the table has no such symbol: for choosing by presence.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<VirtAddr> {
        let symbol = self.table.lookup(name)?;
        Some(self.relocate(symbol.addr))
    }

    /// Run-time address of a linked address.
    #[must_use]
    pub fn relocate(&self, addr: LinkAddr) -> VirtAddr {
        let slide = if self.is_percpu_offset(addr) { 0 } else { self.slide };
        VirtAddr::new(addr.raw().wrapping_add(slide))
    }

    fn is_percpu_offset(&self, addr: LinkAddr) -> bool {
        self.table.zero_based_percpu().is_some_and(|(start, end)| start <= addr && addr < end)
    }

    /// The symbol at a run-time address and the distance from its start, in bytes; never a zero-based per-CPU one,
    /// whose place depends on the CPU.
    #[must_use]
    pub fn containing(&self, addr: VirtAddr) -> Option<(Symbol, u64)> {
        let linked = LinkAddr::new(addr.raw().wrapping_sub(self.slide));
        if self.is_percpu_offset(linked) {
            return None;
        }
        let symbol = self.table.containing(linked)?;
        let offset = linked.wrapping_offset_from(symbol.addr);
        Some((symbol, offset))
    }
}
