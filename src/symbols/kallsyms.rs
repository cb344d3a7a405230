//! kallsyms: the symbol table that a kernel carries for itself, in read-only data.
//!
//! Pure parsers over the bytes of its tables ([`tokens`], [`names`], [`addresses`]) and the ways they are arranged
//! ([`layout`]); where the bytes come from is not known here. All bytes are hostile: counts are bounded, every index
//! is checked. Source: `scripts/kallsyms.c`, `kernel/kallsyms.c`.
//!
//! The tables hold run-time addresses (the kernel relocates itself), and [`SymbolTable`] speaks of link addresses, so
//! the slide is taken off: [`super::Relocated`] then adds it, as to those of a vmlinux. A table of slide 0 would serve
//! as well for addresses, but `Relocated::slide` is also what gdb's symbols and its view of per-CPU data are moved by.

pub mod addresses;
pub mod layout;
pub mod names;
pub mod tokens;
#[cfg(test)]
pub(crate) mod writer;

pub use names::Names;
pub use tokens::Tokens;

use super::{Symbol, SymbolKind, SymbolRef, SymbolTable, before_promotion};
use crate::addr::{LinkAddr, VirtAddr};

/// No kernel has more symbols: some 100,000 to 300,000 are usual.
pub const MAX_SYMBOLS: usize = 2 << 20;
/// The smallest kernel has some thousands.
pub const MIN_SYMBOLS: usize = 16;

/// The image is 1 GiB at most: a longer distance to the next symbol is no size.
const MAX_SIZE: u64 = 1 << 30;

/// Bytes that are not the tables they were taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The tokens and their index do not fit.
    #[error("token {token} is not where the index says")]
    Tokens {
        /// The first that does not.
        token: usize,
    },
    /// A name has no end or an impossible length.
    #[error("name {index} is damaged")]
    Name {
        /// The first that is.
        index: usize,
    },
    /// The number of symbols is not one.
    #[error("{count} is no number of symbols")]
    Count {
        /// What was read.
        count: u64,
    },
    /// No form of the table of addresses gives `_text` its address.
    #[error("no table of addresses has `_text` at {text}")]
    Addresses {
        /// Where it is.
        text: VirtAddr,
    },
}

impl FormatError {
    /// Entries that were right before the wrong one.
    fn place(&self) -> usize {
        match self {
            Self::Tokens { token: index } | Self::Name { index } => *index,
            Self::Count { .. } | Self::Addresses { .. } => 0,
        }
    }
}

/// A symbol at its run-time address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSymbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is; for a zero-based per-CPU variable, its offset in the per-CPU area.
    pub addr: VirtAddr,
    /// Type as `nm` prints it; upper case if global, `A` for zero-based per-CPU variables.
    pub letter: char,
    /// Bytes to the next symbol: its size and what the linker left free after it. 0 if not known.
    pub size: u64,
}

/// The kernel's own symbol table.
#[derive(Debug)]
pub struct Kallsyms {
    names: Names,
    /// In the order of the table, as long as `names`.
    addresses: Vec<u64>,
    sizes: Vec<u32>,
    /// Positions in the table by address, aliases in the table's order.
    by_address: Vec<u32>,
    /// Positions by name, equal names in the table's order.
    by_name: Vec<u32>,
    slide: u64,
    percpu: Option<(LinkAddr, LinkAddr)>,
}

impl Kallsyms {
    /// The table of `names` and their run-time `addresses`, in a kernel that runs `slide` bytes above its link
    /// address.
    #[must_use]
    pub fn new(names: Names, mut addresses: Vec<u64>, slide: u64) -> Self {
        addresses.resize(names.len(), 0);
        let positions = || 0..u32::try_from(names.len()).unwrap_or(u32::MAX);
        let mut by_address: Vec<u32> = positions().collect();
        by_address.sort_by_key(|at| addresses.get(*at as usize));
        let mut by_name: Vec<u32> = positions().collect();
        by_name.sort_by_key(|at| names.get(*at as usize).map(|(_, name)| name));
        let sizes = sizes(&addresses, &by_address);
        let mut table = Self { names, addresses, sizes, by_address, by_name, slide, percpu: None };
        table.percpu = table.find_percpu();
        table
    }

    fn find_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        let addr = |name| Some(self.get(self.position(name)?)?.addr.raw());
        let (start, end) = (addr("__per_cpu_start")?, addr("__per_cpu_end")?);
        (start == 0 && end > 0 && end < MAX_SIZE).then_some((LinkAddr::new(start), LinkAddr::new(end)))
    }

    /// How many symbols there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All symbols by ascending address.
    pub fn all(&self) -> impl Iterator<Item = KernelSymbol<'_>> {
        self.by_address.iter().filter_map(|at| self.get(*at))
    }

    /// All symbols as `/proc/kallsyms` lists them.
    pub fn in_table_order(&self) -> impl Iterator<Item = KernelSymbol<'_>> {
        (0..).map_while(|at| self.get(at))
    }

    /// The symbol of that name, as [`SymbolTable::lookup`] chooses it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<KernelSymbol<'_>> {
        self.get(self.position(name)?)
    }

    /// The first symbol at the highest address that is not above `addr`; never a zero-based per-CPU one, nor one for
    /// what follows the last symbol.
    #[must_use]
    pub fn at_or_below(&self, addr: VirtAddr) -> Option<KernelSymbol<'_>> {
        let count_below = |bound: VirtAddr, inclusive: bool| {
            self.by_address.partition_point(|at| {
                let own = self.addresses.get(*at as usize).copied().unwrap_or_default();
                own < bound.raw() || inclusive && own == bound.raw()
            })
        };
        let nearest = self.get(*self.by_address.get(count_below(addr, true).checked_sub(1)?)?)?;
        let first = self.get(*self.by_address.get(count_below(nearest.addr, false))?)?;
        let inside = first.addr == addr || addr.wrapping_offset_from(first.addr) < first.size;
        (inside && !self.is_percpu(first.addr.raw())).then_some(first)
    }

    fn get(&self, at: u32) -> Option<KernelSymbol<'_>> {
        let at = at as usize;
        let (letter, name) = self.names.get(at)?;
        let addr = VirtAddr::new(*self.addresses.get(at)?);
        Some(KernelSymbol { name, addr, letter: char::from(letter), size: u64::from(*self.sizes.get(at)?) })
    }

    /// The first global symbol of that name, else the first, else the only promoted one.
    fn position(&self, name: &str) -> Option<u32> {
        self.named(name).or_else(|| self.promoted(name))
    }

    fn promoted(&self, name: &str) -> Option<u32> {
        let own = |at: &u32| self.names.get(*at as usize).map(|(_, own)| own);
        let beginning = format!("{name}.llvm.");
        let start = self.by_name.partition_point(|at| own(at).is_some_and(|own| *own < *beginning));
        let rest = self.by_name.get(start..).unwrap_or_default().iter();
        let begun = rest.take_while(|at| own(at).is_some_and(|own| own.starts_with(&beginning)));
        let mut same = begun
            .filter(|at| own(at).and_then(|own| before_promotion(own.as_bytes())) == Some(name.as_bytes()));
        let only = same.next()?;
        same.next().is_none().then_some(*only)
    }

    fn named(&self, name: &str) -> Option<u32> {
        let own = |at: &u32| self.names.get(*at as usize);
        let start = self.by_name.partition_point(|at| own(at).is_some_and(|(_, own)| own < name));
        let same = || {
            let rest = self.by_name.get(start..).unwrap_or_default().iter();
            rest.take_while(|at| own(at).is_some_and(|(_, own)| own == name))
        };
        let global = |at: &&u32| own(at).is_some_and(|(letter, _)| is_global(char::from(letter)));
        same().find(global).or_else(|| same().next()).copied()
    }

    fn is_percpu(&self, addr: u64) -> bool {
        self.percpu.is_some_and(|(start, end)| (start.raw()..end.raw()).contains(&addr))
    }

    fn symbol(&self, symbol: KernelSymbol<'_>) -> Symbol {
        let addr = symbol.addr.raw();
        let percpu = self.is_percpu(addr);
        Symbol {
            name: symbol.name.to_owned(),
            addr: LinkAddr::new(if percpu { addr } else { addr.wrapping_sub(self.slide) }),
            size: symbol.size,
            kind: if percpu { SymbolKind::Object } else { kind(symbol.letter) },
        }
    }
}

/// Whether the letter says that a symbol is global; `A` says that it is per-CPU, and nothing of that.
fn is_global(letter: char) -> bool {
    letter.is_ascii_uppercase() && letter != 'A'
}

/// What the letter that `nm` prints for a symbol says of it.
#[must_use]
pub fn kind(letter: char) -> SymbolKind {
    match letter.to_ascii_lowercase() {
        't' | 'w' | 'i' => SymbolKind::Function,
        'd' | 'b' | 'r' | 'v' | 'g' | 's' | 'c' => SymbolKind::Object,
        _ => SymbolKind::Other,
    }
}

/// Distance of each symbol to the next higher address.
fn sizes(addresses: &[u64], by_address: &[u32]) -> Vec<u32> {
    let mut sizes = vec![0; addresses.len()];
    let (mut next, mut here) = (None, None);
    for at in by_address.iter().rev() {
        let addr = addresses.get(*at as usize).copied();
        if here != addr {
            (next, here) = (here, addr);
        }
        let size = next.zip(addr).map_or(0, |(next, addr)| next - addr);
        if let Some(slot) = sizes.get_mut(*at as usize) {
            *slot = u32::try_from(size).ok().filter(|size| u64::from(*size) <= MAX_SIZE).unwrap_or(0);
        }
    }
    sizes
}

impl SymbolTable for Kallsyms {
    fn table_name(&self) -> &str {
        "the kernel's own symbol table (kallsyms)"
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        Some(self.symbol(self.find(name)?))
    }

    fn containing(&self, addr: LinkAddr) -> Option<Symbol> {
        Some(self.symbol(self.at_or_below(VirtAddr::new(addr.raw().wrapping_add(self.slide)))?))
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        self.percpu
    }

    fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>)) {
        for symbol in self.in_table_order() {
            let Symbol { mut addr, size, kind, .. } = self.symbol(KernelSymbol { name: "", ..symbol });
            // The mark at the end of per-CPU data is no address either.
            if let Some((_, end)) = self.percpu.filter(|(_, end)| end.raw() == symbol.addr.raw()) {
                addr = end;
            }
            visit(SymbolRef { name: symbol.name, addr, size, kind, global: is_global(symbol.letter) });
        }
    }
}

#[cfg(test)]
mod tests;
