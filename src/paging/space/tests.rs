use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::mem::{PhysWrite, sparse::Sparse};

/// Page tables in sparse memory, built one mapping at a time.
struct Tables {
    mem: Arc<Sparse>,
    levels: Levels,
    next: u64,
}

const ROOT: PhysAddr = PhysAddr::new(0x1000);

impl Tables {
    fn new(levels: Levels) -> Self {
        Self { mem: Arc::new(Sparse::new(["0-8G".parse().unwrap()])), levels, next: 0x2000 }
    }

    fn map(&mut self, virt: u64, phys: u64, leaf_level: u32, flags: u64) {
        let mut table = ROOT;
        for level in (leaf_level..=self.levels.count()).rev() {
            let entry_addr = table.wrapping_add((virt / coverage(level) % 512) * 8);
            if level == leaf_level {
                let page = if level > 1 { PAGE } else { 0 };
                self.set(entry_addr, phys | PRESENT | page | flags);
            } else {
                let entry = self.mem.read_u64(entry_addr).unwrap();
                let entry = if entry == 0 { self.grow() | PRESENT | WRITABLE | USER } else { entry };
                self.set(entry_addr, entry);
                table = PhysAddr::new(entry & ADDRESS);
            }
        }
    }

    fn grow(&mut self) -> u64 {
        self.next += PAGE_SIZE;
        self.next - PAGE_SIZE
    }

    fn set(&self, addr: PhysAddr, entry: u64) {
        self.mem.write(addr, &entry.to_le_bytes()).unwrap();
    }

    fn space(&self) -> AddressSpace {
        AddressSpace::new(self.mem.clone(), ROOT, self.levels, 0)
    }
}

fn shown(space: &AddressSpace, addr: u64) -> String {
    match space.translate(VirtAddr::new(addr)) {
        Ok(found) => format!("{} in {:#x}", found.phys, found.page_size),
        Err(error) => error.to_string(),
    }
}

#[test]
fn pages_of_three_sizes_at_both_depths() {
    for (levels, base) in [(Levels::Four, 0xffff_8880_0000_0000), (Levels::Five, 0xff11_0000_0000_0000)] {
        let mut tables = Tables::new(levels);
        tables.map(base, 0x4000_0000, 3, WRITABLE | NO_EXECUTE);
        tables.map(base + (1 << 30), 0x20_0000, 2, 0);
        tables.map(base + (2 << 30), 0x7000, 1, USER);
        let space = tables.space();
        assert_eq!(shown(&space, base + 0x123_4567), "0x41234567 in 0x40000000");
        assert_eq!(shown(&space, base + (1 << 30) + 0x1_2345), "0x212345 in 0x200000");
        assert_eq!(shown(&space, base + (2 << 30) + 0xfff), "0x7fff in 0x1000");
        let huge = space.translate(VirtAddr::new(base)).unwrap();
        assert!(huge.writable && !huge.user && !huge.executable);
        let small = space.translate(VirtAddr::new(base + (2 << 30))).unwrap();
        assert!(!small.writable && small.user && small.executable);
    }
}

#[test]
fn isolation_takes_no_rights_from_a_process() {
    for levels in [Levels::Four, Levels::Five] {
        let mut tables = Tables::new(levels);
        let (text, data, kernel) = (0x40_1000, 0x60_2000, 0xffff_ffff_8000_0000);
        tables.map(text, 0x7000, 1, USER);
        tables.map(data, 0x8000, 1, USER | NO_EXECUTE);
        tables.map(kernel, 0x20_0000, 2, 0);
        for page in [text, kernel] {
            let top = ROOT.wrapping_add((page / coverage(levels.count()) % 512) * 8);
            tables.set(top, tables.mem.read_u64(top).unwrap() | NO_EXECUTE);
        }
        let executable = |page| tables.space().translate(VirtAddr::new(page)).unwrap().executable;
        assert_eq!([text, data, kernel].map(executable), [true, false, false]);
    }
}

#[test]
fn every_failure_names_address_and_step() {
    let mut tables = Tables::new(Levels::Four);
    let base = 0xffff_8880_0000_0000;
    tables.map(base, 0x7000, 1, 0);
    tables.map(base + (1 << 30), 0x20_2000, 2, 0);
    tables.map(base + (2 << 30), 9 << 30, 1, 0);
    let space = tables.space();
    assert_eq!(
        shown(&space, 0x0000_9000_0000_0000),
        "cannot translate virtual address 0x900000000000: the address is not canonical"
    );
    assert_eq!(
        shown(&space, base + 0x1234),
        "cannot translate virtual address 0xffff888000001234: \
         not mapped: the level-1 entry at physical 0x4008 is 0x0"
    );
    assert!(
        shown(&space, base + (1 << 30))
            .contains("malformed: the level-2 entry at physical 0x5000 is 0x202081")
    );
    let error = space.read(VirtAddr::new(base + (2 << 30)), &mut [0; 4]).unwrap_err();
    assert!(error.to_string().contains("physical address 0x240000000: the image holds no such address"));
    let error = space.read(VirtAddr::new(base + 0xffe), &mut [0; 4]).unwrap_err();
    assert_eq!((error.addr.raw(), error.len), (base + 0x1000, 2), "the unmapped part is named");
    assert!(space.read(VirtAddr::new(u64::MAX - 1), &mut [0; 4]).is_err());
}

#[test]
fn a_table_that_refers_to_itself_ends() {
    let mut tables = Tables::new(Levels::Five);
    tables.set(ROOT.wrapping_add(511 * 8), ROOT.raw() | PRESENT);
    tables.map(0, 0x7000, 1, 0);
    assert_eq!(shown(&tables.space(), u64::MAX), "0x1fff in 0x1000");
}

#[test]
fn the_encryption_bit_is_no_address_bit() {
    let mut tables = Tables::new(Levels::Four);
    let bit = 1 << 47;
    tables.map(0x1000, 0x7000 | bit, 1, 0);
    let space = AddressSpace::new(tables.mem.clone(), ROOT, Levels::Four, bit);
    assert_eq!(shown(&space, 0x1008), "0x7008 in 0x1000");
}

proptest! {
    /// Reads over pages scattered in physical memory join to what was written through the mapping.
    #[test]
    fn reads_join_scattered_pages(
        frames in proptest::collection::vec(0x100_u64..0x200, 4),
        start in 0_usize..0x3000,
        len in 0_usize..0x1000,
    ) {
        let mut tables = Tables::new(Levels::Four);
        let base = 0xffff_c900_0000_0000_u64;
        let mut contents: HashMap<u64, Vec<u8>> = HashMap::new();
        for (index, frame) in frames.iter().enumerate() {
            tables.map(base + index as u64 * PAGE_SIZE, frame * PAGE_SIZE, 1, 0);
            let bytes: Vec<u8> = (0..PAGE_SIZE).map(|at| (frame * 31 + at / 7) as u8).collect();
            tables.mem.write(PhysAddr::new(frame * PAGE_SIZE), &bytes).unwrap();
            contents.insert(*frame, bytes);
        }
        let expected: Vec<u8> = frames.iter().flat_map(|frame| contents[frame].clone()).collect();
        let read = tables.space().read_vec(VirtAddr::new(base + start as u64), len).unwrap();
        prop_assert_eq!(&read[..], &expected[start..start + len]);
    }
}

#[test]
fn a_walk_that_was_made_before_is_one_batch_and_still_believes_the_tables_alone() {
    use crate::mem::{
        cache::{Cache, Validity},
        stats::Stats,
    };
    for levels in [Levels::Four, Levels::Five] {
        let mut tables = Tables::new(levels);
        let (virt, old, new) = (0xffff_8000_1234_5000_u64 | 0xff00 << 48, 0x10_0000, 0x20_0000);
        tables.map(virt, old, 1, WRITABLE);
        tables.mem.write(PhysAddr::new(old + 0x10), &[1; 8]).unwrap();
        tables.mem.write(PhysAddr::new(new + 0x10), &[2; 8]).unwrap();
        let cache = Arc::new(Cache::new(Stats::new(Arc::clone(&tables.mem), 512), Validity::Stop));
        let space = AddressSpace::new(cache.clone(), ROOT, levels, 0);
        let read = || {
            cache.invalidate();
            let before = cache.inner().counts().batches;
            let word = space.read_u64(VirtAddr::new(virt + 0x10)).unwrap();
            (word & 0xff, cache.inner().counts().batches - before)
        };
        let depth = u64::from(levels.count());
        assert_eq!(read(), (1, depth + 1));
        assert_eq!(read(), (1, 1));
        tables.map(virt, new, 1, WRITABLE);
        assert_eq!(read(), (2, 2), "the guess, and the data where they are now");
        assert_eq!(read(), (2, 1));
    }
}
