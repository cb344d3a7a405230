//! How values look to a person and in JSON.

use crate::addr::{PhysAddr, VirtAddr};

/// Serializes an address as `"0x..."`.
///
/// # Errors
/// The serializer's own.
pub fn hex<S: serde::Serializer>(addr: &VirtAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(addr)
}

/// As [`hex`], for physical addresses.
///
/// # Errors
/// The serializer's own.
pub fn hex_phys<S: serde::Serializer>(addr: &PhysAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(addr)
}
