//! Structures fetched whole, side by side: one batch of the target's memory, each range with its own outcome.

use super::{Kernel, KernelError};
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

/// Nodes of a tree that are fetched and looked at together: bounds what is held at once.
const NODES: usize = 1024;

/// Visits a tree of nodes of `len` bytes, whose top is `root`, level by level with a batch for each. `place` says where a
/// node is; `visit` sees its bytes and adds its children. Returns what was the first to be wrong, if anything was; the
/// rest was visited. `visit` bounds the nodes and meets none twice.
pub(super) fn levels<N>(
    kernel: &Kernel,
    (root, len): (N, usize),
    step: &'static str,
    place: fn(&N) -> VirtAddr,
    mut visit: impl FnMut(&N, &[u8], &mut Vec<N>) -> Result<(), KernelError>,
) -> Option<KernelError> {
    let mut level = vec![root];
    let mut torn = None;
    while !level.is_empty() {
        let mut below = Vec::new();
        for nodes in level.chunks(NODES) {
            let addrs: Vec<VirtAddr> = nodes.iter().map(place).collect();
            for (node, bytes) in nodes.iter().zip(fetch(kernel, &addrs, len)) {
                let outcome = bytes
                    .map_err(|source| KernelError::Read { step, source })
                    .and_then(|bytes| visit(node, &bytes, &mut below));
                if let Err(error) = outcome {
                    torn.get_or_insert(error);
                }
            }
        }
        level = below;
    }
    torn
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
