//! Walks over what a hostile or moving target links: each thing is met once, and there are not more than can be.

use std::collections::HashSet;

use super::{Kernel, KernelError};
use crate::{addr::VirtAddr, types::Field};

/// What a walk has met.
pub(super) struct Visited {
    met: HashSet<VirtAddr>,
    most: usize,
    twice: &'static str,
    them: &'static str,
}

impl Visited {
    /// Of a walk that meets `most` of `them` at most; `twice` is what to say when it comes back to one.
    pub(super) fn new(most: usize, them: &'static str, twice: &'static str) -> Self {
        Self { met: HashSet::new(), most, twice, them }
    }

    /// With those that are known before it begins.
    pub(super) fn with(mut self, known: impl IntoIterator<Item = VirtAddr>) -> Self {
        self.met.extend(known);
        self
    }

    /// Notes that the walk comes to `addr`.
    ///
    /// # Errors
    /// The reason why it must not go on there.
    pub(super) fn enter(&mut self, addr: VirtAddr) -> Result<(), String> {
        if self.met.contains(&addr) {
            return Err(self.twice.to_owned());
        }
        if self.met.len() >= self.most {
            return Err(format!("there are more than {} {}", self.most, self.them));
        }
        self.met.insert(addr);
        Ok(())
    }

    /// All that was met.
    pub(super) fn into_met(self) -> HashSet<VirtAddr> {
        self.met
    }
}

/// A `struct list_head` of structures, and how it is walked.
pub(super) struct List<'l> {
    /// Where it begins and ends.
    pub(super) head: VirtAddr,
    /// The `next` of the member that links them.
    pub(super) link: &'l Field<VirtAddr>,
    /// Bytes of a structure that are read.
    pub(super) bytes: usize,
    /// No list is longer.
    pub(super) most: usize,
    /// What hangs in it, for messages: `modules`.
    pub(super) them: &'static str,
    /// What is being done, likewise.
    pub(super) step: &'static str,
}

/// Shows `visit` each structure in a list: its address and bytes. One round trip for each.
///
/// # Errors
/// [`KernelError`] of `visit`, or when a read fails or the list does not come to its end.
pub(super) fn walk(
    kernel: &Kernel,
    list: &List<'_>,
    mut visit: impl FnMut(VirtAddr, &[u8]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let step = list.step;
    let failed = |source| KernelError::Read { step, source };
    let mut visited = Visited::new(list.most, list.them, "the list leads back into itself");
    let mut next = kernel.memory.read_ptr(list.head).map_err(failed)?;
    while next != list.head {
        let addr = next.wrapping_sub(list.link.offset());
        let wrong = |reason| KernelError::Inconsistent { step, addr, reason };
        visited.enter(next).map_err(wrong)?;
        let bytes = kernel.memory.read_vec(addr, list.bytes).map_err(failed)?;
        visit(addr, &bytes)?;
        next = list.link.get(&bytes).ok_or_else(|| wrong("the structure ends early".to_owned()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_are_not_one_met_twice() {
        let [one, two, three] = [1, 2, 3].map(VirtAddr::new);
        let mut visited = Visited::new(2, "nodes", "a node is met twice").with([one]);
        assert_eq!(visited.enter(one).unwrap_err(), "a node is met twice");
        assert_eq!(visited.enter(two), Ok(()));
        assert_eq!(visited.enter(three).unwrap_err(), "there are more than 2 nodes");
        assert_eq!(visited.enter(two).unwrap_err(), "a node is met twice");
        assert_eq!(visited.into_met(), HashSet::from([one, two]));
    }
}
