//! The GDB remote serial protocol front end.
//!
//! ```text
//! listen -> server (accept, one client) -> event_loop -> packet (framing) -> extras -> stub (gdbstub) -> target -> Host
//! ```
//!
//! Input: what a client sends, trusted with nothing. Output: replies from a [`Host`], the one view this module has
//! of the machine. It does not know where memory comes from, and prints nothing to standard output but packets
//! in [`Listen::Stdio`] mode. Source: GDB manual, appendix "GDB Remote Serial Protocol".

mod attached;
mod commands;
pub mod connection;
pub mod errno;
pub mod event_loop;
pub mod extras;
pub mod host;
pub mod listen;
pub mod packet;
pub mod server;
pub mod stub;
pub mod target;
pub mod tid;
mod turn_away;

pub use self::{
    host::{Host, MonitorError, SymbolFile, Thread},
    listen::{Listen, ListenError, ServeError},
    server::{Server, Stopper, serve},
    target::{PercpuRebase, Register, Registers, UNKNOWN_PC},
};

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to wait for clients.
    pub listen: Listen,
    /// End when the first client leaves.
    pub once: bool,
    /// Keep zero-based per-CPU symbols right in a GDB that moved the kernel (`--percpu-rebase`).
    pub percpu_rebase: bool,
}
