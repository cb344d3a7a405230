//! A read cache with a stated validity.
//!
//! It keeps pages of 4 KiB in sectors of 512 bytes, what one request carries at the usual MRRS: fetching a whole sector
//! costs one round trip as eight bytes would, and the next member of the same structure is then free. Neighbouring
//! sectors are fetched as one read, which the link cuts as its MRRS allows. A few sectors take the rest of their pages
//! along where a round trip is dear, or where the page was read before: a `task_struct` is several sectors long. What
//! was asked for in an earlier picture that began in the same way is fetched at once ([`history`]).
//! Nothing is fetched outside a page that something above asked for; DRAM is decoded in coarser units than that.

mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use self::history::History;
use super::{Fault, MemError, PhysMem, ReadOp};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};

const SECTOR: u64 = 512;
const SECTORS: usize = (PAGE_SIZE / SECTOR) as usize;

/// Reads longer than this go past the cache: they are bulk data that will not be asked for again.
const MAX_CACHED_READ: usize = 16 << 10;

/// 32 MiB of pages; when they are full all are dropped, which costs one round trip each, once.
const MAX_PAGES: usize = 8 << 10;

/// Fetches of up to so many sectors cost little more than a round trip, and may take their pages along.
const FEW: usize = 4;

/// A round trip that outweighs the requests for the rest of a page.
const DEAR: Duration = Duration::from_micros(200);

/// What was read is read again after this many times the pause that ends its validity.
const MAX_PAUSES: u32 = 10;

/// How long what was read answers for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Until [`Cache::invalidate`].
    Stop,
    /// Until nothing was asked for this long, ten times as long at most, or until [`Cache::invalidate`]: one command of
    /// a debugger sees one picture, the next a new one.
    Pause(Duration),
}

struct Page {
    bytes: [u8; PAGE_SIZE as usize],
    /// When each sector was asked for; `None` of one that is not there.
    read_at: [Option<Instant>; SECTORS],
    /// Its other sectors could not all be read: they are not asked for on the way again.
    alone: bool,
}

impl Page {
    fn empty() -> Box<Self> {
        Box::new(Self { bytes: [0; PAGE_SIZE as usize], read_at: [None; SECTORS], alone: false })
    }
}

struct State {
    pages: HashMap<PhysAddr, Box<Page>>,
    /// What was read before does not count any more.
    since: Instant,
    used: Instant,
    history: History,
    /// How long fetches of few sectors take, smoothed.
    round_trip: Duration,
}

/// A stretch of sectors of one page that is read at once.
struct Run {
    sectors: Range<usize>,
    asked_for: bool,
}

/// Caches reads of `M`.
pub struct Cache<M> {
    inner: M,
    validity: Validity,
    state: Mutex<State>,
    constant: RwLock<Vec<PhysRange>>,
    read_ahead: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    surprises: AtomicU64,
}

impl<M: PhysMem> Cache<M> {
    /// An empty cache over `inner`.
    pub fn new(inner: M, validity: Validity) -> Self {
        let now = Instant::now();
        let state = State {
            pages: HashMap::new(),
            since: now,
            used: now,
            history: History::default(),
            round_trip: Duration::ZERO,
        };
        let [hits, misses, surprises] = [const { AtomicU64::new(0) }; 3];
        let read_ahead = AtomicBool::new(true);
        Self {
            inner,
            validity,
            state: Mutex::new(state),
            constant: RwLock::default(),
            read_ahead,
            hits,
            misses,
            surprises,
        }
    }

    /// The layer below.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Forgets everything read so far.
    pub fn invalidate(&self) {
        let mut state = self.state();
        state.since = Instant::now();
        state.history = History::default();
        state.pages.clear();
    }

    /// Lets what is read of `range` hold until [`Cache::invalidate`], whatever the [`Validity`]. Only whole pages of it do.
    pub fn hold(&self, range: PhysRange) {
        self.constant.write().unwrap_or_else(PoisonError::into_inner).push(range);
    }

    /// Whether a few sectors may take the rest of their pages along. A search, which looks at one word of each of many
    /// pages, is better off without.
    pub fn read_ahead(&self, on: bool) {
        self.read_ahead.store(on, Relaxed);
    }

    /// Since when what is in the cache holds: another moment, another picture of the target.
    pub fn picture(&self) -> Instant {
        self.touch(Instant::now());
        self.state().since
    }

    /// Sectors answered from the cache, and sectors fetched.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// How often something had to be fetched that no earlier picture led to expect.
    pub fn surprises(&self) -> u64 {
        self.surprises.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_constant(&self, page: PhysAddr) -> bool {
        let constant = self.constant.read().unwrap_or_else(PoisonError::into_inner);
        constant.iter().any(|range| range.contains(page, PAGE_SIZE))
    }

    fn is_valid(&self, since: Instant, read_at: Option<Instant>, page: PhysAddr, now: Instant) -> bool {
        let Some(read_at) = read_at else { return false };
        match self.validity {
            Validity::Stop => true,
            Validity::Pause(pause) => {
                read_at >= since && now.saturating_duration_since(read_at) < pause * MAX_PAUSES
                    || self.is_constant(page)
            }
        }
    }

    /// Notes that something is asked for: after a pause, what was read before is out of date.
    fn touch(&self, now: Instant) {
        let mut state = self.state();
        if let Validity::Pause(pause) = self.validity
            && now.saturating_duration_since(state.used) >= pause
        {
            state.since = now;
            state.history.turn();
        }
        state.used = now;
    }

    /// Fetches what will probably be asked for, and with the first of a picture what was asked for when one last began
    /// so.
    fn foresee(&self, mut wanted: Vec<PhysAddr>, now: Instant) {
        let asked = wanted.len();
        let mut state = self.state();
        let lacking: Vec<PhysAddr> =
            wanted.iter().copied().filter(|sector| !self.has(&state, *sector, now)).collect();
        if lacking.is_empty() {
            return;
        }
        wanted.extend(state.history.begin(&lacking));
        drop(state);
        if wanted.len() == asked {
            self.surprises.fetch_add(1, Relaxed);
        }
        wanted.sort_unstable();
        wanted.dedup();
        self.fill(&wanted, now);
    }

    fn has(&self, state: &State, sector: PhysAddr, now: Instant) -> bool {
        let (page, index) = (page_of(sector), (sector.offset_in(PAGE_SIZE) / SECTOR) as usize);
        let read_at = state.pages.get(&page).and_then(|page| *page.read_at.get(index)?);
        self.is_valid(state.since, read_at, page, now)
    }

    /// Fetches the sectors that `wanted` names (ascending addresses) and the cache lacks, all in one batch. Those that
    /// cannot be read whole (the end of RAM) stay absent. Gives what failed, `None` if nothing was lacking.
    fn fill(&self, wanted: &[PhysAddr], now: Instant) -> Option<Vec<MemError>> {
        // More than there is room for is bulk data too.
        if wanted.chunk_by(|one, other| page_of(*one) == page_of(*other)).count() > MAX_PAGES {
            return None;
        }
        let mut pages = self.take_out(wanted, now);
        let missing: usize = pages.iter().map(|(_, _, runs)| asked_for(runs)).sum();
        self.hits.fetch_add((wanted.len() - missing) as u64, Relaxed);
        self.misses.fetch_add(missing as u64, Relaxed);
        if pages.is_empty() {
            return None;
        }
        let mut reads: Vec<ReadOp<'_>> = Vec::with_capacity(pages.len());
        for (addr, page, runs) in &mut pages {
            let (mut rest, mut at) = (&mut page.bytes[..], 0);
            for Run { sectors, .. } in runs.iter() {
                let (from, to) = (sectors.start * SECTOR as usize, sectors.end * SECTOR as usize);
                let (_, tail) = std::mem::take(&mut rest).split_at_mut(from - at);
                let (buf, tail) = tail.split_at_mut(to - from);
                reads.push(ReadOp::new(addr.wrapping_add(from as u64), buf));
                (rest, at) = (tail, to);
            }
        }
        self.inner.read_batch(&mut reads);
        let outcomes: Vec<_> = reads.into_iter().map(|op| op.result).collect();
        let mut outcomes = outcomes.into_iter();
        let mut failed = Vec::new();
        let took = now.elapsed();
        let mut state = self.state();
        if missing <= FEW {
            state.round_trip = (state.round_trip * 7 + took) / 8;
        }
        state.used = state.used.max(now + took);
        if state.pages.len() + pages.len() > MAX_PAGES {
            state.pages.clear();
        }
        for (addr, mut page, runs) in pages {
            for (Run { sectors, asked_for }, outcome) in runs.into_iter().zip(&mut outcomes) {
                let read = outcome.is_ok();
                page.alone |= !read && !asked_for;
                failed.extend(outcome.err());
                for read_at in page.read_at.get_mut(sectors).unwrap_or_default() {
                    *read_at = read.then_some(now);
                }
            }
            state.pages.insert(addr, page);
        }
        Some(failed)
    }

    /// Takes the pages out of the cache of which something has to be fetched, each with what that is.
    fn take_out(&self, wanted: &[PhysAddr], now: Instant) -> Vec<(PhysAddr, Box<Page>, Vec<Run>)> {
        let mut state = self.state();
        let since = state.since;
        let mut lacking: Vec<(PhysAddr, [bool; SECTORS])> = Vec::new();
        let mut count = 0;
        for sectors in wanted.chunk_by(|one, other| page_of(*one) == page_of(*other)) {
            let Some(addr) = sectors.first().map(|sector| page_of(*sector)) else { continue };
            let page = state.pages.get(&addr);
            let mut lacks = [false; SECTORS];
            for sector in sectors {
                let index = (sector.offset_in(PAGE_SIZE) / SECTOR) as usize;
                let read_at = page.and_then(|page| *page.read_at.get(index)?);
                if let (false, Some(lacks)) = (self.is_valid(since, read_at, addr, now), lacks.get_mut(index))
                {
                    *lacks = true;
                    count += 1;
                }
            }
            if lacks.contains(&true) {
                lacking.push((addr, lacks));
            }
        }
        let (ahead, dear) = (self.read_ahead.load(Relaxed), state.round_trip >= DEAR);
        let plan = lacking.into_iter().map(|(addr, lacks)| {
            let page = state.pages.remove(&addr).unwrap_or_else(Page::empty);
            let valid = page.read_at.map(|read_at| self.is_valid(since, read_at, addr, now));
            let whole = ahead && count <= FEW && !page.alone && (dear || valid.contains(&true));
            let runs = runs(&lacks, &valid, whole);
            (addr, page, runs)
        });
        plan.collect()
    }

    fn serve(&self, op: &mut ReadOp<'_>, now: Instant) -> bool {
        let state = self.state();
        let mut done = 0;
        for addr in sectors_of(op.addr, op.buf.len() as u64) {
            let (page, index) = (page_of(addr), (addr.offset_in(PAGE_SIZE) / SECTOR) as usize);
            let Some(found) = state.pages.get(&page) else { return false };
            let read_at = found.read_at.get(index).copied().flatten();
            if !self.is_valid(state.since, read_at, page, now) {
                return false;
            }
            let at = op.addr.wrapping_add(done as u64);
            let from = at.offset_in(PAGE_SIZE) as usize;
            let len = ((SECTOR - at.offset_in(SECTOR)) as usize).min(op.buf.len() - done);
            let (Some(to), Some(bytes)) =
                (op.buf.get_mut(done..done + len), found.bytes.get(from..from + len))
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

fn asked_for(runs: &[Run]) -> usize {
    runs.iter().filter(|run| run.asked_for).map(|run| run.sectors.len()).sum()
}

/// The sectors to be fetched: those that are `lacking`, and if the page is wanted `whole` the others that are not
/// `valid`. What nobody asked for is read by itself, so that its failure spoils nothing.
fn runs(lacking: &[bool; SECTORS], valid: &[bool; SECTORS], whole: bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, (lacking, valid)) in lacking.iter().zip(valid).enumerate() {
        if !lacking && (*valid || !whole) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.sectors.end == index && run.asked_for == *lacking => run.sectors.end += 1,
            _ => runs.push(Run { sectors: index..index + 1, asked_for: *lacking }),
        }
    }
    runs
}

/// Whether the failure of a fetch is that of `op` as well: nobody answers, or `op` wants all that was fetched.
fn is_final(error: &MemError, op: &ReadOp<'_>) -> bool {
    let (start, end) = (op.addr.raw(), op.addr.raw().saturating_add(op.buf.len() as u64));
    let (first, last) = (error.addr.raw(), error.addr.raw().saturating_add(error.len as u64));
    let unanswered = matches!(&error.fault, Fault::Link(error) if error.is_unanswered());
    (start <= first && last <= end) || (unanswered && start < last && first < end)
}

fn page_of(addr: PhysAddr) -> PhysAddr {
    addr.align_down(PAGE_SIZE)
}

fn cacheable(addr: PhysAddr, len: u64) -> bool {
    len <= MAX_CACHED_READ as u64 && addr.checked_add(len + PAGE_SIZE).is_some()
}

fn sectors_of(addr: PhysAddr, len: u64) -> impl Iterator<Item = PhysAddr> + use<> {
    let (start, end) = (addr.align_down(SECTOR).raw(), addr.raw().saturating_add(len));
    (start..end).step_by(SECTOR as usize).map(PhysAddr::new)
}

/// The sectors of what of `places` (address and length) is cached at all, ascending.
fn sectors(places: impl Iterator<Item = (PhysAddr, u64)>) -> Vec<PhysAddr> {
    let places = places.filter(|(addr, len)| cacheable(*addr, *len));
    let mut sectors: Vec<PhysAddr> = places.flat_map(|(addr, len)| sectors_of(addr, len)).collect();
    sectors.sort_unstable();
    sectors.dedup();
    sectors
}

impl<M: PhysMem> Cache<M> {
    fn read_at(&self, now: Instant, ops: &mut [ReadOp<'_>]) {
        self.touch(now);
        let wanted = sectors(ops.iter().map(|op| (op.addr, op.buf.len() as u64)));
        self.state().history.note(&wanted);
        let filled = self.fill(&wanted, now);
        if filled.is_some() {
            self.surprises.fetch_add(1, Relaxed);
        }
        let failed = filled.unwrap_or_default();
        let settled = |op: &mut ReadOp<'_>| {
            if !cacheable(op.addr, op.buf.len() as u64) || self.serve(op, now) {
                return op.result.is_ok();
            }
            let fault = failed.iter().find(|error| is_final(error, op)).map(|error| error.fault.clone());
            fault.map(|fault| op.fail(fault)).is_some()
        };
        let mut missed: Vec<&mut ReadOp<'_>> =
            ops.iter_mut().filter_map(|op| (!settled(op)).then_some(op)).collect();
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

    fn prefetch_at(&self, now: Instant, ranges: &[PhysRange]) {
        self.touch(now);
        let wanted = sectors(ranges.iter().map(|range| (range.start, range.len())));
        self.state().history.note(&wanted);
        self.foresee(wanted, now);
    }
}

impl<M: PhysMem> PhysMem for Cache<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.read_at(Instant::now(), ops);
    }

    fn prefetch(&self, ranges: &[PhysRange]) {
        self.prefetch_at(Instant::now(), ranges);
    }
}

/// What is below a cache, for what must be read as it is at this moment.
pub struct Below<M>(pub Arc<Cache<M>>);

impl<M: PhysMem> PhysMem for Below<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.0.inner.read_batch(ops);
    }
}
