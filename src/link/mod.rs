//! The NetTLP link: PCIe memory reads as UDP datagrams.

use crate::addr::PhysAddr;

/// Why a read over the link failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
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
}
