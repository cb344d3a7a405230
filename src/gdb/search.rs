//! `qSearch:memory`: where memory first has a pattern (`find`), without sending the memory.
//!
//! Asked is `qSearch:memory:ADDR;LEN;PATTERN`, the numbers hexadecimal and the pattern binary; the reply is `1,ADDR` or `0`
//! (GDB manual, "General Query Packets"). What cannot be read is skipped, a table that is not there with all it would
//! reach; a link that fails is an error. Memory is read as `m` reads it.
//!
//! GDB takes an error for "not found", so a search may not end early: it goes on in steps of [`STEP`], and between two of
//! them the client is sent [`GOES_ON`]. GDB passes over notifications it does not know, and begins its wait for the reply
//! anew.

use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use super::{errno, packet::unescape, target::GdbTarget, tid::Tid};
use crate::addr::{PAGE_SIZE, VirtAddr};

/// What such a packet begins with.
pub(super) const PREFIX: &[u8] = b"qSearch:memory:";

/// For how long the client hears nothing: GDB waits two seconds, three times (`set remotetimeout`).
pub(super) const STEP: Duration = Duration::from_millis(500);

/// A framed notification: the search goes on.
pub(super) const GOES_ON: &[u8] = b"%nettlp:searching#85";

/// Most bytes read at once.
const MAX_PIECE: u64 = 1 << 20;

/// A search that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    /// Where it goes on.
    at: u64,
    /// Where it ends.
    end: u64,
    pattern: Vec<u8>,
    /// The bytes before `at` that may begin a match.
    before: Vec<u8>,
    /// Bytes to read next: few after a hole, where there may be another.
    piece: u64,
}

impl Search {
    /// What follows [`PREFIX`]; `None` when it makes no sense.
    pub(super) fn parse(place: &[u8]) -> Option<Self> {
        let mut parts = place.splitn(3, |byte| *byte == b';');
        let mut number = || u64::from_str_radix(std::str::from_utf8(parts.next()?).ok()?, 16).ok();
        let (at, len) = (number()?, number()?);
        let pattern = unescape(parts.next()?).filter(|pattern| !pattern.is_empty())?;
        Some(Self { at, end: at.saturating_add(len), pattern, before: Vec::new(), piece: MAX_PIECE })
    }

    /// Where it begins, and how many bytes it has.
    pub(super) fn extent(&self) -> (u64, u64) {
        (self.at, self.end - self.at)
    }

    /// Searches for `step`, through the eyes of the thread `selected`; the reply when there is one.
    pub(super) fn go_on(
        &mut self,
        target: &mut GdbTarget,
        selected: Option<Tid>,
        step: Duration,
    ) -> Option<Vec<u8>> {
        let begun = Instant::now();
        while self.at < self.end {
            if let Some(reply) = self.piece(target, selected) {
                return Some(reply);
            }
            if begun.elapsed() >= step {
                return None;
            }
        }
        Some(b"0".to_vec())
    }

    /// Searches what is read next, or skips it.
    fn piece(&mut self, target: &mut GdbTarget, selected: Option<Tid>) -> Option<Vec<u8>> {
        let wanted = self.piece.min(self.end - self.at) as usize;
        let mut bytes = std::mem::take(&mut self.before);
        let known = bytes.len();
        bytes.resize(known + wanted, 0);
        match target.read(selected, VirtAddr::new(self.at), bytes.get_mut(known..).unwrap_or_default()) {
            Ok(read) => {
                bytes.truncate(known + read);
                if let Some(position) = Finder::new(&self.pattern).find(&bytes) {
                    return Some(format!("1,{:x}", self.at - known as u64 + position as u64).into_bytes());
                }
                let kept = bytes.len().min(self.pattern.len() - 1);
                self.before = bytes.split_off(bytes.len() - kept);
                self.at += read as u64;
                self.piece = (self.piece * 2).min(MAX_PIECE);
            }
            Err(unread) if unread.number() == errno::EIO => return Some(target.no_memory(&unread)),
            Err(unread) => {
                let reach = unread.reach();
                self.at = VirtAddr::new(self.at).align_down(reach).raw().saturating_add(reach);
                self.piece = PAGE_SIZE;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gdb::packet::{Decoder, Event, escape, frame};

    #[test]
    fn what_is_asked() {
        let search = Search::parse(b"ffff888000001000;2000;a;}\x03").unwrap();
        assert_eq!((search.extent(), &*search.pattern), ((0xffff_8880_0000_1000, 0x2000), &b"a;#"[..]));
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(Search::parse(&[b"0;1;".as_slice(), &escape(&all)].concat()).unwrap().pattern, all);
        for wrong in ["", "1;2", "1;2;", "x;2;a", "1,2,a", "1;2;}"] {
            assert_eq!(Search::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Search::parse(b"ffffffffffffff00;ffffffffffffffff;a").unwrap().end, u64::MAX);
    }

    #[test]
    fn the_notification_is_framed_as_a_packet_is() {
        let body = &GOES_ON[1..GOES_ON.len() - 3];
        assert_eq!(frame(body)[1..], GOES_ON[1..]);
        let mut decoder = Decoder::default();
        let events: Vec<Event> = frame(body).iter().filter_map(|byte| decoder.push(*byte)).collect();
        assert_eq!(events, [Event::Packet(body.to_vec())]);
    }
}
