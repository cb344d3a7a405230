//! Reads what a walk of tasks will meet before it gets there.
//!
//! The list of tasks is a chain: over a link, a round trip for every link. The IDR of pids leads to the same tasks in a
//! handful of them. What is read here is only remembered (by the cache below); the walk decides what there is, and
//! finds at hand what both ways lead to. Tasks without a number, and those started meanwhile, it reads itself.

use std::collections::{HashMap, HashSet};

use super::Tasks;
use crate::{
    addr::VirtAddr,
    kernel::{Kernel, pid},
};

/// Tasks read at once: what the cache holds with what belongs to them.
const STRETCH: usize = 2000;

/// Bytes of a list head.
const LIST_HEAD: usize = 16;

/// The tasks that have a number, in stretches of which each is read when a walk meets the first of its tasks.
pub(super) struct Ahead {
    tasks: Vec<VirtAddr>,
    places: HashMap<VirtAddr, usize>,
    read: HashSet<usize>,
}

impl Ahead {
    /// Reads the IDR, and no task yet.
    pub(super) fn of(kernel: &Kernel) -> Self {
        let tasks: Vec<VirtAddr> = match pid::tasks(kernel) {
            Ok(found) => found.tasks.iter().map(|task| task.addr).collect(),
            Err(error) => {
                log::debug!("tasks are met one by one: {error}");
                Vec::new()
            }
        };
        let places = tasks.iter().enumerate().map(|(place, addr)| (*addr, place)).collect();
        Self { tasks, places, read: HashSet::new() }
    }

    /// The first of them.
    pub(super) fn first(&mut self) -> &[VirtAddr] {
        self.stretch(0).unwrap_or_default()
    }

    /// The tasks that come with `addr`, if they were not read yet.
    pub(super) fn with(&mut self, addr: VirtAddr) -> Option<&[VirtAddr]> {
        self.stretch(self.places.get(&addr)? / STRETCH)
    }

    fn stretch(&mut self, stretch: usize) -> Option<&[VirtAddr]> {
        self.read.insert(stretch).then(|| self.tasks.chunks(STRETCH).nth(stretch)).flatten()
    }
}

impl Tasks {
    /// Reads of the first tasks that have a number what a walk from outside looks at, and the heads of their thread
    /// lists.
    pub fn read_ahead(&self, kernel: &Kernel) {
        let mut addrs = Ahead::of(kernel).first().to_vec();
        addrs.push(self.init_task);
        let tasks = self.fetch_spans(kernel, &addrs, &self.layout.walked);
        if let Ok(lists) = &self.layout.thread_lists {
            let mut heads: Vec<VirtAddr> =
                tasks.iter().flatten().filter_map(|bytes| lists.head(bytes)).collect();
            heads.sort_unstable();
            heads.dedup();
            let _ = kernel.memory.read_vecs(&heads, LIST_HEAD);
        }
    }
}
