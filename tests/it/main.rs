//! One integration binary: what crosses layers, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod audit;
mod bench;
mod bt;
mod cli;
mod corpus;
mod damaged;
mod dump;
mod forbidden;
mod gdb;
mod hostile;
mod identity;
mod kconfig;
mod link;
mod machine;
mod no_types;
mod poison;
mod processes;
mod profiles;
mod recording;
mod serve;
mod symbols;
mod thesis;
mod tidy;
mod types_only;
mod user_memory;
mod write;
