//! `continue` and `step`: refused, by stopping again at once with a sentence on GDB's console.
//!
//! GDB has no other way to be told: an error reply to `vCont` leaves it without a word or without a session.

use gdbstub::{
    common::{Signal, Tid},
    target::ext::base::multithread::{
        MultiThreadResume, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
        MultiThreadSingleStep, MultiThreadSingleStepOps,
    },
};

use super::GdbTarget;

/// What the client wants to happen, between two stops.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The thread to report, if the client named one.
    tid: Option<Tid>,
    step: bool,
}

/// Why the target is stopped again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The thread GDB should select.
    pub tid: Tid,
    /// What GDB is to say happened to it.
    pub signal: Signal,
    /// What to print on GDB's console.
    pub message: String,
}

impl GdbTarget {
    /// Whether something has happened that stops a target that GDB thinks is running; `None`: not yet.
    pub fn poll_stop(&mut self) -> Option<Stop> {
        let Resume { tid, step } = std::mem::take(&mut self.resume);
        let wish = if step { "step" } else { "continue" };
        let mut message = format!(
            "nettlp-gdb cannot {wish}: it reads the target's memory from outside and has no hold on its CPUs.\n"
        );
        let breakpoints = self.breakpoints.count();
        if breakpoints > 0 {
            message.push_str(&format!(
                "The {breakpoints} breakpoint(s) and watchpoint(s) GDB has set can never be reached.\n"
            ));
        }
        let tid = tid.filter(|tid| self.threads.get(*tid).is_some()).unwrap_or(self.threads.first());
        Some(Stop { tid, signal: Signal(0), message })
    }
}

impl MultiThreadResume for GdbTarget {
    fn resume(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Self::Error> {
        self.resume = Resume::default();
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Self::Error> {
        self.resume.tid = Some(tid);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for GdbTarget {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Self::Error> {
        self.resume = Resume { tid: Some(tid), step: true };
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for GdbTarget {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}
