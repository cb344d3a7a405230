//! A synthetic Linux machine: physical memory as a running or panicked kernel leaves it, and the `vmlinux` that
//! describes it. What `demo` serves, and what tests read when no kernel is at hand.
//!
//! Input: a [`Description`], plain data. Output: a [`Machine`]. Its kernel is written down as C declarations
//! ([`c`], `machine/source`), which drive both the bytes in memory and the debug information: one source of
//! truth. Nothing of it is the real kernel's text; names, lists and formats are the kernel's, layouts our own.
//! The module knows nothing of how a kernel is found or read: the reading side must not be able to cheat.

mod boot;
pub mod c;
mod carried;
mod code;
mod demo;
mod description;
pub mod dwarf_writer;
mod heap;
mod link;
mod tables;
#[cfg(test)]
mod tests;
mod thesis;
mod truth;
mod vmlinux;

use std::sync::Arc;

pub use description::{
    Bases, Description, LogLine, Module, Mount, PerCpu, Poisoned, Printk, State, Task, TaskState,
};
pub use truth::{TrueCpu, TrueModule, TrueProcess, TrueTask, Truth};

use crate::{
    addr::{PhysRange, VirtAddr},
    mem::{MemError, sparse::Sparse},
    types::TypeError,
};

/// Most processors a description may have (`CONFIG_NR_CPUS`).
const NR_CPUS: u64 = 64;

/// Why a description cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The kernel's source cannot be read.
    #[error(transparent)]
    Source(#[from] c::SourceError),
    /// A struct or member that the boot code sets is not in the source.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A variable or function that the boot code needs is not in the source.
    #[error("the synthetic kernel has no {name}")]
    NoSymbol {
        /// Its name.
        name: String,
    },
    /// The description contradicts itself.
    #[error("no such machine: {reason}")]
    Description {
        /// What is wrong.
        reason: String,
    },
    /// RAM is too small.
    #[error("{len} bytes do not fit what is left of {free}")]
    OutOfMemory {
        /// Where there was free memory.
        free: PhysRange,
        /// What was asked for.
        len: u64,
    },
    /// The boot code wrote where nothing is mapped.
    #[error("{addr} is not mapped in the synthetic kernel")]
    NotMapped {
        /// The address.
        addr: VirtAddr,
    },
    /// The boot code wrote outside RAM.
    #[error(transparent)]
    Memory(#[from] MemError),
    /// The `vmlinux` could not be written.
    #[error("writing the synthetic vmlinux: {reason}")]
    Vmlinux {
        /// What is wrong.
        reason: String,
    },
}

/// A machine: its memory, its `vmlinux`, and what is true of it.
#[derive(Debug, Clone)]
pub struct Machine {
    memory: Arc<Sparse>,
    truth: Truth,
    declarations: c::Declarations,
    sources: Vec<c::Source>,
    image: link::Image,
}

impl Machine {
    /// The machine of the `demo` command.
    ///
    /// # Errors
    /// Never, as a test shows.
    pub fn demo() -> Result<Self, MachineError> {
        Self::build(&Description::demo())
    }

    /// Builds what `description` says.
    ///
    /// # Errors
    /// [`MachineError`] when it contradicts itself or does not fit its RAM.
    pub fn build(description: &Description) -> Result<Self, MachineError> {
        let constants = constants(description)?;
        let declarations = c::read(&description.sources, &constants)?;
        let build_id = build_id(description, &constants);
        let image = link::link(&declarations, description, boot::notes(&build_id))?;
        let (memory, truth) = boot::boot(description, &declarations, &image, build_id)?;
        Ok(Self { memory, truth, declarations, sources: description.sources.clone(), image })
    }

    /// Its physical memory.
    #[must_use]
    pub fn memory(&self) -> Arc<Sparse> {
        Arc::clone(&self.memory)
    }

    /// What is true of it.
    #[must_use]
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// Run-time address of a symbol; for a zero-based per-CPU one, its offset in the per-CPU area.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<VirtAddr> {
        let addr = self.image.symbol(name).ok()?.addr;
        let slide = if addr < link::TEXT { 0 } else { self.truth.slide };
        Some(VirtAddr::new(addr.raw().wrapping_add(slide)))
    }

    /// The types of its kernel, as its source declares them.
    #[must_use]
    pub fn types(&self) -> &c::TypeTable {
        &self.declarations.types
    }

    /// The `vmlinux` its kernel was booted from: an ELF executable with symbols and DWARF 5.
    ///
    /// # Errors
    /// [`MachineError::Vmlinux`].
    pub fn vmlinux(&self) -> Result<Vec<u8>, MachineError> {
        vmlinux::write(&self.declarations, &self.sources, &self.image, &self.truth)
    }
}

/// `CONFIG_LOG_BUF_SHIFT` less what a message takes on average (`PRB_AVGBITS`).
fn desc_bits(text_bits: u32) -> u32 {
    text_bits.saturating_sub(5)
}

fn banner(description: &Description) -> String {
    format!(
        "Linux version {} (nettlp-gdb@{}) (a synthetic kernel) {}\n",
        description.release, description.nodename, description.version
    )
}

/// What the sources are compiled with.
fn constants(description: &Description) -> Result<c::Constants, MachineError> {
    let wrong = |reason: &str| MachineError::Description { reason: reason.to_owned() };
    if description.cpus.is_empty() || description.cpus.len() as u64 > NR_CPUS {
        return Err(wrong("between 1 and 64 processors"));
    }
    let (bits, records) = match description.printk {
        Printk::Ring { text_bits } => (text_bits, false),
        Printk::Records { buffer_bits } => (buffer_bits, true),
    };
    if !(8..=24).contains(&bits) {
        return Err(wrong("a log buffer of 256 bytes to 16 MiB"));
    }
    let mut constants = c::Constants::from([
        ("NR_CPUS", NR_CPUS),
        ("BANNER_LEN", banner(description).len() as u64 + 1),
        ("LOG_BUF_LEN", 1 << bits),
        ("PRB_DESCS", 1 << desc_bits(bits)),
        ("INIT_STACK_WORDS", 2048),
    ]);
    constants.extend(description.defines.iter().copied());
    if records {
        constants.insert("PRINTK_RECORDS", 1);
    }
    if description.percpu == PerCpu::Ordinary {
        constants.insert("PERCPU_ORDINARY", 1);
    }
    if description.describes_itself {
        constants.insert("KALLSYMS", 1);
    }
    Ok(constants)
}

/// Twenty bytes that differ between kernels that were compiled differently (FNV-1a, once for each four bytes).
fn build_id(description: &Description, constants: &c::Constants) -> [u8; 20] {
    let inputs = format!("{:?}{constants:?}{}", description.sources, banner(description));
    let mut id = [0; 20];
    for (salt, word) in (0_u64..).zip(id.chunks_exact_mut(4)) {
        let start = 0xcbf2_9ce4_8422_2325 ^ salt;
        let hash =
            inputs.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        word.copy_from_slice(&((hash ^ hash >> 32) as u32).to_le_bytes());
    }
    id
}
