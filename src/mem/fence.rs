//! What is never asked for, whoever asks.
//!
//! The lowest layer that refuses: it stands below the cache, so that a line which reaches over the edge is not fetched
//! either, and below everything that knows what it reads. The ranges are the operator's and never change while a
//! target is open; a request over PCIe is of whole double words, so a double word with one forbidden byte is not asked
//! for at all. What else is refused is the [`guard`]'s, which learns as the kernel is found.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Fault, PhysMem, ReadOp, guard};
use crate::addr::{self, PhysAddr, PhysRange};

/// The unit of a memory request's address and length (PCIe Base Specification, section 2.2.7, "Memory Requests").
const DOUBLE_WORD: u64 = 4;

/// Passes reads on to `M` unless the operator's ranges are against it.
#[derive(Debug)]
pub struct Fence<M> {
    inner: M,
    ram: Vec<PhysRange>,
    forbidden: Vec<PhysRange>,
    touched: AtomicU64,
}

impl<M> Fence<M> {
    /// A fence around `inner`: no read leaves `ram` (no bound when empty), none touches `forbidden`.
    pub fn new(inner: M, ram: Vec<PhysRange>, forbidden: Vec<PhysRange>) -> Self {
        Self { inner, ram: addr::merged(ram), forbidden, touched: AtomicU64::new(0) }
    }

    /// The layer below.
    pub const fn inner(&self) -> &M {
        &self.inner
    }

    /// Reads refused so far because they touched a forbidden range.
    pub fn refused(&self) -> u64 {
        self.touched.load(Relaxed)
    }

    fn refusal(&self, addr: PhysAddr, len: u64) -> Option<Fault> {
        let start = addr.align_down(DOUBLE_WORD);
        let end = addr.raw().saturating_add(len);
        let end = PhysAddr::new(end.checked_next_multiple_of(DOUBLE_WORD).unwrap_or(u64::MAX));
        let touched = |range: &&PhysRange| start < range.end && end > range.start;
        if let Some(range) = self.forbidden.iter().find(touched) {
            self.touched.fetch_add(1, Relaxed);
            return Some(Fault::Forbidden(*range));
        }
        let outside = !self.ram.is_empty() && !guard::covered(&self.ram, addr, len);
        outside.then_some(Fault::Refused(guard::OUTSIDE))
    }
}

impl<M: PhysMem> PhysMem for Fence<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        if self.ram.is_empty() && self.forbidden.is_empty() {
            return self.inner.read_batch(ops);
        }
        guard::pass(&self.inner, ops, |addr, len| self.refusal(addr, len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{
        cache::{Cache, Validity},
        sparse::Sparse,
        testing::Asked,
    };

    fn range(text: &str) -> PhysRange {
        text.parse().unwrap()
    }

    fn outcome(mem: &dyn PhysMem, addr: u64, len: usize) -> String {
        match mem.read(PhysAddr::new(addr), &mut vec![0; len]) {
            Ok(()) => "read".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_line_over_the_edge_is_not_fetched() {
        let forbidden = range("0x10f0-0x1108");
        let asked = Asked::new(Sparse::new([range("0-1M")]));
        let cache = Cache::new(
            Fence::new(&asked, vec![range("0x1000-0x2100")], vec![forbidden, range("0x1201-0x1203")]),
            Validity::Stop,
        );
        assert_eq!(outcome(&cache, 0x10e8, 8), "read", "beside it");
        assert_eq!(outcome(&cache, 0x1108, 8), "read", "behind it");
        assert_eq!(
            outcome(&cache, 0x10e9, 8),
            "cannot read 8 bytes at physical address 0x10e9: refused: `memory.forbidden` of the profile has \
             0x10f0-0x1108"
        );
        for (addr, len) in [(0x10f0, 1), (0x1107, 1), (0x1000, 0x1000), (0x1100, 64 << 10)] {
            assert!(outcome(&cache, addr, len).contains("`memory.forbidden`"), "{addr:#x}");
        }
        assert_eq!(outcome(&cache, 0x20f8, 8), "read", "in a line that the operator's RAM ends in");
        assert!(outcome(&cache, 0x20f9, 8).contains("`memory.ram`"));
        assert!(outcome(&cache, 0xff8, 16).contains("`memory.ram`"));
        assert!(outcome(&cache, 0x1200, 1).contains("has 0x1201-0x1203"), "in the same double word");
        assert_eq!(outcome(&cache, 0x11ff, 1), "read");
        assert!(!asked.touches(range("0x1200-0x1204")));
        assert!(cache.inner().refused() > 5);
        assert!(!asked.touches(forbidden) && asked.touches(range("0x10ef-0x10f0")));
        assert!(!asked.touches(range("0-0x1000")) && !asked.touches(range("0x2100-1M")));
    }

    #[test]
    fn the_end_of_the_space() {
        let last = PhysRange { start: PhysAddr::new(u64::MAX - 15), end: PhysAddr::new(u64::MAX) };
        let asked = Asked::new(Sparse::new([range("0-1M")]));
        let fence = Fence::new(&asked, Vec::new(), vec![last]);
        assert!(outcome(&fence, u64::MAX - 20, 64).contains("`memory.forbidden`"));
        assert!(outcome(&fence, u64::MAX - 20, 5).contains("no such address"));
        assert!(!asked.touches(last));
    }
}
