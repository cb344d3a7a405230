//! A read cache with a stated validity.
//!
//! A line is 512 bytes, what one request carries at the usual MRRS: fetching a whole line costs one round trip
//! as eight bytes would, and the next member of the same structure is then free. A line never leaves its 4 KiB
//! page, so widening a read to lines does not reach memory the guard above did not vouch for.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{PhysMem, ReadOp};
use crate::addr::PhysAddr;

const LINE: u64 = 512;

/// Reads longer than this go past the cache: they are bulk data that will not be asked for again.
const MAX_CACHED_READ: usize = 16 << 10;

/// 32 MiB of lines; when they are full all are dropped, which costs one round trip each, once.
const MAX_LINES: usize = 64 << 10;

/// How long a line answers for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Until [`Cache::invalidate`].
    Stop,
    /// For this long, or until [`Cache::invalidate`].
    For(Duration),
}

struct Line {
    bytes: [u8; LINE as usize],
    read_at: Instant,
}

/// Caches reads of `M`.
pub struct Cache<M> {
    inner: M,
    validity: Validity,
    lines: Mutex<HashMap<PhysAddr, Box<Line>>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl<M: PhysMem> Cache<M> {
    /// An empty cache over `inner`.
    pub fn new(inner: M, validity: Validity) -> Self {
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner, validity, lines: Mutex::default(), hits, misses }
    }

    /// The layer below.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Forgets everything read so far.
    pub fn invalidate(&self) {
        self.lines().clear();
    }

    /// Lines answered from the cache, and lines fetched.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<PhysAddr, Box<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_valid(&self, line: &Line, now: Instant) -> bool {
        match self.validity {
            Validity::Stop => true,
            Validity::For(time) => now.saturating_duration_since(line.read_at) < time,
        }
    }

    /// Fetches the lines that `ops` need and the cache lacks, all in one batch. Lines that cannot be read whole
    /// (the end of RAM) stay absent.
    fn fill(&self, ops: &[ReadOp<'_>], now: Instant) {
        let mut wanted: Vec<PhysAddr> = ops.iter().filter(|op| cacheable(op)).flat_map(lines_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let total = wanted.len();
        {
            let lines = self.lines();
            wanted.retain(|addr| !lines.get(addr).is_some_and(|line| self.is_valid(line, now)));
        }
        self.hits.fetch_add((total - wanted.len()) as u64, Relaxed);
        self.misses.fetch_add(wanted.len() as u64, Relaxed);
        if wanted.is_empty() {
            return;
        }
        let mut fetched: Vec<Box<Line>> =
            wanted.iter().map(|_| Box::new(Line { bytes: [0; LINE as usize], read_at: now })).collect();
        let mut reads: Vec<ReadOp<'_>> =
            wanted.iter().zip(&mut fetched).map(|(addr, line)| ReadOp::new(*addr, &mut line.bytes)).collect();
        self.inner.read_batch(&mut reads);
        let outcomes: Vec<bool> = reads.iter().map(|op| op.result.is_ok()).collect();
        let mut lines = self.lines();
        if lines.len() + fetched.len() > MAX_LINES {
            lines.clear();
        }
        for ((addr, line), read) in wanted.into_iter().zip(fetched).zip(outcomes) {
            match read {
                true => lines.insert(addr, line),
                false => lines.remove(&addr),
            };
        }
    }

    fn serve(&self, op: &mut ReadOp<'_>, now: Instant) -> bool {
        let lines = self.lines();
        let mut done = 0;
        for addr in lines_of(op) {
            let Some(line) = lines.get(&addr).filter(|line| self.is_valid(line, now)) else { return false };
            let from = op.addr.wrapping_add(done as u64).wrapping_offset_from(addr) as usize;
            let len = (LINE as usize - from).min(op.buf.len() - done);
            let (Some(to), Some(bytes)) =
                (op.buf.get_mut(done..done + len), line.bytes.get(from..from + len))
            else {
                return false;
            };
            to.copy_from_slice(bytes);
            done += len;
        }
        op.result = Ok(());
        true
    }
}

fn cacheable(op: &ReadOp<'_>) -> bool {
    op.buf.len() <= MAX_CACHED_READ && op.addr.checked_add(op.buf.len() as u64 + LINE).is_some()
}

fn lines_of(op: &ReadOp<'_>) -> impl Iterator<Item = PhysAddr> + use<> {
    let (start, end) = (op.addr.align_down(LINE).raw(), op.addr.raw().saturating_add(op.buf.len() as u64));
    (start..end).step_by(LINE as usize).map(PhysAddr::new)
}

impl<M: PhysMem> PhysMem for Cache<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let now = Instant::now();
        self.fill(ops, now);
        let mut missed: Vec<&mut ReadOp<'_>> =
            ops.iter_mut().filter_map(|op| (!cacheable(op) || !self.serve(op, now)).then_some(op)).collect();
        if missed.is_empty() {
            return;
        }
        let mut exact: Vec<ReadOp<'_>> =
            missed.iter_mut().map(|op| ReadOp::new(op.addr, &mut *op.buf)).collect();
        self.inner.read_batch(&mut exact);
        let results: Vec<_> = exact.into_iter().map(|op| op.result).collect();
        for (op, result) in missed.into_iter().zip(results) {
            op.result = result;
        }
    }
}

/// What is below a cache, for what must be read as it is at this moment.
pub struct Below<M>(pub Arc<Cache<M>>);

impl<M: PhysMem> PhysMem for Below<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.0.inner.read_batch(ops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{PhysWrite, sparse::Sparse, stats::Stats};

    #[test]
    fn one_fetch_per_line_until_invalidated() {
        let cache = Cache::new(Stats::new(Sparse::new(["0-0x1100".parse().unwrap()]), LINE), Validity::Stop);
        let read = |addr: u64, len: usize| {
            let mut bytes = vec![0; len];
            cache.read(PhysAddr::new(addr), &mut bytes).map(|()| bytes)
        };
        let ram = || cache.inner().inner();
        ram().write(PhysAddr::new(0x1f8), &[1; 16]).unwrap();
        assert_eq!(read(0x1fc, 8).unwrap(), [1; 8], "a read over two lines");
        assert_eq!(read(0x10, 1).unwrap(), [0]);
        assert_eq!(cache.inner().counts().requests, 2);
        ram().write(PhysAddr::new(0x1f8), &[2; 16]).unwrap();
        assert_eq!(read(0x1f8, 1).unwrap(), [1], "cached");
        cache.invalidate();
        assert_eq!(read(0x1f8, 1).unwrap(), [2]);

        assert_eq!(read(0x10f8, 8).unwrap(), [0; 8], "the line is cut by the end of RAM, the read is not");
        let error = read(0x10fc, 8).unwrap_err();
        assert_eq!((error.addr.raw(), error.len), (0x10fc, 8), "the error is of the read, not of the line");
        assert!(read(u64::MAX - 3, 4).is_err());
    }
}
