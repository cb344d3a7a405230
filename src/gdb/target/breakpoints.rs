//! Breakpoints and watchpoints. Those for writes are watched ([`super::watch`]); the others are taken note of, never
//! armed.
//!
//! GDB sends them only when it is about to resume, and answers a refusal with "Cannot access memory at address",
//! which is not the reason.
//! So they are accepted, and the resume that follows is refused with the reason; more watchpoints than can be watched too.

use std::collections::HashSet;

use gdbstub::target::{
    TargetError, TargetResult,
    ext::breakpoints::{
        self, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
        WatchKind,
    },
};

use super::GdbTarget;
use crate::{addr::VirtAddr, gdb::errno};

/// Most breakpoints a client may set.
const MOST: usize = 1024;

/// The kind of a breakpoint as its packet numbers it (`Z0`, `Z1`, `Z3`), and its address.
#[derive(Debug, Default)]
pub(super) struct Breakpoints(HashSet<(u8, u64)>);

impl Breakpoints {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, kind: u8, addr: u64) -> TargetResult<bool, GdbTarget> {
        if self.0.len() >= MOST {
            return Err(TargetError::Errno(errno::ENOSPC));
        }
        self.0.insert((kind, addr));
        Ok(true)
    }

    fn remove(&mut self, kind: u8, addr: u64) -> TargetResult<bool, GdbTarget> {
        Ok(self.0.remove(&(kind, addr)))
    }
}

impl breakpoints::Breakpoints for GdbTarget {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for GdbTarget {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoints.add(0, addr)
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoints.remove(0, addr)
    }
}

impl HwBreakpoint for GdbTarget {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoints.add(1, addr)
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoints.remove(1, addr)
    }
}

/// `Z3`: memory shows no trace of who reads it.
const READ_WATCH: u8 = 3;

impl GdbTarget {
    /// Whether a watchpoint for writes of `len` bytes at `addr` would be set, and would be read when the client resumes.
    #[must_use]
    pub(in crate::gdb) fn may_watch(&self, addr: u64, len: u64) -> bool {
        let addr = VirtAddr::new(addr);
        addr.is_upper_half() && self.watches.fits(addr, len)
    }
}

impl HwWatchpoint for GdbTarget {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        match kind {
            WatchKind::Read => self.breakpoints.add(READ_WATCH, addr),
            WatchKind::Write | WatchKind::ReadWrite => Ok(self.watches.add(addr, len, kind)),
        }
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        match kind {
            WatchKind::Read => self.breakpoints.remove(READ_WATCH, addr),
            WatchKind::Write | WatchKind::ReadWrite => Ok(self.watches.remove(addr, len, kind)),
        }
    }
}
