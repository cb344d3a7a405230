//! Trees of nodes that are fetched whole, all of a level in one batch.

use super::{Kernel, KernelError, list::Visited};
use crate::addr::VirtAddr;

/// Nodes that are fetched and looked at together: bounds what is held at once.
const NODES: usize = 4096;

/// Visits a tree of nodes of `len` bytes, whose top is `root`, level by level. `place` says where a node is; `visit` sees
/// its bytes and adds its children, of which those that `visited` refuses are not gone to. Returns what was the first to
/// be wrong, if anything was; the rest was visited.
pub(super) fn levels<N>(
    kernel: &Kernel,
    (root, len): (N, usize),
    (step, visited): (&'static str, Visited),
    place: fn(&N) -> VirtAddr,
    mut visit: impl FnMut(&N, &[u8], &mut Vec<N>) -> Result<(), KernelError>,
) -> Option<KernelError> {
    let mut visited = visited.with([place(&root)]);
    let (mut level, mut torn) = (vec![root], None);
    while !level.is_empty() {
        let mut below = Vec::new();
        for nodes in level.chunks(NODES) {
            let addrs: Vec<VirtAddr> = nodes.iter().map(place).collect();
            for (node, bytes) in nodes.iter().zip(kernel.memory.read_vecs(&addrs, len)) {
                let mut children = Vec::new();
                let outcome = bytes
                    .map_err(|source| KernelError::Read { step, source })
                    .and_then(|bytes| visit(node, &bytes, &mut children));
                if let Err(error) = outcome {
                    torn.get_or_insert(error);
                }
                below.extend(children.into_iter().filter(|child| match visited.enter(place(child)) {
                    Ok(()) => true,
                    Err(reason) => {
                        torn.get_or_insert(KernelError::Inconsistent { step, addr: place(child), reason });
                        false
                    }
                }));
            }
        }
        level = below;
    }
    torn
}
