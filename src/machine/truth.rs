//! What a machine holds, for tests to compare with what is read from it.

use super::{
    description::{Bases, Description, LogLine, Mount, TaskState},
    link::{KERNEL_MAP, TEXT},
};
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    paging::Levels,
};

/// What a machine holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Truth {
    /// `uname -r`.
    pub release: String,
    /// `linux_banner`, with its newline.
    pub banner: String,
    /// Of the image.
    pub build_id: [u8; 20],
    /// `/proc/cmdline`.
    pub command_line: String,
    /// Run-time address of `_text`.
    pub text: VirtAddr,
    /// Its physical address.
    pub text_phys: PhysAddr,
    /// The image, `_text` to `_end`.
    pub image: PhysRange,
    /// The kernel's variable of that name.
    pub phys_base: u64,
    /// KASLR slide.
    pub slide: u64,
    /// Physical address of `init_top_pgt`.
    pub root: PhysAddr,
    /// Depth of the page tables.
    pub levels: Levels,
    /// Where the regions of kernel space begin.
    pub bases: Bases,
    /// `System RAM` of `/proc/iomem`.
    pub ram: Vec<PhysRange>,
    /// Where the real-mode blob is.
    pub real_mode: Option<PhysAddr>,
    /// VMCOREINFO's text.
    pub vmcoreinfo: Option<String>,
    /// The processors.
    pub cpus: Vec<TrueCpu>,
    /// The tasks in the order of the kernel's list, `init_task` first, threads behind their leader; the other
    /// idle tasks, which are in no list, are with their processors.
    pub tasks: Vec<TrueTask>,
    /// The messages still in the log, oldest first.
    pub log: Vec<LogLine>,
    /// Loaded modules in the order of the kernel's list.
    pub modules: Vec<TrueModule>,
    /// What processes with an address space have mapped and open.
    pub processes: Vec<TrueProcess>,
    /// Mounted file systems in the order of the kernel's list.
    pub mounts: Vec<Mount>,
}

/// A processor.
#[derive(Debug, Clone)]
pub struct TrueCpu {
    /// Its entry of `__per_cpu_offset`.
    pub per_cpu_offset: u64,
    /// Whether it is in `__cpu_online_mask`.
    pub online: bool,
    /// Its idle task.
    pub idle: TrueTask,
    /// Address of the `task_struct` it runs.
    pub current: VirtAddr,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrueTask {
    /// Of its `task_struct`.
    pub addr: VirtAddr,
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// The parent's process id.
    pub parent: u32,
    /// Its name.
    pub comm: String,
    /// What it does.
    pub state: TaskState,
    /// Real user id.
    pub uid: u32,
    /// It has no user space.
    pub kernel_thread: bool,
    /// Its arguments.
    pub cmdline: Vec<String>,
    /// Nanoseconds since boot.
    pub start_time: u64,
    /// The processor that runs it now.
    pub running_on: Option<usize>,
    /// Start of its kernel stack.
    pub stack: VirtAddr,
    /// Its `thread.sp`, unless it runs.
    pub sp: Option<VirtAddr>,
    /// The functions on its stack, outermost first.
    pub path: &'static [&'static str],
}

/// What a process has mapped and open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrueProcess {
    /// Its pid.
    pub pid: u32,
    /// The file it executes.
    pub exe: String,
    /// The lines of `/proc/PID/maps`.
    pub maps: Vec<String>,
    /// Descriptors, and where `/proc/PID/fd` has them lead.
    pub files: Vec<(u32, String)>,
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrueModule {
    /// Of its `struct module`.
    pub addr: VirtAddr,
    /// Its name.
    pub name: String,
    /// Start of its code.
    pub base: VirtAddr,
    /// Bytes of it.
    pub size: u32,
    /// How many modules use it.
    pub users: usize,
}

impl Truth {
    pub(super) fn new(
        description: &Description,
        bases: Bases,
        root: PhysAddr,
        build_id: [u8; 20],
        image: PhysRange,
    ) -> Self {
        let text = VirtAddr::new(TEXT.raw().wrapping_add(description.slide));
        Self {
            release: description.release.clone(),
            banner: super::banner(description),
            build_id,
            command_line: description.command_line.clone(),
            text,
            text_phys: image.start,
            image,
            phys_base: image.start.raw().wrapping_sub(text.raw().wrapping_sub(KERNEL_MAP)),
            slide: description.slide,
            root,
            levels: description.levels,
            bases,
            ram: Vec::new(),
            real_mode: None,
            vmcoreinfo: None,
            cpus: Vec::new(),
            tasks: Vec::new(),
            log: Vec::new(),
            modules: Vec::new(),
            processes: Vec::new(),
            mounts: Vec::new(),
        }
    }

    /// The first task with that thread id.
    #[must_use]
    pub fn task(&self, pid: u32) -> Option<&TrueTask> {
        self.tasks.iter().find(|task| task.pid == pid)
    }
}
