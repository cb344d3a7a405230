//! Reads the tasks ahead of a debugger that is about to walk their list.
//!
//! GDB follows the list with a packet or two for each task, so over a link it would wait for a round trip each. Whoever
//! reads `init_task.tasks` is at the start of the list: the tasks are then fetched in a handful of round trips, and
//! what GDB asks next is in the cache, as of one moment. Once for each picture the cache holds; nothing is answered
//! from here.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{
    addr::VirtAddr,
    kernel::{Kernel, task::Tasks},
};

/// What is known of the list once somebody has read memory.
enum List {
    Unasked,
    /// Without types or `init_task` there is nothing to read ahead.
    Unknown,
    Known {
        tasks: Box<Tasks>,
        head: Range<VirtAddr>,
    },
}

/// The reader ahead of one session.
pub(super) struct Ahead(Mutex<(List, Option<Instant>)>);

impl Ahead {
    pub(super) fn new() -> Self {
        Self(Mutex::new((List::Unasked, None)))
    }

    /// Reads ahead if `addr` and the `len` bytes from it touch the head of the list, and what was read for an earlier
    /// `picture` does not hold any more.
    pub(super) fn of_read(&self, kernel: &Kernel, addr: VirtAddr, len: usize, picture: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (list, read_for) = &mut *state;
        if matches!(list, List::Unasked) {
            *list = resolve(kernel).unwrap_or(List::Unknown);
        }
        let List::Known { tasks, head } = list else { return };
        let touches = addr < head.end && addr.wrapping_add(len as u64) > head.start;
        if touches && *read_for != Some(picture) {
            *read_for = Some(picture);
            tasks.read_ahead(kernel);
        }
    }
}

fn resolve(kernel: &Kernel) -> Option<List> {
    let tasks = Tasks::resolve(kernel).ok()?;
    let member = kernel.types.as_deref()?.field("task_struct", "tasks").ok()?;
    let start = kernel.init_task("the list of tasks").ok()?.wrapping_add(member.offset);
    Some(List::Known { tasks: Box::new(tasks), head: start..start.wrapping_add(member.size) })
}
