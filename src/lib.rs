//! A GDB server for a Linux machine you cannot log in to.

pub mod addr;
pub mod cli;
pub mod dump;
pub mod emulator;
pub mod gdb;
pub mod kernel;
pub mod link;
pub mod machine;
pub mod mem;
pub mod paging;
pub mod profile;
pub mod render;
pub mod session;
pub mod symbols;
pub mod synth;
pub mod types;
pub mod vmlinux;
