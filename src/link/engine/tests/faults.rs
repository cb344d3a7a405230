//! Every fault a link can have, one row each, in virtual time: each row reads thousands of random places and compares
//! every byte. Right bytes, or an error that names the range; never wrong bytes.
//!
//! `NETTLP_FAULT_READS` is how many reads a row makes (1,000 unless given; 10,000 is the figure to quote).

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// What happens to a completion on its way. Those below `ShiftedHeader` were captured on hardware, under bursts.
#[derive(Debug, Clone, Copy)]
enum Spoil {
    WrongTag,
    WrongRequester,
    Poison,
    Digest,
    /// The Length field, or the byte count, or the lower address is another one.
    BadLength,
    BadByteCount,
    BadLowerAddress,
    Truncate,
    Lengthen,
    /// Random bytes of a random length.
    Random,
    /// The TLP begins 4 or 8 bytes late: its first double words are those of the data.
    ShiftedHeader,
    /// There is no header at all, the data follow the stamp.
    LostHeader,
    /// The first byte of the TLP is lost (0x00) or damaged (0xa0).
    LostType,
    /// An error status on a packet that carries data all the same.
    StatusWithData(u8),
}

/// When the adapter is not there.
#[derive(Debug, Clone, Copy)]
enum Away {
    Never,
    /// Between these milliseconds requests vanish.
    Silent(u64, u64),
    /// Between these milliseconds its ports are closed.
    Closed(u64, u64),
}

/// A row; chances in percent of requests or of frames.
#[derive(Debug, Clone, Copy)]
struct Row {
    name: &'static str,
    tags: u16,
    /// Of requests, and of frames.
    loss: u64,
    dup: u64,
    reorder: u64,
    /// Of requests: answered after the timeout.
    late: u64,
    spoiled: u64,
    spoil: &'static [Spoil],
    /// Of requests: answered with this status, without data.
    refused: u64,
    refusal: Status,
    /// Of batches: the adapter restarts while one is under way, its clock and its counter start over.
    restart: u64,
    /// Of batches: the adapter's clock jumps, by up to half its range either way.
    jump: u64,
    /// Of batches: our own machine was suspended for an hour before it.
    suspend: u64,
    away: Away,
    /// Of addresses, in stretches of 4 KiB: nobody answers for them.
    mute: u64,
    /// Whether retries must make every read succeed.
    all_good: bool,
}

const CALM: Row = Row {
    name: "calm",
    tags: 16,
    loss: 0,
    dup: 0,
    reorder: 0,
    late: 0,
    spoiled: 0,
    spoil: &[],
    refused: 0,
    refusal: Status::Unsupported,
    restart: 0,
    jump: 0,
    suspend: 0,
    away: Away::Never,
    mute: 0,
    all_good: true,
};

/// One in a hundred frames is enough to meet every read path, and few enough that three retries help.
const fn spoiled(name: &'static str, spoil: &'static [Spoil]) -> Row {
    Row { name, spoil, spoiled: 1, ..CALM }
}

const ROWS: &[Row] = &[
    CALM,
    Row { name: "one tag", tags: 1, ..CALM },
    Row { name: "256 tags", tags: 256, ..CALM },
    Row { name: "loss 1 %", loss: 1, ..CALM },
    Row { name: "loss 5 %", loss: 5, all_good: false, ..CALM },
    Row { name: "loss 10 %", loss: 10, all_good: false, ..CALM },
    Row { name: "loss 20 %", loss: 20, all_good: false, ..CALM },
    Row { name: "reorder 20 %", reorder: 20, all_good: false, ..CALM },
    Row { name: "duplicates 50 %", dup: 50, ..CALM },
    Row { name: "duplicates 50 %, one tag", dup: 50, tags: 1, ..CALM },
    Row { name: "late after retry 5 %", late: 5, ..CALM },
    Row { name: "late after retry 30 %, 2 tags", late: 30, tags: 2, all_good: false, ..CALM },
    spoiled("wrong tag", &[Spoil::WrongTag]),
    spoiled("wrong requester", &[Spoil::WrongRequester]),
    spoiled("poisoned", &[Spoil::Poison]),
    spoiled("digest", &[Spoil::Digest]),
    spoiled("bad length", &[Spoil::BadLength]),
    spoiled("bad byte count", &[Spoil::BadByteCount]),
    spoiled("bad lower address", &[Spoil::BadLowerAddress]),
    spoiled("truncated", &[Spoil::Truncate]),
    spoiled("oversized", &[Spoil::Lengthen]),
    spoiled("random bytes", &[Spoil::Random]),
    spoiled("shifted header", &[Spoil::ShiftedHeader]),
    spoiled("lost header", &[Spoil::LostHeader]),
    spoiled("lost type", &[Spoil::LostType]),
    spoiled("UR with data", &[Spoil::StatusWithData(1)]),
    spoiled("CA with data", &[Spoil::StatusWithData(4)]),
    Row { name: "UR", refused: 5, all_good: false, ..CALM },
    Row { name: "CA", refused: 5, refusal: Status::Abort, all_good: false, ..CALM },
    Row { name: "CRS", refused: 5, refusal: Status::ConfigRetry, all_good: false, ..CALM },
    Row { name: "restarts", restart: 10, all_good: false, ..CALM },
    Row { name: "adapter's clock jumps", jump: 10, all_good: false, ..CALM },
    Row { name: "suspended for an hour", suspend: 10, ..CALM },
    Row { name: "silent for a minute", away: Away::Silent(500, 60_500), all_good: false, ..CALM },
    Row { name: "away for a minute", away: Away::Closed(500, 60_500), all_good: false, ..CALM },
    Row { name: "some addresses silent", mute: 15, all_good: false, ..CALM },
    Row {
        name: "everything",
        loss: 3,
        dup: 10,
        reorder: 5,
        late: 3,
        spoiled: 5,
        spoil: &[
            Spoil::WrongTag,
            Spoil::WrongRequester,
            Spoil::Poison,
            Spoil::BadLength,
            Spoil::BadByteCount,
            Spoil::BadLowerAddress,
            Spoil::Truncate,
            Spoil::Lengthen,
            Spoil::Random,
            Spoil::ShiftedHeader,
            Spoil::LostHeader,
            Spoil::LostType,
            Spoil::StatusWithData(1),
        ],
        refused: 1,
        suspend: 1,
        all_good: false,
        ..CALM
    },
];

struct Frame {
    port: u8,
    bytes: Vec<u8>,
    /// Whether it has left the adapter.
    sent: bool,
}

struct World {
    row: Row,
    random: u64,
    start: Instant,
    now: Instant,
    /// When the adapter's clock showed 0.
    epoch: Instant,
    /// Ticks its clock is ahead of that.
    ahead: u32,
    restart_at: Option<Instant>,
    sequence: u16,
    /// By the time the adapter sends it, then by arrival; the counter keeps them apart.
    wire: BTreeMap<(Instant, u64), Frame>,
    /// What waits in the sockets of tags that expect nothing.
    unread: BTreeMap<u8, VecDeque<Vec<u8>>>,
    frames: u64,
    lost: u64,
    harmed: u64,
}

impl World {
    fn new(row: Row, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            row,
            random: seed,
            start: now,
            now,
            epoch: now,
            ahead: 0,
            restart_at: None,
            sequence: 0,
            wire: BTreeMap::new(),
            unread: BTreeMap::new(),
            frames: 0,
            lost: 0,
            harmed: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn chance(&mut self, percent: u64) -> bool {
        percent > 0 && self.next() % 100 < percent
    }

    fn micros(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.next() % below)
    }

    fn is_within(&self, from: u64, to: u64) -> bool {
        let at = self.now.duration_since(self.start).as_millis() as u64;
        (from..to).contains(&at)
    }

    /// What becomes of a request; `false` if its port is closed.
    fn ask(&mut self, request: &MemRequest) -> bool {
        match self.row.away {
            Away::Silent(from, to) if self.is_within(from, to) => return true,
            Away::Closed(from, to) if self.is_within(from, to) => return false,
            _ => {}
        }
        if is_mute(request.addr, self.row.mute) || self.chance(self.row.loss) {
            return true;
        }
        let mut emitted = self.now + Duration::from_micros(5) + self.micros(40);
        if self.chance(self.row.late) {
            emitted += TIMEOUT + self.micros(400_000);
        }
        if self.chance(self.row.refused) {
            let refusal = Completion::without_data(request, self.row.refusal, request.byte_count(), 0);
            self.make(emitted, request.tag, datagram(Stamp::default(), &refusal));
            return true;
        }
        let payload = 64 << (self.next() % 4);
        for frame in answer(request, payload, 0) {
            emitted += Duration::from_nanos(500);
            self.make(emitted, request.tag, frame);
        }
        true
    }

    fn make(&mut self, at: Instant, port: u8, bytes: Vec<u8>) {
        self.frames += 1;
        self.wire.insert((at, self.frames), Frame { port, bytes, sent: false });
    }

    fn arrive(&mut self, at: Instant, port: u8, bytes: Vec<u8>) {
        self.frames += 1;
        self.wire.insert((at, self.frames), Frame { port, bytes, sent: true });
    }

    /// The adapter stamps a frame and hands it to the network.
    fn emit(&mut self, port: u8, mut frame: Vec<u8>) {
        let ticks = (self.now.saturating_duration_since(self.epoch).as_nanos() as u64 * 5 / 32) as u32;
        let timestamp = ticks.wrapping_add(self.ahead).max(1);
        frame[..HEADER_LEN].copy_from_slice(&Stamp { sequence: self.sequence, timestamp }.to_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        if self.chance(self.row.loss) {
            self.lost += 1;
            return;
        }
        if self.chance(self.row.spoiled) {
            let spoil = self.row.spoil[self.next() as usize % self.row.spoil.len()];
            self.harmed += 1;
            self.spoil(spoil, &mut frame);
        }
        let mut arrives = self.now + Duration::from_micros(1);
        if self.chance(self.row.reorder) {
            arrives += self.micros(500);
        }
        if self.chance(self.row.dup) {
            let again = arrives + if self.chance(50) { Duration::ZERO } else { self.micros(2_000_000) };
            self.arrive(again, port, frame.clone());
        }
        self.arrive(arrives, port, frame);
    }

    /// The next thing that happens before `deadline`: a frame that arrives, or nothing the client sees.
    fn step(&mut self, deadline: Instant) -> Option<Option<(u8, Vec<u8>)>> {
        let entry = self.wire.first_entry().filter(|entry| entry.key().0 < deadline)?;
        let ((at, _), Frame { port, bytes, sent }) = entry.remove_entry();
        // While it is suspended our machine sees nothing, and the adapter goes on.
        let now = std::mem::replace(&mut self.now, at);
        let arrived = if sent {
            Some((port, bytes))
        } else {
            self.emit(port, bytes);
            None
        };
        self.now = now.max(at);
        self.restart_if_due();
        Some(arrived)
    }

    fn spoil(&mut self, spoil: Spoil, frame: &mut Vec<u8>) {
        let bit = |random: u64, of: u64| 1_u8 << (random % of);
        let random = self.next();
        let tlp = HEADER_LEN;
        match spoil {
            Spoil::WrongTag => frame[tlp + 10] ^= bit(random, 8),
            Spoil::WrongRequester => frame[tlp + 8] ^= bit(random, 8),
            Spoil::Poison => frame[tlp + 2] ^= 0x40,
            Spoil::Digest => frame[tlp + 2] ^= 0x80,
            Spoil::BadLength => frame[tlp + 3] ^= bit(random, 8),
            Spoil::BadByteCount => frame[tlp + 7] ^= bit(random, 8),
            Spoil::BadLowerAddress => frame[tlp + 11] ^= bit(random, 7),
            Spoil::Truncate => frame.truncate(random as usize % frame.len()),
            Spoil::Lengthen => frame.extend((0..1 + random % 1500).map(|i| i as u8)),
            Spoil::Random => {
                let len = random as usize % 600;
                *frame = (0..len).map(|_| self.next() as u8).collect();
            }
            Spoil::ShiftedHeader => drop(frame.drain(tlp..tlp + 4 + 4 * (random as usize % 2))),
            Spoil::LostHeader => drop(frame.drain(tlp..tlp + 12)),
            Spoil::LostType => frame[tlp] = if random.is_multiple_of(2) { 0x00 } else { 0xa0 },
            Spoil::StatusWithData(status) => frame[tlp + 6] |= status << 5,
        }
    }

    fn restart_if_due(&mut self) {
        if self.restart_at.is_some_and(|at| at <= self.now) {
            self.restart_at = None;
            (self.epoch, self.ahead, self.sequence) = (self.now, 0, 0);
            // What it had not sent yet it never sends.
            self.wire.retain(|_, frame| frame.sent);
        }
    }

    /// Serves one batch the way the sockets do.
    fn run(&mut self, engine: &mut Engine, reads: &mut [Read<'_>]) {
        while let Some(arrived) = self.step(self.now) {
            if let Some((port, frame)) = arrived {
                self.unread.entry(port).or_default().push_back(frame);
            }
        }
        let mut batch = engine.batch(reads);
        for _ in 0..1_000_000 {
            self.restart_if_due();
            batch.expire(self.now);
            while let Some(sent) = batch.transmit(self.now) {
                for frame in self.unread.remove(&sent.tag).unwrap_or_default() {
                    if sent.drain {
                        batch.discard(sent.tag, &frame, self.now);
                    } else {
                        batch.receive(sent.tag, &frame, self.now);
                    }
                }
                if !self.ask(&request_of(&sent)) {
                    batch.socket_failed(sent.tag, io::ErrorKind::ConnectionRefused, self.now);
                }
            }
            if batch.is_done() {
                return;
            }
            let deadline = batch.deadline().expect("something is awaited");
            match self.step(deadline) {
                Some(Some((port, frame))) => {
                    if batch.awaits(port) || self.chance(50) {
                        batch.receive(port, &frame, self.now);
                    } else {
                        self.unread.entry(port).or_default().push_back(frame);
                    }
                }
                Some(None) => {}
                None => self.now = self.now.max(deadline),
            }
        }
        panic!("the batch does not end");
    }

    /// What happens between two batches.
    fn pause(&mut self) {
        let pause = self.micros(if matches!(self.row.away, Away::Never) { 20_000 } else { 4_000_000 });
        self.now += pause;
        if self.chance(self.row.suspend) {
            self.now += Duration::from_secs(3600);
        }
        if self.chance(self.row.jump) {
            self.ahead = self.ahead.wrapping_add((self.next() << 1) as u32);
        }
        if self.chance(self.row.restart) {
            self.restart_at = Some(self.now + self.micros(60));
        }
    }
}

/// Whether nobody answers for `addr` where `percent` of all stretches are silent.
fn is_mute(addr: u64, percent: u64) -> bool {
    u64::from(pattern(addr >> 12)) * 100 / 256 < percent
}

/// Whether the error says which bytes of the read it is about.
fn names_part_of(error: &LinkError, read: &Read<'_>) -> bool {
    let text = error.to_string();
    let Some((_, rest)) = text.split_once("0x") else { return false };
    let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default();
    let at = u64::from_str_radix(digits, 16).unwrap_or(0);
    (read.addr.raw()..read.addr.raw() + read.buf.len() as u64).contains(&at) && text.contains(" bytes")
}

fn reads_per_row() -> usize {
    std::env::var("NETTLP_FAULT_READS").map_or(1000, |count| count.parse().expect("a number of reads"))
}

/// Reads random places through `row`; returns how many reads failed, and the world afterwards.
fn survive(row: Row, seed: u64, count: usize) -> (usize, World, LinkStats) {
    let mut world = World::new(row, seed);
    let mut engine = engine(row.tags, 3);
    let mut failed = 0;
    for _ in 0..count.div_ceil(8) {
        let places: Vec<_> =
            (0..8).map(|_| (0x10_0000 + world.next() % 0x8000, 1 + world.next() as usize % 1200)).collect();
        let mut buffers: Vec<_> = places.iter().map(|&(_, len)| vec![0xee; len]).collect();
        let mut reads: Vec<_> = places
            .iter()
            .zip(&mut buffers)
            .map(|(&(addr, _), buf)| Read::new(PhysAddr::new(addr), buf))
            .collect();
        world.run(&mut engine, &mut reads);
        for read in &reads {
            match &read.result {
                Ok(()) => {
                    assert!(
                        is_right(read),
                        "{}: wrong bytes at {} ({})",
                        row.name,
                        read.addr,
                        read.buf.len()
                    );
                }
                Err(error) => {
                    assert!(names_part_of(error, read), "{}: {error} for {}", row.name, read.addr);
                    let gone = matches!(row.away, Away::Silent(..));
                    assert!(gone || !matches!(error, LinkError::Silent { .. }), "{}: {error}", row.name);
                    failed += 1;
                }
            }
        }
        world.pause();
    }
    let stats = engine.stats();
    (failed, world, stats)
}

#[test]
fn every_row() {
    let count = reads_per_row();
    for (row, seed) in ROWS.iter().zip(1..) {
        let (failed, world, stats) = survive(*row, seed, count);
        let line = format!("{:32} {failed:5} of {count} failed; {stats}", row.name);
        assert!(failed == 0 || !row.all_good, "{line}");
        assert!(failed < count / 2, "what works is used: {line}");
        assert!(stats.bytes > 0);
        // Each row met what it is about, and the counters say so.
        let seen = match row {
            Row { loss: 1.., .. } => stats.lost > 0 && stats.retries > 0,
            Row { dup: 1.., .. } => stats.stale > 0,
            Row { late: 1.., .. } => stats.timeouts > 0 && stats.stale > 0,
            Row { spoiled: 1.., .. } => world.harmed > 0 && stats.malformed + stats.poisoned > 0,
            Row { refused: 1.., .. } => stats.errors > 0 && failed > 0,
            Row { restart: 1.., .. } | Row { jump: 1.., .. } => stats.timeouts > 0,
            Row { away: Away::Closed(..), .. } => stats.refused > 0 && failed > 0,
            Row { away: Away::Silent(..), .. } | Row { mute: 1.., .. } => stats.timeouts > 0 && failed > 0,
            _ => true,
        };
        assert!(seen, "{line}");
        println!("{line}");
    }
}

#[test]
fn loss_is_counted_by_sequence() {
    for row in [CALM, Row { dup: 50, ..CALM }, Row { refused: 5, ..CALM }] {
        assert_eq!(survive(row, 9, 2000).2.lost, 0, "nothing is lost: {}", row.name);
    }
    let (_, world, stats) = survive(Row { loss: 3, ..CALM }, 9, 2000);
    // The last ones have nothing behind them that shows the gap; frames of an attempt that failed wait unread in their
    // socket and are missed as well.
    let range = world.lost - 20..2 * world.lost;
    assert!(world.lost > 100 && range.contains(&stats.lost), "{} lost: {stats}", world.lost);
}

/// Reads 8 bytes at the start of each of `stretches` of 4 KiB, all in one batch. Returns the outcomes and how long it took.
fn read_stretches(
    world: &mut World,
    engine: &mut Engine,
    stretches: impl Iterator<Item = u64>,
) -> (Vec<Result<(), LinkError>>, Duration) {
    let stretches: Vec<u64> = stretches.collect();
    let mut buffers = vec![[0xee; 8]; stretches.len()];
    let places = stretches.iter().map(|stretch| PhysAddr::new(stretch << 12));
    let mut reads: Vec<_> = places.zip(&mut buffers).map(|(addr, buf)| Read::new(addr, buf)).collect();
    let start = world.now;
    world.run(engine, &mut reads);
    assert!(reads.iter().all(|read| read.result.is_err() || is_right(read)));
    (reads.into_iter().map(|read| read.result).collect(), world.now - start)
}

/// It took 27 minutes, and four times as many with the usual 16 tags.
#[test]
fn an_adapter_that_is_gone_fails_thousands_of_reads_in_seconds() {
    for (tags, seconds) in [(1, 25), (16, 2), (256, 1)] {
        for known in [false, true] {
            let away = Away::Silent(if known { 1 } else { 0 }, 60_000);
            let mut world = World::new(Row { away, ..CALM }, 3);
            let mut engine = engine(tags, 3);
            if known {
                assert_eq!(read_stretches(&mut world, &mut engine, 1..2).0, [Ok(())]);
                world.now += Duration::from_millis(1);
            }
            for limit in [Duration::from_secs(seconds), TIMEOUT * 4 * (1 + 20 * u32::from(tags == 1))] {
                let (outcomes, took) = read_stretches(&mut world, &mut engine, 1..4097);
                assert!(took <= limit, "{took:?} with {tags} tags");
                assert!(outcomes.iter().zip(1_u64..).all(|(outcome, stretch)| {
                    outcome
                        .as_ref()
                        .is_err_and(|error| error.to_string().contains(&format!("{:#x}", stretch << 12)))
                }));
                let addr = PhysAddr::new(4096 << 12);
                assert_eq!(outcomes.last(), Some(&Err(LinkError::Silent { addr, len: 8 })));
            }
            world.now += Duration::from_secs(60);
            let (outcomes, _) = read_stretches(&mut world, &mut engine, 1..4097);
            assert!(outcomes.iter().all(Result::is_ok), "it is back");
        }
    }
}

/// Sixteen requests and more may be waited for in vain while the adapter is well: those of silent addresses.
#[test]
fn silent_addresses_do_not_silence_the_others() {
    let row = Row { mute: 30, ..CALM };
    let mute = |stretch: &u64| is_mute(*stretch << 12, row.mute);
    for known in [false, true] {
        let mut world = World::new(row, 3);
        let mut engine = engine(16, 3);
        let (silent, good): (Vec<u64>, Vec<u64>) = (1..400).partition(mute);
        assert!(silent.len() > 64 && good.len() > 64);
        if known {
            assert_eq!(read_stretches(&mut world, &mut engine, good[..1].iter().copied()).0, [Ok(())]);
            // Nothing but silent ones, then those last too.
            let (outcomes, _) = read_stretches(&mut world, &mut engine, silent.iter().copied());
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(LinkError::Timeout { .. }))));
            let (outcomes, _) = read_stretches(&mut world, &mut engine, good.iter().chain(&silent).copied());
            assert!(outcomes[..good.len()].iter().all(Result::is_ok));
        }
        let (outcomes, _) = read_stretches(&mut world, &mut engine, silent.iter().chain(&good).copied());
        let (silent, good) = outcomes.split_at(silent.len());
        assert!(silent.iter().all(|outcome| matches!(outcome, Err(LinkError::Timeout { .. }))));
        assert!(good.iter().all(Result::is_ok), "known {known}");
    }
}

/// After a minute without an adapter nothing has to be done to go on.
#[test]
fn an_adapter_that_comes_back_is_used_at_once() {
    for away in [Away::Silent(0, 60_000), Away::Closed(0, 60_000)] {
        let mut world = World::new(Row { away, ..CALM }, 3);
        let mut engine = engine(16, 3);
        let mut read = |world: &mut World| {
            let mut buf = [0; 512];
            let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
            world.run(&mut engine, &mut reads);
            reads[0].result.clone()
        };
        while world.is_within(0, 60_000) {
            assert!(read(&mut world).is_err() || !world.is_within(0, 60_000));
            world.now += Duration::from_millis(500);
        }
        assert_eq!(read(&mut world), Ok(()), "{away:?}");
    }
}
