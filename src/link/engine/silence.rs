//! Tells an adapter that does not answer at all from addresses that nobody answers for.
//!
//! Each timeout of a request costs its whole wait, several times over, and a batch has thousands of requests: where the
//! adapter is gone that would be hours. But a range of addresses may be silent while all others are answered. So when
//! many requests on end were waited for in vain, and no datagram of any kind came meanwhile, nothing more is sent but a
//! probe: a read of a place that was answered before, as often as any read is tried. Whatever comes ends the suspicion.
//! If the probe too fails, so does all that is left of the batch; the next batch begins with a probe.

use super::{Job, Read};
use crate::link::split::Piece;

/// Requests waited for in vain before the adapter is suspected. At a loss of one datagram in five that is one chance in
/// 10^10.
const SUSPECT: u32 = 16;

/// What in [`Job::read`] stands for no read at all.
const NO_READ: usize = usize::MAX;

/// How long nothing came, counted in requests.
#[derive(Debug, Default)]
pub(super) struct Silence {
    unanswered: u32,
    /// Where the latest answer with data was from.
    answered: Option<u64>,
}

impl Silence {
    /// A datagram came.
    pub(super) fn broken(&mut self) {
        self.unanswered = 0;
    }

    /// A piece came in full.
    pub(super) fn answered(&mut self, piece: Piece) {
        self.answered = Some(piece.start());
    }

    /// A request was waited for in vain. True if now the adapter is suspected and was not before.
    pub(super) fn lengthens(&mut self) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered == SUSPECT
    }

    /// Whether only probes may be sent.
    pub(super) fn is_suspicious(&self) -> bool {
        self.unanswered >= SUSPECT
    }

    /// What to ask before any of `reads`. Where nothing was answered yet it is the last of them: they are in the order of
    /// addresses as a rule, and those waited for in vain were the first.
    pub(super) fn probe(&self, reads: &[Read<'_>]) -> Option<Job> {
        let last = reads.iter().rfind(|read| !read.buf.is_empty())?;
        let addr = self.answered.unwrap_or(last.addr.raw());
        let piece = Piece { addr, len: 1, offset: 0 };
        Some(Job { read: NO_READ, piece, attempt: 1, hasty: true })
    }
}

impl Job {
    pub(super) fn is_probe(&self) -> bool {
        self.read == NO_READ
    }
}
