//! The machine as [`gdbstub`] drives it: one file per trait of its.
//!
//! A [`GdbTarget`] belongs to one client. It holds what must not change between two packets (the threads) and
//! what the client has asked for; everything else comes from the [`Host`], and nothing here can end a session.

mod base;
mod breakpoints;
mod host_io;
mod monitor;
mod offsets;
mod percpu_rebase;
mod registers;
mod resume;
mod threads;
mod watch;

use std::{convert::Infallible, sync::Arc, time::Duration};

use gdbstub::target::{
    Target,
    ext::{
        base::BaseOps,
        breakpoints::BreakpointsOps,
        exec_file::ExecFileOps,
        host_io::{HostIoErrno, HostIoOps},
        monitor_cmd::MonitorCmdOps,
        section_offsets::SectionOffsetsOps,
    },
};

use self::{breakpoints::Breakpoints, host_io::Files, resume::Resume, threads::Threads, watch::Watches};
pub use self::{
    percpu_rebase::PercpuRebase,
    registers::{Register, Registers, UNKNOWN_PC},
};
pub(super) use self::{
    registers::X86_64,
    resume::{Reason, Running, Stop},
};
use super::{View, host::Host, thread_filter::ThreadFilter};

/// A machine, shown to one client.
pub(super) struct GdbTarget {
    host: Arc<dyn Host>,
    /// `None` until they are asked for.
    threads: Option<Threads>,
    breakpoints: Breakpoints,
    watches: Watches,
    watch_interval: Duration,
    resume: Resume,
    files: Files,
    filter: ThreadFilter,
    /// Why the packet being answered is refused, in a sentence; an error number cannot say it.
    refusal: Option<String>,
    /// What to do to per-CPU offsets, once the client has asked how far the kernel was moved.
    rebase: RebaseState,
}

/// Whether reads of per-CPU offsets are rebased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RebaseState {
    /// `--percpu-rebase=off`.
    Off,
    /// The client has not asked for offsets, so its symbols are where the kernel was linked.
    NotAsked,
    /// The client has moved its symbols; `None` when this kernel's per-CPU symbols are ordinary ones.
    Asked(Option<PercpuRebase>),
}

impl GdbTarget {
    /// `host`, for a client that has just attached.
    #[must_use]
    pub(super) fn new(host: Arc<dyn Host>, view: View) -> Self {
        let View { percpu_rebase, threads: filter, watch_interval } = view;
        let rebase = if percpu_rebase { RebaseState::NotAsked } else { RebaseState::Off };
        let files = Files::new(host.symbol_file());
        let (breakpoints, watches) = (Breakpoints::default(), Watches::default());
        let resume = Resume::default();
        Self {
            host,
            threads: None,
            breakpoints,
            watches,
            watch_interval,
            resume,
            files,
            filter,
            refusal: None,
            rebase,
        }
    }

    /// Whether there are symbols to hand out.
    #[must_use]
    pub(super) fn has_symbol_file(&self) -> bool {
        self.files.name().is_some()
    }

    /// Bytes of an open symbol file (`vFile:pread`).
    pub(super) fn read_file(&self, fd: u32, count: u64, offset: u64) -> Result<&[u8], HostIoErrno> {
        self.files.read(fd, count, offset)
    }

    /// Why the packet just answered with an error was refused, where there is a sentence for it.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    /// Forgets what is known of the target and looks again.
    pub(super) fn refresh(&mut self) {
        self.host.refresh();
        self.threads = None;
    }

    /// The threads, and the host to ask about them. They are looked at when first needed: GDB waits two seconds for
    /// its first replies, and sends its packets again when they do not come.
    fn threads(&mut self) -> (&mut Threads, &dyn Host) {
        let host = &*self.host;
        (self.threads.get_or_insert_with(|| Threads::take(host, &self.filter)), host)
    }
}

impl Target for GdbTarget {
    type Arch = X86_64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_section_offsets(&mut self) -> Option<SectionOffsetsOps<'_, Self>> {
        self.host.text().is_some().then_some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        self.has_symbol_file().then_some(self)
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        Some(self)
    }

    /// Repeated bytes are sent as they are: replies stay readable, and ours to extend.
    fn use_rle(&self) -> bool {
        false
    }
}
