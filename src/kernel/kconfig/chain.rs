//! Chains: runs in the order of their file, joined over the pages' edges.
//!
//! Input: pieces, whose pages they are in, and the order of options. Output: chains. A line that was cut is joined only
//! where something proves that its halves belong together: the page cache's own order, or the order of options, which
//! then knows the joined name. Two halves that merely fit prove nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    forced,
    line::{Line, is_fragment},
    order::Order,
    owner::Owner,
    scan::Piece,
};

/// Every end is compared with every beginning.
const MAX_ENDS: usize = 2048;
/// Pairs of them that could be one line: where more fit, of hundreds of copies or of a hostile target, nothing is proved.
const MAX_CANDIDATES: usize = 1 << 14;
/// The longest values are command lines, of 2,048 bytes at most.
const MAX_LINE: usize = 4096;

/// A line that lies in two pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Join {
    pub(super) line: Vec<u8>,
    pub(super) proof: Proof,
}

/// What shows that a page follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// They are neighbours in one file.
    PageCache,
    /// The options around the edge are neighbours elsewhere.
    Order,
    /// There is no other way to complete the half that is there.
    Forced,
}

/// Pieces that follow each other; between two of them stands a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) pieces: Vec<usize>,
    pub(super) joins: Vec<Join>,
    /// The file that the page cache says it is of, and the index of the first page.
    pub(super) owner: Option<Owner>,
    /// The cut line at the start, when only one can end so.
    pub(super) start: Option<Join>,
    /// The cut line at the end, when all pages that could follow agree on it or only one can begin so.
    pub(super) end: Option<Join>,
}

impl Chain {
    fn of(piece: usize, owner: Option<Owner>) -> Self {
        Self { pieces: vec![piece], joins: Vec::new(), owner, start: None, end: None }
    }

    pub(super) fn first<'p>(&self, pieces: &'p [Piece]) -> Option<&'p Piece> {
        pieces.get(*self.pieces.first()?)
    }

    pub(super) fn last<'p>(&self, pieces: &'p [Piece]) -> Option<&'p Piece> {
        pieces.get(*self.pieces.last()?)
    }
}

/// All chains; each piece is in one at least. `owners` has one list for each piece, one entry for each of its pages. What
/// a bound left undone is said in `limits`.
pub(super) fn chains(
    pieces: &[Piece],
    owners: &[Vec<Option<Owner>>],
    order: &Order,
    limits: &mut Vec<String>,
) -> Vec<Chain> {
    let mut chains = by_owner(pieces, owners);
    let placed: HashSet<usize> = chains.iter().flat_map(|chain| chain.pieces.iter().copied()).collect();
    chains.extend(
        (0..pieces.len()).filter(|piece| !placed.contains(piece)).map(|piece| Chain::of(piece, None)),
    );
    let mut chains = by_order(pieces, chains, order, limits);
    for chain in &mut chains {
        let join = |line| Join { line, proof: Proof::Forced };
        chain.start = chain.first(pieces).and_then(|piece| forced::start(&piece.run, order)).map(join);
        if chain.end.is_none() {
            chain.end = chain.last(pieces).and_then(|piece| forced::end(&piece.run)).map(join);
        }
    }
    chains
}

/// The line over the edge of two pieces, if the one can end and the other begin there.
fn join(before: &Piece, after: &Piece) -> Option<Vec<u8>> {
    if !before.run.ends_page || !after.run.starts_page || after.run.starts_file() {
        return None;
    }
    if before.run.tail().len() + after.run.head().len() > MAX_LINE {
        return None;
    }
    let line = [before.run.tail(), after.run.head()].concat();
    (is_fragment(&line) && Line::parse(&line).is_some()).then_some(line)
}

/// Chains of pages that the page cache has in a row. Copies of a file make the same chain: it is kept once.
fn by_owner(pieces: &[Piece], owners: &[Vec<Option<Owner>>]) -> Vec<Chain> {
    let mut files: HashMap<u64, BTreeMap<u64, Vec<usize>>> = HashMap::new();
    for (piece, owners) in owners.iter().enumerate() {
        for owner in owners.iter().flatten() {
            files.entry(owner.mapping).or_default().entry(owner.index).or_default().push(piece);
        }
    }
    let mut chains: Vec<Chain> = Vec::new();
    for (mapping, pages) in files {
        let mut previous: Option<u64> = None;
        let mut open: Option<Chain> = None;
        for (index, here) in pages {
            // Two runs in one page: it was torn.
            let [piece] = here.as_slice() else { continue };
            let follows = previous.is_some_and(|previous| previous.checked_add(1) == Some(index));
            let line = follows.then(|| join(open.as_ref()?.last(pieces)?, pieces.get(*piece)?)).flatten();
            match (&mut open, line) {
                (Some(chain), Some(line)) => {
                    chain.pieces.push(*piece);
                    chain.joins.push(Join { line, proof: Proof::PageCache });
                }
                _ => chains.extend(open.replace(Chain::of(*piece, Some(Owner { mapping, index })))),
            }
            previous = Some(index);
        }
        chains.extend(open);
    }
    chains.sort_by(|a, b| b.pieces.len().cmp(&a.pieces.len()).then_with(|| a.pieces.cmp(&b.pieces)));
    chains.dedup_by(|a, b| a.pieces == b.pieces);
    let long: HashSet<usize> =
        chains.iter().filter(|chain| chain.pieces.len() > 1).flat_map(|chain| chain.pieces.clone()).collect();
    chains.retain(|chain| chain.pieces.len() > 1 || !chain.pieces.iter().all(|piece| long.contains(piece)));
    chains
}

/// How near the options on both sides of an edge are, if all of them are known to be near.
fn nearness(order: &Order, before: &Piece, after: &Piece, line: &[u8]) -> Option<u32> {
    let (last, first) = (before.run.settings().next_back()?.name, after.run.settings().next()?.name);
    match Line::parse(line)?.setting() {
        Some(setting) if order.knows(setting.name) => {
            Some(order.distance(last, setting.name)? + order.distance(setting.name, first)?)
        }
        Some(_) => None,
        None => order.distance(last, first),
    }
}

/// One chain that could follow another.
#[derive(Debug, Clone)]
struct Candidate {
    before: usize,
    after: usize,
    near: u32,
    line: Vec<u8>,
}

/// Links chains whose edges the order of options proves, where each is the other's only best choice.
fn by_order(pieces: &[Piece], mut chains: Vec<Chain>, order: &Order, limits: &mut Vec<String>) -> Vec<Chain> {
    let candidates = candidates(pieces, &chains, order, limits);
    let best = |of: &dyn Fn(&Candidate) -> usize, end: usize| -> Vec<&Candidate> {
        let ours: Vec<&Candidate> = candidates.iter().filter(|candidate| of(candidate) == end).collect();
        let near = ours.iter().map(|candidate| candidate.near).min();
        ours.into_iter().filter(|candidate| Some(candidate.near) == near).collect()
    };
    let mut next: HashMap<usize, &Candidate> = HashMap::new();
    let mut ends: Vec<(usize, Vec<u8>)> = Vec::new();
    let befores: HashSet<usize> = candidates.iter().map(|candidate| candidate.before).collect();
    for before in befores {
        match best(&|candidate| candidate.before, before).as_slice() {
            [only] if matches!(best(&|candidate| candidate.after, only.after).as_slice(), [it] if it.before == before) =>
            {
                next.insert(before, only);
            }
            // Copies of the next page, of different ages: which one follows is open, the line is not.
            [first, second, rest @ ..]
                if [second].into_iter().chain(rest).all(|other| other.line == first.line)
                    && [first, second]
                        .into_iter()
                        .chain(rest)
                        .all(|copy| best(&|candidate| candidate.after, copy.after).len() == 1) =>
            {
                ends.push((before, first.line.clone()));
            }
            _ => {}
        }
    }
    for (chain, line) in ends {
        if let Some(chain) = chains.get_mut(chain) {
            chain.end = Some(Join { line, proof: Proof::Order });
        }
    }
    follow(&chains, &next)
}

fn candidates(pieces: &[Piece], chains: &[Chain], order: &Order, limits: &mut Vec<String>) -> Vec<Candidate> {
    if let Some(left) = chains.len().checked_sub(MAX_ENDS).filter(|left| *left > 0) {
        limits.push(format!(
            "of {} pieces of text the last {left} were not joined by the order of options",
            chains.len()
        ));
    }
    let edge = |piece: Option<&Piece>, open: fn(&Piece) -> bool| piece.is_some_and(open);
    let numbers = || chains.iter().enumerate().take(MAX_ENDS);
    let befores = numbers().filter(|(_, chain)| edge(chain.last(pieces), |piece| piece.run.ends_page));
    let afters: Vec<(usize, &Chain)> =
        numbers().filter(|(_, chain)| edge(chain.first(pieces), |piece| piece.run.starts_page)).collect();
    let mut candidates = Vec::new();
    for (before, first) in befores {
        for (after, second) in &afters {
            // Pages of two files, or of one with a gap between: the page cache has spoken.
            if before == *after || (first.owner.is_some() && second.owner.is_some()) {
                continue;
            }
            let (Some(end), Some(start)) = (first.last(pieces), second.first(pieces)) else { continue };
            let Some(line) = join(end, start) else { continue };
            if let Some(near) = nearness(order, end, start, &line) {
                if candidates.len() == MAX_CANDIDATES {
                    limits.push(format!(
                        "there are more than {MAX_CANDIDATES} ways to join halves of lines: none was taken"
                    ));
                    return Vec::new();
                }
                candidates.push(Candidate { before, after: *after, near, line });
            }
        }
    }
    candidates
}

/// The chains that `next` makes of `chains`. Links in a ring, which only a hostile target has, are cut.
fn follow(chains: &[Chain], next: &HashMap<usize, &Candidate>) -> Vec<Chain> {
    let followers: HashSet<usize> = next.values().map(|candidate| candidate.after).collect();
    let mut done: HashSet<usize> = HashSet::new();
    let mut linked = Vec::new();
    let starts = (0..chains.len()).filter(|chain| !followers.contains(chain));
    for start in starts.chain(0..chains.len()) {
        if !done.insert(start) {
            continue;
        }
        let Some(mut chain) = chains.get(start).cloned() else { continue };
        let mut at = start;
        while let Some(candidate) = next.get(&at) {
            let Some(more) = chains.get(candidate.after) else { break };
            if !done.insert(candidate.after) {
                break;
            }
            chain.joins.push(Join { line: candidate.line.clone(), proof: Proof::Order });
            chain.pieces.extend(&more.pieces);
            chain.joins.extend(more.joins.iter().cloned());
            chain.end = more.end.clone();
            chain.owner = chain.owner.or(more.owner);
            at = candidate.after;
        }
        linked.push(chain);
    }
    linked
}
