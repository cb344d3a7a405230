//! Reads all RAM once and keeps the text of configuration files in it.
//!
//! Input: physical memory and its RAM ranges. Output: the distinct runs and where they stand. Memory is bounded:
//! one batch at a time, and a bounded number of runs.

use std::{collections::HashMap, ops::ControlFlow};

use super::run::{self, Run};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange},
    mem::{PhysMem, ReadOp},
};

/// Enough in flight to keep a link busy.
const BATCH: usize = 4 << 20;

/// One operation of a batch; when it fails its pages are tried one by one.
const OP: u64 = 64 << 10;

/// 64 MiB of text; a configuration has some thirty pages.
const MAX_PIECES: usize = 16 << 10;

/// Copies of one page's text that are worth knowing.
const MAX_PLACES: usize = 16;

/// A run and the pages that hold it.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The text.
    pub run: Run,
    /// The physical pages, ascending.
    pub pages: Vec<PhysAddr>,
}

/// What a search over RAM found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Distinct runs, in the order of their first page.
    pub pieces: Vec<Piece>,
    /// Options that stand alone in other text.
    pub stray: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that could not be read.
    pub unreadable: u64,
    /// Runs that were not kept because there were too many.
    pub dropped: usize,
    /// Whether the search was stopped before its end.
    pub interrupted: bool,
    seen: HashMap<Run, usize>,
}

/// Searches `ram`. `step` is told the bytes done and in all after each batch, and may end the search.
pub fn scan(
    phys: &dyn PhysMem,
    ram: &[PhysRange],
    step: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Scan {
    let total = ram.iter().map(PhysRange::len).sum();
    let mut found = Scan::default();
    let mut buffer = vec![0; BATCH];
    let mut done = 0;
    for range in ram {
        let mut at = range.start;
        while at < range.end {
            let end = at.align_down(BATCH as u64).raw().saturating_add(BATCH as u64).min(range.end.raw());
            let len = end - at.raw();
            let Some(batch) = buffer.get_mut(..len as usize) else { break };
            found.batch(phys, at, batch);
            done += len;
            at = PhysAddr::new(end);
            if step(done, total).is_break() {
                found.interrupted = done < total;
                return found;
            }
        }
    }
    found
}

impl Scan {
    /// What to say of runs that were not kept, if there are any.
    pub(super) fn limit(&self) -> Option<String> {
        let dropped = self.dropped;
        (dropped > 0).then(|| format!("{dropped} pages of text after the first {MAX_PIECES} were left out"))
    }

    fn batch(&mut self, phys: &dyn PhysMem, start: PhysAddr, buffer: &mut [u8]) {
        let mut ops = operations(start, buffer, OP);
        phys.read_batch(&mut ops);
        let mut failed: Vec<ReadOp<'_>> = Vec::new();
        for op in ops {
            match op.result {
                Ok(()) => self.bytes(op.addr, op.buf),
                Err(_) => failed.extend(operations(op.addr, op.buf, PAGE_SIZE)),
            }
        }
        if failed.is_empty() {
            return;
        }
        phys.read_batch(&mut failed);
        for op in failed {
            match op.result {
                Ok(()) => self.bytes(op.addr, op.buf),
                Err(error) => {
                    log::debug!("{error}");
                    self.unreadable += op.buf.len() as u64;
                }
            }
        }
    }

    fn bytes(&mut self, start: PhysAddr, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let lead =
            (start.wrapping_sub(1).align_down(PAGE_SIZE).wrapping_add(PAGE_SIZE)).wrapping_offset_from(start);
        let whole = bytes.get(lead as usize..).unwrap_or_default();
        for (index, page) in whole.chunks_exact(PAGE_SIZE as usize).enumerate() {
            let found = run::runs(page);
            self.stray += found.stray;
            let addr = start.wrapping_add(lead + index as u64 * PAGE_SIZE);
            for run in found.runs {
                self.add(run, addr);
            }
        }
    }

    fn add(&mut self, run: Run, page: PhysAddr) {
        if let Some(piece) = self.seen.get(&run).and_then(|index| self.pieces.get_mut(*index)) {
            if piece.pages.len() < MAX_PLACES {
                piece.pages.push(page);
            }
        } else if self.pieces.len() < MAX_PIECES {
            self.seen.insert(run.clone(), self.pieces.len());
            self.pieces.push(Piece { run, pages: vec![page] });
        } else {
            self.dropped += 1;
        }
    }
}

/// Reads of `buffer` that end at multiples of `size`.
fn operations(start: PhysAddr, buffer: &mut [u8], size: u64) -> Vec<ReadOp<'_>> {
    let mut ops = Vec::new();
    let (mut at, mut rest) = (start, buffer);
    while !rest.is_empty() {
        let len = (size - at.offset_in(size)).min(rest.len() as u64);
        let (piece, after) = rest.split_at_mut(len as usize);
        ops.push(ReadOp::new(at, piece));
        at = at.wrapping_add(len);
        rest = after;
    }
    ops
}
