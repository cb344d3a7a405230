//! What can go wrong on the link, each with the address and length it concerns.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use super::tlp::Defect;
use crate::addr::PhysAddr;

/// Why the link could not be set up, or why a transfer over it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The batch ended before this read was tried.
    #[error("the read of {len} bytes at {addr} was not attempted")]
    NotAttempted {
        /// Address of the read.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// The transfer would pass the end of the 64-bit address space.
    #[error("{len} bytes at {addr} pass the end of the address space")]
    PastEnd {
        /// Address of the transfer.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// No completion came, after every retry.
    #[error("no completion from the adapter for {len} bytes at {addr} after {attempts} attempts")]
    Timeout {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
        /// Requests sent.
        attempts: u32,
    },
    /// Nothing at all has come from the adapter for so long that the whole batch was given up.
    #[error("the adapter does not answer at all: gave up the read of {len} bytes at {addr}; is it still up?")]
    Silent {
        /// Address of the read.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// The target answered that nothing is at this address.
    #[error("the target has nothing at {addr} ({len} bytes): Unsupported Request")]
    UnsupportedRequest {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// The target gave the request up.
    #[error("the target aborted the read of {len} bytes at {addr}: Completer Abort")]
    CompleterAbort {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// A status only configuration requests may get.
    #[error("the target asked to retry {len} bytes at {addr} later: Configuration Request Retry")]
    ConfigRetry {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// The target marked its own data as bad, at every attempt.
    #[error("the target marks its {len} bytes at {addr} as poisoned")]
    Poisoned {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// Something came back that is no answer to this request, and no answer did.
    #[error("the answer to {len} bytes at {addr} is malformed: {defect}")]
    Malformed {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
        /// What is wrong with it.
        defect: Defect,
    },
    /// The adapter's host says that nothing listens on the NetTLP port.
    #[error(
        "no adapter: the request for {len} bytes at {addr} was refused; is the address right, and is the adapter (or `nettlp-gdb emulate`) up?"
    )]
    NoAdapter {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// The operating system could not send or receive.
    #[error("cannot reach the adapter for {len} bytes at {addr}: {kind}")]
    Socket {
        /// Address of the request.
        addr: PhysAddr,
        /// Its length in bytes.
        len: usize,
        /// What the operating system says.
        kind: io::ErrorKind,
    },
    /// An option that makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// There is no route to the adapter.
    #[error("there is no route to the adapter {adapter}: {kind}")]
    NoRoute {
        /// The adapter's address.
        adapter: IpAddr,
        /// What the operating system says.
        kind: io::ErrorKind,
    },
    /// A port of our own is not to be had.
    #[error("cannot bind {local}: {kind} (is another reader running? is the address one of this machine's?)")]
    Bind {
        /// The address and port.
        local: SocketAddr,
        /// What the operating system says.
        kind: io::ErrorKind,
    },
    /// Neither a requester ID nor a host to ask for it.
    #[error("the adapter's requester ID is unknown: give it (BB:DD.F), or the target's driver host to ask")]
    RequesterUnknown,
    /// The NetTLP driver on the target did not tell the requester ID.
    #[error("the NetTLP driver at {host} does not tell the requester ID: {kind}")]
    NoDriver {
        /// Where it was asked.
        host: SocketAddr,
        /// What the operating system says, or what is wrong with the answer.
        kind: io::ErrorKind,
    },
    /// The operating system has no descriptors or memory left for the link.
    #[error("cannot set up the link: {0}")]
    System(io::ErrorKind),
}

impl LinkError {
    /// Whether nobody answered at all, which says nothing of what is at the address.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        use LinkError::{NoAdapter, NoRoute, Silent, Socket, Timeout};
        matches!(self, Timeout { .. } | Silent { .. } | NoAdapter { .. } | NoRoute { .. } | Socket { .. })
    }
}
