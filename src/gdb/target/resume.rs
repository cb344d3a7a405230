//! `continue` and `step`.
//!
//! The target's CPUs run whether GDB continues them or not: `continue` lets time pass until Ctrl-C, or until watched
//! memory changes. What would need a hold on the CPUs, a step or a breakpoint, is refused by stopping again at once with
//! a sentence on GDB's console. GDB has no other way to be told: an error reply to `vCont` leaves it without a word or
//! without a session.

use std::time::{Duration, Instant};

use gdbstub::{
    common::{Signal, Tid},
    target::ext::{
        base::multithread::{
            MultiThreadResume, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
            MultiThreadSingleStep, MultiThreadSingleStepOps,
        },
        breakpoints::WatchKind,
    },
};

use super::{
    GdbTarget,
    watch::{MAX_BYTES, MAX_RANGES},
};

/// What the client wants to happen, between two stops.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The thread to report, if the client named one.
    tid: Option<Tid>,
    step: bool,
    /// When watched memory is read next; `None` before it was read for the first time.
    next: Option<Instant>,
}

/// What is to be done about a target that GDB thinks is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gdb) enum Running {
    /// It has stopped.
    Stopped(Stop),
    /// Nothing yet: look again after this time, or when the client says something if there is none.
    Wait {
        /// How long.
        limit: Option<Duration>,
        /// What to print on GDB's console meanwhile.
        message: String,
    },
}

/// Why the target is stopped again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gdb) struct Stop {
    /// The thread GDB should select.
    pub tid: Tid,
    /// What GDB is to say happened to it.
    pub reason: Reason,
    /// What to print on GDB's console.
    pub message: String,
}

/// What a stop is reported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gdb) enum Reason {
    /// A signal; 0 is none.
    Signal(Signal),
    /// A watchpoint's memory has changed.
    Watch {
        /// Which kind GDB set.
        kind: WatchKind,
        /// Where.
        addr: u64,
    },
}

impl GdbTarget {
    /// Looks at a target that GDB thinks is running. `selected` is the thread GDB was looking at.
    pub(in crate::gdb) fn poll(&mut self, now: Instant, selected: Option<Tid>) -> Running {
        let none = Reason::Signal(Signal(0));
        if let Some(message) = self.refused_resume() {
            return Running::Stopped(self.stop(none, message, selected));
        }
        let wait = |limit, message| Running::Wait { limit, message };
        let watching = self.watches.ranges() > 0;
        let interval = self.watch_interval;
        let outcome = match self.resume.next {
            None => self.watches.start(&*self.host).map(|()| None),
            Some(next) if watching && next <= now => self.watches.poll(&*self.host),
            Some(next) => {
                return wait(watching.then(|| next.saturating_duration_since(now)), String::new());
            }
        };
        match outcome {
            Err(error) => {
                let message = format!("Watching ends: {error}.\n");
                Running::Stopped(self.stop(none, message, selected))
            }
            Ok(Some(hit)) => {
                let reason = Reason::Watch { kind: hit.kind, addr: hit.addr };
                Running::Stopped(self.stop(reason, hit.message, selected))
            }
            Ok(None) => {
                let is_first = self.resume.next.replace(now + interval).is_none();
                let message = if is_first { self.waiting_for() } else { String::new() };
                wait(watching.then_some(interval), message)
            }
        }
    }

    /// The client wants to look again.
    pub(in crate::gdb) fn interrupt(&mut self, selected: Option<Tid>) -> Stop {
        self.stop(Reason::Signal(Signal::SIGINT), String::new(), selected)
    }

    /// Why the client's wish cannot be granted, if it cannot.
    fn refused_resume(&self) -> Option<String> {
        if let Some(addr) = self.watches.of_a_process() {
            return Some(format!(
                "nettlp-gdb cannot watch {addr}: it is an address of a process, and GDB does not say whose. What it is in \
                 physical memory, `monitor translate {addr} PID` tells; the kernel's direct map of that can be watched.\n"
            ));
        }
        let (ranges, bytes) = (self.watches.ranges(), self.watches.bytes());
        if ranges > MAX_RANGES || bytes > MAX_BYTES {
            return Some(format!(
                "nettlp-gdb cannot watch {ranges} range(s), {bytes} bytes: at most {MAX_RANGES} of {MAX_BYTES} bytes together \
                 are read each time. Watch a member, not the whole.\n"
            ));
        }
        let breakpoints = self.breakpoints.count();
        if self.resume.step {
            return Some(
                "nettlp-gdb cannot step: it reads the target's memory from outside and has no hold on its CPUs. After \
                 `continue`, GDB steps for a watchpoint that it does not call a hardware watchpoint: `watch -location \
                 EXPR` makes one of whatever is in memory.\n"
                    .to_owned(),
            );
        }
        (breakpoints > 0).then(|| {
            format!(
                "nettlp-gdb cannot continue: GDB has set {breakpoints} breakpoint(s) or read watchpoint(s), and they can \
                 never be reached, for it has no hold on the target's CPUs. `finish`, `until` and `advance` set some for \
                 themselves; of others, `info breakpoints` has the numbers for `delete`. `watch` works.\n"
            )
        })
    }

    /// What GDB's user waits for.
    fn waiting_for(&self) -> String {
        match self.watches.ranges() {
            0 => "Time passes; Ctrl-C looks at the target again.\n".to_owned(),
            ranges => format!(
                "Reading {ranges} watched range(s), {} bytes, every {} us; Ctrl-C ends it.\n",
                self.watches.bytes(),
                self.watch_interval.as_micros()
            ),
        }
    }

    /// A stop with a new snapshot of the target.
    fn stop(&mut self, reason: Reason, message: String, selected: Option<Tid>) -> Stop {
        let named = std::mem::take(&mut self.resume).tid;
        self.refresh();
        let (threads, _) = self.threads();
        let is_there = |tid: &Tid| threads.get(*tid).is_some();
        let tid = named.filter(is_there).or_else(|| selected.filter(is_there));
        Stop { tid: tid.unwrap_or_else(|| threads.first()), reason, message }
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
        self.resume = Resume { tid: Some(tid), step: true, next: None };
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for GdbTarget {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}
