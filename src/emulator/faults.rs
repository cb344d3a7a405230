//! What happens to each datagram, decided by a seed.
//!
//! Decisions are drawn from a stream of their own per request, named by the seed, the tag and how many requests
//! that tag has had: they do not depend on how requests of different tags interleave.

use std::time::Duration;

use super::Faults;
use crate::link::nettlp::HEADER_LEN;

/// Numbers that a seed decides: `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014). For faults, here and in tests.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Those of `seed`; neighbouring seeds have nothing in common.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, of 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// True with this probability. Takes one number whatever the outcome.
    fn chance(&mut self, probability: f64) -> bool {
        ((self.draw() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    /// A number below `bound`, which is small; 0 below 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}

/// What becomes of a request before it reaches the root complex, and the stream for its completions.
#[derive(Debug)]
pub(super) struct RequestFate {
    pub(super) lost: bool,
    pub(super) late: bool,
    random: SplitMix64,
}

/// What becomes of one completion on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameFate {
    pub(super) lost: bool,
    pub(super) duplicate: Option<Duration>,
    pub(super) hold: Option<Duration>,
    pub(super) damage: Option<u64>,
}

impl RequestFate {
    /// The fate of the `nth` request of `tag`.
    pub(super) fn draw(faults: &Faults, tag: u8, nth: u64) -> Self {
        let mut stream = SplitMix64::new(faults.seed);
        let key = stream.draw() ^ u64::from(tag) << 56 ^ nth;
        let mut random = SplitMix64::new(key);
        Self { lost: random.chance(faults.loss), late: random.chance(faults.late), random }
    }

    /// The fate of its next completion.
    pub(super) fn next_frame(&mut self, faults: &Faults) -> FrameFate {
        let random = &mut self.random;
        let lost = random.chance(faults.loss);
        let duplicate = random.chance(faults.dup).then(|| Duration::from_micros(random.below(500)));
        let hold = random.chance(faults.reorder).then(|| Duration::from_micros(20 + random.below(480)));
        let damage = random.chance(faults.corrupt).then(|| random.draw());
        FrameFate { lost, duplicate, hold, damage }
    }
}

/// Damages a completion in one of the ways its header shows. `choice` is random.
pub(super) fn damage(frame: &mut Vec<u8>, choice: u64) {
    let bit = |of: u64| 1_u8 << (choice >> 8 & of);
    // Offset in the TLP and the bits to flip there.
    let (offset, flip) = match choice % 10 {
        0 => (0, bit(7)),                      // format and type
        1 => (2, 1 << 6),                      // poisoned
        2 => (2, 1 << 7),                      // digest
        3 => (3, bit(7)),                      // Length
        4 => (6, 0x20 << ((choice >> 8) % 3)), // status
        5 => (7, bit(7)),                      // byte count
        6 => (9, bit(7)),                      // requester
        7 => (10, bit(7)),                     // tag
        8 => (11, 1 << ((choice >> 8) % 7)),   // lower address
        _ => return frame.truncate(frame.len() - 1 - (choice >> 8) as usize % (frame.len() / 2)),
    };
    if let Some(byte) = frame.get_mut(HEADER_LEN + offset) {
        *byte ^= flip;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = SplitMix64::new(1_234_567);
        let first: Vec<_> = (0..3).map(|_| random.draw()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn fates_repeat_and_follow_the_seed() {
        let faults =
            |seed| Faults { loss: 0.3, dup: 0.3, reorder: 0.3, corrupt: 0.3, seed, ..Faults::default() };
        let fates = |seed| -> Vec<FrameFate> {
            let draw = |nth| RequestFate::draw(&faults(seed), 3, nth).next_frame(&faults(seed));
            (0..64).map(draw).collect()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
        let lost = (0..10_000).filter(|&nth| RequestFate::draw(&faults(7), 0, nth).lost).count();
        assert!((2700..3300).contains(&lost), "{lost}");
    }

    #[test]
    fn damage_always_changes_the_headers_or_the_length() {
        for choice in 0..100_000_u64 {
            let choice = SplitMix64::new(choice).draw();
            let mut frame = vec![0; HEADER_LEN + 12 + 4];
            damage(&mut frame, choice);
            let intact = frame.len() == 22 && frame[HEADER_LEN..HEADER_LEN + 12] == [0; 12];
            assert!(!intact && frame.len() > 10, "{choice:#x}");
        }
    }
}
