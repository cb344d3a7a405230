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

/// The kernel's file in the target's file system, as GDB sees that.
#[derive(Clone)]
pub struct SymbolFile {
    /// Its absolute path there.
    pub path: String,
    /// What it holds.
    pub bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
}
