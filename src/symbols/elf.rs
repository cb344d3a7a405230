//! The symbol table of a vmlinux.
//!
//! A kernel has 100,000 symbols and an attach asks for a few dozen, so the table costs one pass and no string is
//! copied: names stay in the file, found by the hash of the name. Source: System V ABI, chapter 4, "Symbol Table".

use std::{
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use object::{
    LittleEndian as LE, SymbolIndex,
    elf::{STB_LOCAL, STT_FILE, STT_FUNC, STT_GNU_IFUNC, STT_OBJECT, STT_SECTION, Sym64},
    read::elf::Sym,
};

use super::{Symbol, SymbolKind, SymbolRef, SymbolTable, before_promotion};
use crate::{
    addr::LinkAddr,
    vmlinux::{Symbols, Vmlinux, VmlinuxError},
};

/// Symbols looked at below an address for one whose range holds it.
const MAX_NESTED: usize = 64;

struct Entry {
    addr: LinkAddr,
    size: u64,
    /// Position of the name in the string table.
    name: u32,
    /// ELF section index; 0 for an absolute value, which is no place.
    section: u32,
    kind: SymbolKind,
    global: bool,
}

impl Entry {
    /// `None` for what names no place or value: files, sections, undefined symbols.
    fn read(symbols: &Symbols<'_>, index: SymbolIndex, symbol: &Sym64<LE>) -> Option<Self> {
        let kind = match symbol.st_type() {
            STT_FILE | STT_SECTION => return None,
            STT_FUNC | STT_GNU_IFUNC => SymbolKind::Function,
            STT_OBJECT => SymbolKind::Object,
            _ => SymbolKind::Other,
        };
        if symbol.is_undefined(LE) || symbol.st_name(LE) == 0 {
            return None;
        }
        let section = symbols.symbol_section(LE, symbol, index).ok()?;
        Some(Self {
            addr: LinkAddr::new(symbol.st_value(LE)),
            size: symbol.st_size(LE),
            name: symbol.st_name(LE),
            section: section.map_or(Some(0), |section| u32::try_from(section.0).ok())?,
            kind,
            global: symbol.st_bind() != STB_LOCAL,
        })
    }

    fn holds(&self, addr: LinkAddr) -> bool {
        addr.wrapping_offset_from(self.addr) < self.size
    }

    /// Of several names of one place, people know the one of a function or variable, and of those the global one.
    fn rank(&self) -> (bool, bool) {
        (self.kind != SymbolKind::Other, self.global)
    }
}

/// Symbols of a [`Vmlinux`].
pub struct ElfSymbols {
    file: Arc<Vmlinux>,
    /// ELF section index of the names.
    strings: usize,
    /// By section, then address.
    entries: Vec<Entry>,
    /// Hash of a name and position in `entries`, ascending.
    by_name: Vec<(u32, u32)>,
    percpu: Option<(LinkAddr, LinkAddr)>,
}

impl ElfSymbols {
    /// Reads the table.
    ///
    /// # Errors
    /// [`VmlinuxError::NoSymbols`], or [`VmlinuxError::Truncated`] when the table is damaged.
    pub fn new(file: Arc<Vmlinux>) -> Result<Self, VmlinuxError> {
        let symbols = file.symbols()?;
        let mut entries: Vec<Entry> =
            symbols.enumerate().filter_map(|(index, symbol)| Entry::read(&symbols, index, symbol)).collect();
        entries.sort_by_key(|entry| (entry.section, entry.addr));
        let mut by_name: Vec<(u32, u32)> = (0..)
            .zip(&entries)
            .filter_map(|(at, entry)| Some((hash(symbols.strings().get(entry.name).ok()?), at)))
            .collect();
        by_name.sort_unstable();
        let strings = symbols.string_section().0;
        let mut table = Self { file, strings, entries, by_name, percpu: None };
        table.percpu = table.find_percpu();
        Ok(table)
    }

    fn find_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        let zero = LinkAddr::default();
        let section = self.file.sections().iter().find(|section| &*section.name == ".data..percpu");
        match section {
            Some(section) => Some((section.addr, section.addr.checked_add(section.size)?)),
            None => Some((self.lookup("__per_cpu_start")?.addr, self.lookup("__per_cpu_end")?.addr)),
        }
        .filter(|(start, end)| *start == zero && *end > zero)
    }

    fn name(&self, entry: &Entry) -> Option<&[u8]> {
        let strings = self.file.section_bytes(self.strings)?;
        let name = strings.get(usize::try_from(entry.name).ok()?..)?;
        name.get(..memchr::memchr(0, name)?)
    }

    fn symbol(&self, entry: &Entry) -> Option<Symbol> {
        let name = String::from_utf8_lossy(self.name(entry)?).into_owned();
        Some(Symbol { name, addr: entry.addr, size: entry.size, kind: entry.kind })
    }
}

/// Equal for equal names, promoted ones included; the sort order of [`ElfSymbols::by_name`].
fn hash(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(before_promotion(name).unwrap_or(name));
    hasher.finish() as u32
}

impl SymbolTable for ElfSymbols {
    fn table_name(&self) -> &str {
        self.file.name()
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        let hash = hash(name.as_bytes());
        let start = self.by_name.partition_point(|(other, _)| *other < hash);
        let same = self.by_name.get(start..)?.iter().take_while(|(other, _)| *other == hash);
        let (mut first, mut promoted) = (None, Vec::new());
        for (_, at) in same {
            let entry = self.entries.get(usize::try_from(*at).ok()?)?;
            let own = self.name(entry);
            if own.and_then(before_promotion) == Some(name.as_bytes()) {
                promoted.push(entry);
            }
            if own == Some(name.as_bytes()) {
                if entry.global {
                    return self.symbol(entry);
                }
                first = first.or(Some(entry));
            }
        }
        let only = if let [only] = promoted[..] { Some(only) } else { None };
        self.symbol(first.or(only)?)
    }

    fn containing(&self, addr: LinkAddr) -> Option<Symbol> {
        let section = self.file.sections().iter().position(|section| section.holds(addr))?;
        let section = u32::try_from(section).ok()?;
        let end = self.entries.partition_point(|entry| (entry.section, entry.addr) <= (section, addr));
        let below =
            || self.entries.get(..end).into_iter().flatten().rev().take_while(|e| e.section == section);
        let nearest = below().next()?;
        let holder = below().take(MAX_NESTED).find(|entry| entry.holds(addr)).unwrap_or(nearest);
        let best = below().skip_while(|entry| entry.addr > holder.addr);
        let best = best.take_while(|entry| entry.addr == holder.addr);
        self.symbol(best.max_by_key(|entry| (entry.holds(addr), entry.rank()))?)
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        self.percpu
    }

    fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>)) {
        for entry in &self.entries {
            if let Some(name) = self.name(entry).and_then(|name| std::str::from_utf8(name).ok()) {
                let Entry { addr, size, kind, global, .. } = *entry;
                visit(SymbolRef { name, addr, size, kind, global });
            }
        }
    }
}

#[cfg(test)]
mod tests;
