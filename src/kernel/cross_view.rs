//! Tasks that one of the kernel's own records has and another lacks: what hides from one of them shows in the others.
//!
//! Five views: the list that hangs off `init_task` with every process' threads, the pid IDR, the tree of children, the
//! run queues, and what each CPU runs. The first two have every living thread, the third every process; the last two
//! only tell of tasks that the others must have too. On a running host tasks come and go between two looks:
//! [`settled`] looks again before it reports anything.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use super::{
    Kernel, KernelError, family,
    list::Visited,
    percpu, pid,
    task::{Scope, Task, Tasks},
};
use crate::addr::VirtAddr;

/// Tasks on one CPU's run queue: as many as are listed altogether.
const MAX_RUNNABLE: usize = 1 << 20;

/// Tasks that are compared at once.
const BATCH: usize = 4096;

/// Looks before a difference is believed.
const LOOKS: usize = 3;

/// A record of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// `init_task.tasks`, and `signal->thread_head` of each process.
    TaskList,
    /// `init_pid_ns.idr`.
    PidIdr,
    /// `children` and `sibling`.
    Family,
    /// `runqueues.cfs_tasks`: fair tasks that could run. Real-time and deadline tasks are not in it.
    RunQueue,
    /// What each CPU runs.
    Cpu,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TaskList => "task-list",
            Self::PidIdr => "pid-idr",
            Self::Family => "family",
            Self::RunQueue => "run-queue",
            Self::Cpu => "cpu",
        })
    }
}

/// A task that a view lacks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Views that have it.
    pub seen_by: Vec<View>,
    /// Views that should have it and do not.
    pub missing_from: Vec<View>,
}

/// What a comparison found.
#[derive(Debug)]
pub struct CrossView {
    /// Tasks that some view lacks, by pid.
    pub differences: Vec<Difference>,
    /// Tasks that any view has.
    pub tasks: usize,
    /// Views that are not complete or not to be had, and why.
    pub incomplete: Vec<(View, KernelError)>,
}

/// Compares the views until two looks, with `refresh` between them, agree on what is missing; only that is reported.
///
/// # Errors
/// [`KernelError`] when tasks cannot be read at all.
pub fn settled(kernel: &Kernel, refresh: &dyn Fn()) -> Result<CrossView, KernelError> {
    let mut found = compare(kernel)?;
    for _ in 1..LOOKS {
        if found.differences.is_empty() {
            break;
        }
        refresh();
        let mut again = compare(kernel)?;
        let before: HashMap<(VirtAddr, i32), Vec<View>> = found
            .differences
            .into_iter()
            .map(|difference| ((difference.task.addr, difference.task.pid), difference.missing_from))
            .collect();
        again.differences.retain(|difference| {
            before.get(&(difference.task.addr, difference.task.pid)) == Some(&difference.missing_from)
        });
        found = again;
    }
    Ok(found)
}

/// Compares the views once.
///
/// # Errors
/// As [`settled`].
pub fn compare(kernel: &Kernel) -> Result<CrossView, KernelError> {
    let reader = Tasks::resolve(kernel)?;
    let mut incomplete = Vec::new();
    let mut views: BTreeMap<View, HashSet<VirtAddr>> = BTreeMap::new();
    for view in [View::TaskList, View::PidIdr, View::Family, View::RunQueue, View::Cpu] {
        match look(kernel, &reader, view) {
            Ok((tasks, torn)) => {
                views.insert(view, tasks);
                incomplete.extend(torn.map(|error| (view, error)));
            }
            Err(error) => incomplete.push((view, error)),
        }
    }
    let mut addrs: Vec<VirtAddr> = views.values().flatten().copied().collect();
    addrs.sort_unstable();
    addrs.dedup();
    let mut differences = Vec::new();
    for task in addrs.chunks(BATCH).flat_map(|addrs| reader.at(kernel, addrs)).flatten() {
        let has = |view: View| views.get(&view).map(|tasks| tasks.contains(&task.addr));
        let missing_from: Vec<View> =
            expected(&task).into_iter().filter(|view| has(*view) == Some(false)).collect();
        if !missing_from.is_empty() {
            let seen_by = views.keys().copied().filter(|view| has(*view) == Some(true)).collect();
            differences.push(Difference { task, seen_by, missing_from });
        }
    }
    differences.sort_by_key(|difference| difference.task.pid);
    Ok(CrossView { differences, tasks: addrs.len(), incomplete })
}

/// The views that must have a task. Idle tasks have no number and are on no list; a task that is being buried leaves
/// them one after the other.
fn expected(task: &Task) -> Vec<View> {
    let leads = task.tgid.is_none_or(|tgid| tgid == task.pid);
    match (task.pid, task.state) {
        (0, _) | (_, 'X') => Vec::new(),
        _ if leads => vec![View::TaskList, View::PidIdr, View::Family],
        _ => vec![View::TaskList, View::PidIdr],
    }
}

type Look = (HashSet<VirtAddr>, Option<KernelError>);

fn look(kernel: &Kernel, reader: &Tasks, view: View) -> Result<Look, KernelError> {
    Ok(match view {
        View::TaskList => {
            let list = reader.list(kernel, Scope::Threads)?;
            (list.tasks.into_iter().map(|task| task.addr).collect(), list.torn)
        }
        View::PidIdr => {
            let found = pid::tasks(kernel)?;
            (found.tasks.into_iter().map(|task| task.addr).collect(), found.torn)
        }
        View::Family => {
            let (tasks, torn) = family::depth_first(kernel)?;
            (tasks.into_iter().collect(), torn)
        }
        View::RunQueue => runnable(kernel)?,
        View::Cpu => (percpu::cpus(kernel)?.into_iter().filter_map(|cpu| cpu.current).collect(), None),
    })
}

/// The fair tasks on every CPU's run queue, all lists one step further with each batch.
fn runnable(kernel: &Kernel) -> Result<Look, KernelError> {
    let (what, step) = ("the run queues", "walking a run queue");
    let types = kernel.types(what)?;
    let queues = kernel.symbols(what)?.addr("runqueues")?;
    let head = types.field("rq", "cfs_tasks")?.offset;
    let link = types.field("task_struct", "se.group_node")?.offset;
    let heads: Vec<VirtAddr> =
        percpu::cpus(kernel)?.iter().map(|cpu| queues.wrapping_add(cpu.offset).wrapping_add(head)).collect();
    let mut visited = Visited::new(MAX_RUNNABLE, "tasks", "a task is met twice");
    let mut torn = None;
    let mut cursors: Vec<(VirtAddr, VirtAddr)> = heads.iter().map(|head| (*head, *head)).collect();
    while !cursors.is_empty() {
        let places: Vec<VirtAddr> = cursors.iter().map(|(at, _)| *at).collect();
        let mut further = Vec::new();
        for ((_, head), next) in cursors.iter().zip(kernel.memory.read_ptrs(&places)) {
            let next = match next {
                Ok(next) if next == *head => continue,
                Ok(next) => next,
                Err(source) => {
                    torn.get_or_insert(KernelError::Read { step, source });
                    continue;
                }
            };
            let task = next.wrapping_sub(link);
            match visited.enter(task) {
                Ok(()) => further.push((next, *head)),
                Err(reason) => {
                    torn.get_or_insert(KernelError::Inconsistent { step, addr: task, reason });
                }
            }
        }
        cursors = further;
    }
    Ok((visited.into_met(), torn))
}
