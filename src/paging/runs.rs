//! What a stretch of an address space maps: every mapping in it, joined into runs.
//!
//! Where a translation answers for one address, this reads whole tables, and only those that exist, so that
//! 1 GiB of kernel addresses or a direct map of terabytes costs as many reads as it has tables. Input: root,
//! depth and range. Output: [`Run`]s. The tables are hostile: depth and number of tables read are bounded, so
//! tables that map themselves end like any others.

use super::{
    Levels,
    space::{ADDRESS, LARGEST_LEAF, NO_EXECUTE, PAGE, PRESENT, WRITABLE, coverage},
};
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    mem::{PhysMem, ReadOp},
};

/// Virtual addresses mapped one after the other to physical addresses one after the other, with equal rights.
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
            && (before.writable, before.executable) == (self.writable, self.executable)
    }
}

/// The mappings of a range of virtual addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// Ascending, as long as they can be.
    pub runs: Vec<Run>,
    /// Tables that could not be read or exceeded the bound: what they map is missing from `runs`.
    pub unread_tables: usize,
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

/// Lists what `first..=last` maps, reading at most `max_tables` tables through `mem`.
pub fn runs(mem: &dyn PhysMem, tables: Tables, first: VirtAddr, last: VirtAddr, max_tables: usize) -> Runs {
    let mut found = Runs::default();
    let mut budget = max_tables;
    let bits = tables.levels.address_bits();
    let top = Table {
        phys: PhysAddr::new(tables.root.raw() & ADDRESS & !tables.encryption_mask),
        base: first.raw() & !((1 << bits) - 1),
        flags: WRITABLE,
    };
    let mut frontier = vec![top];
    for level in (1..=tables.levels.count()).rev() {
        frontier.truncate(budget);
        budget -= frontier.len();
        frontier = descend(mem, tables.encryption_mask, &frontier, level, (first, last), &mut found);
        found.unread_tables += frontier.len().saturating_sub(budget);
    }
    found.runs.sort_by_key(|run| run.virt);
    found.runs = join(found.runs);
    found
}

/// Reads the part of each table that lies in the range; leaves go to `found`, tables of the next level are returned.
fn descend(
    mem: &dyn PhysMem,
    encryption_mask: u64,
    frontier: &[Table],
    level: u32,
    (first, last): (VirtAddr, VirtAddr),
    found: &mut Runs,
) -> Vec<Table> {
    let size = coverage(level);
    let mut wanted: Vec<(&Table, u64, Vec<u8>)> = frontier
        .iter()
        .map(|table| {
            let from = first.raw().saturating_sub(table.base) / size;
            let to = (last.raw().saturating_sub(table.base) / size).min(511);
            (table, from, vec![0; (to.saturating_sub(from) as usize + 1) * 8])
        })
        .collect();
    let mut ops: Vec<ReadOp<'_>> = wanted
        .iter_mut()
        .map(|(table, from, bytes)| ReadOp::new(table.phys.wrapping_add(*from * 8), bytes))
        .collect();
    mem.read_batch(&mut ops);
    let results: Vec<bool> = ops.iter().map(|op| op.result.is_ok()).collect();
    drop(ops);

    let mut next = Vec::new();
    for ((table, from, bytes), read) in wanted.iter().zip(results) {
        if !read {
            found.unread_tables += 1;
            continue;
        }
        for (slot, bytes) in (*from..).zip(bytes.as_chunks::<8>().0) {
            let entry = u64::from_le_bytes(*bytes);
            if entry & PRESENT == 0 {
                continue;
            }
            let flags = (table.flags & entry & WRITABLE) | ((table.flags | entry) & NO_EXECUTE);
            let frame = entry & ADDRESS & !encryption_mask;
            let base = table.base.wrapping_add(slot.wrapping_mul(size));
            if level > 1 && entry & PAGE == 0 {
                next.push(Table { phys: PhysAddr::new(frame), base, flags });
            } else if level <= LARGEST_LEAF {
                found.runs.push(Run {
                    virt: VirtAddr::new(base),
                    phys: PhysAddr::new(frame & !(size - 1)),
                    len: size,
                    writable: flags & WRITABLE != 0,
                    executable: flags & NO_EXECUTE == 0,
                });
            }
        }
    }
    next
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
    use super::*;
    use crate::mem::{PhysWrite, sparse::Sparse};

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
        };
        let text = run(0xffff_ffff_8100_0000, 0x20_0000, 0x20_1000, true);
        let data = run(0xffff_ffff_8120_1000, 0x40_1000, 0x1000, false);
        assert_eq!(found, Runs { runs: vec![text, data], unread_tables: 1 });
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
        assert!(found.unread_tables > 0);
    }
}
