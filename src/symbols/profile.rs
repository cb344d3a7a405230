//! Symbols written down by hand, as a profile has them, over whatever other symbols there are.

use std::collections::BTreeMap;

use super::{Symbol, SymbolKind, SymbolRef, SymbolTable};
use crate::addr::LinkAddr;

/// A profile's symbols, and the table below.
pub struct ProfileSymbols {
    symbols: BTreeMap<String, LinkAddr>,
    below: Box<dyn SymbolTable>,
}

impl ProfileSymbols {
    /// `symbols`, and those of `below` that have none of their names.
    #[must_use]
    pub fn new(symbols: BTreeMap<String, LinkAddr>, below: Box<dyn SymbolTable>) -> Self {
        Self { symbols, below }
    }

    fn own(&self, name: &str, addr: LinkAddr) -> Symbol {
        Symbol { name: name.to_owned(), addr, size: 0, kind: SymbolKind::Other }
    }
}

impl SymbolTable for ProfileSymbols {
    fn table_name(&self) -> &str {
        if self.below.is_available() { self.below.table_name() } else { "the profile" }
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        match self.symbols.get(name) {
            Some(addr) => Some(self.own(name, *addr)),
            None => self.below.lookup(name),
        }
    }

    fn containing(&self, addr: LinkAddr) -> Option<Symbol> {
        // How far one of these reaches is not known.
        let exact = self.symbols.iter().find(|(_, own)| **own == addr);
        exact.map(|(name, addr)| self.own(name, *addr)).or_else(|| self.below.containing(addr))
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        self.below.zero_based_percpu()
    }

    fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>)) {
        for (name, addr) in &self.symbols {
            visit(SymbolRef { name, addr: *addr, size: 0, kind: SymbolKind::Other, global: true });
        }
        self.below.for_each(&mut |line| {
            if !self.symbols.contains_key(line.name) {
                visit(line);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Below;

    impl SymbolTable for Below {
        fn table_name(&self) -> &str {
            "below"
        }

        fn lookup(&self, name: &str) -> Option<Symbol> {
            let kind = SymbolKind::Function;
            ["_text", "init_task"].contains(&name).then(|| Symbol {
                name: name.to_owned(),
                addr: LinkAddr::new(0x1000),
                size: 8,
                kind,
            })
        }

        fn containing(&self, _: LinkAddr) -> Option<Symbol> {
            self.lookup("_text")
        }

        fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
            None
        }

        fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>)) {
            for name in ["_text", "init_task"] {
                visit(SymbolRef {
                    name,
                    addr: LinkAddr::new(0x1000),
                    size: 8,
                    kind: SymbolKind::Function,
                    global: true,
                });
            }
        }
    }

    #[test]
    fn what_is_listed_goes_before_what_is_below() {
        let table = ProfileSymbols::new(
            BTreeMap::from([("init_task".to_owned(), LinkAddr::new(0x2000))]),
            Box::new(Below),
        );
        let place = |name| table.lookup(name).map(|symbol| symbol.addr.raw());
        assert_eq!((place("init_task"), place("_text"), place("prb")), (Some(0x2000), Some(0x1000), None));
        let containing = |addr| table.containing(LinkAddr::new(addr)).unwrap().name;
        assert_eq!((containing(0x2000), containing(0x2001)), ("init_task".to_owned(), "_text".to_owned()));
        let mut lines = Vec::new();
        table.for_each(&mut |line| lines.push((line.name.to_owned(), line.addr.raw())));
        assert_eq!(lines, [("init_task".to_owned(), 0x2000), ("_text".to_owned(), 0x1000)]);
    }
}
