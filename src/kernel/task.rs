//! Processes and threads: the list that hangs off `init_task` (`include/linux/sched/signal.h`,
//! `for_each_process` and `for_each_thread`).
//!
//! Each step reads the wanted members of a `task_struct` in one go, its list pointer included; what the pid IDR leads to
//! was read before, side by side ([`ahead`]). The thread lists of all processes are walked side by side too.

use std::{collections::HashMap, ops::Range};

mod ahead;
mod details;
mod layout;
mod presence;
mod state;

pub use details::{Details, details};
pub use state::{is_kernel_thread, state_letter};

use super::{Kernel, KernelError, list::Visited};
use crate::{
    addr::VirtAddr,
    paging::{VirtError, VirtOp},
    types::{Field, field::member_bytes},
};
use ahead::Ahead;
use layout::{Cursor, Layout, ThreadLists};

/// No list of tasks is longer: a quarter of `PID_MAX_LIMIT` (`include/linux/threads.h`).
const MAX_TASKS: usize = 1 << 20;

/// Tasks whose members are held at once.
const BATCH: usize = 4096;

/// A task as its `task_struct` had it when it was read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Task {
    /// Address of the `task_struct`.
    pub addr: VirtAddr,
    /// Thread id in the initial namespace; 0 for idle tasks.
    pub pid: i32,
    /// Process id; `None` when the layout does not say where it is.
    pub tgid: Option<i32>,
    /// Process id of the real parent; `None` when it could not be read.
    pub ppid: Option<i32>,
    /// `comm`, bytes that are not UTF-8 replaced.
    pub comm: String,
    /// As `ps` prints it: R S D T t X Z P I. Without `exit_state` in the layout, a zombie is X.
    pub state: char,
    /// The CPU it is on or was last on.
    pub cpu: Option<u32>,
    /// `real_parent`.
    pub parent: VirtAddr,
    /// Runs in the kernel alone (`PF_KTHREAD`; without `flags` in the layout: has no `mm`, as a zombie has none); `None`
    /// when the layout does not say.
    pub kernel_thread: Option<bool>,
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

/// What reads tasks: the members of `task_struct`, resolved once.
pub struct Tasks {
    init_task: VirtAddr,
    layout: Layout,
    /// Tasks of one list.
    most: usize,
}

impl Tasks {
    /// Resolves the members of this kernel's `task_struct`. Only pid, comm, state and real parent must be there; what
    /// else is absent is unknown of every task, or refused by the walk that needs it.
    ///
    /// # Errors
    /// [`KernelError`] naming the symbol, type or member that is missing.
    pub fn resolve(kernel: &Kernel) -> Result<Self, KernelError> {
        let types = kernel.types("the list of tasks")?;
        let init_task = kernel.init_task("the list of tasks")?;
        Ok(Self { init_task, layout: Layout::resolve(types)?, most: MAX_TASKS })
    }

    /// Walks the list of processes, and every process' threads if `scope` says so.
    ///
    /// # Errors
    /// [`KernelError::Type`] naming the member whose absence leaves no list to walk; [`KernelError::Read`] when
    /// `init_task` itself cannot be read. A list that breaks later is [`TaskList::torn`].
    pub fn list(&self, kernel: &Kernel, scope: Scope) -> Result<TaskList, KernelError> {
        let next = self.layout.next.clone()?;
        let lists = match scope {
            Scope::Processes => None,
            Scope::Threads => Some(self.layout.thread_lists.clone()?),
        };
        let mut ahead = Ahead::of(kernel);
        let first = self.fetch(kernel, &[ahead.first(), &[self.init_task]].concat()).pop();
        let step = "reading init_task";
        let first = first.unwrap_or(Ok(Vec::new())).map_err(|source| KernelError::Read { step, source })?;
        let (mut tasks, mut cursors) = (Vec::new(), Vec::new());
        let walked = self.walk(kernel, &next, &mut ahead, first, |addr, bytes| {
            tasks.extend(self.parse(addr, bytes));
            cursors.extend(lists.as_ref().and_then(|lists| lists.after(bytes, lists.head(bytes)?)));
        });
        let mut torn = walked.err();
        if let Some(lists) = lists {
            let leaders = tasks.iter().map(|task| task.addr);
            let (threads, broken) = self.threads(kernel, &lists, leaders, cursors);
            tasks = group(tasks, threads);
            torn = torn.or(broken);
        }
        self.resolve_parents(kernel, &mut tasks.iter_mut().collect::<Vec<_>>());
        Ok(TaskList { tasks, torn })
    }

    /// The tasks at `addrs`, each with its own outcome.
    pub fn at(&self, kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<Result<Task, KernelError>> {
        let step = "reading task_struct";
        let missing = |addr| KernelError::Inconsistent { step, addr, reason: "it ends early".to_owned() };
        let mut tasks = Vec::with_capacity(addrs.len());
        self.each(kernel, addrs, |addr, outcome| {
            tasks.push(match outcome {
                Ok(bytes) => self.parse(addr, &bytes).ok_or_else(|| missing(addr)),
                Err(source) => Err(KernelError::Read { step, source }),
            });
        });
        self.resolve_parents(kernel, &mut tasks.iter_mut().flatten().collect::<Vec<_>>());
        tasks
    }

    /// Shows `meet` every process, beginning with `init_task`, whose members are `bytes`.
    fn walk(
        &self,
        kernel: &Kernel,
        next: &Field<VirtAddr>,
        ahead: &mut Ahead,
        mut bytes: Vec<u8>,
        mut meet: impl FnMut(VirtAddr, &[u8]),
    ) -> Result<(), KernelError> {
        let step = "walking the task list";
        let twice = "the list leads back into itself and not to init_task";
        let mut visited = Visited::new(self.most, "tasks", twice).with([self.init_task]);
        let mut at = self.init_task;
        loop {
            meet(at, &bytes);
            let addr = next.get(&bytes).unwrap_or_default().wrapping_sub(next.offset());
            if addr == self.init_task {
                return Ok(());
            }
            visited.enter(addr).map_err(|reason| KernelError::Inconsistent { step, addr: at, reason })?;
            if let Some(others) = ahead.with(addr) {
                self.fetch(kernel, others);
            }
            bytes = match self.fetch(kernel, &[addr]).pop() {
                Some(outcome) => outcome.map_err(|source| KernelError::Read { step, source })?,
                None => return Ok(()),
            };
            at = addr;
        }
    }

    /// Every thread that `cursors` lead to and that is none of `leaders`, all lists one step further with each batch.
    fn threads(
        &self,
        kernel: &Kernel,
        lists: &ThreadLists,
        leaders: impl Iterator<Item = VirtAddr>,
        mut cursors: Vec<Cursor>,
    ) -> (Vec<Task>, Option<KernelError>) {
        let step = "walking a thread list";
        let mut visited = Visited::new(self.most, "threads", "a thread is met twice").with(leaders);
        let (mut found, mut torn) = (Vec::new(), None);
        while !cursors.is_empty() {
            cursors.retain(|Cursor { addr, .. }| {
                let Err(reason) = visited.enter(*addr) else { return true };
                torn.get_or_insert(KernelError::Inconsistent { step, addr: *addr, reason });
                false
            });
            let addrs: Vec<VirtAddr> = cursors.iter().map(|cursor| cursor.addr).collect();
            let mut heads = cursors.iter().map(|cursor| cursor.head);
            let mut further = Vec::new();
            self.each(kernel, &addrs, |addr, outcome| {
                let head = heads.next().unwrap_or_default();
                match outcome {
                    Ok(bytes) => {
                        further.extend(lists.after(&bytes, head));
                        found.extend(self.parse(addr, &bytes));
                    }
                    Err(source) => {
                        torn.get_or_insert(KernelError::Read { step, source });
                    }
                }
            });
            cursors = further;
        }
        (found, torn)
    }

    /// Shows `visit` the members of each task, or why they could not be read; holds those of [`BATCH`] tasks at most.
    fn each(
        &self,
        kernel: &Kernel,
        addrs: &[VirtAddr],
        mut visit: impl FnMut(VirtAddr, Result<Vec<u8>, VirtError>),
    ) {
        for addrs in addrs.chunks(BATCH) {
            for (addr, outcome) in addrs.iter().zip(self.fetch(kernel, addrs)) {
                visit(*addr, outcome);
            }
        }
    }

    /// The wanted members of each task, at their places; the bytes between them are not read.
    fn fetch(&self, kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<Result<Vec<u8>, VirtError>> {
        self.fetch_spans(kernel, addrs, &self.layout.spans)
    }

    /// As [`Tasks::fetch`], of the members in `spans` only; the others are 0.
    fn fetch_spans(
        &self,
        kernel: &Kernel,
        addrs: &[VirtAddr],
        spans: &[Range<usize>],
    ) -> Vec<Result<Vec<u8>, VirtError>> {
        let mut buffers = vec![vec![0; self.layout.bytes]; addrs.len()];
        let mut ops: Vec<VirtOp<'_>> = Vec::with_capacity(addrs.len() * spans.len());
        for (addr, buf) in addrs.iter().zip(&mut buffers) {
            let (mut rest, mut at) = (&mut buf[..], 0);
            for span in spans {
                let (_, tail) = std::mem::take(&mut rest).split_at_mut(span.start - at);
                let (piece, tail) = tail.split_at_mut(span.len());
                ops.push(VirtOp::new(addr.wrapping_add(span.start as u64), piece));
                (rest, at) = (tail, span.end);
            }
        }
        kernel.memory.read_batch(&mut ops);
        let results: Vec<_> = ops.into_iter().map(|op| op.result).collect();
        let whole = |parts: &[Result<(), VirtError>]| {
            parts.iter().find_map(|part| part.as_ref().err()).cloned().map_or(Ok(()), Err)
        };
        let outcomes = results.chunks(spans.len().max(1)).map(whole);
        outcomes.zip(buffers).map(|(outcome, buffer)| outcome.map(|()| buffer)).collect()
    }

    fn parse(&self, addr: VirtAddr, bytes: &[u8]) -> Option<Task> {
        let layout = &self.layout;
        let comm = member_bytes(bytes, &layout.comm)?;
        let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
        let exit_state = layout.exit_state.as_ref().and_then(|exit_state| exit_state.get(bytes));
        Some(Task {
            addr,
            pid: layout.pid.get(bytes)?,
            tgid: layout.tgid.as_ref().and_then(|tgid| tgid.get(bytes)),
            ppid: None,
            comm: String::from_utf8_lossy(comm).into_owned(),
            state: state_letter(layout.state.get(bytes)?, exit_state),
            cpu: layout.cpu.as_ref().and_then(|cpu| cpu.get(bytes)),
            parent: layout.parent.get(bytes)?,
            kernel_thread: match (&layout.flags, &layout.mm) {
                (Some(flags), _) => Some(is_kernel_thread(flags.get(bytes)?)),
                (None, Some(mm)) => Some(mm.get(bytes)?.is_null()),
                (None, None) => None,
            },
        })
    }

    /// Fills in `ppid`: from the list itself where the parent is in it, by reading the others.
    fn resolve_parents(&self, kernel: &Kernel, tasks: &mut [&mut Task]) {
        let Some(tgid) = &self.layout.tgid else { return };
        let mut known: HashMap<VirtAddr, i32> =
            tasks.iter().filter_map(|task| Some((task.addr, task.tgid?))).collect();
        let mut missing: Vec<VirtAddr> =
            tasks.iter().map(|task| task.parent).filter(|parent| !known.contains_key(parent)).collect();
        missing.sort_unstable();
        missing.dedup();
        self.each(kernel, &missing, |addr, bytes| {
            known.extend(bytes.ok().and_then(|bytes| Some((addr, tgid.get(&bytes)?))));
        });
        for task in tasks {
            task.ppid = known.get(&task.parent).copied();
        }
    }
}

/// Threads behind their leader, leaders in list order.
fn group(leaders: Vec<Task>, threads: Vec<Task>) -> Vec<Task> {
    let mut by_process: HashMap<Option<i32>, Vec<Task>> = HashMap::new();
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

#[cfg(test)]
mod tests;
