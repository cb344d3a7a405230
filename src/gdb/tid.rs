//! Thread ids. GDB wants positive numbers that are unique; Linux gives every idle task the pid 0.
//!
//! A CPU's current task is the thread *of that CPU*, with an id of its own that stays when the scheduler puts
//! another task there: GDB numbers threads in the order it meets them and never renumbers, and the kernel's
//! scripts take "GDB's thread number - 1" for the CPU. Every other task is the thread with its pid as id.

use std::num::NonZeroUsize;

/// First id that no pid can have: Linux bounds pids at 4 Mi (`PID_MAX_LIMIT`, include/linux/threads.h), and the
/// last decimal digits of a CPU's id read as the CPU.
const CPU_BASE: usize = 10_000_000;
/// First id of an idle task, read in the same way. There are fewer CPUs than lie between.
const IDLE_BASE: usize = 20_000_000;

/// A thread's id.
pub type Tid = NonZeroUsize;

/// The id of the thread that is CPU `cpu`.
#[must_use]
pub fn of_cpu(cpu: u32) -> Tid {
    NonZeroUsize::MIN.saturating_add(CPU_BASE - 1).saturating_add(cpu as usize)
}

/// The id of the thread that is the idle task of CPU `cpu` while that runs something else.
#[must_use]
pub fn of_idle(cpu: u32) -> Tid {
    NonZeroUsize::MIN.saturating_add(IDLE_BASE - 1).saturating_add(cpu as usize)
}

/// The id of the thread that is the task `pid`; `None` for idle tasks, whose pid is 0.
#[must_use]
pub fn of_pid(pid: i32) -> Option<Tid> {
    usize::try_from(pid).ok().filter(|pid| *pid < CPU_BASE).and_then(NonZeroUsize::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_and_pids_never_share_an_id() {
        assert_eq!(of_cpu(0).get(), 10_000_000);
        assert_eq!(of_cpu(3).get(), 10_000_003);
        assert_eq!(of_idle(8191).get(), 20_008_191);
        assert_eq!(of_pid(1).map(NonZeroUsize::get), Some(1));
        assert_eq!(of_pid(0), None);
        assert_eq!(of_pid(-1), None);
        assert_eq!(of_pid(10_000_000), None);
    }
}
