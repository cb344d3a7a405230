//! Writing to a target that was attached to: a right that is asked for, and held by the session alone.

use std::sync::Arc;

use super::{Fenced, Session};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr},
    kernel::UserMemory,
    mem::writer::{self, Writer},
    paging::VirtError,
};

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Nobody said that this session may write.
    #[error("memory is read-only: nettlp-gdb does not write to the target unless told to with --allow-write")]
    NotAllowed,
    /// The target is a file.
    #[error("a memory image is never written to; --allow-write is for a target behind an adapter")]
    Image,
    /// There is nothing to allow.
    #[error(
        "--allow-write allows nothing yet: name what may be written in the profile, as `write = [\"START-END\"]` in \
         [memory], physical addresses"
    )]
    NoRanges,
    /// The operator lets only the kernel be looked at.
    #[error(
        "refused: `memory.policy = \"kernel-only\"` of the profile keeps physical memory, which holds that of processes, \
         from being written; a virtual address of the kernel may be"
    )]
    KernelOnly,
    /// The kernel known is not the one that runs.
    #[error("refused: the host was booted anew since the kernel was found, which is no longer there")]
    BootedAnew,
    /// The address is not mapped.
    #[error("nothing was written: {0}")]
    Unmapped(#[from] VirtError),
    /// A piece within one page failed.
    #[error("{source}{}", before(*.written))]
    Piece {
        /// Bytes before it, which were written.
        written: usize,
        /// Why.
        source: writer::WriteError,
    },
}

fn before(written: usize) -> String {
    if written == 0 { String::new() } else { format!("; the {written} bytes before were written") }
}

/// The session's right to write.
pub(super) type Rights = Writer<Fenced>;

impl Session {
    /// Allows writes inside `ranges`, the profile's `memory.write`.
    ///
    /// # Errors
    /// [`WriteError::Image`] and [`WriteError::NoRanges`].
    pub fn allow_writes(&mut self, ranges: Vec<PhysRange>) -> Result<(), WriteError> {
        let link = self.link.as_ref().ok_or(WriteError::Image)?;
        if ranges.is_empty() {
            return Err(WriteError::NoRanges);
        }
        self.rights =
            Some(Writer::new(link.clone(), Arc::clone(&self.phys), Arc::clone(&self.cache), ranges));
        Ok(())
    }

    /// Writes `data`, a page at most, at a physical address, and reads it back.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_phys(&self, addr: PhysAddr, data: &[u8]) -> Result<(), WriteError> {
        let rights = self.rights.as_ref().ok_or(WriteError::NotAllowed)?;
        if self.kernel.policy == UserMemory::KernelOnly {
            return Err(WriteError::KernelOnly);
        }
        rights.write(addr, data).map_err(|source| WriteError::Piece { written: 0, source })?;
        self.refresh();
        Ok(())
    }

    /// Writes `data` at a virtual address of the kernel, whatever its page tables say about writing there, page by
    /// page, and reads it back. All of it is checked before any of it is sent.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, addr: VirtAddr, data: &[u8]) -> Result<(), WriteError> {
        let rights = self.rights.as_ref().ok_or(WriteError::NotAllowed)?;
        if self.booted_anew() {
            return Err(WriteError::BootedAnew);
        }
        // The tables as they are now, not as they were for a reader.
        self.refresh();
        let pieces = self.pieces(addr, data.len())?;
        for (phys, len) in &pieces {
            rights.check(*phys, *len).map_err(|source| WriteError::Piece { written: 0, source })?;
        }
        let mut written = 0;
        for (phys, len) in pieces {
            let piece = data.get(written..written + len).unwrap_or_default();
            rights.write(phys, piece).map_err(|source| WriteError::Piece { written, source })?;
            written += len;
        }
        self.refresh();
        Ok(())
    }

    /// Whether a write of `len` bytes at `addr` would be let through to the target.
    #[must_use]
    pub fn may_write(&self, addr: VirtAddr, len: usize) -> bool {
        let Some(rights) = &self.rights else { return false };
        let pieces = self.pieces(addr, len);
        pieces.is_ok_and(|pieces| pieces.iter().all(|(phys, len)| rights.check(*phys, *len).is_ok()))
    }

    /// Whether a write of `len` bytes at physical `addr` would be let through to the target.
    #[must_use]
    pub fn may_write_phys(&self, addr: PhysAddr, len: usize) -> bool {
        let may = self.kernel.policy == UserMemory::All;
        may && self.rights.as_ref().is_some_and(|rights| rights.check(addr, len).is_ok())
    }

    /// The physical pieces, none of which crosses a page.
    fn pieces(&self, addr: VirtAddr, len: usize) -> Result<Vec<(PhysAddr, usize)>, VirtError> {
        let mut pieces = Vec::new();
        let (mut at, mut left) = (addr, len);
        while left > 0 {
            let room = (PAGE_SIZE - at.offset_in(PAGE_SIZE)) as usize;
            let len = room.min(left);
            pieces.push((self.kernel.memory.translate(at)?.phys, len));
            (at, left) = (at.wrapping_add(len as u64), left - len);
        }
        Ok(pieces)
    }
}
