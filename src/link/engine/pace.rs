//! How many requests are under way, and how soon one that is not answered is taken for lost.
//!
//! The window grows by one with every answer until the first loss, then by one with every window of answers; a loss
//! halves it, once for all that were under way then (additive increase, multiplicative decrease: RFC 5681, section
//! 3.1). A network that drops bursts, or an adapter that garbles them, is so asked for what it can take.
//!
//! A timeout has to be as long as the slowest completer may take. Where answers have been coming in microseconds, and
//! several requests sent later have been answered, one is asked again much sooner, once: after the mean round trip and
//! four times its deviation (RFC 6298, section 2), but not before twice what any answer of the last second took. An
//! answer that comes after all counts there too, so who asked too soon waits longer from then on: on a machine that has
//! more to do than it can, an adapter's process stands still for tens of milliseconds and loses nothing. That one time is
//! not counted as an attempt, so a slow answer is waited for as long as ever.

use std::time::{Duration, Instant};

/// Requests under way before anything is known.
const FIRST_WINDOW: u32 = 16;
/// No request is asked again sooner: an adapter's host may be busy for as long.
pub(super) const LEAST_WAIT: Duration = Duration::from_millis(10);
/// Later requests that must have been answered: a few may change places on the way.
const OVERTAKERS: usize = 3;
/// How long one slow answer is remembered.
const MEMORY: Duration = Duration::from_secs(1);

/// What the answers so far say about the way to the adapter.
#[derive(Debug)]
pub(super) struct Pace {
    window: u32,
    most: u32,
    /// The window up to which each answer adds one.
    threshold: u32,
    /// Answers since the window last grew.
    credit: u32,
    /// When the window last shrank: what was sent before says nothing new.
    shrank: Option<Instant>,
    round_trip: Option<RoundTrip>,
    /// The slowest answer of late, and when it came.
    slowest: Option<(Duration, Instant)>,
    /// When the latest requests were sent that have been answered, the latest first.
    answered: [Option<Instant>; OVERTAKERS],
}

/// A smoothed round trip and its smoothed deviation.
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    mean: Duration,
    deviation: Duration,
}

impl Pace {
    /// For at most `most` requests under way.
    pub(super) fn new(most: u16) -> Self {
        let most = u32::from(most).max(1);
        Self {
            window: most.min(FIRST_WINDOW),
            most,
            threshold: most,
            credit: 0,
            shrank: None,
            round_trip: None,
            slowest: None,
            answered: [None; OVERTAKERS],
        }
    }

    /// Requests that may be under way.
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    /// How long to wait for the answer to a request before it is sent once more; `None` while nothing is known.
    pub(super) fn hasty_wait(&self) -> Option<Duration> {
        let slowest = self.slowest.map_or(Duration::ZERO, |(took, _)| took);
        let usual = self.round_trip.map(|RoundTrip { mean, deviation }| mean + deviation * 4)?;
        Some(usual.max(slowest * 2).max(LEAST_WAIT))
    }

    /// Whether enough requests sent after `sent` have been answered. If none but it is under way, any one is enough: there
    /// will be no more.
    pub(super) fn overtook(&self, sent: Instant, alone: bool) -> bool {
        let decides = if alone { self.answered.first() } else { self.answered.last() };
        decides.copied().flatten().is_some_and(|answered| answered > sent)
    }

    /// An answer took so long, in time or not.
    pub(super) fn took(&mut self, took: Duration, now: Instant) {
        if self.slowest.is_none_or(|(most, at)| took >= most || now.saturating_duration_since(at) > MEMORY) {
            self.slowest = Some((took, now));
        }
    }

    /// A request sent at `sent` was answered after `took`.
    pub(super) fn answered(&mut self, sent: Instant, took: Duration) {
        self.took(took, sent + took);
        if let Some(at) =
            self.answered.iter().position(|answered| answered.is_none_or(|answered| answered < sent))
            && let Some(earlier) = self.answered.get_mut(at..)
        {
            earlier.rotate_right(1);
            if let Some(place) = earlier.first_mut() {
                *place = Some(sent);
            }
        }
        self.round_trip = Some(match self.round_trip {
            None => RoundTrip { mean: took, deviation: took / 2 },
            Some(RoundTrip { mean, deviation }) => RoundTrip {
                mean: (mean * 7 + took) / 8,
                deviation: (deviation * 3 + mean.abs_diff(took)) / 4,
            },
        });
        self.credit += 1;
        if self.window < self.most && (self.window < self.threshold || self.credit >= self.window) {
            self.window += 1;
            self.credit = 0;
        }
    }

    /// A request sent at `sent` was lost, or its answer spoiled on the way.
    pub(super) fn lost(&mut self, sent: Instant, now: Instant) {
        if self.shrank.is_none_or(|shrank| sent > shrank) {
            self.window = (self.window / 2).max(1);
            self.threshold = self.window;
            self.credit = 0;
            self.shrank = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_micros(20);

    #[test]
    fn the_window_doubles_then_creeps_and_halves_once_for_a_burst_of_losses() {
        let start = Instant::now();
        let mut pace = Pace::new(256);
        assert_eq!(pace.window(), 16);
        (0..48).for_each(|_| pace.answered(start, ROUND_TRIP));
        assert_eq!(pace.window(), 64);
        for lost in 0..5 {
            pace.lost(start, start + ROUND_TRIP * (1 + lost));
        }
        assert_eq!(pace.window(), 32, "they were all under way together");
        (0..31).for_each(|_| pace.answered(start, ROUND_TRIP));
        assert_eq!(pace.window(), 32);
        pace.answered(start, ROUND_TRIP);
        assert_eq!(pace.window(), 33);
        for round in 1..20 {
            let sent = start + ROUND_TRIP * 10 * round;
            pace.lost(sent, sent + ROUND_TRIP);
        }
        assert_eq!(pace.window(), 1, "something is always asked");
        (0..100_000).for_each(|_| pace.answered(start, ROUND_TRIP));
        assert_eq!(pace.window(), 256, "and never more than there are tags");
        assert_eq!(Pace::new(4).window(), 4);
    }

    #[test]
    fn the_wait_follows_the_answers() {
        let start = Instant::now();
        let mut pace = Pace::new(16);
        assert_eq!(pace.hasty_wait(), None);
        (0..100).for_each(|_| pace.answered(start, ROUND_TRIP));
        assert_eq!(pace.hasty_wait(), Some(LEAST_WAIT));
        (0..100).for_each(|_| pace.answered(start, Duration::from_millis(30)));
        assert!(pace.hasty_wait() >= Some(Duration::from_millis(30)));
        pace.answered(start, Duration::from_millis(70));
        assert!(pace.hasty_wait() >= Some(Duration::from_millis(140)), "one that strays widens it");
        let later = start + Duration::from_millis(900);
        (0..100).for_each(|_| pace.answered(later, ROUND_TRIP));
        assert!(pace.hasty_wait() >= Some(Duration::from_millis(140)), "for a while");
        (0..100).for_each(|_| pace.answered(later + MEMORY, ROUND_TRIP));
        assert_eq!(pace.hasty_wait(), Some(LEAST_WAIT));
    }

    #[test]
    fn several_later_answers_overtake_and_one_who_is_alone() {
        let start = Instant::now();
        let at = |n| start + ROUND_TRIP * n;
        let mut pace = Pace::new(16);
        for sent in [5, 1, 3] {
            assert!(!pace.overtook(at(0), false));
            pace.answered(at(sent), ROUND_TRIP);
            assert!(pace.overtook(at(0), true));
        }
        assert!(pace.overtook(at(0), false), "three");
        assert!(!pace.overtook(at(1), false), "two and itself");
        assert!(pace.overtook(at(4), true) && !pace.overtook(at(5), true));
        pace.answered(at(4), ROUND_TRIP);
        assert!(
            pace.overtook(at(2), false) && !pace.overtook(at(3), false),
            "whatever the order they come in"
        );
    }
}
