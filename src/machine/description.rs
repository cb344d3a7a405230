//! What a synthetic machine is to look like: plain data, with a pleasant default.

use super::c::Source;
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    paging::Levels,
};

/// A machine to be built. Start from [`Description::demo`] or [`Description::minimal`] and change fields.
#[derive(Debug, Clone)]
pub struct Description {
    /// The kernel's source: its structs, variables and functions.
    pub sources: Vec<Source>,
    /// What the source asks `#ifdef` for besides what the fields below say.
    pub defines: Vec<(&'static str, u64)>,
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `uname -n`.
    pub nodename: String,
    /// `/proc/cmdline`.
    pub command_line: String,
    /// Depth of the page tables.
    pub levels: Levels,
    /// KASLR: how far above its link address the kernel runs, a multiple of 2 MiB; 0 without.
    pub slide: u64,
    /// Where `_text` lies, a multiple of 2 MiB.
    pub text_phys: PhysAddr,
    /// Start of direct map, vmalloc area and `struct page` array; `None` for what `levels` and `slide` suggest.
    pub bases: Option<Bases>,
    /// RAM as firmware reports it, ascending and disjoint. The kernel allocates from the end of the last range.
    pub ram: Vec<PhysRange>,
    /// Where the real-mode blob lies below 1 MiB; `None` on a machine that has none.
    pub real_mode: Option<PhysAddr>,
    /// Whether `mark_rodata_ro()` was called: it is when the last initcall has returned.
    pub protected: bool,
    /// Whether VMCOREINFO is there.
    pub vmcoreinfo: bool,
    /// Whether it carries its own symbols (kallsyms) and types (BTF).
    pub describes_itself: bool,
    /// How per-CPU variables are linked.
    pub percpu: PerCpu,
    /// Processors, and the pid each is running; 0 is its idle task.
    pub cpus: Vec<u32>,
    /// Processes other than the idle tasks, parents before children.
    pub tasks: Vec<Task>,
    /// Which printk.
    pub printk: Printk,
    /// Everything ever logged, oldest first.
    pub log: Vec<LogLine>,
    /// Loaded modules, newest first.
    pub modules: Vec<Module>,
    /// Mounted file systems, each below an earlier one; the first is the root.
    pub mounts: Vec<Mount>,
    /// What of RAM has had memory errors.
    pub poisoned: Vec<Poisoned>,
    /// Alive, or dead since a panic.
    pub state: State,
}

/// Where the regions of kernel space begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bases {
    /// `page_offset_base`
    pub page_offset: VirtAddr,
    /// `vmalloc_base`
    pub vmalloc: VirtAddr,
    /// `vmemmap_base`
    pub vmemmap: VirtAddr,
}

impl Bases {
    /// The bases of a kernel with this depth, moved by multiples of 1 GiB if it randomises memory
    /// (Documentation/x86/x86_64/mm.rst, arch/x86/mm/kaslr.c).
    #[must_use]
    pub fn usual(levels: Levels, randomized: bool) -> Self {
        let (page_offset, vmalloc, vmemmap) = match (levels, randomized) {
            (Levels::Four, false) => (0xffff_8880_0000_0000, 0xffff_c900_0000_0000, 0xffff_ea00_0000_0000),
            (Levels::Four, true) => (0xffff_9c4b_4000_0000, 0xffff_b9b8_8000_0000, 0xffff_e1b1_c000_0000),
            (Levels::Five, false) => (0xff11_0000_0000_0000, 0xffa0_0000_0000_0000, 0xffd4_0000_0000_0000),
            (Levels::Five, true) => (0xff1c_2ab8_4000_0000, 0xffa4_d1c8_8000_0000, 0xffd9_0c2f_0000_0000),
        };
        Self {
            page_offset: VirtAddr::new(page_offset),
            vmalloc: VirtAddr::new(vmalloc),
            vmemmap: VirtAddr::new(vmemmap),
        }
    }
}

/// How per-CPU variables are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerCpu {
    /// At 0, in a segment of their own: x86-64 before 6.15.
    ZeroBased,
    /// Among the data: from 6.15.
    Ordinary,
}

/// Which printk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printk {
    /// The lockless ring of 5.10: `1 << text_bits` bytes of text, and a descriptor for each 32 of them.
    Ring {
        /// Logarithm of the bytes of text.
        text_bits: u32,
    },
    /// The records before it, in `1 << buffer_bits` bytes; tasks have `state`, as kernels of that time.
    Records {
        /// Logarithm of the bytes.
        buffer_bits: u32,
    },
}

/// RAM that had a memory error: the page at a physical address, below 128 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poisoned {
    /// A page of its own.
    Page(PhysAddr),
    /// A huge page (hugetlb) of 2 MiB, the first of whose structs alone is marked.
    Huge(PhysAddr),
}

/// Whether the machine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Running,
    /// It panicked on this processor; the others were stopped.
    Panicked {
        /// The processor that called `panic`.
        cpu: usize,
    },
}

/// A process or kernel thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid; 0 for what the first idle task started.
    pub parent: u32,
    /// Its name, cut to 15 bytes.
    pub comm: String,
    /// Real user id.
    pub uid: u32,
    /// What it does.
    pub state: TaskState,
    /// The functions it sleeps in, outermost first, each calling the next, down to `__schedule`.
    pub path: &'static [&'static str],
    /// Its arguments; a process without any is a kernel thread.
    pub cmdline: Vec<String>,
    /// Its further threads: tid and name.
    pub threads: Vec<(u32, String)>,
    /// Where its `task_struct` is to lie; `None` where the allocator puts it.
    pub phys: Option<PhysAddr>,
}

/// What a task does, as `ps` letters it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum TaskState {
    /// `R`
    #[default]
    Running,
    /// `S`
    Interruptible,
    /// `D`
    Uninterruptible,
    /// `I`: a kernel thread that waits for work.
    Idle,
    /// `T`
    Stopped,
    /// `Z`
    Zombie,
}

impl TaskState {
    /// The letter that `ps` prints.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Interruptible => 'S',
            Self::Uninterruptible => 'D',
            Self::Idle => 'I',
            Self::Stopped => 'T',
            Self::Zombie => 'Z',
        }
    }
}

/// A message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Nanoseconds since boot.
    pub ts_nsec: u64,
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The message, without a final newline.
    pub text: String,
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Bytes of its core.
    pub size: u32,
    /// Names of the modules that use it.
    pub used_by: Vec<String>,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub device: String,
    /// Where: an absolute path.
    pub path: String,
    /// File system type.
    pub fstype: String,
    /// Read-only.
    pub read_only: bool,
}
