//! One configuration out of chains: which are the running kernel's, what they say together, where they disagree.
//!
//! Input: chains of text, and what the kernel says of itself. Output: [`Assembly`], plain data. The rule is that no
//! wrong value is written: an option on which texts disagree that could both be the running kernel's is left out and
//! reported, and so is text that nothing ties to the running kernel.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{
    chain::{Chain, Proof},
    identity::{Fit, Identity},
    line::{Line, Setting},
    order::Order,
    scan::Piece,
};

/// Half a line of this length is taken for a part of a known line that it fits; `=y` would fit anything.
const TELLING: usize = 16;

/// Texts are compared with each other; a target with more than this is hostile.
const MAX_TEXTS: usize = 1024;

/// What text about one option says: `=value`, or `None` for `is not set`.
type Value = Option<String>;

/// An option with different values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Without `CONFIG_`.
    pub name: String,
    /// Each value as a line, the written one first if one is.
    pub values: Vec<String>,
    /// Whether the first value was written: it is of the whole file, the others of stale pages.
    pub written: bool,
}

/// A configuration in memory that is not the running kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// The version in its header.
    pub version: String,
    /// Options of it that were seen.
    pub options: usize,
}

/// The order of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sequence {
    /// The file's own.
    File,
    /// Of the source tree's menus.
    Menus,
    /// By name.
    #[default]
    Sorted,
}

/// What was put together.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The lines, comments included when [`Sequence::File`].
    pub lines: Vec<String>,
    /// Their order.
    pub sequence: Sequence,
    /// Options that stand whole in one page.
    pub found: usize,
    /// Options joined from two pages that are neighbours in the page cache.
    pub stitched_by_page_cache: usize,
    /// Options joined from two pages because of the order of options.
    pub stitched_by_order: usize,
    /// Options of which half was seen, and the other half could not be another one.
    pub completed: usize,
    /// From the header to the end of the file without a gap.
    pub whole: bool,
    /// The version in the header.
    pub version: Option<String>,
    /// Halves of lines whose other half is not proved: at least so many options are missing.
    pub cut: Vec<String>,
    /// Options on which texts disagree.
    pub conflicts: Vec<Conflict>,
    /// Other kernels' configurations.
    pub others: Vec<Other>,
    /// Options only in text that nothing ties to the running kernel.
    pub unattributed: usize,
}

/// A chain and what it says.
struct Text<'c> {
    chain: &'c Chain,
    lines: Vec<(String, Option<Proof>)>,
    values: HashMap<String, Value>,
    version: Option<String>,
    starts_file: bool,
    ends_file: bool,
}

impl<'c> Text<'c> {
    fn of(chain: &'c Chain, pieces: &[Piece]) -> Self {
        let mut lines: Vec<(String, Option<Proof>)> = Vec::new();
        let mut push = |bytes: &[u8], proof| lines.push((String::from_utf8_lossy(bytes).into_owned(), proof));
        let first = chain.first(pieces);
        let starts_file = first.is_some_and(|piece| piece.run.starts_file());
        if let Some(piece) = first.filter(|piece| starts_file && piece.run.starts_page) {
            push(piece.run.head(), None);
        } else if let Some(start) = &chain.start {
            push(&start.line, Some(start.proof));
        }
        for (index, piece) in chain.pieces.iter().enumerate() {
            let Some(piece) = pieces.get(*piece) else { continue };
            let whole = piece.run.whole();
            let whole = whole.strip_suffix(b"\n").unwrap_or(whole);
            if !piece.run.whole().is_empty() {
                whole.split(|byte| *byte == b'\n').for_each(|line| push(line, None));
            }
            if let Some(join) = chain.joins.get(index) {
                push(&join.line, Some(join.proof));
            }
        }
        if let Some(end) = &chain.end {
            push(&end.line, Some(end.proof));
        }
        let settings = lines.iter().filter_map(|(line, _)| Line::parse(line.as_bytes())?.setting());
        let values =
            settings.map(|Setting { name, value }| (name.to_owned(), value.map(str::to_owned))).collect();
        let version = first.and_then(|piece| piece.run.header()).map(str::to_owned);
        let ends_file = chain.last(pieces).is_some_and(|piece| piece.run.ends_file);
        Self { chain, lines, values, version, starts_file, ends_file }
    }

    fn is_whole(&self) -> bool {
        self.starts_file && self.ends_file
    }

    /// Whether the page cache says that this is a whole file: the order of options may lead from one file into another.
    fn is_surely_whole(&self) -> bool {
        self.is_whole() && self.chain.joins.iter().all(|join| join.proof == Proof::PageCache)
    }

    fn disagrees(&self, other: &Self) -> bool {
        let (few, many) = if self.values.len() < other.values.len() { (self, other) } else { (other, self) };
        few.values.iter().any(|(name, value)| many.values.get(name).is_some_and(|it| it != value))
    }

    /// Whether all that this says is said by `other`.
    fn is_part_of(&self, other: &Self) -> bool {
        self.values.iter().all(|(name, value)| other.values.get(name) == Some(value))
    }

    /// Whether most options that both have are the same: a copy of another age, not another kernel's.
    fn is_kin_of(&self, other: &Self) -> bool {
        let both = self.values.iter().filter_map(|(name, value)| Some(other.values.get(name)? == value));
        let (same, different): (Vec<bool>, Vec<bool>) = both.partition(|same| *same);
        same.len() > different.len() * 4
    }
}

/// Puts the configuration of the kernel that `identity` describes together. What a bound left out is said in `limits`.
pub(super) fn assemble(
    pieces: &[Piece],
    chains: &[Chain],
    identity: Identity<'_>,
    order: &Order,
    limits: &mut Vec<String>,
) -> Assembly {
    let mut texts: Vec<Text<'_>> = chains.iter().map(|chain| Text::of(chain, pieces)).collect();
    texts.sort_by_key(|text| std::cmp::Reverse((text.is_whole(), text.version.is_some(), text.values.len())));
    if texts.len() > MAX_TEXTS {
        limits.push(format!(
            "of {} pieces of text the {} with the fewest options were left out",
            texts.len(),
            texts.len() - MAX_TEXTS
        ));
        texts.truncate(MAX_TEXTS);
    }
    let fit = |text: &Text<'_>| text.version.as_deref().map(|version| identity.fit(version));
    let best = texts.iter().filter_map(fit).max().filter(|best| *best > Fit::Other);
    let (titled, untitled): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.version.is_some());
    let (mut ours, others): (Vec<_>, Vec<_>) =
        titled.into_iter().partition(|text| best.is_some() && fit(text) == best);

    let whole = ours.first().is_some_and(|text| text.is_whole());
    let mut assembly = Assembly {
        version: ours.first().and_then(|text| text.version.clone()),
        others: others
            .iter()
            .map(|text| Other {
                version: text.version.clone().unwrap_or_default(),
                options: text.values.len(),
            })
            .collect(),
        ..Assembly::default()
    };
    let sure = ours.len();
    let mut left = Vec::new();
    for text in untitled {
        let belongs = !whole && belongs(text, &ours, &others, &texts);
        if belongs { ours.push(text) } else { left.push(text) }
    }
    // Two whole files of the running version are of two flavours of it: nothing says which is the right one.
    let rivals: Vec<_> = ours.iter().skip(1).take(sure.saturating_sub(1)).copied().collect();
    let undecided = disagreements(&ours);
    assembly.write(&ours, &undecided, order, pieces);
    assembly.whole = whole && undecided.is_empty();
    assembly.conflicts = undecided;
    if let Some(main) = ours.first().filter(|main| whole && rivals.iter().all(|text| text.is_kin_of(main))) {
        for stale in left.iter().filter(|text| text.is_kin_of(main) && !is_of(text, &others)) {
            assembly.report_stale(main, stale);
        }
    }
    let written: HashSet<&str> =
        ours.iter().flat_map(|text| text.values.keys().map(String::as_str)).collect();
    let unknown = left.iter().filter(|text| !is_of(text, &others)).flat_map(|text| text.values.keys());
    assembly.unattributed =
        unknown.filter(|name| !written.contains(name.as_str())).collect::<HashSet<_>>().len();
    assembly
}

/// Whether `text` is a part of one of `others`.
fn is_of(text: &Text<'_>, others: &[&Text<'_>]) -> bool {
    others.iter().any(|other| text.is_part_of(other))
}

/// Whether text without a header is the running kernel's: of the same file, or at odds with nothing but the whole
/// files of other kernels.
fn belongs(text: &Text<'_>, ours: &[&Text<'_>], others: &[&Text<'_>], all: &[Text<'_>]) -> bool {
    let file = |text: &Text<'_>| text.chain.owner.map(|owner| owner.mapping);
    if file(text).is_some() && ours.iter().any(|other| file(other) == file(text)) {
        return true;
    }
    // In the page cache, another file is another file; of pages outside of it, only the text speaks.
    let is_other_file = file(text).is_some() && ours.iter().any(|other| file(other).is_some());
    if ours.is_empty() || is_other_file || ours.iter().any(|other| text.disagrees(other)) {
        return false;
    }
    let excluded = others.iter().all(|other| other.is_surely_whole() && !text.is_part_of(other));
    let untitled = all.iter().filter(|other| other.version.is_none());
    excluded && !untitled.filter(|other| !is_of(other, others)).any(|other| text.disagrees(other))
}

/// Options on which `texts` disagree.
fn disagreements(texts: &[&Text<'_>]) -> Vec<Conflict> {
    let mut values: HashMap<&str, Vec<&Value>> = HashMap::new();
    for (name, value) in texts.iter().flat_map(|text| &text.values) {
        let known = values.entry(name).or_default();
        if !known.contains(&value) {
            known.push(value);
        }
    }
    let mut conflicts: Vec<Conflict> = values
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(name, values)| Conflict {
            name: name.to_owned(),
            values: values.into_iter().map(|value| line(name, value)).collect(),
            written: false,
        })
        .collect();
    conflicts.sort_by(|a, b| a.name.cmp(&b.name));
    conflicts
}

fn line(name: &str, value: &Value) -> String {
    match value {
        Some(value) => format!("CONFIG_{name}={value}"),
        None => format!("# CONFIG_{name} is not set"),
    }
}

impl Assembly {
    fn write(&mut self, texts: &[&Text<'_>], undecided: &[Conflict], order: &Order, pieces: &[Piece]) {
        let undecided: HashSet<&str> = undecided.iter().map(|conflict| conflict.name.as_str()).collect();
        let mut proofs: HashMap<String, Option<Proof>> = HashMap::new();
        let mut comments = false;
        let single =
            texts.first().filter(|main| main.is_whole() && texts.iter().all(|text| text.is_part_of(main)));
        let kept: &[&Text<'_>] = single.map_or(texts, std::slice::from_ref);
        let mut options: Vec<(String, String)> = Vec::new();
        for (line, proof) in kept.iter().flat_map(|text| &text.lines) {
            match Line::parse(line.as_bytes()).and_then(Line::setting) {
                Some(Setting { name, .. }) if !undecided.contains(name) => {
                    let known = proofs.insert(name.to_owned(), *proof);
                    match known {
                        None => options.push((name.to_owned(), line.clone())),
                        // A line that stands whole somewhere was not stitched.
                        Some(None) => drop(proofs.insert(name.to_owned(), None)),
                        Some(Some(_)) => {}
                    }
                }
                Some(_) => {}
                None if single.is_some() => {
                    comments = true;
                    options.push((String::new(), line.clone()));
                }
                None => {}
            }
        }
        self.sequence = if comments {
            Sequence::File
        } else if options.iter().all(|(name, _)| order.in_source(name).is_some()) && !options.is_empty() {
            options.sort_by_key(|(name, _)| order.in_source(name));
            Sequence::Menus
        } else {
            options.sort_unstable();
            Sequence::Sorted
        };
        for proof in proofs.values() {
            match proof {
                None => self.found += 1,
                Some(Proof::PageCache) => self.stitched_by_page_cache += 1,
                Some(Proof::Order) => self.stitched_by_order += 1,
                Some(Proof::Forced) => self.completed += 1,
            }
        }
        self.lines = options.into_iter().map(|(_, line)| line).collect();
        self.cut = kept.iter().flat_map(|text| text.cut(pieces, &self.lines)).collect();
    }

    fn report_stale(&mut self, main: &Text<'_>, stale: &Text<'_>) {
        for (name, value) in &stale.values {
            let Some(ours) = main.values.get(name).filter(|ours| *ours != value) else { continue };
            if self.conflicts.iter().any(|conflict| conflict.name == *name && !conflict.written) {
                continue;
            }
            let values = vec![line(name, ours), line(name, value)];
            if !self.conflicts.iter().any(|conflict| conflict.values == values) {
                self.conflicts.push(Conflict { name: name.clone(), values, written: true });
            }
        }
        self.conflicts.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

impl Text<'_> {
    /// The halves of lines at the chain's ends whose other half is not known, unless `lines` has the whole line.
    fn cut(&self, pieces: &[Piece], lines: &[String]) -> Vec<String> {
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let first = self.chain.first(pieces).filter(|_| !self.starts_file && self.chain.start.is_none());
        let head = first.map(|piece| show(piece.run.head())).filter(|head| !head.is_empty());
        let telling = |half: &str| half.len() >= TELLING;
        let head =
            head.filter(|head| !(telling(head) && lines.iter().any(|line| line.ends_with(head.as_str()))));
        let last = self.chain.last(pieces).filter(|_| self.chain.end.is_none());
        let tail = last.map(|piece| show(piece.run.tail())).filter(|tail| !tail.is_empty());
        let tail =
            tail.filter(|tail| !(telling(tail) && lines.iter().any(|line| line.starts_with(tail.as_str()))));
        [head.map(|head| format!("...{head}")), tail.map(|tail| format!("{tail}..."))]
            .into_iter()
            .flatten()
            .collect()
    }
}
