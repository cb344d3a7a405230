//! A recording layer, for tests that say what was never asked for.

use std::sync::Mutex;

use super::{PhysMem, ReadOp};
use crate::addr::{PhysAddr, PhysRange};

/// Remembers every read that reaches `M`.
pub(crate) struct Asked<M> {
    inner: M,
    reads: Mutex<Vec<(PhysAddr, u64)>>,
}

impl<M> Asked<M> {
    pub(crate) fn new(inner: M) -> Self {
        Self { inner, reads: Mutex::default() }
    }

    /// Whether any byte of `range` was asked for.
    pub(crate) fn touches(&self, range: PhysRange) -> bool {
        let reads = self.reads.lock().unwrap();
        reads
            .iter()
            .any(|(addr, len)| *addr < range.end && addr.raw().saturating_add(*len) > range.start.raw())
    }
}

impl<M: PhysMem> PhysMem for &Asked<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.reads.lock().unwrap().extend(ops.iter().map(|op| (op.addr, op.buf.len() as u64)));
        self.inner.read_batch(ops);
    }
}
