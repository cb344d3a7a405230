//! The NetTLP link: reads of physical memory as PCI Express requests in UDP datagrams.
//!
//! In: addresses and buffers. Out: bytes, or an error per read that names address and length. [`tlp`] and
//! [`nettlp`] are the wire format, [`split`] cuts a transfer into requests, [`engine`] keeps them in flight and
//! judges what comes back, [`udp`] owns the sockets, [`message`] asks the target's driver. Nothing here knows
//! what a page, an image or a kernel is.

mod client;
mod engine;
mod error;
mod inbox;
mod latency;
pub mod message;
pub mod nettlp;
mod read;
pub mod replay;
mod requester;
pub mod split;
mod stats;
pub mod tlp;
mod udp;

pub use self::{
    client::{Client, Config, MAX_PAYLOAD},
    error::LinkError,
    latency::Latencies,
    read::Read,
    requester::{ParseRequesterError, Requester},
    stats::LinkStats,
};
