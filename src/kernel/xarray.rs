//! XArrays (and what is made of them: IDRs, radix trees): every entry, all nodes of a level in one batch.
//!
//! Input: the word `xarray.xa_head`. Output: pointers with their index, ascending. Entries that are no pointers
//! (values, reserved places, siblings) are left out. The tree is hostile: a node is visited once, every level lies
//! below the one before it, and nodes and entries are bounded.
//! Source: `include/linux/xarray.h` (`xa_is_node`, `xa_is_internal`), since 3159f943aafd (4.20).

use super::{Kernel, KernelError, list::Visited, structure::Structure, tree};
use crate::{
    addr::VirtAddr,
    types::{Field, TypeError, TypeSource},
};

const STEP: &str = "reading an XArray";

/// Nodes of one array: enough for `PID_MAX_LIMIT` (`include/linux/threads.h`) entries that are spread out.
const MAX_NODES: usize = 1 << 17;

/// Entries of one array: a machine with more than a million threads is none.
const MAX_ENTRIES: usize = 1 << 20;

/// The two lowest bits of an entry that is the array's own.
const INTERNAL: u64 = 0b10;

/// Internal entries above this are nodes; the others are siblings, reserved places and errors.
const LAST_RESERVED: u64 = 4096;

/// A pointer in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub index: u64,
    /// The pointer.
    pub pointer: VirtAddr,
}

/// What an array holds, ascending, and why some are missing if they are.
#[derive(Debug, Default)]
pub struct Entries {
    /// What was read.
    pub entries: Vec<Entry>,
    /// Set when the tree is damaged or changed while it was read.
    pub torn: Option<KernelError>,
}

/// The members of `xa_node`, resolved once.
pub struct XArray {
    shift: Field<u8>,
    slots: usize,
    /// Slots of a node: a power of two.
    chunk: u64,
    bytes: usize,
}

/// A node still to be read: where it is, the index of its first slot, and its shift.
#[derive(Clone, Copy)]
struct Node {
    addr: VirtAddr,
    index: u64,
    /// `None` for the topmost, whose own word says it.
    shift: Option<u32>,
}

impl XArray {
    /// Resolves the members of this kernel's `xa_node`.
    ///
    /// # Errors
    /// [`TypeError`] naming what is missing.
    pub fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut node = Structure::new(types, "xa_node");
        let shift = node.field(&["shift"])?;
        let slots = node.member(&["slots"])?;
        let chunk = slots.size / 8;
        if !chunk.is_power_of_two() || !(2..=1024).contains(&chunk) {
            return Err(TypeError::NoMember {
                container: "xa_node".to_owned(),
                member: format!("slots with a power of two of pointers (it has {chunk})"),
            });
        }
        let slots = usize::try_from(slots.offset).unwrap_or(usize::MAX);
        Ok(Self { shift, slots, chunk, bytes: node.bytes()? })
    }

    /// Every pointer of the array whose `xa_head` is `head`.
    #[must_use]
    pub fn entries(&self, kernel: &Kernel, head: u64) -> Entries {
        let mut found = Entries::default();
        let Some(root) = node(head) else {
            found.entries.extend(pointer(head).map(|pointer| Entry { index: 0, pointer }));
            return found;
        };
        let root = Node { addr: root, index: 0, shift: None };
        let visit =
            |node: &Node, bytes: &[u8], below: &mut Vec<Node>| self.visit(*node, bytes, below, &mut found);
        let visited = Visited::new(MAX_NODES, "nodes", "a node is met twice");
        found.torn = tree::levels(kernel, (root, self.bytes), (STEP, visited), |node| node.addr, visit);
        found.entries.sort_unstable_by_key(|entry| entry.index);
        found
    }

    /// The pointer at `index` of the array whose `xa_head` is `head`: of each level one node is read.
    ///
    /// # Errors
    /// [`KernelError`] when a node cannot be read or is none.
    pub fn get(&self, kernel: &Kernel, head: u64, index: u64) -> Result<Option<VirtAddr>, KernelError> {
        let bits = self.chunk.trailing_zeros();
        let (mut word, mut expected) = (head, None);
        while let Some(addr) = node(word) {
            let bytes = kernel.memory.read_vec(addr, self.bytes);
            let bytes = bytes.map_err(|source| KernelError::Read { step: STEP, source })?;
            let shift = self.level(addr, expected, &bytes)?;
            let slot = index.checked_shr(shift).unwrap_or(0);
            if expected.is_none() && slot >= self.chunk {
                return Ok(None);
            }
            let (words, _) = bytes.get(self.slots..).unwrap_or_default().as_chunks::<8>();
            let found = words.get(usize::try_from(slot & (self.chunk - 1)).unwrap_or(usize::MAX));
            word = found.copied().map_or(0, u64::from_le_bytes);
            match shift.checked_sub(bits) {
                Some(below) => expected = Some(below),
                None => return Ok(pointer(word)),
            }
        }
        // A single entry is the head itself; one above the lowest level stands for all below it.
        Ok(pointer(word).filter(|_| expected.is_some() || index == 0))
    }

    /// The shift of the node at `addr`, which its place says too but for the topmost.
    fn level(&self, addr: VirtAddr, expected: Option<u32>, bytes: &[u8]) -> Result<u32, KernelError> {
        let bits = self.chunk.trailing_zeros();
        let shift = u32::from(self.shift.get(bytes).unwrap_or(u8::MAX));
        let wanted = expected.unwrap_or(shift);
        if shift == wanted && shift.is_multiple_of(bits) && shift <= 64 - bits {
            return Ok(shift);
        }
        let reason = format!("a node has the shift {shift}, where {wanted} has its place");
        Err(KernelError::Inconsistent { step: STEP, addr, reason })
    }

    fn visit(
        &self,
        at: Node,
        bytes: &[u8],
        next: &mut Vec<Node>,
        found: &mut Entries,
    ) -> Result<(), KernelError> {
        let torn = |reason: String| KernelError::Inconsistent { step: STEP, addr: at.addr, reason };
        let bits = self.chunk.trailing_zeros();
        let shift = self.level(at.addr, at.shift, bytes)?;
        let (words, _) = bytes.get(self.slots..).unwrap_or_default().as_chunks::<8>();
        for (slot, word) in (0..self.chunk).zip(words) {
            let word = u64::from_le_bytes(*word);
            let index = at.index | slot << shift;
            match (node(word), shift.checked_sub(bits)) {
                (Some(addr), Some(below)) => next.push(Node { addr, index, shift: Some(below) }),
                (Some(addr), None) => return Err(torn(format!("a node of entries holds the node {addr}"))),
                (None, _) => {
                    let Some(pointer) = pointer(word) else { continue };
                    if found.entries.len() >= MAX_ENTRIES {
                        return Err(torn("it has more entries than any array".to_owned()));
                    }
                    found.entries.push(Entry { index, pointer });
                }
            }
        }
        Ok(())
    }
}

/// The node that an entry is (`xa_is_node`).
pub(super) fn node(entry: u64) -> Option<VirtAddr> {
    (entry & 0b11 == INTERNAL && entry > LAST_RESERVED).then(|| VirtAddr::new(entry - INTERNAL))
}

/// The pointer that an entry is.
pub(super) fn pointer(entry: u64) -> Option<VirtAddr> {
    (entry != 0 && entry & 0b11 == 0).then(|| VirtAddr::new(entry))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernel::testing::{Flat, Structs, kernel};

    const BASE: u64 = 0xffff_8880_0000_0000;
    const NODE: u64 = 0x100;

    fn types() -> Structs {
        Structs::new().add("xa_node", NODE, &[("shift", 0, 1), ("slots", 8, 0x80)])
    }

    /// Nodes of sixteen slots, one after the other: shift, and entries by slot.
    fn walked(nodes: &[(u8, &[(usize, u64)])], head: u64) -> (Vec<(u64, u64)>, Option<String>) {
        let mut bytes = vec![0; NODE as usize * nodes.len()];
        for (node, (shift, entries)) in bytes.chunks_mut(NODE as usize).zip(nodes) {
            node[0] = *shift;
            for (slot, entry) in *entries {
                node[8 + slot * 8..16 + slot * 8].copy_from_slice(&entry.to_le_bytes());
            }
        }
        let memory = Flat { start: VirtAddr::new(BASE), bytes };
        let types = types();
        let array = XArray::resolve(&types).unwrap();
        let kernel = kernel(Arc::new(memory), Arc::new(types), VirtAddr::NULL);
        let found = array.entries(&kernel, head);
        if found.torn.is_none() {
            for index in (0..0x200).chain([u64::MAX]) {
                let listed = found.entries.iter().find(|entry| entry.index == index);
                let alone = array.get(&kernel, head, index).unwrap();
                assert_eq!(alone, listed.map(|entry| entry.pointer), "{index:#x}");
            }
        }
        let entries = found.entries.iter().map(|entry| (entry.index, entry.pointer.raw())).collect();
        (entries, found.torn.map(|error| error.to_string()))
    }

    const fn at(node: u64) -> u64 {
        BASE + node * NODE + INTERNAL
    }

    #[test]
    fn entries_of_every_level_in_order() {
        assert_eq!(walked(&[], 0), (vec![], None));
        assert_eq!(walked(&[], 0x1000), (vec![(0, 0x1000)], None), "a single entry is the head itself");
        let leaf: &[(usize, u64)] = &[(0, 0x1000), (3, 0x2000), (4, 7), (5, 1030), (6, 14)];
        assert_eq!(walked(&[(0, leaf)], at(0)), (vec![(0, 0x1000), (3, 0x2000)], None));
        let two = [(4, &[(0, at(1)), (9, at(2))][..]), (0, leaf), (0, &[(15, 0x3000)])];
        assert_eq!(walked(&two, at(0)), (vec![(0, 0x1000), (3, 0x2000), (0x9f, 0x3000)], None));
    }

    #[track_caller]
    fn check_torn(nodes: &[(u8, &[(usize, u64)])], entries: &[(u64, u64)], said: &str) {
        let (found, torn) = walked(nodes, at(0));
        assert_eq!(found, entries);
        let torn = torn.unwrap();
        assert!(torn.starts_with(STEP) && torn.contains(said), "{torn}");
    }

    #[test]
    fn what_is_damaged_costs_its_branch() {
        let leaf: &[(usize, u64)] = &[(1, 0x1000)];
        check_torn(&[(4, &[(2, at(1)), (3, at(7))]), (0, leaf)], &[(0x21, 0x1000)], "cannot read");
        check_torn(&[(4, &[(0, at(0))])], &[], "met twice");
        check_torn(&[(4, &[(0, at(1)), (1, at(1))]), (0, leaf)], &[(1, 0x1000)], "met twice");
        check_torn(&[(0, &[(0, at(1))]), (0, leaf)], &[], "a node of entries holds the node");
        check_torn(&[(8, &[(0, at(1))]), (0, leaf)], &[], "the shift 0, where 4");
        check_torn(&[(3, leaf)], &[], "the shift 3");
        check_torn(&[(64, leaf)], &[], "the shift 64");
    }
}
