//! A read as the caller sees it.

use super::LinkError;
use crate::addr::PhysAddr;

/// One read of a batch. `buf` is unspecified unless `result` is `Ok`.
#[derive(Debug)]
pub struct Read<'b> {
    /// First address.
    pub addr: PhysAddr,
    /// Where the bytes go; its length is the length of the read.
    pub buf: &'b mut [u8],
    /// The outcome; [`LinkError::NotAttempted`] before.
    pub result: Result<(), LinkError>,
    missing: usize,
    /// Whether `result` is a failure that stands.
    pub(super) failed: bool,
}

impl<'b> Read<'b> {
    /// A read of `buf.len()` bytes from `addr`, not attempted yet.
    pub fn new(addr: PhysAddr, buf: &'b mut [u8]) -> Self {
        let len = buf.len();
        let result = Err(LinkError::NotAttempted { addr, len });
        Self { addr, buf, result, missing: len, failed: false }
    }

    /// Readies the read for a batch. False if there is nothing to send; `result` is final then.
    pub(super) fn start(&mut self) -> bool {
        let (addr, len) = (self.addr, self.buf.len());
        (self.missing, self.failed) = (len, false);
        match (len as u64).checked_sub(1) {
            None => self.result = Ok(()),
            Some(last) if addr.checked_add(last).is_none() => self.fail(LinkError::PastEnd { addr, len }),
            Some(_) => {
                self.result = Err(LinkError::NotAttempted { addr, len });
                return true;
            }
        }
        false
    }

    /// Ends the read with `error`, unless it has failed before.
    pub(super) fn fail(&mut self, error: LinkError) {
        if !self.failed {
            (self.failed, self.result) = (true, Err(error));
        }
    }

    /// Counts a piece that is in place, once; with the last one the read has succeeded.
    pub(super) fn arrived(&mut self, len: usize) {
        self.missing = self.missing.saturating_sub(len);
        if self.missing == 0 && !self.failed {
            self.result = Ok(());
        }
    }
}
