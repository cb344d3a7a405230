//! Reads what a walk of tasks will meet before it gets there.
//!
//! The list of tasks is a chain: over a link, a round trip for every link. The IDR of pids leads to the same tasks in a
//! handful of them. What is read here is only remembered (by the cache below); the walk decides what there is, and
//! finds at hand what both ways lead to. Tasks without a number, and those started meanwhile, it reads itself.

use super::Tasks;
use crate::{
    addr::VirtAddr,
    kernel::{Kernel, batch, pid},
};

/// Tasks read ahead: what the cache holds at once. A walk of more goes on by itself.
const MOST: usize = 2000;

/// Bytes of a list head.
const LIST_HEAD: usize = 16;

impl Tasks {
    /// Reads every task that has a number and, with `signals`, the heads of their thread lists.
    pub fn read_ahead(&self, kernel: &Kernel, signals: bool) {
        let mut addrs: Vec<VirtAddr> = match pid::tasks(kernel) {
            Ok(found) => found.tasks.iter().take(MOST).map(|task| task.addr).collect(),
            Err(error) => return log::debug!("tasks are met one by one: {error}"),
        };
        addrs.push(self.init_task);
        let tasks = self.fetch(kernel, &addrs);
        if let (true, Ok(lists)) = (signals, &self.layout.thread_lists) {
            let head = |bytes: &Vec<u8>| Some(lists.signal.get(bytes)?.wrapping_add(lists.head));
            let mut heads: Vec<VirtAddr> = tasks.iter().flatten().filter_map(head).collect();
            heads.sort_unstable();
            heads.dedup();
            batch::fetch(kernel, &heads, LIST_HEAD);
        }
    }
}
