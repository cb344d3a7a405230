//! One file per command.

pub(super) mod bench;
pub(super) mod bt;
pub(super) mod completions;
pub(super) mod demo;
pub(super) mod dmesg;
pub(super) mod dump;
pub(super) mod emulate;
pub(super) mod info;
pub(super) mod kconfig;
pub(super) mod man;
pub(super) mod modules;
pub(super) mod profile;
pub(super) mod ps;
pub(super) mod read;
pub(super) mod serve;
pub(super) mod symbols;
pub(super) mod translate;
pub(super) mod write;
