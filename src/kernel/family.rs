//! Processes depth first: `init_task`, then each task's `children`, linked through `sibling`
//! (`include/linux/sched.h`). All lists are walked side by side, one step with each batch.

use std::collections::{HashMap, HashSet};

use super::{Kernel, KernelError};
use crate::{
    addr::VirtAddr,
    paging::{VirtError, VirtOp},
};

/// `PID_MAX_LIMIT` (`include/linux/threads.h`): no family is larger.
const MAX_TASKS: usize = 4 << 20;

/// Addresses of `task_struct`s, a parent before its children, and why some are missing if they are.
///
/// # Errors
/// [`KernelError`] when `init_task` or the members of `task_struct` are not known.
pub fn depth_first(kernel: &Kernel) -> Result<(Vec<VirtAddr>, Option<KernelError>), KernelError> {
    let types = kernel.types("the tree of tasks")?;
    let init_task = kernel.init_task("the tree of tasks")?;
    // `next` comes first in a `list_head` (include/linux/types.h).
    let children = types.field("task_struct", "children")?.offset;
    let sibling = types.field("task_struct", "sibling")?.offset;
    let step = "walking the tree of tasks";
    let (mut seen, mut torn) = (HashSet::from([init_task]), None);
    let mut family: HashMap<VirtAddr, Vec<VirtAddr>> = HashMap::new();
    let mut cursors = vec![(init_task, init_task)];
    while !cursors.is_empty() {
        let links = cursors.iter().flat_map(|(task, _)| [*task, *task].into_iter().zip([children, sibling]));
        let links: Vec<VirtAddr> = links.map(|(task, offset)| task.wrapping_add(offset)).collect();
        let read = pointers(kernel, &links);
        let mut further = Vec::new();
        for ((task, parent), outcome) in cursors.iter().zip(read.chunks(2)) {
            for (outcome, parent) in outcome.iter().zip([task, parent]) {
                let next = match outcome {
                    Ok(next) => *next,
                    Err(source) => {
                        torn.get_or_insert(KernelError::Read { step, source: source.clone() });
                        continue;
                    }
                };
                // The idle task has no siblings: its own list is not a list of anybody's children.
                let ends = next == parent.wrapping_add(children);
                if ends || (*task == init_task && next == init_task.wrapping_add(sibling)) {
                    continue;
                }
                let next = next.wrapping_sub(sibling);
                if seen.len() >= MAX_TASKS || !seen.insert(next) {
                    let reason = "a task is met twice".to_owned();
                    torn.get_or_insert(KernelError::Inconsistent { step, addr: next, reason });
                    continue;
                }
                family.entry(*parent).or_default().push(next);
                further.push((next, *parent));
            }
        }
        cursors = further;
    }
    let (mut order, mut stack) = (Vec::with_capacity(seen.len()), vec![init_task]);
    while let Some(task) = stack.pop() {
        order.push(task);
        stack.extend(family.remove(&task).unwrap_or_default().into_iter().rev());
    }
    Ok((order, torn))
}

fn pointers(kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<Result<VirtAddr, VirtError>> {
    let mut buffers = vec![[0; 8]; addrs.len()];
    let mut ops: Vec<VirtOp<'_>> =
        addrs.iter().zip(&mut buffers).map(|(addr, buf)| VirtOp::new(*addr, buf)).collect();
    kernel.memory.read_batch(&mut ops);
    let results: Vec<_> = ops.into_iter().map(|op| op.result).collect();
    let value = |buffer| VirtAddr::new(u64::from_le_bytes(buffer));
    results.into_iter().zip(buffers).map(|(result, buffer)| result.map(|()| value(buffer))).collect()
}
