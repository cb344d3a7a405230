//! A simulated adapter and network that do everything wrong, in virtual time: reads end, and never with
//! wrong bytes.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// What goes wrong, in percent of datagrams or requests.
#[derive(Debug, Clone, Copy)]
struct Chaos {
    /// Whether frames carry sequence and timestamp. Without, duplicates cannot be told.
    stamped: bool,
    loss: u64,
    /// Delivered twice, the second time up to 2 s later.
    dup: u64,
    /// Held by the network for up to 50 ms.
    reorder: u64,
    /// Held by the network for up to 500 ms.
    network_late: u64,
    /// Answered by the root complex up to 500 ms late.
    late: u64,
    /// One or two bits of the TLP header flipped.
    flip: u64,
    /// One bit of the NetTLP header flipped.
    flip_stamp: u64,
    holes: bool,
}

const CALM: Chaos = Chaos {
    stamped: true,
    loss: 0,
    dup: 0,
    reorder: 0,
    network_late: 0,
    late: 0,
    flip: 0,
    flip_stamp: 0,
    holes: false,
};

struct World {
    chaos: Chaos,
    random: u64,
    start: Instant,
    now: Instant,
    /// By arrival time; the counter keeps them apart.
    wire: BTreeMap<(Instant, u64), (u8, Vec<u8>)>,
    /// What waits unread in the sockets of tags that expect nothing.
    unread: BTreeMap<u8, VecDeque<Vec<u8>>>,
    frames: u64,
}

impl World {
    fn next(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn micros(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.next() % below)
    }

    fn answer(&mut self, request: &MemRequest) {
        if self.chance(self.chaos.loss) {
            return;
        }
        let mut emitted = self.now + Duration::from_micros(5) + self.micros(40);
        if self.chance(self.chaos.late) {
            emitted += self.micros(500_000);
        }
        if self.chaos.holes && request.addr >> 12 & 3 == 3 {
            let refusal = Completion::without_data(request, Status::Unsupported, request.byte_count(), 0);
            self.emit(emitted, request.tag, datagram(Stamp::default(), &refusal));
            return;
        }
        let payload = 64 << (self.next() % 4);
        for frame in answer(request, payload, 0) {
            emitted += Duration::from_nanos(500);
            self.emit(emitted, request.tag, frame);
        }
    }

    fn emit(&mut self, emitted: Instant, port: u8, mut frame: Vec<u8>) {
        self.frames += 1;
        if self.chaos.stamped {
            // The counter tells frames of one instant apart.
            let ticks = (emitted - self.start).as_nanos() as u64 * 5 / 32 + 1 + self.frames % 8;
            let stamp = Stamp { sequence: self.frames as u16, timestamp: ticks as u32 };
            frame[..HEADER_LEN].copy_from_slice(&stamp.to_bytes());
        }
        if self.chance(self.chaos.loss) {
            return;
        }
        if self.chance(self.chaos.flip) {
            for _ in 0..=self.next() % 2 {
                let bit = self.next() as usize % 96;
                frame[HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
            }
        }
        if self.chance(self.chaos.flip_stamp) {
            let bit = self.next() as usize % 48;
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let mut arrives = emitted + Duration::from_micros(1);
        if self.chance(self.chaos.reorder) {
            arrives += self.micros(50_000);
        }
        if self.chance(self.chaos.network_late) {
            arrives += self.micros(500_000);
        }
        if self.chance(self.chaos.dup) {
            let again = arrives + if self.chance(50) { Duration::ZERO } else { self.micros(2_000_000) };
            self.wire.insert((again, self.frames << 1), (port, frame.clone()));
        }
        self.wire.insert((arrives, self.frames << 1 | 1), (port, frame));
    }

    /// Serves one batch the way the sockets do.
    fn run(&mut self, engine: &mut Engine, reads: &mut [Read<'_>]) {
        // What came since the last batch waits in the sockets.
        let later = self.wire.split_off(&(self.now, u64::MAX));
        for (_, (port, frame)) in std::mem::replace(&mut self.wire, later) {
            self.unread.entry(port).or_default().push_back(frame);
        }
        let mut batch = engine.batch(reads);
        for _ in 0..1_000_000 {
            batch.expire(self.now);
            while let Some(sent) = batch.transmit(self.now) {
                let unread = self.unread.entry(sent.tag).or_default();
                for frame in std::mem::take(unread) {
                    if sent.drain {
                        batch.discard(sent.tag, &frame, self.now);
                    } else {
                        batch.receive(sent.tag, &frame, self.now);
                    }
                }
                self.answer(&request_of(&sent));
            }
            if batch.is_done() {
                return;
            }
            let arrival = self.wire.keys().next().copied();
            let deadline = batch.deadline().expect("something is awaited");
            match arrival.filter(|&(at, _)| at < deadline) {
                Some(key) => {
                    self.now = self.now.max(key.0);
                    let (port, frame) = self.wire.remove(&key).unwrap();
                    if batch.awaits(port) || self.chance(50) {
                        batch.receive(port, &frame, self.now);
                    } else {
                        self.unread.entry(port).or_default().push_back(frame);
                    }
                }
                None => self.now = self.now.max(deadline),
            }
        }
        panic!("the batch does not end");
    }
}

/// Runs 12 batches; returns how many reads succeeded and how many failed. Wrong bytes fail the test.
fn survive(seed: u64, tags: u16, chaos: Chaos) -> (usize, usize) {
    let start = Instant::now();
    let (wire, unread) = (BTreeMap::new(), BTreeMap::new());
    let mut world = World { chaos, random: seed, start, now: start, wire, unread, frames: 0 };
    let mut engine = engine(tags, 3);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..12 {
        let place = |world: &mut World| (0x10_0000 + world.next() % 0x8000, 1 + world.next() as usize % 1200);
        let places: Vec<_> = (0..8).map(|_| place(&mut world)).collect();
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
                    assert!(is_right(read), "wrong bytes: {} at {}, seed {seed}", read.buf.len(), read.addr);
                    good += 1;
                }
                Err(LinkError::NotAttempted { .. }) => panic!("a read was forgotten, seed {seed}"),
                Err(_) => bad += 1,
            }
        }
        let pause = world.micros(100_000);
        world.now += pause;
    }
    (good, bad)
}

#[test]
fn a_calm_world_answers_everything() {
    for tags in [1, 4, 16, 256] {
        assert_eq!(survive(1, tags, CALM), (96, 0));
        assert_eq!(survive(1, tags, Chaos { stamped: false, ..CALM }), (96, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn with_stamps(seed: u64, tags in prop_oneof![1_u16..20, 1_u16..=256]) {
        let chaos = Chaos {
            loss: 3, dup: 20, reorder: 5, network_late: 5, late: 5, flip: 5, holes: true, ..CALM
        };
        let (good, _) = survive(seed, tags, chaos);
        prop_assert!(good > 0);
    }

    #[test]
    fn without_stamps(seed: u64, tags in prop_oneof![1_u16..20, 1_u16..=256]) {
        let chaos = Chaos { stamped: false, loss: 3, reorder: 5, late: 5, flip: 5, holes: true, ..CALM };
        let (good, _) = survive(seed, tags, chaos);
        prop_assert!(good > 0);
    }

    #[test]
    fn with_damaged_stamps(seed: u64, tags in prop_oneof![1_u16..20, 1_u16..=256]) {
        let (good, _) = survive(seed, tags, Chaos { flip_stamp: 5, flip: 5, loss: 2, ..CALM });
        prop_assert!(good > 0);
    }
}
