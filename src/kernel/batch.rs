//! Structures fetched whole, side by side: one batch of the target's memory, each range with its own outcome.

use super::Kernel;
use crate::{
    addr::VirtAddr,
    paging::{VirtError, VirtOp},
};

/// Ranges of one batch: bounds what is held beside the results.
const BATCH: usize = 4096;

/// Reads `len` bytes from each of `addrs`. The caller bounds `len`.
pub(super) fn fetch(kernel: &Kernel, addrs: &[VirtAddr], len: usize) -> Vec<Result<Vec<u8>, VirtError>> {
    let ranges: Vec<(VirtAddr, usize)> = addrs.iter().map(|addr| (*addr, len)).collect();
    fetch_ranges(kernel, &ranges)
}

/// As [`fetch`], each range with a length of its own.
pub(super) fn fetch_ranges(kernel: &Kernel, ranges: &[(VirtAddr, usize)]) -> Vec<Result<Vec<u8>, VirtError>> {
    let mut fetched = Vec::with_capacity(ranges.len());
    for ranges in ranges.chunks(BATCH) {
        let mut buffers: Vec<Vec<u8>> = ranges.iter().map(|(_, len)| vec![0; *len]).collect();
        let mut ops: Vec<VirtOp<'_>> =
            ranges.iter().zip(&mut buffers).map(|((addr, _), buf)| VirtOp::new(*addr, buf)).collect();
        kernel.memory.read_batch(&mut ops);
        let results: Vec<_> = ops.into_iter().map(|op| op.result).collect();
        fetched.extend(results.into_iter().zip(buffers).map(|(result, buffer)| result.map(|()| buffer)));
    }
    fetched
}
