//! Reads the tasks ahead of a debugger that is about to walk their list.
//!
//! GDB follows the list with a packet or two for each task, so over a link it would wait for a round trip each. Whoever
//! reads `init_task.tasks` is at the start of the list: the tasks are then fetched in a handful of round trips, and
//! what GDB asks next is in the cache, as of one moment. Once for each picture the cache holds, and only when something
//! had to be fetched that the cache did not foresee: who lists the tasks again finds those of the last time at hand.
//! Nothing is answered from here.

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

/// How far somebody has come in the list.
struct Walk {
    list: List,
    /// The picture in which its head was read.
    begun: Option<Instant>,
    /// The picture for which it was read ahead.
    read_for: Option<Instant>,
    /// How often the cache had been surprised when memory was read last.
    surprises: u64,
}

/// The reader ahead of one session.
pub(super) struct Ahead(Mutex<Walk>);

impl Ahead {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Walk { list: List::Unasked, begun: None, read_for: None, surprises: 0 }))
    }

    /// `len` bytes at `addr` were read, of this `picture`, and the cache has been surprised so often by now. Reads ahead
    /// if the list is being walked and the walk met something new.
    pub(super) fn of_read(
        &self,
        kernel: &Kernel,
        addr: VirtAddr,
        len: usize,
        picture: Instant,
        surprises: u64,
    ) {
        let mut walk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(walk.list, List::Unasked) {
            walk.list = resolve(kernel).unwrap_or(List::Unknown);
        }
        let Walk { list: List::Known { tasks, head }, begun, read_for, surprises: before } = &mut *walk
        else {
            return;
        };
        if addr < head.end && addr.wrapping_add(len as u64) > head.start {
            *begun = Some(picture);
        }
        let surprised = std::mem::replace(before, surprises) != surprises;
        if surprised && *begun == Some(picture) && *read_for != Some(picture) {
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
