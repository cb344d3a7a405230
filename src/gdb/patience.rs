//! How long a client may keep everybody else waiting.
//!
//! One client is served at a time, so one that connects and says nothing, stops in the middle of a packet, sends noise
//! or takes no replies would lock the others out. Each of these ends its session in a time stated here. A debugger that
//! has attached and whose user thinks is never cut off: it owes nothing.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::packet::Event;

/// When a client is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a first packet. GDB sends it at once.
    pub first_packet: Duration,
    /// Within a packet, or sending what is none.
    pub packet: Duration,
    /// Without taking a whole reply, of at most 64 KiB.
    pub reply: Duration,
    /// Damaged packets in a row. GDB gives up after three.
    pub damaged: u32,
}

impl Default for Patience {
    fn default() -> Self {
        let (first_packet, packet, reply) =
            (Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60));
        Self { first_packet, packet, reply, damaged: 16 }
    }
}

/// Why a client was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// It said nothing, or nothing that is a packet.
    NoFirstPacket(Duration),
    /// It did not finish a packet.
    UnfinishedPacket(Duration),
    /// Nothing it sends is intact.
    Damaged(u32),
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFirstPacket(time) => write!(f, "no packet within {time:?}: this is no debugger"),
            Self::UnfinishedPacket(time) => write!(f, "a packet was not finished within {time:?}"),
            Self::Damaged(count) => write!(f, "{count} packets in a row were damaged"),
        }
    }
}

/// What one client owes. Sans-IO: it is told the time.
#[derive(Debug)]
pub(super) struct Debt {
    patience: Patience,
    greeted: bool,
    /// Since when it has something to finish.
    since: Option<Instant>,
    damaged: u32,
}

impl Debt {
    /// That of a client which has just connected: its first packet.
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        Self { patience, greeted: false, since: Some(now), damaged: 0 }
    }

    /// Takes note of something the client finished.
    pub(super) fn paid(&mut self, event: &Event) {
        self.greeted |= matches!(event, Event::Packet(_));
        self.damaged = if matches!(event, Event::Damaged) { self.damaged + 1 } else { 0 };
        if self.greeted {
            self.since = None;
        }
    }

    /// Takes note of bytes that finish nothing.
    pub(super) fn owes(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// How long the client may take from `now` on; for ever if it owes nothing.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        Some((self.since? + self.limit()).saturating_duration_since(now))
    }

    /// What the client is to be cut off for.
    pub(super) fn offence(&self, now: Instant) -> Option<Offence> {
        if self.damaged >= self.patience.damaged {
            return Some(Offence::Damaged(self.damaged));
        }
        let limit = self.limit();
        (self.left(now)?.is_zero()).then_some(match self.greeted {
            true => Offence::UnfinishedPacket(limit),
            false => Offence::NoFirstPacket(limit),
        })
    }

    fn limit(&self) -> Duration {
        if self.greeted { self.patience.packet } else { self.patience.first_packet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offence_has_its_limit() {
        let (start, patience) = (Instant::now(), Patience::default());
        let packet = Event::Packet(Vec::new());
        let mut debt = Debt::new(patience, start);
        debt.paid(&Event::Ack);
        debt.owes(start + Duration::from_secs(9));
        assert_eq!(debt.left(start + Duration::from_secs(9)), Some(Duration::from_secs(1)));
        assert_eq!(debt.offence(start + Duration::from_secs(9)), None);
        let late = start + patience.first_packet;
        assert_eq!(debt.offence(late), Some(Offence::NoFirstPacket(patience.first_packet)));

        debt.paid(&packet);
        assert_eq!(debt.left(late), None, "its user thinks");
        assert_eq!(debt.offence(late + Duration::from_secs(86400)), None);
        debt.owes(late);
        debt.owes(late + Duration::from_secs(29));
        let later = late + patience.packet;
        assert_eq!(debt.offence(later), Some(Offence::UnfinishedPacket(patience.packet)));
        debt.paid(&Event::Ack);
        assert_eq!(debt.offence(later), None);

        for _ in 1..patience.damaged {
            debt.paid(&Event::Damaged);
        }
        assert_eq!(debt.offence(later), None);
        debt.paid(&Event::Damaged);
        assert_eq!(debt.offence(later), Some(Offence::Damaged(16)));
        debt.paid(&packet);
        assert_eq!(debt.offence(later), None);
    }
}
