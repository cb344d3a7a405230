//! Physical memory: one batched, synchronous read, whatever stands behind it.
//!
//! Every layer here implements [`PhysMem`] over another one: [`remote`] (the adapter), [`mod@file`] (images),
//! then [`stats`], [`fence`] (what is never asked for), [`cache`] and [`guard`] (what is known to be RAM). Concurrency comes from the batch:
//! a caller that knows several addresses asks for them together and the link overlaps them.
//! Nothing here knows what a page table or a kernel is.

pub mod cache;
mod elfcore;
pub mod fence;
pub mod file;
pub mod guard;
pub mod remote;
pub mod sparse;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod writer;

use std::{io, sync::Arc};

use crate::{
    addr::{PhysAddr, PhysRange},
    link,
};

/// Why some bytes could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The batch ended before this operation was tried.
    #[error("it was not attempted")]
    NotAttempted,
    /// The image has no byte for this address.
    #[error("the image holds no such address")]
    Hole,
    /// The guard refused to send the read: the address is not known to be RAM.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// The guard refused: the target is an image, which holds these ranges.
    #[error("not in the memory image ({})", shown(.0))]
    NotInImage(Arc<[PhysRange]>),
    /// The operator forbade a range that the read touches.
    #[error("refused: `memory.forbidden` of the profile has {0}")]
    Forbidden(PhysRange),
    /// The page at this address is not to be read: the kernel took it out of use.
    #[error("refused: the page at {0} has a memory error (PG_hwpoison); reading it can stop the host")]
    Poisoned(PhysAddr),
    /// The link answered with an error, or not at all.
    #[error(transparent)]
    Link(#[from] link::LinkError),
    /// The operating system could not read the image.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

/// The first of `ranges`, and how many more there are.
fn shown(ranges: &[PhysRange]) -> String {
    const SHOWN: usize = 4;
    let mut text: Vec<String> = ranges.iter().take(SHOWN).map(PhysRange::to_string).collect();
    if ranges.len() > SHOWN {
        text.push(format!("and {} more", ranges.len() - SHOWN));
    }
    text.join(", ")
}

/// A read of physical memory that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot read {len} bytes at physical address {addr}: {fault}")]
pub struct MemError {
    /// First address asked for.
    pub addr: PhysAddr,
    /// Bytes asked for.
    pub len: usize,
    /// What went wrong.
    #[source]
    pub fault: Fault,
}

/// One read of a batch. `buf` is unspecified unless `result` is `Ok`.
#[derive(Debug)]
pub struct ReadOp<'b> {
    /// First address.
    pub addr: PhysAddr,
    /// Where the bytes go; its length is the length of the read.
    pub buf: &'b mut [u8],
    /// Set by [`PhysMem::read_batch`]; [`Fault::NotAttempted`] before.
    pub result: Result<(), MemError>,
}

impl<'b> ReadOp<'b> {
    /// A read of `buf.len()` bytes from `addr`, not attempted yet.
    pub fn new(addr: PhysAddr, buf: &'b mut [u8]) -> Self {
        let result = Err(MemError { addr, len: buf.len(), fault: Fault::NotAttempted });
        Self { addr, buf, result }
    }

    /// Records `fault` as this operation's outcome.
    pub fn fail(&mut self, fault: Fault) {
        self.result = Err(MemError { addr: self.addr, len: self.buf.len(), fault });
    }
}

/// Readable physical memory.
pub trait PhysMem: Send + Sync {
    /// Attempts every operation and sets each `result`; one failure does not stop the others.
    fn read_batch(&self, ops: &mut [ReadOp<'_>]);

    /// Says that `ranges` will be read soon: a cache fetches what it lacks of them, all in one batch. What cannot be read
    /// is left to the read itself.
    fn prefetch(&self, ranges: &[PhysRange]) {
        let _ = ranges;
    }

    /// Reads `buf.len()` bytes from `addr`.
    ///
    /// # Errors
    /// The operation's [`MemError`]; `buf` is unspecified then.
    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemError> {
        let mut op = [ReadOp::new(addr, buf)];
        self.read_batch(&mut op);
        let [op] = op;
        op.result
    }

    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// As [`PhysMem::read`].
    fn read_u64(&self, addr: PhysAddr) -> Result<u64, MemError> {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl dyn PhysMem + '_ {
    /// Reads `N` bytes from each of `addrs` in one batch, each with its own outcome.
    #[must_use]
    pub fn read_each<const N: usize>(&self, addrs: &[PhysAddr]) -> Vec<Result<[u8; N], MemError>> {
        let mut buffers = vec![[0; N]; addrs.len()];
        let mut ops: Vec<ReadOp<'_>> =
            addrs.iter().zip(&mut buffers).map(|(addr, buffer)| ReadOp::new(*addr, buffer)).collect();
        self.read_batch(&mut ops);
        let results: Vec<_> = ops.into_iter().map(|op| op.result).collect();
        results.into_iter().zip(buffers).map(|(result, buffer)| result.map(|()| buffer)).collect()
    }
}

impl<M: PhysMem + ?Sized> PhysMem for Arc<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        (**self).read_batch(ops);
    }

    fn prefetch(&self, ranges: &[PhysRange]) {
        (**self).prefetch(ranges);
    }
}

/// Writable physical memory: a capability of its own, held only where writes were allowed.
pub trait PhysWrite: Send + Sync {
    /// Writes `data` at `addr`. Writes over PCIe are posted: success says the request was sent.
    ///
    /// # Errors
    /// [`MemError`] when the request could not be sent.
    fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError>;
}
