//! The page allocator of the synthetic kernel: from the top of RAM downwards, as memblock does; nothing is
//! ever given back.

use super::MachineError;
use crate::addr::{PhysAddr, PhysRange};

/// Free memory.
pub(super) struct Heap {
    free: PhysRange,
    top: PhysAddr,
}

impl Heap {
    pub(super) fn new(free: PhysRange) -> Self {
        Self { free, top: free.end }
    }

    /// `len` bytes at a multiple of `align`, a power of two.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Result<PhysAddr, MachineError> {
        let start = self.top.raw().checked_sub(len).map(|start| PhysAddr::new(start).align_down(align));
        let start = start.filter(|start| *start >= self.free.start);
        self.top = start.ok_or(MachineError::OutOfMemory { free: self.free, len })?;
        Ok(self.top)
    }
}
