//! The symbol table of a vmlinux.

use std::{collections::HashMap, ops::Range, sync::Arc};

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind as Kind};

use super::{Symbol, SymbolKind, SymbolTable};
use crate::{
    addr::LinkAddr,
    vmlinux::{Vmlinux, VmlinuxError},
};

struct Entry {
    name: Box<str>,
    addr: u64,
    size: u64,
    kind: SymbolKind,
    global: bool,
    section: usize,
}

/// Symbols of a [`Vmlinux`].
pub struct ElfSymbols {
    file: Arc<Vmlinux>,
    /// By section, then address.
    entries: Vec<Entry>,
    by_name: HashMap<Box<str>, usize>,
    /// Address range of each section, by section index.
    sections: HashMap<usize, Range<u64>>,
    percpu: Option<usize>,
}

impl ElfSymbols {
    /// Reads the table.
    ///
    /// # Errors
    /// [`VmlinuxError::Truncated`] when the file has no symbol table.
    pub fn new(file: Arc<Vmlinux>) -> Result<Self, VmlinuxError> {
        let elf = file.elf()?;
        let mut sections = HashMap::new();
        let mut percpu = None;
        for section in elf.sections() {
            let range = section.address()..section.address().saturating_add(section.size());
            if section.name() == Ok(".data..percpu") && range.start == 0 {
                percpu = Some(section.index().0);
            }
            sections.insert(section.index().0, range);
        }
        let mut entries: Vec<Entry> = elf
            .symbols()
            .filter(|symbol| !matches!(symbol.kind(), Kind::File | Kind::Section))
            .filter_map(|symbol| {
                let name = symbol.name().ok().filter(|name| !name.is_empty())?;
                let kind = match symbol.kind() {
                    Kind::Text => SymbolKind::Function,
                    Kind::Data => SymbolKind::Object,
                    _ => SymbolKind::Other,
                };
                Some(Entry {
                    name: name.into(),
                    addr: symbol.address(),
                    size: symbol.size(),
                    kind,
                    global: symbol.is_global(),
                    section: symbol.section_index().map_or(0, |index| index.0),
                })
            })
            .collect();
        if entries.is_empty() {
            return Err(file.truncated("it has no symbols"));
        }
        entries.sort_by_key(|entry| (entry.section, entry.addr));
        let mut by_name: HashMap<Box<str>, usize> = HashMap::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let first = by_name.entry(entry.name.clone()).or_insert(index);
            if entry.global && entries.get(*first).is_some_and(|first| !first.global) {
                *first = index;
            }
        }
        drop(elf);
        Ok(Self { file, entries, by_name, sections, percpu })
    }
}

impl Entry {
    fn symbol(&self) -> Symbol {
        Symbol {
            name: self.name.to_string(),
            addr: LinkAddr::new(self.addr),
            size: self.size,
            kind: self.kind,
        }
    }
}

impl SymbolTable for ElfSymbols {
    fn table_name(&self) -> &str {
        self.file.name()
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        self.by_name.get(name).and_then(|index| self.entries.get(*index)).map(Entry::symbol)
    }

    fn containing(&self, addr: LinkAddr) -> Option<Symbol> {
        let (section, _) = self
            .sections
            .iter()
            .find(|(index, range)| range.contains(&addr.raw()) && Some(**index) != self.percpu)?;
        let end = self.entries.partition_point(|entry| (entry.section, entry.addr) <= (*section, addr.raw()));
        let nearest = self.entries.get(..end)?.last().filter(|entry| entry.section == *section)?;
        let twins = self.entries.get(..end)?.iter().rev();
        let twins = twins.take_while(|entry| entry.section == *section && entry.addr == nearest.addr);
        // Several names of one place: the one that is a function or variable, and global, is what people know.
        twins.max_by_key(|entry| (entry.kind != SymbolKind::Other, entry.global)).map(Entry::symbol)
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        let range = self.sections.get(&self.percpu?)?;
        Some((LinkAddr::new(range.start), LinkAddr::new(range.end)))
    }
}
