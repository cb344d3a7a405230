//! The GDB server over real sockets: with a client that can misbehave, and with GDB itself.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test helper that fails is a failed test"
)]

mod boots;
pub(crate) mod client;
mod fake;
pub(crate) mod lifecycle;
mod protocol;
pub(crate) mod real_gdb;
mod session;
