//! Trees made by hand, and damaged ones.

use std::sync::Arc;

use super::*;
use crate::kernel::testing::{Flat, Structs, kernel};

const BASE: u64 = 0xffff_8880_0000_0000;
const LEAF: u64 = 1;
const RANGE: u64 = 2;
const ARANGE: u64 = 3;

/// Pivots and slots of one node.
type Made<'n> = (&'n [u64], &'n [u64]);

fn types() -> Structs {
    Structs::new()
        .add("maple_node", 256, &[("parent", 0, 8)])
        .add("maple_range_64", 256, &[("pivot", 8, 120), ("slot", 128, 128)])
        .add("maple_arange_64", 256, &[("pivot", 8, 72), ("slot", 80, 80)])
        .enumeration(
            "maple_type",
            &[("maple_dense", 0), ("maple_leaf_64", 1), ("maple_range_64", 2), ("maple_arange_64", 3)],
        )
}

/// A pointer to the `n`th node, as a slot has it.
const fn at(n: u64, kind: u64) -> u64 {
    BASE + n * 256 + (kind << TYPE_SHIFT) + 4
}

const fn root(kind: u64) -> u64 {
    BASE + (kind << TYPE_SHIFT) + 0b10
}

/// Ranges found, and what is wrong; nodes of 16 slots, but the one with number `aranges` has ten.
fn walked(nodes: &[(u64, Made<'_>)], root: u64) -> (Vec<(u64, u64, u64)>, Option<String>) {
    let mut bytes = vec![0; 256 * nodes.len()];
    for (node, (kind, (pivots, slots))) in bytes.chunks_mut(256).zip(nodes) {
        let mut set = |at: usize, value: u64| node[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let first_slot = if *kind == ARANGE { 80 } else { 128 };
        pivots.iter().enumerate().for_each(|(n, pivot)| set(8 + n * 8, *pivot));
        slots.iter().enumerate().for_each(|(n, slot)| set(first_slot + n * 8, *slot));
    }
    let (memory, types) = (Flat { start: VirtAddr::new(BASE), bytes }, types());
    let maple = Maple::resolve(&types).unwrap();
    let found = maple.ranges(&kernel(Arc::new(memory), Arc::new(types), VirtAddr::NULL), root);
    let ranges = found.ranges.iter().map(|range| (range.first, range.last, range.pointer.raw()));
    (ranges.collect(), found.torn.map(|error| error.to_string()))
}

#[test]
fn ranges_of_every_kind_of_node() {
    assert_eq!(walked(&[], 0), (vec![], None));
    assert_eq!(walked(&[], 0x1000), (vec![(0, 0, 0x1000)], None), "a single entry is the root itself");
    // Slots: nothing up to 0xfff, a pointer, nothing to the end.
    let leaf: Made<'_> = (&[0xfff, 0x1fff], &[0, 0x4000, 0]);
    assert_eq!(walked(&[(LEAF, leaf)], root(LEAF)), (vec![(0x1000, 0x1fff, 0x4000)], None));

    let full: Vec<u64> = (1..16).map(|n| n * 0x10 - 1).collect();
    let slots: Vec<u64> = (1..17).map(|n| n * 0x1000).collect();
    let (found, torn) = walked(&[(LEAF, (&full, &slots))], root(LEAF));
    assert_eq!((found.len(), found[15], torn), (16, (0xf0, u64::MAX, 0x1_0000), None));

    let nodes = [
        (ARANGE, (&[0xffff][..], &[at(1, RANGE), at(2, LEAF)][..])),
        (RANGE, (&[0xff], &[at(3, LEAF), at(4, LEAF)])),
        (LEAF, (&[0x1_ffff], &[0x8000, 1030])),
        (LEAF, (&[0x7f, 0xff], &[0, 0x5000])),
        (LEAF, (&[0x1ff, 0xffff], &[0x6000])),
    ];
    let expected = vec![(0x80, 0xff, 0x5000), (0x100, 0x1ff, 0x6000), (0x1_0000, 0x1_ffff, 0x8000)];
    assert_eq!(walked(&nodes, root(ARANGE)), (expected, None));
}

#[track_caller]
fn check_torn(nodes: &[(u64, Made<'_>)], root: u64, found: &[(u64, u64, u64)], said: &str) {
    let (ranges, torn) = walked(nodes, root);
    assert_eq!(ranges, found);
    let torn = torn.unwrap();
    assert!(torn.starts_with(STEP) && torn.contains(said), "{torn}");
}

#[test]
fn what_is_damaged_costs_its_branch() {
    let good: (u64, Made<'_>) = (LEAF, (&[0xff], &[0x5000]));
    let kept: &[(u64, u64, u64)] = &[(0, 0xff, 0x5000)];
    let own = [(RANGE, (&[0xff][..], &[at(1, LEAF), at(0, RANGE)][..])), good];
    check_torn(&own, root(RANGE), kept, "met twice");
    let nothing = [(RANGE, (&[0xff][..], &[at(1, LEAF), 0][..])), good];
    check_torn(&nothing, root(RANGE), kept, "is NULL");
    let away = [(RANGE, (&[0xff][..], &[at(1, LEAF), at(9, LEAF)][..])), good];
    check_torn(&away, root(RANGE), kept, "cannot read");
    let strange = [(RANGE, (&[0xff][..], &[at(1, LEAF), at(2, 7)][..])), good, good];
    check_torn(&strange, root(RANGE), kept, "no node is of type 7");
    check_torn(
        &[(LEAF, (&[0xff, 0x7f], &[0x5000, 0x6000]))],
        root(LEAF),
        kept,
        "the pivot 0x7f lies outside",
    );
    let beyond = [(RANGE, (&[0xff][..], &[at(1, LEAF), at(2, LEAF)][..])), good, good];
    check_torn(&beyond, root(RANGE), kept, "the pivot 0xff lies outside 0x100-");
    let mut dead = vec![0; 256];
    dead[..8].copy_from_slice(&(BASE + 3).to_le_bytes());
    let types = types();
    let maple = Maple::resolve(&types).unwrap();
    let memory = Flat { start: VirtAddr::new(BASE), bytes: dead };
    let found = maple.ranges(&kernel(Arc::new(memory), Arc::new(types), VirtAddr::NULL), root(LEAF));
    assert!(found.torn.unwrap().to_string().contains("taken out of the tree"));
}
