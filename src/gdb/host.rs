//! What the front end needs of a machine: its memory, its threads, and answers to `monitor` commands.
//!
//! The seam between the protocol and everything behind it. Nothing in here knows a packet; nothing behind it
//! knows GDB.

use std::{fmt, sync::Arc};

use super::{
    target::{PercpuRebase, Registers},
    thread_filter::ThreadFilter,
    tid::Tid,
};
use crate::{
    addr::VirtAddr,
    kernel::KernelError,
    paging::{VirtError, VirtOp},
    session::writing::WriteError,
    synth::SymbolFile,
};

/// A machine as GDB sees it.
pub trait Host: Send + Sync {
    /// Reads from `addr` as much of `buf` as can be read without a gap, and returns how many bytes that is; more
    /// than none unless `buf` is empty.
    ///
    /// # Errors
    /// Why the byte at `addr` cannot be read.
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, VirtError>;

    /// As [`Host::read`], of the address space of `task`, whose addresses lie below the kernel's.
    ///
    /// # Errors
    /// As [`Host::read`]; a task without an address space; an operator who lets none be looked at.
    fn read_user(&self, task: TaskId, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, KernelError>;

    /// Reads memory as it is at this moment, past every cache, all of `ops` with one batch.
    fn read_now(&self, ops: &mut [VirtOp<'_>]);

    /// Writes `data` at `addr` and reads it back. Refused unless somebody allowed it.
    ///
    /// # Errors
    /// Why nothing, or not everything, was written.
    fn write(&self, addr: VirtAddr, data: &[u8]) -> Result<(), WriteError> {
        let _ = (addr, data);
        Err(WriteError::NotAllowed)
    }

    /// Whether a write of `len` bytes at `addr` would be let through to the machine.
    fn may_write(&self, addr: VirtAddr, len: usize) -> bool {
        let _ = (addr, len);
        false
    }

    /// The threads now, at least one: first what each CPU runs, in the order of CPUs, then the other tasks that
    /// pass `filter`. Takes what it can get: what cannot be read is left out or unknown.
    fn threads(&self, filter: &ThreadFilter) -> Vec<Thread>;

    /// What is known now of the registers of tasks that were not on a CPU, each with its own outcome. All are asked
    /// for together, so that it costs a few batches whatever their number.
    ///
    /// # Errors
    /// [`Gone`] of a task that has exited.
    fn registers(&self, tasks: &[TaskId]) -> Vec<Result<Registers, Gone>>;

    /// Run-time address of the kernel's first segment (`_text`), if it is known how far the kernel is from where
    /// it was linked.
    fn text(&self) -> Option<VirtAddr>;

    /// The array to rebase in a kernel with per-CPU symbols linked at 0.
    fn percpu_rebase(&self) -> Option<PercpuRebase>;

    /// The file that has the kernel's symbols, for a GDB that was given none.
    fn symbol_file(&self) -> Option<SymbolFile> {
        None
    }

    /// A file with the symbols of the modules that are loaded now.
    ///
    /// # Errors
    /// A sentence for the user.
    fn module_symbols(&self) -> Result<Vec<u8>, MonitorError> {
        Err(MonitorError::Failed("this machine has no modules".to_owned()))
    }

    /// Forgets what was cached of the target.
    fn refresh(&self);

    /// Whether the machine was booted anew since it was looked at first: then nothing known of it holds.
    fn booted_anew(&self) -> bool {
        false
    }

    /// Runs the `monitor` command `line` and prints what it says to `out`. `help`, `refresh` and `info version`
    /// are answered before they get here.
    ///
    /// # Errors
    /// A sentence for the user.
    fn monitor(&self, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError>;

    /// The commands [`Host::monitor`] knows, for `monitor help`: usage and what it does.
    fn monitor_help(&self) -> Vec<(&'static str, &'static str)>;
}

/// Where the machine comes from that a client is shown.
pub trait Hosts: Send + Sync {
    /// The machine as it was found; `None` when it was not, or was booted anew since.
    fn found(&self) -> Option<Arc<dyn Host>>;

    /// Finds it again. GDB waits some six seconds for its first reply.
    ///
    /// # Errors
    /// A sentence for the client.
    fn find(&self) -> Result<Arc<dyn Host>, String>;
}

/// A machine that nobody can find again.
pub(super) struct Once(pub(super) Arc<dyn Host>);

impl Hosts for Once {
    fn found(&self) -> Option<Arc<dyn Host>> {
        (!self.0.booted_anew()).then(|| Arc::clone(&self.0))
    }

    fn find(&self) -> Result<Arc<dyn Host>, String> {
        Err("the host was booted anew since its kernel was found: start the server again".to_owned())
    }
}

/// A task, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskId {
    /// Address of its `task_struct`, which may become another task's.
    pub addr: VirtAddr,
    /// Its pid.
    pub pid: i32,
}

/// A task has exited since it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task has exited")]
pub struct Gone;

/// A thread as GDB is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its id, not another thread's.
    pub tid: Tid,
    /// Its name: the task's `comm`.
    pub name: String,
    /// What `info threads` shows in parentheses: `CPU 0, pid 1, running`.
    pub detail: String,
    /// The CPU it is on, or was last on.
    pub cpu: Option<u32>,
    /// What is known of its registers; of a task that is on no CPU, [`Host::registers`] knows more.
    pub registers: Registers,
    /// The task, if it was on no CPU.
    pub asleep: Option<TaskId>,
    /// The task, wherever it was; `None` when it is not known.
    pub task: Option<TaskId>,
}

/// Why a `monitor` command printed nothing, or not everything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// There is no such command.
    #[error("there is no `monitor {0}`; `monitor help` lists what there is")]
    Unknown(String),
    /// The command was called the wrong way.
    #[error("usage: monitor {0}")]
    Usage(&'static str),
    /// An argument is not one; whoever knows the usage says it.
    #[error("that is no argument of this command")]
    Arguments,
    /// What is known is of the boot before.
    #[error(
        "the host was booted anew since this debugger attached: what the debugger and the server know of it is of the boot \
         before; `disconnect`, then `target remote` again"
    )]
    BootedAnew,
    /// It failed: the reason with what caused it.
    #[error("{0}")]
    Failed(String),
    /// What was printed is not all.
    #[error("the list is incomplete: {0}")]
    Incomplete(KernelError),
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The text could not be written.
    #[error("the text could not be written")]
    Write(#[from] fmt::Error),
}
