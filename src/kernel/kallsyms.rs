//! Reads the kernel's own symbol table (kallsyms) out of its image.
//!
//! VMCOREINFO names the tables since 6.0; elsewhere they are searched for in the read-only data, outwards from where
//! samples look like the table of offsets, and known by their structure. Either way the table counts only if it has
//! `_text` where the page tables have it. A few batches of large reads, nothing outside the image; what the bytes mean is
//! [`crate::symbols::kallsyms`]. Source: `kernel/kallsyms.c`, `kernel/vmcore_info.c`.

mod places;
mod search;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::KernelMap;
use crate::{
    addr::{LinkAddr, VirtAddr},
    mem::PhysMem,
    paging::{
        VirtError, VirtMem,
        runs::{Runs, Tables, runs},
    },
    symbols::{
        Symbol, SymbolRef, SymbolTable,
        kallsyms::{FormatError, Kallsyms},
    },
};
use places::Places;

/// As many tables as an image can have: see `locate`.
const MAX_TABLES: usize = 5 + 512;

/// Why a kernel's own symbol table is not to be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KallsymsError {
    /// A read failed.
    #[error("{step}: {source}")]
    Read {
        /// What was being read.
        step: &'static str,
        /// The failed read.
        source: VirtError,
    },
    /// The tables are not what they should be.
    #[error("{step} at {addr}: {source}")]
    Format {
        /// What was being read.
        step: &'static str,
        /// Where.
        addr: VirtAddr,
        /// What is wrong.
        source: FormatError,
    },
    /// There are none, or they are damaged.
    #[error(
        "no kallsyms tables in {bytes} bytes of the kernel's read-only data ({unread} bytes could not be read)"
    )]
    NotFound {
        /// Bytes searched.
        bytes: u64,
        /// Bytes of them that could not be.
        unread: u64,
    },
}

/// A stretch of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: VirtAddr,
    /// Bytes, a multiple of the page size.
    pub len: u64,
}

/// Reads the tables of the kernel that `map` describes; `rodata` is where they may be searched for.
///
/// # Errors
/// [`KallsymsError`] for the last way tried.
pub fn read(memory: &dyn VirtMem, map: &KernelMap, rodata: &[Span]) -> Result<Kallsyms, KallsymsError> {
    let slide = map.slide.unwrap_or(0);
    if let Some(places) = map.vmcoreinfo.as_ref().and_then(Places::noted) {
        match places.read(memory, map.text, slide) {
            Ok(table) => return Ok(table),
            Err(error) => log::warn!("kallsyms where VMCOREINFO has it: {error}; searching the image"),
        }
    }
    search::places(memory, rodata)?.read(memory, map.text, slide)
}

/// The read-only data of the image, as the page tables have it, or all of the image where they do not say; and bytes of the
/// image of which they cannot say anything.
#[must_use]
pub fn rodata(phys: &dyn PhysMem, map: &KernelMap) -> (Vec<Span>, u64) {
    let tables = Tables { root: map.root, levels: map.levels, encryption_mask: map.sme_mask };
    let last = map.text.wrapping_add(map.image.len().saturating_sub(1));
    let Runs { runs: mapped, unread } = runs(phys, tables, map.text, last, MAX_TABLES);
    let span = |start, len| Span { start, len };
    let spans: Vec<Span> = mapped
        .iter()
        .filter(|run| !run.writable && !run.executable)
        .map(|run| span(run.virt, run.len))
        .collect();
    let all = || mapped.iter().map(|run| span(run.virt, run.len)).collect();
    (if spans.is_empty() { all() } else { spans }, unread.bytes)
}

/// The kernel's own symbol table, read when it is first asked for something.
pub struct TargetSymbols {
    memory: Arc<dyn VirtMem>,
    phys: Arc<dyn PhysMem>,
    map: KernelMap,
    /// Read once: the kernel never changes it.
    table: OnceLock<Kallsyms>,
    failure: Mutex<Option<KallsymsError>>,
}

impl TargetSymbols {
    /// The symbols of the kernel that `map` describes.
    #[must_use]
    pub fn new(memory: Arc<dyn VirtMem>, phys: Arc<dyn PhysMem>, map: KernelMap) -> Self {
        Self { memory, phys, map, table: OnceLock::new(), failure: Mutex::default() }
    }

    /// The table.
    ///
    /// # Errors
    /// [`KallsymsError`], the same until [`TargetSymbols::retry`].
    pub fn table(&self) -> Result<&Kallsyms, KallsymsError> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        // Held while reading, so that two who ask at once read once.
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &*failure {
            return Err(error.clone());
        }
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let (rodata, lost) = rodata(&*self.phys, &self.map);
        let outcome = read(&*self.memory, &self.map, &rodata).map_err(|error| match error {
            KallsymsError::NotFound { bytes, unread } => {
                KallsymsError::NotFound { bytes: bytes + lost, unread: unread + lost }
            }
            other => other,
        });
        match outcome {
            Ok(table) => {
                log::info!("{} symbols from kallsyms", table.len());
                Ok(self.table.get_or_init(|| table))
            }
            Err(error) => {
                match &error {
                    // A kernel may be built without.
                    KallsymsError::NotFound { .. } => log::info!("{error}"),
                    _ => log::warn!("no symbols from kallsyms: {error}"),
                }
                *failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Tries again when it is next asked for something, if it could not be read.
    pub fn retry(&self) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take_if(|error| match error {
            KallsymsError::Read { .. } => true,
            KallsymsError::NotFound { unread, .. } => *unread > 0,
            KallsymsError::Format { .. } => false,
        });
    }
}

impl SymbolTable for Arc<TargetSymbols> {
    fn table_name(&self) -> &str {
        "the kernel's own symbol table (kallsyms)"
    }

    fn unavailable(&self) -> Option<String> {
        Some(self.table().err()?.to_string())
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        self.table().ok()?.lookup(name)
    }

    fn containing(&self, addr: LinkAddr) -> Option<Symbol> {
        self.table().ok()?.containing(addr)
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        self.table().ok()?.zero_based_percpu()
    }

    fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>)) {
        if let Ok(table) = self.table() {
            table.for_each(visit);
        }
    }
}

#[cfg(test)]
mod tests;
