//! How long answers took: a histogram of fixed size, however many there were.

use std::{fmt, time::Duration};

/// Nanoseconds of the finest step.
const STEP: u128 = 250;
/// Steps that have a bucket each, and buckets for each doubling after them.
const LINEAR: u64 = 16;
const PER_DOUBLING: u64 = 8;
/// Up to 250 ns * 2^32, almost 18 minutes: no timeout is longer.
const BUCKETS: usize = (LINEAR + (32 - 4) * PER_DOUBLING) as usize;

/// Times from a request to the last byte of its answer. A time is told to within one eighth.
#[derive(Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: [u64; BUCKETS],
    total: u64,
    longest: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0, longest: Duration::ZERO }
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latencies({self})")
    }
}

impl Latencies {
    /// Counts an answer.
    pub(super) fn record(&mut self, took: Duration) {
        let steps = u64::try_from(took.as_nanos() / STEP).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(steps)) {
            *count += 1;
        }
        self.total += 1;
        self.longest = self.longest.max(took);
    }

    /// How many answers were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The time that `share` (0 to 1) of the answers did not exceed; `None` before the first one.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let wanted = ((self.total as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let end = bucket.map_or(u64::MAX, |bucket| first_step(bucket as u64 + 1));
        Some(Duration::from_nanos(end.saturating_mul(STEP as u64)).min(self.longest))
    }

    /// The longest of all.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share| self.percentile(share).map_or(0.0, |time| time.as_secs_f64() * 1e6);
        write!(
            f,
            "{:.0} us median, {:.0} us 90 %, {:.0} us 99 %, {:.0} us longest of {}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0),
            self.total
        )
    }
}

fn bucket(steps: u64) -> usize {
    let index = if steps < LINEAR {
        steps
    } else {
        let doubling = u64::from(steps.ilog2());
        LINEAR + (doubling - 4) * PER_DOUBLING + (steps >> (doubling - 3)) % PER_DOUBLING
    };
    (index as usize).min(BUCKETS - 1)
}

/// The first number of steps that [`bucket`] puts there.
fn first_step(bucket: u64) -> u64 {
    if bucket < LINEAR {
        return bucket;
    }
    let (doubling, eighth) = ((bucket - LINEAR) / PER_DOUBLING + 4, (bucket - LINEAR) % PER_DOUBLING);
    (PER_DOUBLING + eighth) << (doubling - 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles() {
        let mut times = Latencies::default();
        assert_eq!(times.percentile(0.5), None);
        for micros in 1..=1000 {
            times.record(Duration::from_micros(micros));
        }
        let micros = |share| times.percentile(share).unwrap().as_micros();
        assert!((500..=563).contains(&micros(0.5)), "{times}");
        assert!((990..=1000).contains(&micros(0.99)), "{times}");
        assert_eq!((micros(1.0), times.longest().as_micros(), times.total()), (1000, 1000, 1000));
        times.record(Duration::MAX);
        assert_eq!(times.longest(), Duration::MAX);
        assert!(Latencies::default().to_string().starts_with("0 us median"));
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_an_eighth_wide(steps in 0_u64..1 << 32) {
            let bucket = bucket(steps) as u64;
            let (first, end) = (first_step(bucket), first_step(bucket + 1));
            prop_assert!(first <= steps && steps < end);
            prop_assert!(end - first <= 1.max(first / 8));
        }
    }
}
