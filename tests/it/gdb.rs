//! The GDB server over real sockets: with a client that can misbehave, and with GDB itself.

mod client;
mod fake;
mod lifecycle;
mod protocol;
mod real_gdb;
