//! What was looked at before, so that who asks the same again is answered in one round trip.
//!
//! After a pause nothing that was read counts any more, and a command given again would go the same way again, from
//! pointer to pointer, with a round trip for each. What a picture of the target begins with tells which command it is:
//! where an earlier one began so, all that it touched is fetched with the first of it. A guess, like all that is fetched
//! ahead: the command still goes its way, finds at hand what is where it was, and reads what is not.

use std::collections::{HashSet, VecDeque};

use crate::addr::PhysAddr;

/// Pictures remembered: a debugger's user alternates between a few commands.
const PICTURES: usize = 16;

/// Sectors remembered of each. More are bulk data.
const SECTORS: usize = 1024;

#[derive(Debug, Default)]
struct Picture {
    /// The first sectors that were fetched.
    began: Vec<PhysAddr>,
    touched: HashSet<PhysAddr>,
}

/// What the latest pictures touched.
#[derive(Debug, Default)]
pub(super) struct History {
    past: VecDeque<Picture>,
    current: Picture,
}

impl History {
    /// Notes that something is asked for.
    pub(super) fn note(&mut self, sectors: &[PhysAddr]) {
        let room = SECTORS - self.current.touched.len();
        self.current.touched.extend(sectors.iter().take(room));
    }

    /// The first fetch of the picture begins with these sectors: what else it will probably need. Empty for any further
    /// fetch.
    pub(super) fn begin(&mut self, fetched: &[PhysAddr]) -> impl Iterator<Item = PhysAddr> {
        let first = self.current.began.is_empty();
        if first {
            self.current.began = fetched.to_vec();
        }
        let before = self.past.iter().find(|picture| first && picture.began == fetched);
        before.into_iter().flat_map(|picture| &picture.touched).copied()
    }

    /// Another picture begins. The last one stands for all that began as it did.
    pub(super) fn turn(&mut self) {
        let picture = std::mem::take(&mut self.current);
        if picture.began.is_empty() {
            return;
        }
        self.past.retain(|past| past.began != picture.began);
        self.past.truncate(PICTURES - 1);
        self.past.push_front(picture);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sectors: &[u64]) -> Vec<PhysAddr> {
        sectors.iter().map(|sector| PhysAddr::new(sector * 512)).collect()
    }

    fn picture(history: &mut History, began: &[u64], then: &[u64]) -> usize {
        history.turn();
        history.note(&at(began));
        let expected = history.begin(&at(began)).count();
        history.note(&at(then));
        assert_eq!(history.begin(&at(then)).count(), 0, "that was not the first");
        expected
    }

    #[test]
    fn the_same_beginning_leads_to_what_followed_last_time() {
        let history = &mut History::default();
        assert_eq!(picture(history, &[1, 2], &[3, 4, 5]), 0);
        assert_eq!(picture(history, &[1], &[6]), 0);
        assert_eq!(picture(history, &[1, 2], &[3]), 5);
        assert_eq!(picture(history, &[1, 2], &[]), 3, "the last time counts");
        assert_eq!(picture(history, &[1], &[]), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let history = &mut History::default();
        let many: Vec<u64> = (0..5000).collect();
        for began in 0..100 {
            picture(history, &[10_000 + began], &many);
        }
        assert_eq!(picture(history, &[10_099], &[]), SECTORS);
        assert_eq!(picture(history, &[10_010], &[]), 0, "long ago");
        assert!(history.past.len() <= PICTURES);
    }
}
