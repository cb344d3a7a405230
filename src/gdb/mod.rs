//! The GDB remote serial protocol front end.
//!
//! ```text
//! listen -> server (accept, one client) -> event_loop -> packet (framing) -> intercept -> stub (gdbstub) -> target -> Host
//! ```
//!
//! Input: what a client sends, trusted with nothing. Output: replies from a [`Host`], the one view this module has
//! of the machine. It does not know where memory comes from, and prints nothing to standard output but packets
//! in [`Listen::Stdio`] mode. Source: GDB manual, appendix "GDB Remote Serial Protocol".

mod audit;
mod commands;
pub mod connection;
mod errno;
pub mod event_loop;
mod host;
mod intercept;
mod list;
mod listen;
pub mod packet;
mod patience;
mod server;
mod session_host;
mod stub;
mod target;
mod thread_filter;
pub mod tid;
mod turn_away;
mod write;

use std::time::Duration;

use crate::audit::Audit;

pub use self::{
    host::{Gone, Host, MonitorError, TaskId, Thread},
    listen::{Listen, ListenError, ServeError},
    patience::Patience,
    server::{Server, Stopper},
    target::{PercpuRebase, Register, Registers, UNKNOWN_PC},
    thread_filter::ThreadFilter,
};

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to wait for clients.
    pub listen: Listen,
    /// Let clients of other machines in (`--allow-remote`).
    pub allow_remote: bool,
    /// End when the first client leaves.
    pub once: bool,
    /// How each client sees the machine.
    pub view: View,
    /// Where each client, what it reads and what it tries to write is written down.
    pub audit: Option<Audit>,
    /// When a client is cut off.
    pub patience: Patience,
}

impl Options {
    /// Clients of this machine, one after another, with no audit.
    #[must_use]
    pub fn new(listen: Listen) -> Self {
        let patience = Patience::default();
        Self { listen, allow_remote: false, once: false, view: View::default(), audit: None, patience }
    }
}

/// How a client sees the machine.
#[derive(Debug, Clone)]
pub struct View {
    /// Keep zero-based per-CPU symbols right in a GDB that moved the kernel (`--percpu-rebase`).
    pub percpu_rebase: bool,
    /// Which tasks are threads (`--threads`).
    pub threads: ThreadFilter,
    /// From one reading of watched memory to the next (`--watch-interval-us`).
    pub watch_interval: Duration,
}

/// [`View::watch_interval`] unless told otherwise: a small read every millisecond is little for any link.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(1);

impl Default for View {
    fn default() -> Self {
        Self { percpu_rebase: true, threads: ThreadFilter::default(), watch_interval: WATCH_INTERVAL }
    }
}
