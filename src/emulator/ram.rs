//! One contiguous piece of memory inside this process.

use std::{
    ops::Range,
    sync::{PoisonError, RwLock},
};

use crate::{
    addr::PhysAddr,
    mem::{Fault, MemError, PhysMem, PhysWrite, ReadOp},
};

/// Bytes from a base address on; everything else is a hole.
#[derive(Debug)]
pub struct Ram {
    base: PhysAddr,
    bytes: RwLock<Vec<u8>>,
}

impl Ram {
    /// Memory that holds `bytes` from `base` on.
    #[must_use]
    pub const fn new(base: PhysAddr, bytes: Vec<u8>) -> Self {
        Self { base, bytes: RwLock::new(bytes) }
    }

    fn place(&self, addr: PhysAddr, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(addr.raw().checked_sub(self.base.raw())?).ok()?;
        Some(start..start.checked_add(len)?)
    }
}

impl PhysMem for Ram {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            match self.place(op.addr, op.buf.len()).and_then(|place| bytes.get(place)) {
                Some(found) => {
                    op.buf.copy_from_slice(found);
                    op.result = Ok(());
                }
                None => op.fail(Fault::Hole),
            }
        }
    }
}

impl PhysWrite for Ram {
    fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        match self.place(addr, data.len()).and_then(|place| bytes.get_mut(place)) {
            Some(place) => {
                place.copy_from_slice(data);
                Ok(())
            }
            None => Err(MemError { addr, len: data.len(), fault: Fault::Hole }),
        }
    }
}
