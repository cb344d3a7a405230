//! From physical memory to the file: one thread keeps the link busy, one writes what it brought.

use std::{
    panic,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::{
    DumpError,
    data::{Data, checksum},
    journal::{Journal, Stored},
    layout::{Layout, cut, subtract},
    unreadable::{self, Unreadable},
};
use crate::{
    addr::{PAGE_SIZE, PhysRange},
    mem::{Fault, MemError, PhysMem, ReadOp},
};

/// What is written, and noted in the journal, at once.
pub(super) const CHUNK: u64 = 1 << 20;

/// One batch: 512 requests at the usual MRRS, so that the pause between two batches is lost among them, and a dead
/// adapter is noticed, or a signal obeyed, after the timeouts of so many.
const BATCH: u64 = 256 << 10;

/// One read of a batch: long enough to go past the cache, where bulk data would push out all else.
const READ: u64 = 64 << 10;

/// Chunks from one look at whether the host is still the same boot to the next.
const LOOK: usize = 64;

/// Chunks that wait for the disk.
const WAITING: usize = 4;

/// What was read of a chunk.
struct Fetched {
    chunk: PhysRange,
    bytes: Vec<u8>,
    readable: Vec<PhysRange>,
}

/// What a copy did.
pub(super) struct Copied {
    pub(super) zeros: u64,
    pub(super) unreadable: Vec<Unreadable>,
    pub(super) interrupted: bool,
}

/// A copy of memory into a file.
pub(super) struct Copy<'a> {
    pub(super) phys: &'a dyn PhysMem,
    /// Memory that must answer as long as anything does: the kernel's image.
    pub(super) canary: PhysRange,
    pub(super) layout: &'a Layout,
    pub(super) stop: &'a AtomicBool,
    pub(super) booted_anew: &'a dyn Fn() -> bool,
    pub(super) progress: &'a dyn Fn(u64),
}

impl Copy<'_> {
    /// Copies `todo`. What was read when an error ends it is stored nevertheless.
    pub(super) fn run(
        &self,
        todo: &[PhysRange],
        data: &Data,
        journal: &mut Journal,
    ) -> Result<Copied, DumpError> {
        let layout = self.layout;
        let (send, receive) = sync_channel(WAITING);
        thread::scope(|scope| {
            let writer = scope.spawn(move || store(&receive, layout, data, journal));
            let fetched = self.fetch_all(todo, &send);
            drop(send);
            let zeros = writer.join().unwrap_or_else(|payload| panic::resume_unwind(payload))?;
            let (unreadable, interrupted) = fetched?;
            Ok(Copied { zeros, unreadable, interrupted })
        })
    }

    fn fetch_all(
        &self,
        todo: &[PhysRange],
        writer: &SyncSender<Fetched>,
    ) -> Result<(Vec<Unreadable>, bool), DumpError> {
        let mut unreadable = Vec::new();
        let mut done = 0;
        for (index, chunk) in todo.iter().flat_map(|range| cut(*range, CHUNK)).enumerate() {
            if self.stop.load(Relaxed) {
                return Ok((unreadable, true));
            }
            if index % LOOK == LOOK - 1 {
                self.check_boot()?;
            }
            let (fetched, failed) = self.fetch(chunk)?;
            for (range, error) in failed {
                unreadable::push(&mut unreadable, Unreadable::new(range, &error))?;
            }
            if writer.send(fetched).is_err() {
                break; // The writer failed, and says itself why.
            }
            done += chunk.len();
            (self.progress)(done);
        }
        self.check_boot()?;
        Ok((unreadable, false))
    }

    fn check_boot(&self) -> Result<(), DumpError> {
        if (self.booted_anew)() { Err(DumpError::BootedAnew) } else { Ok(()) }
    }

    /// Reads a chunk.
    fn fetch(&self, chunk: PhysRange) -> Result<(Fetched, Vec<(PhysRange, MemError)>), DumpError> {
        let mut bytes = vec![0; chunk.len() as usize];
        let mut missing = Vec::new();
        for batch in cut(chunk, BATCH) {
            missing.extend(self.fetch_batch(batch, part(&mut bytes, chunk, batch))?);
        }
        let ranges: Vec<PhysRange> = missing.iter().map(|(range, _)| *range).collect();
        let readable = subtract(&[chunk], &ranges);
        Ok((Fetched { chunk, bytes, readable }, missing))
    }

    /// Reads a batch; of reads that fail, each page by itself. Returns the pages that cannot be read.
    fn fetch_batch(
        &self,
        batch: PhysRange,
        bytes: &mut [u8],
    ) -> Result<Vec<(PhysRange, MemError)>, DumpError> {
        let failed = read_pieces(self.phys, batch, bytes, READ);
        if failed.len() == cut(batch, READ).count() {
            self.check_answers(&failed)?;
        }
        let pages = |(range, _)| read_pieces(self.phys, range, part(bytes, batch, range), PAGE_SIZE);
        Ok(failed.into_iter().flat_map(pages).collect())
    }

    /// Tells memory that does not answer from a target that does not: one is noted, the other ends the dump.
    fn check_answers(&self, failed: &[(PhysRange, MemError)]) -> Result<(), DumpError> {
        if !failed.iter().any(|(_, error)| matches!(error.fault, Fault::Link(_))) {
            return Ok(());
        }
        let mut canary = vec![0; self.canary.len().min(READ) as usize];
        self.phys.read(self.canary.start, &mut canary).map_err(DumpError::Lost)
    }
}

/// The bytes of `range` among those of `whole`.
fn part(bytes: &mut [u8], whole: PhysRange, range: PhysRange) -> &mut [u8] {
    let from = range.start.wrapping_offset_from(whole.start) as usize;
    bytes.get_mut(from..from + range.len() as usize).unwrap_or_default()
}

/// Reads `range` into `bytes`, which is as long, cut at multiples of `align`; returns what failed.
fn read_pieces(
    phys: &dyn PhysMem,
    range: PhysRange,
    bytes: &mut [u8],
    align: u64,
) -> Vec<(PhysRange, MemError)> {
    let mut ops = Vec::new();
    let mut rest = bytes;
    for piece in cut(range, align) {
        let Some((buf, after)) = rest.split_at_mut_checked(piece.len() as usize) else { break };
        ops.push(ReadOp::new(piece.start, buf));
        rest = after;
    }
    phys.read_batch(&mut ops);
    let failed = |op: ReadOp<'_>| {
        let range = PhysRange::with_len(op.addr, op.buf.len() as u64)?;
        Some((range, op.result.err()?))
    };
    ops.into_iter().filter_map(failed).collect()
}

/// Writes what comes, and then says in the journal that it is there. Returns the bytes of zero pages.
fn store(
    fetched: &Receiver<Fetched>,
    layout: &Layout,
    data: &Data,
    journal: &mut Journal,
) -> Result<u64, DumpError> {
    let mut zeros = 0;
    for Fetched { chunk, mut bytes, readable } in fetched {
        for range in readable {
            let piece = part(&mut bytes, chunk, range);
            zeros += data.write(layout, range, piece)?;
            journal.append(Stored { range, sum: checksum(piece) })?;
        }
    }
    Ok(zeros)
}
