//! The names found so far, and how far that is.
//!
//! Units are scanned in file order and only until the name asked for has turned up; the next name goes on from there.
//! Of several definitions of one name the first in file order wins, whatever was asked for before. File order is link
//! order, and a kernel links its core (`init`, `arch`, `kernel`, `mm`, `fs`) before `drivers` and `net`, so a driver's own
//! struct does not hide the core's. Few names are ambiguous at all: eleven in Debian's 6.1, none that a command reads.

use std::collections::HashMap;

use super::scan::{Damage, NameAt, Scanner, Source, UnitSpan};
use crate::types::Tag;

/// The bytes names stand in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strings<'d> {
    pub(super) str: &'d [u8],
    pub(super) line_str: &'d [u8],
}

/// Names of the types defined in the units scanned so far.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Entry of the first definition by tag, then name.
    names: HashMap<Tag, HashMap<Box<[u8]>, usize>>,
    /// For each place in `.debug_str`, a bit for each tag already found under that name.
    seen: Vec<u8>,
    scanner: Scanner,
    /// The next unit to scan.
    next: usize,
    damage: Option<Damage>,
}

impl Index {
    /// The entry that defines a name, if it was met already.
    pub(super) fn get(&self, tag: Tag, name: &str) -> Option<usize> {
        self.names.get(&tag)?.get(name.as_bytes()).copied()
    }

    /// The first damage met: a name that was not found may be defined behind it.
    pub(super) fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Scans the next of `units`; `false` when there is none.
    pub(super) fn advance(&mut self, source: Source<'_>, strings: Strings<'_>, units: &[UnitSpan]) -> bool {
        let Some(unit) = units.get(self.next) else { return false };
        self.next += 1;
        self.seen.resize(strings.str.len(), 0);
        let Self { names, seen, scanner, .. } = self;
        let scanned = scanner.scan(source, unit, |found| {
            let (section, at) = match found.name {
                NameAt::Str(at) => {
                    let bit = 1 << found.tag as u8;
                    match seen.get_mut(at) {
                        Some(tags) if *tags & bit == 0 => *tags |= bit,
                        _ => return,
                    }
                    (strings.str, at)
                }
                NameAt::Info(at) => (source.info, at),
                NameAt::LineStr(at) => (strings.line_str, at),
            };
            let Some(name) = section.get(at..).and_then(|rest| rest.get(..memchr::memchr(0, rest)?)) else {
                return;
            };
            let names = names.entry(found.tag).or_default();
            if !names.contains_key(name) {
                names.insert(name.into(), found.place);
            }
        });
        if let Err(damage) = scanned {
            self.damage.get_or_insert(damage);
        }
        true
    }
}
