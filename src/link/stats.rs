//! What the link counts.

use std::fmt;

/// What the link did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LinkStats {
    /// Read requests sent, those sent again included.
    pub requests: u64,
    /// Completions accepted.
    pub completions: u64,
    /// Bytes delivered to readers.
    pub bytes: u64,
    /// Write requests sent.
    pub writes: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Datagrams that were no completion of ours, or did not continue their request.
    pub malformed: u64,
    /// Completions with poisoned data.
    pub poisoned: u64,
    /// Completions with an error status.
    pub errors: u64,
    /// Late or duplicate completions, discarded.
    pub stale: u64,
    /// Requests the adapter's host or the network refused.
    pub refused: u64,
    /// Frames missing from the adapter's sequence: lost, sent to a port nobody here listens on, or an answer that came
    /// after its request was given up and was not looked at yet.
    pub lost: u64,
}

impl fmt::Display for LinkStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, completions, bytes, retries, timeouts, malformed, stale, lost, .. } = self;
        write!(
            f,
            "{requests} requests, {completions} completions, {bytes} bytes, {retries} retries, \
             {timeouts} timeouts, {malformed} malformed, {stale} stale, {lost} lost"
        )
    }
}
