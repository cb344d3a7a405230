//! Writes x86-64 page tables (Intel SDM volume 3, chapter 4). The reading side, [`crate::paging`], is another
//! implementation on purpose: each checks the other.

use std::sync::Arc;

use super::{MachineError, heap::Heap};
use crate::{
    addr::{PhysAddr, VirtAddr},
    mem::{PhysMem, PhysWrite, sparse::Sparse},
    paging::Levels,
};

pub(super) const PRESENT: u64 = 1;
pub(super) const WRITE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
pub(super) const ACCESSED_DIRTY: u64 = 0b11 << 5;
pub(super) const LARGE: u64 = 1 << 7;
pub(super) const GLOBAL: u64 = 1 << 8;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// What the kernel sets in an entry that leads to another table of its own (`_KERNPG_TABLE`).
pub(super) const TABLE: u64 = PRESENT | WRITE | ACCESSED_DIRTY;
/// Ordinary kernel memory (`PAGE_KERNEL`).
pub(super) const DATA: u64 = TABLE | GLOBAL | NO_EXECUTE;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes that an entry of a table of this level (1 to 5) spans.
pub(super) const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// Page tables under one root.
pub(super) struct Tables {
    memory: Arc<Sparse>,
    root: PhysAddr,
    levels: Levels,
}

impl Tables {
    pub(super) fn new(memory: Arc<Sparse>, root: PhysAddr, levels: Levels) -> Self {
        Self { memory, root, levels }
    }

    pub(super) fn levels(&self) -> Levels {
        self.levels
    }

    fn entry(table: PhysAddr, level: u32, addr: VirtAddr) -> PhysAddr {
        table.wrapping_add((addr.raw() / span(level) % 512) * 8)
    }

    /// The entry of level `leaf` for `addr`, with tables from `heap` on the way to it.
    fn ensure(&self, heap: &mut Heap, addr: VirtAddr, leaf: u32) -> Result<PhysAddr, MachineError> {
        let mut table = self.root;
        for level in (leaf + 1..=self.levels.count()).rev() {
            let entry = Self::entry(table, level, addr);
            let mut value = self.memory.read_u64(entry)?;
            if value & PRESENT == 0 {
                let user = if addr.is_upper_half() { 0 } else { USER };
                value = heap.take(4096, 4096)?.raw() | TABLE | user;
                self.memory.write(entry, &value.to_le_bytes())?;
            }
            table = PhysAddr::new(value & ADDRESS);
        }
        Ok(Self::entry(table, leaf, addr))
    }

    /// Makes the entry for `addr` in the table of `level` lead to the table at `to`.
    pub(super) fn attach(
        &self,
        heap: &mut Heap,
        addr: VirtAddr,
        level: u32,
        to: PhysAddr,
    ) -> Result<(), MachineError> {
        let entry = self.ensure(heap, addr, level)?;
        Ok(self.memory.write(entry, &(to.raw() | TABLE | USER).to_le_bytes())?)
    }

    /// Makes sure that the top-level entry for `addr` is there, so that copies of the top level stay true.
    pub(super) fn reserve(&self, heap: &mut Heap, addr: VirtAddr) -> Result<(), MachineError> {
        self.ensure(heap, addr, self.levels.count() - 1).map(|_| ())
    }

    /// Maps `len` bytes, multiples of 4 KiB all, with the largest pages that fit, of at most level `largest`.
    pub(super) fn map(
        &self,
        heap: &mut Heap,
        addr: VirtAddr,
        phys: PhysAddr,
        len: u64,
        largest: u32,
        flags: u64,
    ) -> Result<(), MachineError> {
        let mut done = 0;
        while done < len {
            let (addr, phys) = (addr.wrapping_add(done), phys.wrapping_add(done));
            let fits =
                |level: &u32| (addr.raw() | phys.raw()) % span(*level) == 0 && len - done >= span(*level);
            let level = (2..=largest).rev().find(fits).unwrap_or(1);
            let entry = self.ensure(heap, addr, level)?;
            let large = if level > 1 { LARGE } else { 0 };
            self.memory.write(entry, &(phys.raw() | flags | large).to_le_bytes())?;
            done += span(level);
        }
        Ok(())
    }

    /// Makes the lowest entry for `addr` be `value`, whatever that means.
    pub(super) fn set(&self, heap: &mut Heap, addr: VirtAddr, value: u64) -> Result<(), MachineError> {
        let entry = self.ensure(heap, addr, 1)?;
        Ok(self.memory.write(entry, &value.to_le_bytes())?)
    }

    /// Where `addr` is mapped.
    pub(super) fn lookup(&self, addr: VirtAddr) -> Result<PhysAddr, MachineError> {
        let mut table = self.root;
        for level in (1..=self.levels.count()).rev() {
            let value = self.memory.read_u64(Self::entry(table, level, addr))?;
            if value & PRESENT == 0 {
                break;
            }
            if level == 1 || value & LARGE != 0 {
                return Ok(PhysAddr::new(
                    (value & ADDRESS & !(span(level) - 1)) + addr.offset_in(span(level)),
                ));
            }
            table = PhysAddr::new(value & ADDRESS);
        }
        Err(MachineError::NotMapped { addr })
    }
}
