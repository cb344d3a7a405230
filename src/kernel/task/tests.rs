//! Lists of tasks without an end, made of next to nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    kernel::testing::{Structs, kernel},
    paging::{Translation, VirtFault, VirtMem},
};

const INIT_TASK: u64 = 0xffff_8880_0000_0000;
const NEXT: u64 = 0x10;
const SIGNAL: u64 = 0x20;
const NODE: u64 = 0x28;
/// Members this far apart are read on their own.
const COMM: u64 = 0xb00;

fn types(size: u64, comm: u64) -> Structs {
    let members =
        [("pid", 0, 4), ("state", 8, 8), ("tasks.next", NEXT, 8), ("real_parent", 0x18, 8), ("tgid", 4, 4)];
    let threads = [("signal", SIGNAL, 8), ("thread_node.next", NODE, 8), ("comm", COMM, comm)];
    Structs::new().add("task_struct", size, &[&members[..], &threads].concat()).add(
        "signal_struct",
        0x40,
        &[("thread_head", 0x10, 16)],
    )
}

/// Wherever one looks, there is a task whose next is eight bytes further.
#[derive(Default)]
struct Endless {
    most_at_once: AtomicUsize,
}

impl VirtMem for Endless {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        self.most_at_once.fetch_max(ops.len(), Ordering::Relaxed);
        for op in ops {
            op.buf.fill(0);
            for member in [NEXT, NODE] {
                let next = op.addr.wrapping_add(member + 8).raw();
                if let Some(buf) = op.buf.get_mut(member as usize..member as usize + 8) {
                    buf.copy_from_slice(&next.to_le_bytes());
                }
            }
            op.result = Ok(());
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 1, fault: VirtFault::NotAttempted })
    }
}

fn endless() -> (Arc<Endless>, Kernel) {
    let memory = Arc::new(Endless::default());
    let kernel = kernel(memory.clone(), Arc::new(types(0xc00, 16)), VirtAddr::new(INIT_TASK));
    (memory, kernel)
}

#[test]
fn a_list_of_tasks_without_an_end_has_one() {
    let (_, kernel) = endless();
    let tasks = Tasks { most: 1000, ..Tasks::resolve(&kernel).unwrap() };
    let list = tasks.list(&kernel, Scope::Processes).unwrap();
    assert_eq!(list.tasks.len(), 1000);
    let torn = list.torn.unwrap().to_string();
    assert!(torn.contains("there are more than"), "{torn}");
}

#[test]
fn tasks_are_held_some_at_a_time() {
    let (memory, kernel) = endless();
    let addrs: Vec<VirtAddr> = (0..20_000).map(|task| VirtAddr::new(INIT_TASK + task * 8)).collect();
    let tasks = Tasks::resolve(&kernel).unwrap().at(&kernel, &addrs);
    let found: Vec<VirtAddr> = tasks.into_iter().map(|task| task.unwrap().addr).collect();
    assert_eq!(found, addrs);
    assert!(memory.most_at_once.load(Ordering::Relaxed) <= 2 * BATCH);
}

#[test]
fn types_of_an_impossible_task_are_refused() {
    for (size, comm) in [(1 << 30, 16), (0x2000, 0x1000)] {
        let kernel =
            kernel(Arc::new(Endless::default()), Arc::new(types(size, comm)), VirtAddr::new(INIT_TASK));
        let refused = Tasks::resolve(&kernel).err().unwrap().to_string();
        assert!(refused.contains(&format!("no task_struct has {size} bytes, {comm} of them")), "{refused}");
    }
}
