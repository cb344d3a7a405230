//! What a stretch of an address space maps: every mapping in it, joined into runs.
//!
//! Where a translation answers for one address, this reads whole tables, and only those that exist, so that
//! 1 GiB of kernel addresses or a direct map of terabytes costs as many reads as it has tables. Input: root,
//! depth and range. Output: [`Run`]s. The tables are hostile: depth and number of tables read are bounded, so
//! tables that map themselves end like any others.

use super::{
    Levels,
    space::{ADDRESS, LeadsTo, NO_EXECUTE, PRESENT, UNCACHED, WRITABLE, coverage},
};
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    mem::{Fault, PhysMem, ReadOp},
};

/// Virtual addresses mapped one after the other to physical addresses one after the other, with equal rights and
/// caching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First virtual address.
    pub virt: VirtAddr,
    /// First physical address.
    pub phys: PhysAddr,
    /// Bytes.
    pub len: u64,
    /// All entries on the way allow writing.
    pub writable: bool,
    /// No entry on the way forbids execution.
    pub executable: bool,
    /// Its pages are cached write-back, as Linux programs the PAT (`arch/x86/mm/pat/memtype.c`, `pat_bp_init`).
    pub write_back: bool,
}

impl Run {
    /// Last virtual address.
    #[must_use]
    pub fn last(&self) -> VirtAddr {
        self.virt.wrapping_add(self.len - 1)
    }

    /// Its physical addresses.
    #[must_use]
    pub fn pages(&self) -> Option<PhysRange> {
        PhysRange::with_len(self.phys, self.len)
    }

    fn continues(&self, before: &Self) -> bool {
        before.virt.wrapping_add(before.len) == self.virt
            && before.phys.wrapping_add(before.len) == self.phys
            && (before.writable, before.executable, before.write_back)
                == (self.writable, self.executable, self.write_back)
    }
}

/// The mappings of a range of virtual addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// Ascending, as long as they can be.
    pub runs: Vec<Run>,
    /// What is missing from `runs`.
    pub unread: Unread,
}

/// Tables that could not be read or exceeded the bound, and entries that no processor would accept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// How many.
    pub tables: usize,
    /// Bytes of the range that they could map.
    pub bytes: u64,
    /// Physical address of the first.
    pub first: Option<PhysAddr>,
}

/// Top-level table and how to read it.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// Physical address of the top-level table.
    pub root: PhysAddr,
    /// Depth.
    pub levels: Levels,
    /// Memory encryption bit in entries, 0 without.
    pub encryption_mask: u64,
}

/// A table to be read, the first address it covers and the rights on the way to it.
#[derive(Clone, Copy)]
struct Table {
    phys: PhysAddr,
    base: u64,
    flags: u64,
}

/// Tables that are read in one batch.
const BATCH: usize = 1024;

/// Tables that map themselves make up a run for each of their entries; what is honest has far fewer.
const MAX_RUNS: usize = 1 << 20;

/// Lists what `first..=last` maps, reading at most `max_tables` tables through `mem`. What the link loses is asked for
/// once more.
pub fn runs(mem: &dyn PhysMem, tables: Tables, first: VirtAddr, last: VirtAddr, max_tables: usize) -> Runs {
    let bits = tables.levels.address_bits();
    let top = Table {
        phys: PhysAddr::new(tables.root.raw() & ADDRESS & !tables.encryption_mask),
        base: first.raw() & !((1 << bits) - 1),
        flags: WRITABLE,
    };
    let mut listing = Listing {
        mem,
        encryption_mask: tables.encryption_mask,
        first: first.raw(),
        last: last.raw(),
        budget: max_tables,
        found: Runs::default(),
    };
    let mut frontier = vec![top];
    for level in (1..=tables.levels.count()).rev() {
        let mut next = Vec::new();
        for batch in frontier.chunks(BATCH) {
            listing.descend(batch, level, &mut next);
        }
        frontier = next;
    }
    let Runs { mut runs, unread } = listing.found;
    runs.sort_by_key(|run| run.virt);
    Runs { runs: join(runs), unread }
}

/// A listing under way.
struct Listing<'m> {
    mem: &'m dyn PhysMem,
    encryption_mask: u64,
    first: u64,
    last: u64,
    /// Tables that may still be read.
    budget: usize,
    found: Runs,
}

impl Listing<'_> {
    /// Reads the part of each table that lies in the range; its pages are noted, tables of the next level go to `next`.
    fn descend(&mut self, tables: &[Table], level: u32, next: &mut Vec<Table>) {
        let size = coverage(level);
        let may_read = self.budget.min(tables.len());
        self.budget -= may_read;
        let (tables, beyond) = tables.split_at(may_read);
        for table in beyond {
            self.miss(table.phys, table.base, size.saturating_mul(512));
        }
        let mut wanted: Vec<(&Table, u64, Vec<u8>)> = tables
            .iter()
            .map(|table| {
                let from = self.first.saturating_sub(table.base) / size;
                let to = (self.last.saturating_sub(table.base) / size).min(511);
                (table, from, vec![0; (to.saturating_sub(from) as usize + 1) * 8])
            })
            .collect();
        let mut ops: Vec<ReadOp<'_>> = wanted
            .iter_mut()
            .map(|(table, from, bytes)| ReadOp::new(table.phys.wrapping_add(*from * 8), bytes))
            .collect();
        self.mem.read_batch(&mut ops);
        let lost = ops
            .iter_mut()
            .filter(|op| op.result.as_ref().is_err_and(|error| matches!(error.fault, Fault::Link(_))));
        let (results, mut again): (Vec<_>, Vec<_>) =
            lost.map(|op| (&mut op.result, ReadOp::new(op.addr, &mut *op.buf))).unzip();
        if !again.is_empty() {
            self.mem.read_batch(&mut again);
        }
        results.into_iter().zip(again).for_each(|(result, op)| *result = op.result);
        let results: Vec<bool> = ops.iter().map(|op| op.result.is_ok()).collect();
        drop(ops);

        for ((table, from, bytes), read) in wanted.iter().zip(results) {
            if !read {
                self.miss(table.phys, table.base, size.saturating_mul(512));
                continue;
            }
            for (slot, bytes) in (*from..).zip(bytes.as_chunks::<8>().0) {
                self.step(table, level, slot, u64::from_le_bytes(*bytes), next);
            }
        }
    }

    fn step(&mut self, table: &Table, level: u32, slot: u64, entry: u64, next: &mut Vec<Table>) {
        if entry & PRESENT == 0 {
            return;
        }
        let size = coverage(level);
        let flags = (table.flags & entry & WRITABLE) | ((table.flags | entry) & NO_EXECUTE);
        let base = table.base.wrapping_add(slot.wrapping_mul(size));
        match LeadsTo::of(level, entry, self.encryption_mask) {
            // More than may be read need not be remembered.
            LeadsTo::Table(phys) if next.len() < self.budget => next.push(Table { phys, base, flags }),
            LeadsTo::Table(phys) => self.miss(phys, base, size),
            LeadsTo::Malformed => self.miss(table.phys, base, size),
            LeadsTo::Page(phys) => {
                let run = Run {
                    virt: VirtAddr::new(base),
                    phys,
                    len: size,
                    writable: flags & WRITABLE != 0,
                    executable: flags & NO_EXECUTE == 0,
                    write_back: entry & UNCACHED == 0,
                };
                let full = self.found.runs.len() >= MAX_RUNS;
                match self.found.runs.last_mut() {
                    Some(before) if run.continues(before) => before.len += size,
                    _ if full => self.miss(table.phys, base, size),
                    _ => self.found.runs.push(run),
                }
            }
        }
    }

    /// Notes that the table at `phys`, which has `size` bytes from `base` on, is not known.
    fn miss(&mut self, phys: PhysAddr, base: u64, size: u64) {
        let (start, last) = (base.max(self.first), base.saturating_add(size - 1).min(self.last));
        let unread = &mut self.found.unread;
        unread.tables += 1;
        unread.bytes = unread.bytes.saturating_add(last.saturating_sub(start).saturating_add(1));
        unread.first.get_or_insert(phys);
    }
}

fn join(ascending: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in ascending {
        match joined.last_mut() {
            Some(before) if run.continues(before) => before.len += run.len,
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        link::LinkError,
        mem::{PhysWrite, sparse::Sparse},
        paging::{AddressSpace, VirtFault, VirtMem},
    };

    fn entry(mem: &Sparse, table: u64, slot: u64, value: u64) {
        mem.write(PhysAddr::new(table + slot * 8), &value.to_le_bytes()).unwrap();
    }

    const FIRST: VirtAddr = VirtAddr::new(0xffff_ffff_8000_0000);
    const LAST: VirtAddr = VirtAddr::new(0xffff_ffff_bfff_ffff);

    #[test]
    fn pages_of_two_sizes_are_joined_and_rights_part_them() {
        let mem = Sparse::new(["0-64k".parse().unwrap()]);
        entry(&mem, 0x1000, 511, 0x2003);
        entry(&mem, 0x2000, 510, 0x3003);
        entry(&mem, 0x3000, 8, 0x20_0000 | 0x81);
        entry(&mem, 0x3000, 9, 0x4001);
        entry(&mem, 0x4000, 0, 0x40_0001);
        entry(&mem, 0x4000, 1, 0x40_1001 | NO_EXECUTE);
        entry(&mem, 0x3000, 10, 0xf_0001);
        let tables = Tables { root: PhysAddr::new(0x1000), levels: Levels::Four, encryption_mask: 0 };
        let found = runs(&mem, tables, FIRST, LAST, 16);
        let run = |virt, phys, len, executable| Run {
            virt: VirtAddr::new(virt),
            phys: PhysAddr::new(phys),
            len,
            writable: false,
            executable,
            write_back: true,
        };
        let text = run(0xffff_ffff_8100_0000, 0x20_0000, 0x20_1000, true);
        let data = run(0xffff_ffff_8120_1000, 0x40_1000, 0x1000, false);
        let unread = Unread { tables: 1, bytes: 2 << 20, first: Some(PhysAddr::new(0xf_0000)) };
        assert_eq!(found, Runs { runs: vec![text, data], unread });
    }

    /// The PAT bit, which is another one in a large page, alone changes nothing.
    #[test]
    fn caching_parts_runs() {
        let mem = Sparse::new(["0-64k".parse().unwrap()]);
        entry(&mem, 0x1000, 511, 0x2003);
        entry(&mem, 0x2000, 510, 0x3003);
        for (slot, bits) in [(0, 0x81), (1, 0x1081), (2, 0x91), (3, 0x89), (4, 0x99)] {
            entry(&mem, 0x3000, slot, slot << 21 | bits);
        }
        entry(&mem, 0x3000, 5, 0x4001);
        entry(&mem, 0x4000, 0, 5 << 21 | 0x81);
        let tables = Tables { root: PhysAddr::new(0x1000), levels: Levels::Four, encryption_mask: 0 };
        let found = runs(&mem, tables, FIRST, LAST, 16);
        let listed: Vec<_> = found.runs.iter().map(|run| (run.phys.raw(), run.len, run.write_back)).collect();
        assert_eq!(listed, [(0, 4 << 20, true), (4 << 20, 6 << 20, false), (10 << 20, 0x1000, true)]);
    }

    /// What no processor accepts is no mapping, as it is no translation.
    #[test]
    fn a_malformed_entry_is_not_listed() {
        let mem = Arc::new(Sparse::new(["0-64k".parse().unwrap()]));
        let tables = Tables { root: PhysAddr::new(0x1000), levels: Levels::Four, encryption_mask: 0 };
        entry(&mem, 0x1000, 511, 0x2003);
        entry(&mem, 0x2000, 510, 0x3003);
        entry(&mem, 0x3000, 0, 0x20_0000 | 0x81);
        entry(&mem, 0x3000, 1, 0x40_2000 | 0x81);
        entry(&mem, 0x3000, 2, 0x60_1000 | 0x81);
        let found = runs(&*mem, tables, FIRST, LAST, 16);
        let listed: Vec<_> = found.runs.iter().map(|run| (run.virt, run.phys, run.len)).collect();
        let page = |at| (FIRST.wrapping_add(at), PhysAddr::new(0x20_0000 + at), 0x20_0000);
        assert_eq!(listed, [page(0), page(0x40_0000)]);
        assert_eq!(found.unread, Unread { tables: 1, bytes: 2 << 20, first: Some(PhysAddr::new(0x3000)) });
        let space = AddressSpace::new(mem.clone(), tables.root, tables.levels, 0);
        let fault = space.translate(FIRST.wrapping_add(0x20_0000)).unwrap_err().fault;
        assert!(matches!(fault, VirtFault::Malformed { level: 2, .. }), "{fault}");

        entry(&mem, 0x1000, 511, 0x2083);
        let found = runs(&*mem, tables, FIRST, LAST, 16);
        let unread = Unread { tables: 1, bytes: 1 << 30, first: Some(PhysAddr::new(0x1000)) };
        assert_eq!(found, Runs { runs: Vec::new(), unread });
    }

    /// One datagram lost is not a table lost, and what is asked for again is asked for together.
    #[test]
    fn what_the_link_loses_is_asked_for_again() {
        struct Losing(Sparse, AtomicUsize);
        impl PhysMem for Losing {
            fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
                self.0.read_batch(ops);
                if self.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                    for op in ops {
                        let (addr, len) = (op.addr, op.buf.len());
                        op.fail(Fault::Link(LinkError::Timeout { addr, len, attempts: 1 }));
                    }
                }
            }
        }
        let mem = Losing(Sparse::new(["0-64k".parse().unwrap()]), AtomicUsize::new(0));
        entry(&mem.0, 0x1000, 511, 0x2003);
        entry(&mem.0, 0x2000, 510, 0x3003);
        for slot in 0..8 {
            entry(&mem.0, 0x3000, slot, 0x4003 + slot * 0x1000);
            entry(&mem.0, 0x4000 + slot * 0x1000, 0, 0x20_0003);
        }
        let tables = Tables { root: PhysAddr::new(0x1000), levels: Levels::Four, encryption_mask: 0 };
        let found = runs(&mem, tables, FIRST, LAST, 16);
        assert_eq!((found.runs.len(), found.unread), (8, Unread::default()));
        assert_eq!(mem.1.into_inner(), 8, "two batches for each of four levels");
    }

    #[test]
    fn tables_that_map_themselves_end() {
        let mem = Sparse::new(["0-64k".parse().unwrap()]);
        for slot in 0..512 {
            entry(&mem, 0x1000, slot, 0x1003);
        }
        let tables = Tables { root: PhysAddr::new(0x1000), levels: Levels::Five, encryption_mask: 0 };
        let found = runs(&mem, tables, FIRST, LAST, 64);
        assert!(found.runs.iter().map(|run| run.len / 4096).sum::<u64>() <= 64 * 512);
        assert!(found.unread.tables > 0);
    }
}
