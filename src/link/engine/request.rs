//! One request and the completions that may answer it.
//!
//! The completions of one request come in address order and each says how many bytes are still to come, so one
//! counter describes the state: any completion that does not continue it is a duplicate, or shows that one
//! before it is missing. Source: PCI Express Base Specification, sections 2.2.9 and 2.3.1.1.

use std::{io, time::Instant};

use super::clock::is_fresh;
use crate::link::{
    Requester,
    nettlp::Stamp,
    split::Piece,
    tlp::{Completion, DW, Defect, MemRequest, Status},
};

/// Why an attempt at a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing came in time.
    Timeout,
    /// Something wrong came, and nothing right in time.
    Malformed(Defect),
    /// The completer declares its data bad.
    Poisoned,
    /// The completer refuses; asking again is of no use.
    Refused(Status),
    /// The operating system reports the adapter's port closed.
    NoAdapter,
    /// The operating system cannot send or receive.
    Socket(io::ErrorKind),
}

impl From<io::ErrorKind> for Failure {
    fn from(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::ConnectionRefused => Self::NoAdapter,
            kind => Self::Socket(kind),
        }
    }
}

/// What a completion means for its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict<'d> {
    /// The next bytes.
    Data(&'d [u8]),
    /// An old frame.
    Stale,
    /// The attempt has failed.
    Failed(Failure),
}

/// A request that holds a tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// Index of the read it belongs to.
    pub(super) read: usize,
    /// The bytes it is for.
    pub(super) piece: Piece,
    /// Requests sent for this piece, this one included.
    pub(super) attempt: u32,
    /// Whether it was sent once more than `attempt` says: the first time was not waited for to the end.
    pub(super) hasty: bool,
    /// When it was sent.
    pub(super) sent: Instant,
    /// When it is taken for lost.
    pub(super) due: Instant,
    /// Bytes received so far, of whole double words.
    pub(super) received: usize,
    /// Only newer frames can answer it.
    pub(super) floor: Option<u32>,
    /// Whether an older one came.
    pub(super) saw_stale: bool,
    /// The first malformed datagram that came to its port.
    pub(super) saw_defect: Option<Defect>,
}

impl Request {
    /// The header to send.
    pub(super) fn header(&self, requester: Requester, tag: u8) -> MemRequest {
        MemRequest::for_bytes(self.piece.start(), self.total(), requester, tag)
    }

    /// Bytes asked for, whole double words.
    pub(super) fn total(&self) -> usize {
        usize::from(self.piece.dwords()) * DW
    }

    /// Judges a completion with this request's requester and tag, and counts its bytes if they are the next.
    pub(super) fn judge<'d>(&mut self, stamp: Stamp, completion: &Completion<'d>) -> Verdict<'d> {
        if !is_fresh(stamp, self.floor) {
            self.saw_stale = true;
            return Verdict::Stale;
        }
        if completion.digest {
            return Verdict::Failed(Failure::Malformed(Defect::Digest));
        }
        if !completion.has_data && !completion.data.is_empty() {
            let defect = Defect::DataLength { stated: 0, got: completion.data.len() };
            return Verdict::Failed(Failure::Malformed(defect));
        }
        match (completion.status, completion.has_data) {
            (Status::Success, true) => self.judge_data(stamp, completion),
            (status @ (Status::Unsupported | Status::ConfigRetry | Status::Abort), false) => {
                Verdict::Failed(Failure::Refused(status))
            }
            (status, _) => Verdict::Failed(Failure::Malformed(Defect::Status(status.code()))),
        }
    }

    fn judge_data<'d>(&mut self, stamp: Stamp, completion: &Completion<'d>) -> Verdict<'d> {
        let data = completion.data;
        let stated = usize::from(completion.dwords) * DW;
        let left = self.total() - self.received;
        let count = usize::from(completion.byte_count);
        let lower = (self.piece.start().wrapping_add(self.received as u64) & 0x7f) as u8;
        let duplicate = stamp.timestamp == 0 && self.received > 0 && count > left;
        let defect = if stated != data.len() {
            Defect::DataLength { stated, got: data.len() }
        } else if duplicate {
            return Verdict::Stale;
        } else if count != left || completion.byte_count_modified {
            Defect::ByteCount { wanted: left as u16, got: completion.byte_count }
        } else if completion.lower_address != lower {
            Defect::LowerAddress { wanted: lower, got: completion.lower_address }
        } else if stated > left {
            Defect::Overlong
        } else if completion.poisoned {
            return Verdict::Failed(Failure::Poisoned);
        } else {
            self.received += stated;
            if stamp.timestamp != 0 {
                self.floor = Some(stamp.timestamp);
            }
            return Verdict::Data(data);
        };
        Verdict::Failed(Failure::Malformed(defect))
    }

    /// Whether every byte has come.
    pub(super) fn is_complete(&self) -> bool {
        self.received == self.total()
    }

    /// Copies `data`, the latest bytes counted by [`Request::judge`], to where the caller wants them.
    pub(super) fn deliver(&self, data: &[u8], buf: &mut [u8]) {
        let skip = self.piece.skip();
        let start = self.received - data.len();
        let from = start.max(skip);
        let len = self.received.min(skip + self.piece.len).saturating_sub(from);
        let first = self.piece.offset + from - skip;
        let wanted = data.get(from - start..).and_then(|data| data.get(..len));
        if let (Some(wanted), Some(place)) = (wanted, buf.get_mut(first..first + len)) {
            place.copy_from_slice(wanted);
        }
    }
}
