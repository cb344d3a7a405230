//! The target's memory behind a NetTLP adapter.

use super::{Fault, MemError, PhysMem, PhysWrite, ReadOp};
use crate::{
    addr::PhysAddr,
    link::{Client, Read},
};

/// Physical memory read and written over the link.
#[derive(Debug)]
pub struct Remote(Client);

impl Remote {
    /// The memory `client` reaches.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self(client)
    }

    /// The link, for its statistics.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.0
    }
}

impl PhysMem for Remote {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let mut reads: Vec<_> = ops.iter_mut().map(|op| Read::new(op.addr, &mut *op.buf)).collect();
        self.0.read_batch(&mut reads);
        let results: Vec<_> = reads.into_iter().map(|read| read.result).collect();
        for (op, result) in ops.iter_mut().zip(results) {
            match result {
                Ok(()) => op.result = Ok(()),
                Err(error) => op.fail(Fault::Link(error)),
            }
        }
    }
}

impl PhysWrite for Remote {
    fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError> {
        let failed = |error| MemError { addr, len: data.len(), fault: Fault::Link(error) };
        self.0.write(addr, data).map_err(failed)
    }
}
