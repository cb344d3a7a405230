//! Processes and threads: the list that hangs off `init_task` (`include/linux/sched/signal.h`,
//! `for_each_process` and `for_each_thread`).
//!
//! Each step reads a `task_struct` up to its last wanted member in one go, its list pointer included, so a walk
//! costs one round trip a process. The thread lists of all processes are walked side by side.

use std::collections::HashSet;

use super::{Kernel, KernelError};
use crate::{
    addr::VirtAddr,
    paging::{VirtError, VirtOp},
    types::{Field, FieldInfo, TypeError, TypeSource, field::member_bytes},
};

/// `PID_MAX_LIMIT` (`include/linux/threads.h`): no list of tasks is longer.
const MAX_TASKS: usize = 4 << 20;

/// A task as its `task_struct` had it when it was read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Task {
    /// Address of the `task_struct`.
    pub addr: VirtAddr,
    /// Thread id in the initial namespace; 0 for idle tasks.
    pub pid: i32,
    /// Process id.
    pub tgid: i32,
    /// Process id of the real parent; `None` when it could not be read.
    pub ppid: Option<i32>,
    /// `comm`, bytes that are not UTF-8 replaced.
    pub comm: String,
    /// As `ps` prints it: R S D T t X Z P I.
    pub state: char,
    /// The CPU it is on or was last on.
    pub cpu: Option<u32>,
    /// `real_parent`.
    pub parent: VirtAddr,
    /// Has no address space of its own (`mm` is NULL).
    pub kernel_thread: bool,
}

/// Which tasks are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Thread group leaders.
    Processes,
    /// Every thread.
    Threads,
}

/// Tasks in list order, `init_task` first, and why the list ended early if it did.
#[derive(Debug)]
pub struct TaskList {
    /// What was read.
    pub tasks: Vec<Task>,
    /// Set when the list changed while it was walked, or is damaged: `tasks` then lacks some.
    pub torn: Option<KernelError>,
}

/// The members of `task_struct` that a listing needs, resolved once.
pub struct Tasks {
    init_task: VirtAddr,
    bytes: usize,
    next: Field<VirtAddr>,
    state: Field<u64>,
    exit_state: Field<u32>,
    pid: Field<i32>,
    tgid: Field<i32>,
    cpu: Option<Field<u32>>,
    parent: Field<VirtAddr>,
    mm: Field<VirtAddr>,
    comm: FieldInfo,
    signal: Field<VirtAddr>,
    thread_next: Field<VirtAddr>,
    thread_head: u64,
}

impl Tasks {
    /// Resolves the members of this kernel's `task_struct`.
    ///
    /// # Errors
    /// [`KernelError`] naming the symbol, type or member that is missing.
    pub fn resolve(kernel: &Kernel) -> Result<Self, KernelError> {
        let types = kernel.types("the list of tasks")?;
        let init_task = kernel.init_task("the list of tasks")?;
        let mut end = 0;
        let mut tasks = Self {
            init_task,
            bytes: 0,
            next: member(types, &["tasks.next"], &mut end)?,
            // Named `__state` since 2f064a59a11f (5.14).
            state: member(types, &["__state", "state"], &mut end)?,
            exit_state: member(types, &["exit_state"], &mut end)?,
            pid: member(types, &["pid"], &mut end)?,
            tgid: member(types, &["tgid"], &mut end)?,
            // Moved into `thread_info` by bcf9033e5449 (5.16); absent on a uniprocessor kernel.
            cpu: member(types, &["thread_info.cpu", "cpu"], &mut end).ok(),
            parent: member(types, &["real_parent"], &mut end)?,
            mm: member(types, &["mm"], &mut end)?,
            comm: types.field("task_struct", "comm")?,
            signal: member(types, &["signal"], &mut end)?,
            thread_next: member(types, &["thread_node.next"], &mut end)?,
            thread_head: types.field("signal_struct", "thread_head")?.offset,
        };
        end = end.max(tasks.comm.offset.saturating_add(tasks.comm.size));
        let size = types.struct_size("task_struct")?;
        tasks.bytes = usize::try_from(end.min(size)).unwrap_or(0);
        Ok(tasks)
    }

    /// Walks the list of processes, and every process' threads if `scope` says so.
    ///
    /// # Errors
    /// [`KernelError::Read`] when `init_task` itself cannot be read; a list that breaks later is
    /// [`TaskList::torn`].
    pub fn list(&self, kernel: &Kernel, scope: Scope) -> Result<TaskList, KernelError> {
        let first = self.fetch(kernel, &[self.init_task]).pop();
        let step = "reading init_task";
        let first = first.unwrap_or(Ok(Vec::new())).map_err(|source| KernelError::Read { step, source })?;
        let mut raw = vec![(self.init_task, first)];
        let torn = self.walk(kernel, &mut raw).err();
        let mut list = TaskList { tasks: self.parse_all(kernel, &raw), torn };
        if scope == Scope::Threads {
            let (threads, torn) = self.threads(kernel, &raw);
            let threads = self.parse_all(kernel, &threads);
            list.tasks = group(list.tasks, threads);
            list.torn = list.torn.or(torn);
        }
        Ok(list)
    }

    /// The tasks at `addrs`, each with its own outcome.
    pub fn at(&self, kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<Result<Task, KernelError>> {
        let step = "reading task_struct";
        let fetched = self.fetch(kernel, addrs);
        let raw: Vec<(VirtAddr, Vec<u8>)> =
            addrs.iter().zip(&fetched).filter_map(|(addr, raw)| Some((*addr, raw.clone().ok()?))).collect();
        let mut parsed = self.parse_all(kernel, &raw).into_iter();
        let missing = |addr| KernelError::Inconsistent { step, addr, reason: "it ends early".to_owned() };
        addrs
            .iter()
            .zip(fetched)
            .map(|(addr, outcome)| match outcome {
                Ok(_) => parsed.next().ok_or_else(|| missing(*addr)),
                Err(source) => Err(KernelError::Read { step, source }),
            })
            .collect()
    }

    fn walk(&self, kernel: &Kernel, raw: &mut Vec<(VirtAddr, Vec<u8>)>) -> Result<(), KernelError> {
        let step = "walking the task list";
        let mut seen = HashSet::from([self.init_task]);
        let mut previous = self.init_task;
        loop {
            let next = raw.last().and_then(|(_, bytes)| self.next.get(bytes)).unwrap_or_default();
            let addr = next.wrapping_sub(self.next.offset());
            if addr == self.init_task {
                return Ok(());
            }
            if !seen.insert(addr) || seen.len() > MAX_TASKS {
                let reason = "the list leads back into itself and not to init_task".to_owned();
                return Err(KernelError::Inconsistent { step, addr: previous, reason });
            }
            match self.fetch(kernel, &[addr]).pop() {
                Some(Ok(bytes)) => raw.push((addr, bytes)),
                Some(Err(source)) => return Err(KernelError::Read { step, source }),
                None => return Ok(()),
            }
            previous = addr;
        }
    }

    /// Every thread of the processes in `leaders`, all lists one step further with each batch.
    fn threads(
        &self,
        kernel: &Kernel,
        leaders: &[(VirtAddr, Vec<u8>)],
    ) -> (Vec<(VirtAddr, Vec<u8>)>, Option<KernelError>) {
        let step = "walking a thread list";
        let (mut found, mut torn) = (Vec::new(), None);
        let mut seen: HashSet<VirtAddr> = leaders.iter().map(|(addr, _)| *addr).collect();
        let advance = |bytes: &[u8], head: VirtAddr| {
            let next = self.thread_next.get(bytes)?;
            (next != head).then(|| (next.wrapping_sub(self.thread_next.offset()), head))
        };
        let mut cursors: Vec<(VirtAddr, VirtAddr)> = leaders
            .iter()
            .filter_map(|(_, bytes)| advance(bytes, self.signal.get(bytes)?.wrapping_add(self.thread_head)))
            .collect();
        while !cursors.is_empty() {
            cursors.retain(|(addr, _)| {
                let new = seen.insert(*addr) && seen.len() <= MAX_TASKS;
                if !new {
                    let reason = "a thread is met twice".to_owned();
                    torn.get_or_insert(KernelError::Inconsistent { step, addr: *addr, reason });
                }
                new
            });
            let addrs: Vec<VirtAddr> = cursors.iter().map(|(addr, _)| *addr).collect();
            let mut further = Vec::new();
            for ((addr, head), outcome) in cursors.iter().zip(self.fetch(kernel, &addrs)) {
                match outcome {
                    Ok(bytes) => {
                        further.extend(advance(&bytes, *head));
                        found.push((*addr, bytes));
                    }
                    Err(source) => {
                        torn.get_or_insert(KernelError::Read { step, source });
                    }
                }
            }
            cursors = further;
        }
        (found, torn)
    }

    fn fetch(&self, kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<Result<Vec<u8>, VirtError>> {
        let mut buffers = vec![vec![0; self.bytes]; addrs.len()];
        let mut ops: Vec<VirtOp<'_>> =
            addrs.iter().zip(&mut buffers).map(|(addr, buf)| VirtOp::new(*addr, buf)).collect();
        kernel.memory.read_batch(&mut ops);
        let results: Vec<_> = ops.into_iter().map(|op| op.result).collect();
        results.into_iter().zip(buffers).map(|(result, buffer)| result.map(|()| buffer)).collect()
    }

    fn parse_all(&self, kernel: &Kernel, raw: &[(VirtAddr, Vec<u8>)]) -> Vec<Task> {
        let mut tasks: Vec<Task> = raw.iter().filter_map(|(addr, bytes)| self.parse(*addr, bytes)).collect();
        self.resolve_parents(kernel, &mut tasks);
        tasks
    }

    fn parse(&self, addr: VirtAddr, bytes: &[u8]) -> Option<Task> {
        let comm = member_bytes(bytes, &self.comm)?;
        let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Task {
            addr,
            pid: self.pid.get(bytes)?,
            tgid: self.tgid.get(bytes)?,
            ppid: None,
            comm: String::from_utf8_lossy(comm).into_owned(),
            state: state_letter(self.state.get(bytes)?, self.exit_state.get(bytes)?),
            cpu: self.cpu.as_ref().and_then(|cpu| cpu.get(bytes)),
            parent: self.parent.get(bytes)?,
            kernel_thread: self.mm.get(bytes)? == VirtAddr::default(),
        })
    }

    /// Fills in `ppid`: from the list itself where the parent is in it, by reading the others in one batch.
    fn resolve_parents(&self, kernel: &Kernel, tasks: &mut [Task]) {
        let mut known: std::collections::HashMap<VirtAddr, i32> =
            tasks.iter().map(|task| (task.addr, task.tgid)).collect();
        let mut missing: Vec<VirtAddr> =
            tasks.iter().map(|task| task.parent).filter(|parent| !known.contains_key(parent)).collect();
        missing.sort_unstable();
        missing.dedup();
        for (addr, bytes) in missing.iter().zip(self.fetch(kernel, &missing)) {
            if let Some(tgid) = bytes.ok().and_then(|bytes| self.tgid.get(&bytes)) {
                known.insert(*addr, tgid);
            }
        }
        for task in tasks {
            task.ppid = known.get(&task.parent).copied();
        }
    }
}

/// The first of `names` that `task_struct` has; `end` grows to cover it.
fn member<T: crate::types::field::Scalar>(
    types: &dyn TypeSource,
    names: &[&str],
    end: &mut u64,
) -> Result<Field<T>, TypeError> {
    let mut outcome =
        Err(TypeError::NoMember { container: "task_struct".to_owned(), member: names.join(" or ") });
    for name in names {
        outcome = Field::resolve(types, "task_struct", name);
        if let Ok(field) = &outcome {
            *end = (*end).max(field.offset().saturating_add(T::SIZE));
            break;
        }
    }
    outcome
}

/// Threads behind their leader, leaders in list order.
fn group(leaders: Vec<Task>, threads: Vec<Task>) -> Vec<Task> {
    let mut by_process: std::collections::HashMap<i32, Vec<Task>> = std::collections::HashMap::new();
    for thread in threads {
        by_process.entry(thread.tgid).or_default().push(thread);
    }
    let mut tasks = Vec::new();
    for leader in leaders {
        let threads = by_process.remove(&leader.tgid);
        tasks.push(leader);
        tasks.extend(threads.into_iter().flatten());
    }
    tasks
}

/// The letter `/proc/PID/stat` gives (`fs/proc/array.c`, `task_state_array`; `include/linux/sched.h`,
/// `__task_state_index`).
#[must_use]
pub fn state_letter(state: u64, exit_state: u32) -> char {
    const UNINTERRUPTIBLE: u64 = 0x2;
    const IDLE: u64 = 0x402;
    const RTLOCK_WAIT: u64 = 0x1000;
    const REPORTED: u64 = 0x7f;
    let report = if state & IDLE == IDLE {
        return 'I';
    } else if state & RTLOCK_WAIT != 0 {
        UNINTERRUPTIBLE
    } else {
        (state | u64::from(exit_state)) & REPORTED
    };
    match 64 - report.leading_zeros() {
        0 => 'R',
        1 => 'S',
        2 => 'D',
        3 => 'T',
        4 => 't',
        5 => 'X',
        6 => 'Z',
        _ => 'P',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_as_the_kernel_gives_them() {
        let letters: String = [(0, 0), (1, 0), (2, 0), (0x402, 0), (4, 0), (8, 0), (0x40, 0), (0x80, 0x20)]
            .iter()
            .chain(&[(0, 0x10), (0x1000, 0), (0x4001, 0), (0x2002, 0)])
            .map(|(state, exit)| state_letter(*state, *exit))
            .collect();
        assert_eq!(letters, "RSDITtPZXDSD");
    }
}
