//! Counts what crosses to the layer below: the figures `monitor stats` and `--stats` print.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{PhysMem, ReadOp};

/// Counts the operations, link requests and bytes that reach `M`.
#[derive(Debug)]
pub struct Stats<M> {
    inner: M,
    request_bytes: u64,
    batches: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

/// A reading of [`Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// Batches: round trips, when every batch fits the link's window.
    pub batches: u64,
    /// Reads of at most the maximum read request size that the batches split into.
    pub requests: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Operations that failed.
    pub failures: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batches, requests, bytes, failures } = self;
        write!(f, "{requests} requests, {bytes} bytes, {batches} batches, {failures} failed")
    }
}

impl<M: PhysMem> Stats<M> {
    /// Counts over `inner`, whose requests carry at most `request_bytes` (a power of two) and do not cross a
    /// multiple of it.
    pub fn new(inner: M, request_bytes: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self { inner, request_bytes, batches: zero(), requests: zero(), bytes: zero(), failures: zero() }
    }

    /// The layer below.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        Counts {
            batches: self.batches.load(Relaxed),
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }
}

impl<M: PhysMem> PhysMem for Stats<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        if ops.is_empty() {
            return;
        }
        self.inner.read_batch(ops);
        self.batches.fetch_add(1, Relaxed);
        for op in ops.iter() {
            let len = op.buf.len() as u64;
            let requests = (op.addr.offset_in(self.request_bytes) + len).div_ceil(self.request_bytes);
            self.requests.fetch_add(requests, Relaxed);
            self.bytes.fetch_add(len, Relaxed);
            self.failures.fetch_add(u64::from(op.result.is_err()), Relaxed);
        }
    }
}
