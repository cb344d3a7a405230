//! Processes depth first: `init_task`, then each task's `children`, linked through `sibling`
//! (`include/linux/sched.h`). What another thread than the first forked hangs off that thread (`copy_process`,
//! `kernel/fork.c`), so where the layout knows threads their children are their process' too.
//!
//! Input: where the links are and `init_task`. Output: addresses, in order. All lists are walked side by side, one step
//! with each batch.

use std::collections::HashMap;

use super::{Kernel, KernelError, list::Visited, structure::present};
use crate::{
    addr::VirtAddr,
    paging::VirtError,
    types::{TypeError, TypeSource},
};

/// No family is larger: a quarter of `PID_MAX_LIMIT` (`include/linux/threads.h`).
const MAX_TASKS: usize = 1 << 20;

/// Tasks whose links are held at once.
const BATCH: usize = 4096;

const STEP: &str = "walking the tree of tasks";

/// Addresses of `task_struct`s, a parent before its children, and why some are missing if they are.
///
/// # Errors
/// [`KernelError`] when `init_task` or the members of `task_struct` are not known.
pub fn depth_first(kernel: &Kernel) -> Result<(Vec<VirtAddr>, Option<KernelError>), KernelError> {
    let types = kernel.types("the tree of tasks")?;
    let init_task = kernel.init_task("the tree of tasks")?;
    let mut walk = Walk::new(Links::resolve(types)?, init_task);
    let mut cursors = vec![Cursor { task: init_task, list: List::Root }];
    while !cursors.is_empty() {
        cursors = cursors.chunks(BATCH).flat_map(|cursors| walk.step(kernel, cursors)).collect();
    }
    Ok((walk.order(init_task), walk.torn))
}

/// Offsets in `task_struct` of what one step reads. `next` comes first in a `list_head` (`include/linux/types.h`).
struct Links {
    children: u64,
    sibling: u64,
    parent: u64,
    threads: Option<ThreadLinks>,
}

struct ThreadLinks {
    node: u64,
    signal: u64,
    /// In `signal_struct`.
    head: u64,
}

impl Links {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let offset = |structure, member| types.field(structure, member).map(|field| field.offset);
        let threads = || {
            Ok(ThreadLinks {
                node: offset("task_struct", "thread_node")?,
                signal: offset("task_struct", "signal")?,
                head: offset("signal_struct", "thread_head")?,
            })
        };
        Ok(Self {
            children: offset("task_struct", "children")?,
            sibling: offset("task_struct", "sibling")?,
            parent: offset("task_struct", "real_parent")?,
            threads: present(threads())?,
        })
    }

    fn offsets(&self) -> Vec<u64> {
        let threads = self.threads.iter().flat_map(|threads| [threads.node, threads.signal]);
        [self.children, self.sibling, self.parent].into_iter().chain(threads).collect()
    }
}

/// The list that led to a task.
#[derive(Clone, Copy)]
enum List {
    /// None: it is `init_task`, which is nobody's child.
    Root,
    /// The children of a task.
    Children { parent: VirtAddr },
    /// The threads of a process, up to the list's head.
    Threads { leader: VirtAddr, head: VirtAddr },
}

#[derive(Clone, Copy)]
struct Cursor {
    task: VirtAddr,
    list: List,
}

/// What was met so far.
struct Walk {
    links: Links,
    visited: Visited,
    /// Children of a task, in order.
    children: HashMap<VirtAddr, Vec<VirtAddr>>,
    /// Threads of a process but the first, in order.
    threads: HashMap<VirtAddr, Vec<VirtAddr>>,
    torn: Option<KernelError>,
}

impl Walk {
    fn new(links: Links, init_task: VirtAddr) -> Self {
        Self {
            links,
            visited: Visited::new(MAX_TASKS, "tasks", "a task is met twice").with([init_task]),
            children: HashMap::new(),
            threads: HashMap::new(),
            torn: None,
        }
    }

    /// Reads the links of every task in `cursors`, and returns the tasks they lead to.
    fn step(&mut self, kernel: &Kernel, cursors: &[Cursor]) -> Vec<Cursor> {
        let offsets = self.links.offsets();
        let places: Vec<VirtAddr> = cursors
            .iter()
            .flat_map(|cursor| offsets.iter().map(|offset| cursor.task.wrapping_add(*offset)))
            .collect();
        let read = kernel.memory.read_ptrs(&places);
        let mut further = Vec::new();
        for (cursor, words) in cursors.iter().zip(read.chunks(offsets.len())) {
            self.visit(*cursor, words, &mut further);
        }
        further
    }

    /// Notes one task, whose links are `words` in the order of [`Links::offsets`].
    fn visit(&mut self, cursor: Cursor, words: &[Result<VirtAddr, VirtError>], further: &mut Vec<Cursor>) {
        let mut words = words.iter().map(|word| match word {
            Ok(value) => Some(*value),
            Err(source) => {
                self.torn.get_or_insert_with(|| KernelError::Read { step: STEP, source: source.clone() });
                None
            }
        });
        let mut word = || words.next().flatten();
        let (first_child, sibling, parent) = (word(), word(), word());
        let (next_thread, signal) = (word(), word());
        let task = cursor.task;
        match cursor.list {
            List::Root => {}
            List::Children { parent: expected } => {
                match parent {
                    Some(parent) if parent == expected => {}
                    Some(other) => {
                        return self.tear(task, format!("a child of {expected} has the parent {other}"));
                    }
                    None => return,
                }
                self.children.entry(expected).or_default().push(task);
                let end = expected.wrapping_add(self.links.children);
                self.follow(sibling, end, self.links.sibling, cursor.list, further);
            }
            List::Threads { leader, .. } => self.threads.entry(leader).or_default().push(task),
        }
        let (own, link) = (task.wrapping_add(self.links.children), self.links.sibling);
        self.follow(first_child, own, link, List::Children { parent: task }, further);
        if let Some(ThreadLinks { node, head, .. }) = self.links.threads {
            let list = match (cursor.list, signal) {
                (list @ List::Threads { .. }, _) => list,
                (_, Some(signal)) => List::Threads { leader: task, head: signal.wrapping_add(head) },
                (_, None) => return,
            };
            if let List::Threads { head, .. } = list {
                self.follow(next_thread, head, node, list, further);
            }
        }
    }

    /// Goes to the task whose link at offset `link` a list's entry `next` is, unless that is the list's `end`.
    fn follow(
        &mut self,
        next: Option<VirtAddr>,
        end: VirtAddr,
        link: u64,
        list: List,
        further: &mut Vec<Cursor>,
    ) {
        let Some(next) = next.filter(|next| *next != end) else { return };
        let task = next.wrapping_sub(link);
        match self.visited.enter(task) {
            Ok(()) => further.push(Cursor { task, list }),
            Err(reason) => self.tear(task, reason),
        }
    }

    fn tear(&mut self, addr: VirtAddr, reason: String) {
        self.torn.get_or_insert(KernelError::Inconsistent { step: STEP, addr, reason });
    }

    fn order(&mut self, init_task: VirtAddr) -> Vec<VirtAddr> {
        let (mut order, mut stack) = (Vec::new(), vec![init_task]);
        while let Some(task) = stack.pop() {
            order.push(task);
            let threads = self.threads.remove(&task).unwrap_or_default();
            let mut family = self.children.remove(&task).unwrap_or_default();
            for thread in threads {
                family.extend(self.children.remove(&thread).unwrap_or_default());
            }
            stack.extend(family.into_iter().rev());
        }
        order
    }
}

#[cfg(test)]
mod tests;
