//! Where the page tables led before, so that the next walk to the same page reads its entries and the data at once.
//!
//! A path is a guess and no answer: what it names is fetched ahead ([`PhysMem::prefetch`]), and the walk then goes from
//! entry to entry as ever. Where the tables are as they were, it finds all at hand: one round trip instead of one for
//! each level. Where they have changed, it reads what it needs.
//!
//! [`PhysMem::prefetch`]: crate::mem::PhysMem::prefetch

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};

/// Paths kept; when they are full all are forgotten.
const MOST: usize = 8192;

/// The entries a walk went through, and the page it came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Path {
    entries: [Option<PhysAddr>; 5],
    page: PhysAddr,
}

impl Path {
    /// Notes the entry of `level` (1 to 5) at `addr`.
    pub(super) fn pass(&mut self, level: u32, addr: PhysAddr) {
        if let Some(entry) = self.entries.get_mut(level as usize - 1) {
            *entry = Some(addr);
        }
    }
}

/// Paths by top-level table and page.
#[derive(Default)]
pub(super) struct Paths(Mutex<HashMap<(PhysAddr, VirtAddr), Path>>);

impl Paths {
    /// Notes that `path` leads from the table at `root` to the page at `virt`, which is at `phys`.
    pub(super) fn note(&self, root: PhysAddr, virt: VirtAddr, path: Path, phys: PhysAddr) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= MOST {
            paths.clear();
        }
        paths.insert((root, virt), Path { page: phys, ..path });
    }

    /// Adds to `ranges` what a read of `len` bytes at `addr`, inside one page, will probably need.
    pub(super) fn guess(&self, root: PhysAddr, addr: VirtAddr, len: usize, ranges: &mut Vec<PhysRange>) {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = paths.get(&(root, addr.align_down(PAGE_SIZE))) else { return };
        ranges.extend(path.entries.iter().flatten().filter_map(|entry| PhysRange::with_len(*entry, 8)));
        ranges.extend(PhysRange::with_len(path.page.wrapping_add(addr.offset_in(PAGE_SIZE)), len as u64));
    }
}
