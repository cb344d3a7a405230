//! Why no kernel was found, in words that say what to do.

use std::fmt;

use super::Hints;
use crate::{
    addr::{Hex, PhysAddr, VirtAddr, hex_bytes},
    kernel::{Confidence, Evidence},
    mem::MemError,
};

/// Refusals spelled out per method; more of them say nothing new.
const MAX_REFUSALS: usize = 4;

/// A method that was tried, or why it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    method: &'static str,
    skipped: Option<&'static str>,
    refused: Vec<(PhysAddr, String)>,
    more: usize,
}

impl Attempt {
    pub(super) fn new(method: &'static str) -> Self {
        Self { method, skipped: None, refused: Vec::new(), more: 0 }
    }

    pub(super) fn skipped(method: &'static str, why: &'static str) -> Self {
        Self { skipped: Some(why), ..Self::new(method) }
    }

    pub(super) fn refuse(&mut self, place: PhysAddr, reason: String) {
        log::info!("{} at {place}: {reason}", self.method);
        if self.refused.len() < MAX_REFUSALS {
            self.refused.push((place, reason));
        } else {
            self.more += 1;
        }
    }

    /// What was refused on the way to a kernel that was found.
    pub(super) fn evidence(&self) -> impl Iterator<Item = Evidence> {
        let what = if self.method == "VMCOREINFO" { "VMCOREINFO" } else { "elsewhere" };
        self.refused.iter().map(move |(place, reason)| Evidence {
            what,
            method: self.method,
            detail: format!("at {place}: {reason}"),
            confidence: Confidence::Dropped,
        })
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.skipped {
            Some(why) => return write!(f, "{}: not tried, {why}", self.method),
            None if self.refused.is_empty() => return write!(f, "{}: nothing", self.method),
            None => write!(f, "{}: ", self.method)?,
        }
        for (index, (place, reason)) in self.refused.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{place} refused ({reason})")?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

/// What to check where no kernel is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Advice {
    /// The target is a host.
    #[error(
        "check that the adapter may master the bus, that no IOMMU stands before memory (intel_iommu=off or \
         amd_iommu=off), that memory is not encrypted for a guest (SEV, TDX), and that --ram names the target's RAM"
    )]
    Host,
    /// It is an image.
    #[error(
        "check that the image is complete, that @PHYS, offset and length are right, and that --ram, if given, has the \
         kernel"
    )]
    Image,
}

impl Advice {
    /// For a target of which this is known.
    pub(super) const fn on(hints: &Hints<'_>) -> Self {
        if hints.image { Self::Image } else { Self::Host }
    }
}

/// Why the kernel could not be located.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The first reads failed: nothing can be said about the target's memory.
    #[error("cannot read the target's low memory: {source}")]
    LowMemory {
        /// The failed read.
        source: MemError,
    },
    /// No method found a kernel that proved to be one.
    #[error("no Linux kernel found ({}); {advice}", list(attempts))]
    NotFound {
        /// What was tried, in order.
        attempts: Vec<Attempt>,
        /// What to do.
        advice: Advice,
    },
    /// The vmlinux is not the running kernel's.
    #[error(
        "{vmlinux} has build id {}, the kernel in memory ({}) has {}: give that kernel's own vmlinux, or --force to \
         go on with this one",
        id(vmlinux_id.as_deref()), banner.as_deref().unwrap_or("no banner"), id(target_id.as_deref())
    )]
    OtherBuild {
        /// Its name.
        vmlinux: String,
        /// Its build id.
        vmlinux_id: Option<Vec<u8>>,
        /// The build id in memory.
        target_id: Option<Vec<u8>>,
        /// Who the kernel in memory is.
        banner: Option<String>,
    },
    /// The kernel is not where the profile has it.
    #[error(
        "`kernel.{key}` of the profile is {given}, the kernel in memory has {found}: correct the profile (KASLR gives \
         each boot another), or --force to go on with what is found"
    )]
    NotAsGiven {
        /// The profile's key.
        key: &'static str,
        /// What it says.
        given: Hex,
        /// What is so.
        found: Hex,
    },
    /// There is another thing where the profile has `init_task`.
    #[error(
        "by `kernel.symbols.init_task` and `kernel.slide` of the profile the first task is at {addr}, and no task of the \
         name swapper/0 is there: correct the profile, or leave them out to have it found"
    )]
    NotTheFirstTask {
        /// Where it would be.
        addr: VirtAddr,
    },
    /// Two different kernels in memory both proved.
    #[error(
        "two kernels are in memory, seen from {} and {}: give the --vmlinux of the one meant, or --force to take the \
         first",
        places[0], places[1]
    )]
    TwoKernels {
        /// Their trampolines.
        places: [PhysAddr; 2],
    },
    /// The kernel encrypts its memory, and what is read is not its plain text.
    #[error(
        "the kernel seen from {place} encrypts its memory (SME), and its pages do not read as plain text over PCIe: \
         boot the target with mem_encrypt=off"
    )]
    Encrypted {
        /// The trampoline's page directory.
        place: PhysAddr,
    },
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
}

fn id(id: Option<&[u8]>) -> String {
    id.map_or_else(|| "unknown".to_owned(), hex_bytes)
}
