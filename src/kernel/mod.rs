//! What Linux keeps where: everything here reads a target through [`Kernel`].
//!
//! [`locate`] finds a kernel in physical memory and writes down a [`KernelMap`]; the other modules, one per
//! kernel subsystem, walk its structures. Differences between kernels are decided by the presence of members
//! and symbols. The target is live and may be hostile: every walk is bounded.

pub mod boot;
pub mod bt;
pub mod btf;
pub mod cmdline;
pub mod code;
pub mod cross_view;
pub mod dmesg;
pub mod family;
pub mod files;
pub mod halted;
pub mod info;
pub mod kallsyms;
pub mod kconfig;
mod list;
pub mod locate;
pub mod maple;
pub mod maps;
pub mod mm;
pub mod module;
pub mod module_symbols;
pub mod open_file;
pub mod orc;
mod page_array;
pub mod path;
pub mod percpu;
pub mod pid;
pub mod poison;
pub mod process;
pub mod registers;
mod structure;
pub mod task;
#[cfg(test)]
pub(crate) mod testing;
pub mod timekeeper;
mod tree;
pub mod unwind;
pub mod user;
pub mod vma;
pub mod xarray;

use std::sync::Arc;

use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    paging::{Levels, VirtError, VirtMem},
    symbols::{Relocated, SymbolError},
    types::{TypeError, TypeSource},
};

/// Where a kernel is: plain data, found by [`locate`], consumed by everything else.
#[derive(Debug, Clone)]
pub struct KernelMap {
    /// Run-time address of `_text`.
    pub text: VirtAddr,
    /// Physical address of `_text`, a multiple of 2 MiB.
    pub text_phys: PhysAddr,
    /// What the kernel calls `phys_base`: physical = virtual - 0xffffffff80000000 + phys_base, modulo 2^64.
    pub phys_base: u64,
    /// KASLR slide: run-time minus link address, modulo 2^64; `None` where sources contradict each other and nothing
    /// decides.
    pub slide: Option<u64>,
    /// Physical address of the live top-level page table (`init_top_pgt`).
    pub root: PhysAddr,
    /// Its depth.
    pub levels: Levels,
    /// Start of the direct map.
    pub page_offset: Option<VirtAddr>,
    /// Start of the vmalloc area.
    pub vmalloc_base: Option<VirtAddr>,
    /// Start of the array of `struct page`.
    pub vmemmap_base: Option<VirtAddr>,
    /// Memory encryption bit in page-table entries (`sme_me_mask`), 0 without.
    pub sme_mask: u64,
    /// The kernel image, `_text` to the last page the tables map.
    pub image: PhysRange,
    /// The pages of its text: executable and, but for patching by the kernel itself, constant. `None` where the page
    /// tables do not tell it from the rest of the image.
    pub text_pages: Option<PhysRange>,
    /// The pages of its read-only data, from the first multiple of 2 MiB that all of them are behind: constant. `None`
    /// likewise.
    pub rodata: Option<PhysRange>,
    /// `linux_banner`, as read through the tables.
    pub banner: Option<String>,
    /// `uname -r`.
    pub release: Option<String>,
    /// GNU build id from the image's `.notes`, or VMCOREINFO.
    pub build_id: Option<Vec<u8>>,
    /// VMCOREINFO, if the kernel keeps it.
    pub vmcoreinfo: Option<locate::vmcoreinfo::VmcoreInfo>,
    /// RAM, ascending and disjoint.
    pub ram: Vec<PhysRange>,
    /// Why `ram` may not be all of it; `None` where its source was read whole.
    pub ram_shortfall: Option<locate::Shortfall>,
    /// Run-time address of `init_task`, exported or found by what it is; sought only where there are no symbols.
    pub init_task: Option<VirtAddr>,
    /// How each of these was found, in the order it was.
    pub evidence: Vec<Evidence>,
}

/// How one value was found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Evidence {
    /// The value's name, as `info` prints it: `text`, `root`, `ram`...
    pub what: &'static str,
    /// The method: `real-mode trampoline`, `VMCOREINFO`, `iomem_resource`...
    pub method: &'static str,
    /// Details for a person: addresses, counts.
    pub detail: String,
    /// `proved` by a second, independent source; `found`; `guessed`; or `dropped`, a damaged or foreign source.
    pub confidence: Confidence,
}

impl Evidence {
    /// Notes that a second, independent source has the same value.
    pub(crate) fn second(&mut self, source: &str) {
        let and = if self.detail.contains(", as in ") { " and in " } else { ", as in " };
        self.detail.push_str(and);
        self.detail.push_str(source);
        self.confidence = Confidence::Proved;
    }
}

/// How sure a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// A second, independent source agrees.
    Proved,
    /// One source says so.
    Found,
    /// Derived from a convention, checked by nothing.
    Guessed,
    /// Seen, contradicted by what is better known, and not used.
    Dropped,
}

/// A located kernel and what is known to read it with.
pub struct Kernel {
    /// Where it is.
    pub map: KernelMap,
    /// Its virtual memory.
    pub memory: Arc<dyn VirtMem>,
    /// Symbols at run-time addresses: a vmlinux's, or the kernel's own, which are read when first asked for. Ask
    /// [`Kernel::symbols`] where it matters whether there are any.
    pub symbols: Option<Relocated>,
    /// Types: the vmlinux's, or else those in the kernel's memory ([`btf`]).
    pub types: Option<Arc<dyn TypeSource>>,
    /// What may be looked at of processes.
    pub policy: UserMemory,
}

/// What the operator lets be looked at of user space (`memory.policy` of a profile).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserMemory {
    /// Everything.
    #[default]
    All,
    /// Nothing: the host's users' data is none of the debugger's business.
    KernelOnly,
}

/// Why something about the kernel could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A read failed.
    #[error("{step}: {source}")]
    Read {
        /// What was being done, such as `reading task_struct`.
        step: &'static str,
        /// The failed read.
        source: VirtError,
    },
    /// A symbol is missing.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    /// A type or member is missing.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// The target contradicts itself: damaged, hostile, or changing faster than it can be read.
    #[error("{step} at {addr}: {reason}")]
    Inconsistent {
        /// What was being done.
        step: &'static str,
        /// Where.
        addr: VirtAddr,
        /// What is wrong.
        reason: String,
    },
    /// The operator lets only the kernel be looked at.
    #[error("refused: `memory.policy = \"kernel-only\"` of the profile keeps {what} from being read")]
    KernelOnly {
        /// What was asked for.
        what: &'static str,
    },
    /// No thread has that number.
    #[error("there is no task with pid {pid}: `ps`, with threads, lists them all")]
    NoTask {
        /// The number.
        pid: i32,
    },
    /// The task has no user space.
    #[error("pid {pid} has no address space: it is a kernel thread, or has ended")]
    NoUserSpace {
        /// The task's pid.
        pid: i32,
    },
    /// A page of user space is not there.
    #[error(transparent)]
    Absent(user::Absent),
    /// Needs symbols or types, and none were given.
    #[error("{what} needs {needs}{}: give the kernel's own file with --vmlinux", because(reason.as_deref()))]
    NeedsVmlinux {
        /// What was asked for.
        what: &'static str,
        /// `symbols` or `types`.
        needs: &'static str,
        /// Why the kernel's own are not to be had.
        reason: Option<String>,
    },
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(", and its own cannot be read ({reason})"))
}

impl Kernel {
    /// Run-time address of `init_task`: what [`locate`] found by signature, or else its symbol.
    ///
    /// # Errors
    /// [`KernelError`] saying that `what` needs it.
    pub fn init_task(&self, what: &'static str) -> Result<VirtAddr, KernelError> {
        // Found by signature only where no vmlinux has symbols, and then there for nothing.
        match self.map.init_task {
            Some(found) => Ok(found),
            None => Ok(self.symbols(what)?.addr("init_task")?),
        }
    }

    /// Run-time address of a variable: what VMCOREINFO says of it, or else its symbol, which may have to be read first.
    ///
    /// # Errors
    /// [`KernelError`] saying that `what` needs it.
    pub fn variable(&self, what: &'static str, name: &str) -> Result<VirtAddr, KernelError> {
        match self.map.vmcoreinfo.as_ref().and_then(|info| info.symbol(name)) {
            Some(addr) => Ok(addr),
            None => Ok(self.symbols(what)?.addr(name)?),
        }
    }

    /// Whether `what`, which belongs to a process, may be looked at.
    ///
    /// # Errors
    /// [`KernelError::KernelOnly`].
    pub fn user_memory(&self, what: &'static str) -> Result<(), KernelError> {
        match self.policy {
            UserMemory::All => Ok(()),
            UserMemory::KernelOnly => Err(KernelError::KernelOnly { what }),
        }
    }

    /// The symbols, or the sentence that says `what` needs them.
    ///
    /// # Errors
    /// [`KernelError::NeedsVmlinux`].
    pub fn symbols(&self, what: &'static str) -> Result<&Relocated, KernelError> {
        let needed = |reason| KernelError::NeedsVmlinux { what, needs: "symbols", reason };
        let symbols = self.symbols.as_ref().ok_or_else(|| needed(None))?;
        match symbols.table().unavailable() {
            None => Ok(symbols),
            reason => Err(needed(reason)),
        }
    }

    /// The types, or the sentence that says `what` needs them.
    ///
    /// # Errors
    /// [`KernelError::NeedsVmlinux`].
    pub fn types(&self, what: &'static str) -> Result<&dyn TypeSource, KernelError> {
        self.types.as_deref().ok_or(KernelError::NeedsVmlinux { what, needs: "types", reason: None })
    }
}
