//! Symbol files made here, for a GDB that was given none.
//!
//! Input: what is known of a kernel. Output: the bytes of an ELF file. Nothing here reads a target or a disk.

mod dwarf;
mod elf;
mod globals;
mod layout;
pub mod vmlinux;

#[cfg(test)]
mod tests;
