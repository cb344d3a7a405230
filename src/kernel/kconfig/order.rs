//! Which options exist, and in which order a configuration file has them.
//!
//! Input: the Kconfig files of a source tree, and the runs found in memory, of any kernel. Output: whether a name is
//! known, and how far two options are from each other. The order is the same in all files of one kernel and nearly
//! so in those of its neighbours. Source: `Documentation/kbuild/kconfig-language.rst`.

use std::collections::{HashMap, HashSet};

use super::scan::Piece;

/// Places of one name that are worth knowing.
const MAX_PLACES: usize = 8;

/// A kernel has some 1,700 Kconfig files, at most ten deep.
const MAX_FILES: usize = 16 << 10;
const MAX_DEPTH: usize = 32;

/// Options further apart in one run than this prove nothing.
const NEAR_IN_RUN: u32 = 16;

/// Between neighbours in a file, a source tree has the options that are out of reach in it.
const NEAR_IN_SOURCE: u32 = 160;

/// Names of options in the order of the source tree's menus.
///
/// `read` gives the text of a file by its path in the tree; `arch` is what `$(SRCARCH)` stands for.
pub fn names_in_tree(arch: &str, read: &mut dyn FnMut(&str) -> Option<String>) -> Vec<String> {
    let mut walk = Walk { arch, read, names: Vec::new(), known: HashSet::new(), files: HashSet::new() };
    walk.file("Kconfig", 0);
    walk.names
}

struct Walk<'a> {
    arch: &'a str,
    read: &'a mut dyn FnMut(&str) -> Option<String>,
    names: Vec<String>,
    known: HashSet<String>,
    files: HashSet<String>,
}

impl Walk<'_> {
    fn file(&mut self, path: &str, depth: usize) {
        let new = depth < MAX_DEPTH && self.files.len() < MAX_FILES && self.files.insert(path.to_owned());
        let Some(text) = new.then(|| (self.read)(path)).flatten() else { return };
        for line in text.lines() {
            match words(line) {
                Some(("config" | "menuconfig", name)) if self.known.insert(name.to_owned()) => {
                    self.names.push(name.to_owned());
                }
                Some(("source", path)) => {
                    let path = path.trim_matches('"').replace("$(SRCARCH)", self.arch);
                    self.file(&path.replace("$SRCARCH", self.arch), depth + 1);
                }
                _ => {}
            }
        }
    }
}

fn words(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?))
}

/// What is known of names and their order.
#[derive(Debug, Default)]
pub struct Order {
    source: HashMap<String, u32>,
    /// The run and the position in it, for each place of a name.
    seen: HashMap<String, Vec<(u32, u32)>>,
    /// Positions in the source tree of the names that were seen, ascending.
    seen_in_source: Vec<u32>,
}

impl Order {
    /// The order in `names` of a source tree (none when there is no tree) and in the runs of `pieces`.
    #[must_use]
    pub fn new(names: &[String], pieces: &[Piece]) -> Self {
        let source: HashMap<String, u32> =
            names.iter().zip(0..).map(|(name, position)| (name.clone(), position)).collect();
        let mut seen: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
        for (piece, run) in pieces.iter().zip(0..) {
            for (setting, position) in piece.run.settings().zip(0..) {
                let places = seen.entry(setting.name.to_owned()).or_default();
                if places.len() < MAX_PLACES {
                    places.push((run, position));
                }
            }
        }
        let mut seen_in_source: Vec<u32> = seen.keys().filter_map(|name| source.get(name).copied()).collect();
        seen_in_source.sort_unstable();
        Self { source, seen, seen_in_source }
    }

    /// Whether an option has this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.source.contains_key(name) || self.seen.contains_key(name)
    }

    /// The position of an option in the source tree.
    #[must_use]
    pub fn in_source(&self, name: &str) -> Option<u32> {
        self.source.get(name).copied()
    }

    /// How far `after` follows `before`, if it does and is near: 1 when nothing can stand between them.
    #[must_use]
    pub fn distance(&self, before: &str, after: &str) -> Option<u32> {
        self.in_runs(before, after).or_else(|| {
            let distance = self.in_source(after)?.checked_sub(self.in_source(before)?)?;
            (1..=NEAR_IN_SOURCE).contains(&distance).then_some(distance)
        })
    }

    /// Whether `after` follows `before` in the source tree with no option between that was seen anywhere.
    #[must_use]
    pub fn is_next_seen(&self, before: &str, after: &str) -> bool {
        let (Some(before), Some(after)) = (self.in_source(before), self.in_source(after)) else {
            return false;
        };
        let next = self.seen_in_source.partition_point(|position| *position <= before);
        before < after && self.seen_in_source.get(next).is_none_or(|position| *position >= after)
    }

    fn in_runs(&self, before: &str, after: &str) -> Option<u32> {
        let (before, after) = (self.seen.get(before)?, self.seen.get(after)?);
        let pairs = before.iter().flat_map(|a| after.iter().map(move |b| (a, b)));
        let distances = pairs.filter(|(a, b)| a.0 == b.0).filter_map(|(a, b)| b.1.checked_sub(a.1));
        distances.filter(|distance| (1..=NEAR_IN_RUN).contains(distance)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_in_the_order_of_its_menus() {
        let names = names_in_tree("x86", &mut |path| {
            let text = match path {
                "Kconfig" => "source \"arch/$(SRCARCH)/Kconfig\"\nsource \"b/Kconfig\"\nsource \"Kconfig\"\n",
                "arch/x86/Kconfig" => "config A\n\tbool \"a\"\n\thelp\n\t  text\n\nmenuconfig B\n",
                "b/Kconfig" => "config C\n  config A\nsource \"missing\"\nconfig D\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!(names, ["A", "B", "C", "D"]);
        let order = Order::new(&names, &[]);
        assert!(order.knows("C") && !order.knows("E"));
        assert_eq!(order.distance("A", "C"), Some(2));
        assert_eq!(order.distance("C", "A"), None);
    }
}
