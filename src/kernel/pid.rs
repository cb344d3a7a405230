//! Tasks by number: the IDR of the initial pid namespace (`kernel/pid.c`, `find_pid_ns`, `pid_task`).
//!
//! A second way to every thread, beside the list that hangs off `init_task`, and a flat one: a tree whose levels are
//! read side by side, then the `struct pid`s, so that a thousand tasks cost a handful of round trips. Idle tasks have
//! no number and are not in it.

use super::{
    Kernel, KernelError,
    structure::Structure,
    task::{Scope, Task, Tasks},
    xarray::XArray,
};
use crate::{addr::VirtAddr, types::Field};

const STEP: &str = "reading the pid IDR";

/// A thread by its number in the initial namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedTask {
    /// Its number.
    pub pid: u32,
    /// Its `task_struct`.
    pub addr: VirtAddr,
}

/// Threads by number, ascending, and why some are missing if they are.
#[derive(Debug)]
pub struct NumberedTasks {
    /// What was read.
    pub tasks: Vec<NumberedTask>,
    /// Set when the IDR is damaged or changed while it was read.
    pub torn: Option<KernelError>,
}

/// Every thread that has a number. What these addresses hold is not looked at.
///
/// # Errors
/// [`KernelError`] naming the symbol or member that is missing, or the read of the namespace that failed.
pub fn tasks(kernel: &Kernel) -> Result<NumberedTasks, KernelError> {
    let idr = Idr::find(kernel)?;
    let mut found = idr.array.entries(kernel, idr.head);
    let addrs: Vec<VirtAddr> = found.entries.iter().map(|entry| entry.pointer).collect();
    let mut tasks = Vec::with_capacity(addrs.len());
    for (entry, bytes) in found.entries.iter().zip(kernel.memory.read_vecs(&addrs, idr.pid_len)) {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(source) => {
                found.torn.get_or_insert(KernelError::Read { step: STEP, source });
                continue;
            }
        };
        if let (Some(addr), Ok(pid)) = (idr.task(&bytes), u32::try_from(entry.index)) {
            tasks.push(NumberedTask { pid, addr });
        }
    }
    Ok(NumberedTasks { tasks, torn: found.torn })
}

/// Where the IDR is, and the way from a `struct pid` to its task.
struct Idr {
    array: XArray,
    head: u64,
    /// The first of an array by `enum pid_type`: `PIDTYPE_PID`.
    first: Field<VirtAddr>,
    pid_len: usize,
    /// Of the member of `task_struct` that `first` leads to.
    link: u64,
}

impl Idr {
    fn find(kernel: &Kernel) -> Result<Self, KernelError> {
        let what = "the pid IDR";
        let types = kernel.types(what)?;
        let namespace = kernel.symbols(what)?.addr("init_pid_ns")?;
        let array = XArray::resolve(types)?;
        let head = types.field("pid_namespace", "idr.idr_rt.xa_head")?.offset;
        let mut pid = Structure::new(types, "pid");
        let first = pid.field(&["tasks.first"])?;
        let link = types.field("task_struct", "pid_links")?.offset;
        let head = kernel.memory.read_u64(namespace.wrapping_add(head));
        let head = head.map_err(|source| KernelError::Read { step: STEP, source })?;
        Ok(Self { array, head, first, pid_len: pid.bytes()?, link })
    }

    /// The task of a `struct pid`: a number that only a process group or a session still has leads to none.
    fn task(&self, pid: &[u8]) -> Option<VirtAddr> {
        Some(self.first.get(pid)?.non_null()?.wrapping_sub(self.link))
    }
}

/// The thread with the number `pid`: by the IDR, or by the list of tasks where the kernel is not known well enough for
/// that, or the IDR has no such number.
///
/// # Errors
/// [`KernelError::NoTask`]; [`KernelError`] when neither can be read.
pub fn find(kernel: &Kernel, pid: i32) -> Result<Task, KernelError> {
    let reader = Tasks::resolve(kernel)?;
    let of_idr = || {
        let idr = Idr::find(kernel).ok()?;
        let numbered = idr.array.get(kernel, idr.head, u64::try_from(pid).ok()?).ok()??;
        let task = idr.task(&kernel.memory.read_vec(numbered, idr.pid_len).ok()?)?;
        reader.at(kernel, &[task]).pop()?.ok().filter(|task| task.pid == pid)
    };
    if let Some(task) = of_idr() {
        return Ok(task);
    }
    let list = reader.list(kernel, Scope::Threads)?;
    match (list.tasks.into_iter().find(|task| task.pid == pid), list.torn) {
        (Some(task), _) => Ok(task),
        (None, Some(torn)) => Err(torn),
        (None, None) => Err(KernelError::NoTask { pid }),
    }
}
