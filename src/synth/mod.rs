//! Symbol files made here, for a GDB that was given none.
//!
//! Input: what is known of a kernel. Output: the bytes of an ELF file. Nothing here reads a target or a disk.

pub mod build_id;
mod dwarf;
mod elf;
mod globals;
mod layout;
pub mod modules;
pub mod vmlinux;

#[cfg(test)]
mod tests;

use std::sync::Arc;

/// The one file of the target's file system, as GDB sees that.
#[derive(Clone)]
pub struct SymbolFile {
    /// Its absolute path there.
    pub path: String,
    /// What it holds.
    pub bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// GDB leaves per-CPU symbols where they were linked when it moves the rest.
    pub keeps_percpu: bool,
}
