//! Maple trees: every range that holds a pointer, all nodes of a level in one batch.
//!
//! Input: the word `maple_tree.ma_root`. Output: ranges, ascending. A node covers a range; its pivots cut it into
//! pieces, each of which is its own slot's: a pointer in a leaf, a node below it elsewhere. The tree is hostile: a node is
//! visited once, a child covers no more than its place in the parent, and nodes are bounded.
//! Source: `include/linux/maple_tree.h` (`enum maple_type`, `struct maple_range_64`, `MAPLE_NODE_MASK`),
//! `lib/maple_tree.c` (`mte_to_node`, `mte_node_type`, `mas_safe_pivot`, `ma_dead_node`), since 54a611b60590 (6.1).

use super::{
    Kernel, KernelError,
    list::Visited,
    tree,
    xarray::{self, pointer},
};
use crate::{
    addr::{VirtAddr, little_endian},
    types::{FieldInfo, TypeError, TypeSource},
};

const STEP: &str = "reading a maple tree";

/// Nodes of one tree: a leaf has room for 16 ranges, a process for `vm.max_map_count` of them, usually 65,530.
const MAX_NODES: usize = 1 << 16;

/// The low bits of a pointer to a node say what it is: nodes are aligned to their size of 256 bytes.
const NODE_MASK: u64 = 0xff;

/// Where the type of a node stands in them, and its bits.
const TYPE_SHIFT: u32 = 3;
const TYPE_MASK: u64 = 0xf;

/// A range of indices that holds a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First index.
    pub first: u64,
    /// Last index.
    pub last: u64,
    /// The pointer.
    pub pointer: VirtAddr,
}

/// What a tree holds, ascending, and why some are missing if they are.
#[derive(Debug, Default)]
pub struct Ranges {
    /// What was read.
    pub ranges: Vec<Range>,
    /// Set when the tree is damaged or changed while it was read.
    pub torn: Option<KernelError>,
}

/// Where pivots and slots of a kind of node are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    pivots: usize,
    pivot_count: usize,
    slots: usize,
    slot_count: usize,
    is_leaf: bool,
}

/// The layouts of the nodes, resolved once.
pub struct Maple {
    /// By number of the type, as nodes are labelled.
    shapes: Vec<(u64, Shape)>,
    bytes: usize,
}

/// A node still to be read, and what it covers.
#[derive(Clone, Copy)]
struct Node {
    addr: VirtAddr,
    kind: u64,
    min: u64,
    max: u64,
}

impl Maple {
    /// Resolves the nodes of this kernel's maple trees.
    ///
    /// # Errors
    /// [`TypeError`] naming what is missing.
    pub fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let kind = |name| -> Result<u64, TypeError> {
            Ok(u64::try_from(types.enumerator("maple_type", name)?).unwrap_or(u64::MAX))
        };
        let size = types.struct_size("maple_node")?;
        let shape = |structure, is_leaf| -> Result<Shape, TypeError> {
            let place = |info: FieldInfo| {
                let at = usize::try_from(info.offset).unwrap_or(usize::MAX);
                (at, usize::try_from(info.size / 8).unwrap_or(0))
            };
            let (pivots, pivot_count) = place(types.field(structure, "pivot")?);
            let (slots, slot_count) = place(types.field(structure, "slot")?);
            Ok(Shape { pivots, pivot_count, slots, slot_count, is_leaf })
        };
        let shapes = vec![
            (kind("maple_leaf_64")?, shape("maple_range_64", true)?),
            (kind("maple_range_64")?, shape("maple_range_64", false)?),
            (kind("maple_arange_64")?, shape("maple_arange_64", false)?),
        ];
        Ok(Self { shapes, bytes: usize::try_from(size.min(NODE_MASK + 1)).unwrap_or(0) })
    }

    /// Every pointer in the tree whose `ma_root` is `root`.
    #[must_use]
    pub fn ranges(&self, kernel: &Kernel, root: u64) -> Ranges {
        let mut found = Ranges::default();
        if xarray::node(root).is_none() {
            let pointer = pointer(root).map(|pointer| Range { first: 0, last: 0, pointer });
            found.ranges.extend(pointer);
            return found;
        }
        let root = Node::new(root, 0, u64::MAX);
        let visit =
            |node: &Node, bytes: &[u8], below: &mut Vec<Node>| self.visit(*node, bytes, below, &mut found);
        let visited = Visited::new(MAX_NODES, "nodes", "a node is met twice");
        found.torn = tree::levels(kernel, (root, self.bytes), (STEP, visited), |node| node.addr, visit);
        found.ranges.sort_unstable_by_key(|range| range.first);
        found
    }

    fn visit(
        &self,
        node: Node,
        bytes: &[u8],
        next: &mut Vec<Node>,
        found: &mut Ranges,
    ) -> Result<(), KernelError> {
        let torn = |reason: String| KernelError::Inconsistent { step: STEP, addr: node.addr, reason };
        let shape = self.shapes.iter().find(|(kind, _)| *kind == node.kind);
        let (_, shape) = shape.ok_or_else(|| torn(format!("no node is of type {}", node.kind)))?;
        if word(bytes, 0).is_some_and(|parent| parent & !NODE_MASK == node.addr.raw()) {
            return Err(torn("the node was taken out of the tree while it was read".to_owned()));
        }
        let mut first = node.min;
        for slot in 0..shape.slot_count {
            let pivot = (slot < shape.pivot_count).then(|| word(bytes, shape.pivots + slot * 8)).flatten();
            // A pivot of 0 behind the first slot ends the node, as do all slots being in use.
            let last = pivot.filter(|pivot| *pivot != 0 || slot == 0).unwrap_or(node.max);
            if last < first || last > node.max {
                return Err(torn(format!("the pivot {last:#x} lies outside {first:#x}-{:#x}", node.max)));
            }
            let entry = word(bytes, shape.slots + slot * 8).unwrap_or(0);
            if !shape.is_leaf {
                let child = Node::new(entry, first, last);
                if child.addr.is_null() {
                    return Err(torn(format!("the node for {first:#x}-{last:#x} is NULL")));
                }
                next.push(child);
            } else if let Some(pointer) = pointer(entry) {
                found.ranges.push(Range { first, last, pointer });
            }
            if last == node.max {
                return Ok(());
            }
            first = last + 1;
        }
        Err(torn(format!("its slots end before {:#x}", node.max)))
    }
}

impl Node {
    fn new(entry: u64, min: u64, max: u64) -> Self {
        let kind = entry >> TYPE_SHIFT & TYPE_MASK;
        Self { addr: VirtAddr::new(entry & !NODE_MASK), kind, min, max }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?).map(little_endian)
}

#[cfg(test)]
mod tests;
