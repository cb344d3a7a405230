//! Tells answers sent before a question from answers to it, by the adapter's own clock.
//!
//! A completion carries a tag but no address, so a duplicate, or one that was delayed on the way, looks like
//! the answer to whatever its tag was reused for. But an answer is stamped after the request reached the
//! adapter, hence after every frame we had seen when we sent it. So the newest timestamp at that moment is a
//! floor: what is not newer is an old frame. No synchronised clocks are needed. A responder that leaves the
//! timestamp 0 gets no such protection.

use std::time::{Duration, Instant};

use crate::link::nettlp::Stamp;

/// Past this silence the 32-bit clock (27.5 s around) cannot be compared any more.
const HORIZON: Duration = Duration::from_secs(10);

/// The newest frame seen.
#[derive(Debug, Default)]
pub(super) struct Clock {
    newest: Option<(u32, Instant)>,
    sequence: Sequence,
}

/// Which of the adapter's frames have come. One that is late was missing only until it came, and a duplicate came once.
#[derive(Debug, Default)]
struct Sequence {
    next: Option<u16>,
    /// The frames before `next`: bit n for the one n + 1 before.
    came: u128,
    missing: u64,
}

impl Sequence {
    fn observe(&mut self, sequence: u16) {
        let Some(next) = self.next else {
            // What came before the first frame is not missed.
            (self.next, self.came) = (Some(sequence.wrapping_add(1)), u128::MAX);
            return;
        };
        let ahead = sequence.wrapping_sub(next);
        if ahead < 0x8000 {
            self.missing += u64::from(ahead);
            self.came = self.came.checked_shl(u32::from(ahead) + 1).unwrap_or(0) | 1;
            self.next = Some(sequence.wrapping_add(1));
        } else {
            let bit = 1_u128.checked_shl(u32::from(next.wrapping_sub(sequence) - 1)).unwrap_or(0);
            if bit != 0 && self.came & bit == 0 {
                self.came |= bit;
                self.missing = self.missing.saturating_sub(1);
            }
        }
    }
}

impl Clock {
    /// What an answer to a request sent at `now` must be newer than.
    pub(super) fn floor(&self, now: Instant) -> Option<u32> {
        self.newest.filter(|&(_, seen)| now.duration_since(seen) < HORIZON).map(|(stamp, _)| stamp)
    }

    /// Notes a frame of the adapter, old or new, good or not.
    pub(super) fn observe(&mut self, stamp: Stamp, now: Instant) {
        if stamp.timestamp == 0 {
            return;
        }
        if self.floor(now).is_none_or(|floor| is_newer(stamp.timestamp, floor)) {
            self.newest = Some((stamp.timestamp, now));
        }
        self.sequence.observe(stamp.sequence);
    }

    /// Forgets everything: the adapter's clock was reset.
    pub(super) fn reset(&mut self) {
        self.newest = None;
        self.sequence.next = None;
    }

    /// When the newest frame came.
    pub(super) fn last_seen(&self) -> Option<Instant> {
        self.newest.map(|(_, seen)| seen)
    }

    /// Frames missing from the sequence so far.
    pub(super) fn lost(&self) -> u64 {
        self.sequence.missing
    }
}

/// Whether a frame with `stamp` can answer a request with this floor.
pub(super) fn is_fresh(stamp: Stamp, floor: Option<u32>) -> bool {
    stamp.timestamp == 0 || floor.is_none_or(|floor| is_newer(stamp.timestamp, floor))
}

/// Serial-number comparison: the clock wraps.
fn is_newer(timestamp: u32, than: u32) -> bool {
    timestamp.wrapping_sub(than).wrapping_sub(1) < 1 << 31
}
