//! Structures fetched whole, side by side: one batch of the target's memory, each range with its own outcome.

use super::{Kernel, KernelError};
use crate::addr::VirtAddr;

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
            for (node, bytes) in nodes.iter().zip(kernel.memory.read_vecs(&addrs, len)) {
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
