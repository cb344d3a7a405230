//! The protocol engine: reads in, requests out; datagrams in, bytes out. It does no I/O and asks no clock.
//!
//! A [`Batch`] is driven by whoever owns the sockets: [`Batch::transmit`] until it has nothing to send, wait
//! for a datagram or for [`Batch::deadline`], then [`Batch::receive`] or [`Batch::expire`]. Each tag stands for
//! one outstanding request and one socket. The engine does not know what a socket, a port or an address of
//! the network is. Nothing is allocated per request or datagram.
//!
//! When no answer comes in time, or a damaged one, the request is sent again under another tag and the old tag
//! is retired: frames for it may still come, and must not be taken for the answer to a later request. It
//! returns when the late answer has come in full (where timestamps prove that nothing can follow it), else
//! after ten timeouts and a second at least, which is 20 times the longest completion timeout PCI Express prescribes
//! by default (50 ms). Frames that the network delayed or duplicated are told by their timestamps ([`clock`]).

mod clock;
mod pace;
mod request;
mod silence;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use self::{
    clock::Clock,
    pace::Pace,
    request::{Failure, Request, Verdict},
    silence::Silence,
};
use super::{
    LinkError, LinkStats, Read, Requester,
    latency::Latencies,
    nettlp::{HEADER_LEN, Stamp},
    split::{Piece, Split},
    tlp::{Completion, Defect, Status, Tlp},
};
use crate::addr::PhysAddr;

/// Timeouts for which a tag stays unused when frames for it may still come.
const RETIRE: u32 = 10;
/// And how long at least, whatever the timeout: how late a completer answers does not depend on how long we wait.
pub(super) const LEAST_RETIREMENT: Duration = Duration::from_secs(1);

/// How the engine asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) requester: Requester,
    /// Tags 0 to `tags` - 1; 1 to 256.
    pub(super) tags: u16,
    /// Longest request in bytes.
    pub(super) mrrs: u32,
    pub(super) timeout: Duration,
    pub(super) retries: u32,
}

/// A piece to be asked for.
#[derive(Debug, Clone, Copy)]
struct Job {
    read: usize,
    piece: Piece,
    attempt: u32,
    /// Whether it was sent once before without counting as an attempt.
    hasty: bool,
}

#[derive(Debug)]
enum Slot {
    Free { dirty: bool },
    Busy(Request),
    Retired { request: Request, until: Instant, broken: bool },
}

/// A datagram to send from a tag's socket.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) tag: u8,
    /// Whether what still waits in the tag's socket must be handed to [`Batch::discard`] before sending.
    pub(super) drain: bool,
    bytes: [u8; HEADER_LEN + 16],
    len: usize,
}

impl Transmit {
    pub(super) fn datagram(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// Tags and what is known of the adapter, kept from batch to batch.
#[derive(Debug)]
pub(super) struct Engine {
    settings: Settings,
    slots: Box<[Slot]>,
    free: VecDeque<u8>,
    retired: usize,
    retry: VecDeque<Job>,
    pending: Option<Job>,
    current: Option<(usize, Split)>,
    next_read: usize,
    in_flight: usize,
    check_at: Option<Instant>,
    clock: Clock,
    pace: Pace,
    silence: Silence,
    stats: LinkStats,
    latencies: Latencies,
}

impl Engine {
    pub(super) fn new(settings: Settings) -> Self {
        let tags = settings.tags.clamp(1, 256);
        Self {
            settings,
            slots: (0..tags).map(|_| Slot::Free { dirty: false }).collect(),
            free: (0..tags).map(|tag| tag as u8).collect(),
            retired: 0,
            retry: VecDeque::with_capacity(tags.into()),
            pending: None,
            current: None,
            next_read: 0,
            in_flight: 0,
            check_at: None,
            clock: Clock::default(),
            pace: Pace::new(tags),
            silence: Silence::default(),
            stats: LinkStats::default(),
            latencies: Latencies::default(),
        }
    }

    pub(super) fn stats(&self) -> LinkStats {
        LinkStats { lost: self.clock.lost(), ..self.stats }
    }

    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    pub(super) fn count_writes(&mut self, requests: u64) {
        self.stats.writes += requests;
    }

    /// Starts on `reads`; dropping the batch gives up what is still under way.
    pub(super) fn batch<'e, 'r, 'b>(&'e mut self, reads: &'r mut [Read<'b>]) -> Batch<'e, 'r, 'b> {
        if self.silence.is_suspicious() {
            self.pending = self.silence.probe(reads);
        }
        Batch { engine: self, reads }
    }

    fn release(&mut self, tag: u8, dirty: bool) {
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            self.retired -= usize::from(matches!(slot, Slot::Retired { .. }));
            *slot = Slot::Free { dirty };
            self.free.push_back(tag);
        }
    }

    /// Takes the tag of a busy slot out of use for a while.
    fn retire(&mut self, tag: u8, request: Request, now: Instant, broken: bool) {
        let until = now + (self.settings.timeout * RETIRE).max(LEAST_RETIREMENT);
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            self.retired += 1;
            *slot = Slot::Retired { request, until, broken };
        }
    }

    /// When each tag that rests may be used again.
    fn retirements(&self) -> impl Iterator<Item = Instant> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Retired { until, .. } => Some(*until),
            _ => None,
        })
    }

    fn release_retired(&mut self, now: Instant) {
        if self.retired == 0 {
            return;
        }
        for tag in 0..=u8::MAX {
            match self.slots.get(usize::from(tag)) {
                Some(&Slot::Retired { until, .. }) if until <= now => self.release(tag, true),
                Some(_) => {}
                None => break,
            }
        }
    }
}

/// Reads being served.
#[derive(Debug)]
pub(super) struct Batch<'e, 'r, 'b> {
    engine: &'e mut Engine,
    reads: &'r mut [Read<'b>],
}

impl Batch<'_, '_, '_> {
    /// The next request to send, if there is one and a tag for it. It counts as sent.
    pub(super) fn transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.engine.in_flight >= self.engine.pace.window() {
            return None;
        }
        let job = match self.engine.pending.take() {
            Some(job) if job.is_probe() || self.wants(job.read) => job,
            _ if self.engine.silence.is_suspicious() && self.engine.in_flight > 0 => return None,
            _ => self.next_job()?,
        };
        let engine = &mut *self.engine;
        if engine.free.is_empty() {
            engine.release_retired(now);
        }
        let Some(tag) = engine.free.pop_front() else {
            engine.pending = Some(job);
            return None;
        };
        let floor = engine.clock.floor(now);
        let hasty = (job.attempt == 1 && !job.hasty).then(|| engine.pace.hasty_wait()).flatten();
        let due = now + engine.settings.timeout.min(hasty.unwrap_or(Duration::MAX));
        let request = Request {
            read: job.read,
            piece: job.piece,
            attempt: job.attempt,
            hasty: job.hasty,
            sent: now,
            due,
            received: 0,
            floor,
            saw_stale: false,
            saw_defect: None,
        };
        let slot = engine.slots.get_mut(usize::from(tag))?;
        let drain = matches!(slot, Slot::Free { dirty: true }) || floor.is_none();
        *slot = Slot::Busy(request);
        engine.stats.retries += u64::from(job.attempt > 1 || job.hasty);
        engine.in_flight += 1;
        engine.stats.requests += 1;
        engine.check_at = Some(engine.check_at.map_or(due, |at| at.min(due)));

        let header = request.header(engine.settings.requester, tag).encode_read();
        let mut bytes = [0; HEADER_LEN + 16];
        let stamp = Stamp::default().to_bytes();
        let mut len = 0;
        for (place, byte) in bytes.iter_mut().zip(stamp.iter().chain(header.as_ref())) {
            *place = *byte;
            len += 1;
        }
        Some(Transmit { tag, drain, bytes, len })
    }

    fn wants(&self, read: usize) -> bool {
        self.reads.get(read).is_some_and(|read| !read.failed)
    }

    fn next_job(&mut self) -> Option<Job> {
        while let Some(job) = self.engine.retry.pop_front() {
            if self.wants(job.read) {
                return Some(job);
            }
        }
        loop {
            if let Some((read, mut split)) = self.engine.current.take().filter(|(read, _)| self.wants(*read))
                && let Some(piece) = split.next()
            {
                self.engine.current = Some((read, split));
                return Some(Job { read, piece, attempt: 1, hasty: false });
            }
            let index = self.engine.next_read;
            let read = self.reads.get_mut(index)?;
            self.engine.next_read += 1;
            if read.start() {
                let split = Split::new(read.addr.raw(), read.buf.len(), self.engine.settings.mrrs);
                self.engine.current = Some((index, split));
            }
        }
    }

    /// Takes a datagram that came to the socket of `tag`.
    pub(super) fn receive(&mut self, tag: u8, datagram: &[u8], now: Instant) {
        self.engine.silence.broken();
        let (stamp, completion) = match self.decode(tag, datagram) {
            Ok(decoded) => decoded,
            Err(defect) => {
                self.engine.stats.malformed += 1;
                if let Some(Slot::Busy(request)) = self.engine.slots.get_mut(usize::from(tag)) {
                    request.saw_defect.get_or_insert(defect);
                }
                return;
            }
        };
        self.engine.clock.observe(stamp, now);
        match self.engine.slots.get_mut(usize::from(tag)) {
            Some(Slot::Busy(request)) => {
                let verdict = request.judge(stamp, &completion);
                let request = *request;
                self.answered(tag, request, verdict, now);
            }
            Some(Slot::Retired { request, broken, .. }) => {
                self.engine.stats.stale += 1;
                match request.judge(stamp, &completion) {
                    Verdict::Data(_) if !*broken && stamp.timestamp != 0 => {
                        if request.is_complete() {
                            let took = now.saturating_duration_since(request.sent);
                            self.engine.pace.took(took, now);
                            self.engine.release(tag, false);
                        }
                    }
                    Verdict::Stale => {}
                    Verdict::Data(_) | Verdict::Failed(_) => *broken = true,
                }
            }
            Some(Slot::Free { .. }) | None => self.engine.stats.stale += 1,
        }
    }

    /// Takes a datagram that waited in the socket of `tag` from before its request was sent.
    pub(super) fn discard(&mut self, tag: u8, datagram: &[u8], now: Instant) {
        self.engine.stats.stale += 1;
        if let Ok((stamp, _)) = self.decode(tag, datagram) {
            self.engine.clock.observe(stamp, now);
            if let Some(Slot::Busy(request)) = self.engine.slots.get_mut(usize::from(tag)) {
                request.floor = self.engine.clock.floor(now);
            }
        }
    }

    fn decode<'d>(&self, tag: u8, datagram: &'d [u8]) -> Result<(Stamp, Completion<'d>), Defect> {
        let (stamp, tlp) = Stamp::split(datagram).ok_or(Defect::Short)?;
        let Tlp::Completion(completion) = Tlp::decode(tlp)? else { return Err(Defect::Request) };
        if completion.requester != self.engine.settings.requester {
            return Err(Defect::Requester(completion.requester));
        }
        if completion.tag != tag {
            return Err(Defect::Tag(completion.tag));
        }
        Ok((stamp, completion))
    }

    fn answered(&mut self, tag: u8, request: Request, verdict: Verdict<'_>, now: Instant) {
        let engine = &mut *self.engine;
        match verdict {
            Verdict::Stale => engine.stats.stale += 1,
            Verdict::Data(data) => {
                engine.stats.completions += 1;
                let complete = request.is_complete();
                if let Some(read) = self.reads.get_mut(request.read) {
                    request.deliver(data, read.buf);
                    // Not before: what came of an attempt that then fails comes again with the next.
                    if complete {
                        engine.stats.bytes += request.piece.len as u64;
                        read.arrived(request.piece.len);
                    }
                }
                if complete {
                    let took = now.saturating_duration_since(request.sent);
                    engine.pace.answered(request.sent, took);
                    engine.latencies.record(took);
                    engine.silence.answered(request.piece);
                    engine.in_flight -= 1;
                    engine.release(tag, false);
                }
            }
            Verdict::Failed(failure) => {
                match failure {
                    Failure::Refused(_) => {
                        engine.stats.errors += 1;
                        engine.release(tag, false);
                    }
                    Failure::Poisoned => {
                        engine.stats.poisoned += 1;
                        engine.retire(tag, request, now, true);
                    }
                    _ => {
                        engine.stats.malformed += 1;
                        engine.pace.lost(request.sent, now);
                        engine.retire(tag, request, now, true);
                    }
                }
                engine.in_flight -= 1;
                self.attempt_failed(request, failure);
            }
        }
    }

    /// Takes back a request that its socket would not send.
    pub(super) fn not_sent(&mut self, tag: u8, kind: io::ErrorKind) {
        if let Some(request) = self.refused(tag) {
            self.engine.release(tag, true);
            self.attempt_failed(request, kind.into());
        }
    }

    /// Takes an error the socket of `tag` reported in place of a datagram. It may be about an earlier request, and this
    /// one be answered yet; only where nobody listens there is nobody to do so.
    pub(super) fn socket_failed(&mut self, tag: u8, kind: io::ErrorKind, now: Instant) {
        let Some(request) = self.refused(tag) else { return };
        match kind {
            io::ErrorKind::ConnectionRefused => self.engine.release(tag, true),
            _ => self.engine.retire(tag, request, now, false),
        }
        self.attempt_failed(request, kind.into());
    }

    /// Notes that the outstanding request of `tag` met an error of the socket.
    fn refused(&mut self, tag: u8) -> Option<Request> {
        let Some(&Slot::Busy(request)) = self.engine.slots.get(usize::from(tag)) else { return None };
        self.engine.stats.refused += 1;
        self.engine.in_flight -= 1;
        Some(request)
    }

    /// Gives up on requests that were not answered in time. Whatever had come by `now` has been received: who drives the
    /// batch may have been kept from it for long.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.engine.check_at.is_none_or(|at| at > now) {
            return;
        }
        self.engine.check_at = None;
        for tag in 0..=u8::MAX {
            let engine = &mut *self.engine;
            let request = match engine.slots.get_mut(usize::from(tag)) {
                Some(Slot::Busy(request)) => request,
                Some(_) => continue,
                None => break,
            };
            let latest = request.sent + engine.settings.timeout;
            // It is only overdue if what was asked later has been answered: else it is all of the adapter that is slow.
            // And without another tag to ask it with there is no hurry.
            let overtaken =
                engine.pace.overtook(request.sent, engine.in_flight == 1) && !engine.free.is_empty();
            if request.due <= now && now < latest && !overtaken {
                request.due = latest.min(now + pace::LEAST_WAIT / 4);
            }
            let request = *request;
            if request.due > now {
                engine.check_at = Some(engine.check_at.map_or(request.due, |at| at.min(request.due)));
                continue;
            }
            engine.stats.timeouts += 1;
            engine.in_flight -= 1;
            engine.pace.lost(request.sent, now);
            // Only old frames, and nothing new from any tag: it is the adapter's clock that went back.
            if request.saw_stale && engine.clock.last_seen().is_some_and(|seen| seen < request.sent) {
                engine.clock.reset();
            }
            engine.retire(tag, request, now, false);
            if now < latest {
                let Request { read, piece, attempt, .. } = request;
                engine.retry.push_back(Job { read, piece, attempt, hasty: true });
            } else {
                let suspected = engine.silence.lengthens();
                self.attempt_failed(request, request.saw_defect.map_or(Failure::Timeout, Failure::Malformed));
                if suspected {
                    self.suspect();
                }
            }
        }
    }

    /// Has a probe sent before anything else.
    fn suspect(&mut self) {
        let probe = self.engine.silence.probe(self.reads);
        if let Some(waiting) = std::mem::replace(&mut self.engine.pending, probe) {
            self.engine.retry.push_front(waiting);
        }
    }

    fn probe_failed(&mut self, request: Request, failure: Failure) {
        let Request { read, piece, attempt, hasty, .. } = request;
        if !self.engine.silence.is_suspicious() {
            return;
        }
        if attempt <= self.engine.settings.retries {
            self.engine.pending = Some(Job { read, piece, attempt: attempt + 1, hasty });
            return;
        }
        self.give_up(|addr, len| match failure {
            Failure::NoAdapter => LinkError::NoAdapter { addr, len },
            Failure::Socket(kind) => LinkError::Socket { addr, len, kind },
            _ => LinkError::Silent { addr, len },
        });
    }

    fn attempt_failed(&mut self, request: Request, failure: Failure) {
        let Request { read: index, piece, attempt, hasty, .. } = request;
        let Some(read) = self.reads.get_mut(index) else { return self.probe_failed(request, failure) };
        let final_answer = matches!(failure, Failure::Refused(_));
        if !final_answer && attempt <= self.engine.settings.retries && !read.failed {
            self.engine.retry.push_back(Job { read: index, piece, attempt: attempt + 1, hasty });
            return;
        }
        let (addr, len) = (PhysAddr::new(piece.addr), piece.len);
        read.fail(match failure {
            Failure::Timeout => LinkError::Timeout { addr, len, attempts: attempt + u32::from(hasty) },
            Failure::Malformed(defect) => LinkError::Malformed { addr, len, defect },
            Failure::Poisoned => LinkError::Poisoned { addr, len },
            Failure::Refused(Status::Unsupported) => LinkError::UnsupportedRequest { addr, len },
            Failure::Refused(Status::ConfigRetry) => LinkError::ConfigRetry { addr, len },
            Failure::Refused(_) => LinkError::CompleterAbort { addr, len },
            Failure::NoAdapter => LinkError::NoAdapter { addr, len },
            Failure::Socket(kind) => LinkError::Socket { addr, len, kind },
        });
    }

    /// Whether `tag` has an outstanding request.
    pub(super) fn awaits(&self, tag: u8) -> bool {
        matches!(self.engine.slots.get(usize::from(tag)), Some(Slot::Busy(_)))
    }

    /// Whether a late answer to the last request of `tag` would free it.
    pub(super) fn awaits_late(&self, tag: u8) -> bool {
        matches!(self.engine.slots.get(usize::from(tag)), Some(Slot::Retired { broken: false, .. }))
    }

    /// When [`Batch::expire`] and [`Batch::transmit`] have to be called even if no datagram comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let window_is_closed = self.engine.in_flight >= self.engine.pace.window();
        if self.engine.pending.is_none() || self.engine.retired == 0 || window_is_closed {
            return self.engine.check_at;
        }
        self.engine.retirements().chain(self.engine.check_at).min()
    }

    /// Until when answers to requests that were given up may come; `None` if none are awaited any more.
    pub(super) fn late_until(&mut self, now: Instant) -> Option<Instant> {
        self.engine.release_retired(now);
        self.engine.retirements().max()
    }

    /// Whether every read has its result, once [`Batch::transmit`] has nothing more to send.
    pub(super) fn is_done(&self) -> bool {
        self.engine.in_flight == 0 && self.engine.pending.is_none()
    }

    /// Ends the batch: every read that has no result fails with `kind`.
    pub(super) fn abort(&mut self, kind: io::ErrorKind) {
        self.give_up(|addr, len| LinkError::Socket { addr, len, kind });
    }

    /// Fails every read that has no result; nothing more is sent.
    fn give_up(&mut self, error: impl Fn(PhysAddr, usize) -> LinkError) {
        for read in self.reads.iter_mut().skip(self.engine.next_read) {
            read.start();
        }
        self.engine.retry.clear();
        (self.engine.pending, self.engine.current) = (None, None);
        self.engine.next_read = self.reads.len();
        for read in self.reads.iter_mut().filter(|read| read.result.is_err()) {
            read.fail(error(read.addr, read.buf.len()));
        }
    }
}

impl Drop for Batch<'_, '_, '_> {
    fn drop(&mut self) {
        let engine = &mut *self.engine;
        if engine.in_flight > 0 {
            for tag in 0..=u8::MAX {
                match engine.slots.get(usize::from(tag)) {
                    Some(&Slot::Busy(request)) => {
                        engine.retire(tag, request, request.sent + engine.settings.timeout, false);
                    }
                    Some(_) => {}
                    None => break,
                }
            }
        }
        engine.retry.clear();
        (engine.pending, engine.current, engine.next_read) = (None, None, 0);
        (engine.in_flight, engine.check_at) = (0, None);
    }
}
