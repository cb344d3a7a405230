//! The kernel's page tables (arch/x86/kernel/head_64.S, arch/x86/mm/init_64.c) and those of processes.

use super::Boot;
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    machine::{
        MachineError,
        link::{KERNEL_MAP, KERNEL_MAP_END, Kind, TEXT},
        tables::{ACCESSED_DIRTY, DATA, GLOBAL, NO_EXECUTE, PRESENT, TABLE, Tables, USER},
    },
    mem::{PhysMem, PhysWrite},
    paging::Levels,
};

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
/// Firmware's first megabyte is always in the direct map (`ISA_END_ADDRESS`).
const ISA_END: u64 = 1 << 20;

impl Boot<'_> {
    pub(super) fn map_kernel(&mut self) -> Result<(), MachineError> {
        self.map_image()?;
        self.map_directly(PhysAddr::new(0), ISA_END)?;
        for range in self.description.ram.clone() {
            let start = range.start.raw().max(ISA_END).next_multiple_of(PAGE);
            let end = range.end.align_down(PAGE).raw();
            if let Some(range) = PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)) {
                self.map_directly(range.start, range.len())?;
            }
        }
        let pages = self.heap.take(LARGE_PAGE, LARGE_PAGE)?;
        self.tables.map(&mut self.heap, self.bases.vmemmap, pages, LARGE_PAGE, 2, DATA)?;
        self.tables.reserve(&mut self.heap, self.bases.vmalloc)
    }

    fn map_directly(&mut self, phys: PhysAddr, len: u64) -> Result<(), MachineError> {
        let addr = self.direct(phys);
        self.tables.map(&mut self.heap, addr, phys, len, 3, DATA)
    }

    fn image_table(&self, name: &str) -> Result<PhysAddr, MachineError> {
        let offset = self.image.symbol(name)?.addr.wrapping_offset_from(TEXT);
        Ok(self.description.text_phys.wrapping_add(offset))
    }

    fn map_image(&mut self) -> Result<(), MachineError> {
        let kernel = VirtAddr::new(KERNEL_MAP);
        if self.tables.levels() == Levels::Five {
            let level4 = self.image_table("level4_kernel_pgt")?;
            self.tables.attach(&mut self.heap, kernel, 5, level4)?;
        }
        let level3 = self.image_table("level3_kernel_pgt")?;
        self.tables.attach(&mut self.heap, kernel, 4, level3)?;
        let level2 = self.image_table("level2_kernel_pgt")?;
        self.tables.attach(&mut self.heap, kernel, 3, level2)?;
        let fixmap = self.image_table("level2_fixmap_pgt")?;
        self.tables.attach(&mut self.heap, VirtAddr::new(KERNEL_MAP_END), 3, fixmap)?;

        let read_only = PRESENT | ACCESSED_DIRTY | GLOBAL;
        let start_of = |kind| self.image.section(kind).map_or(0, |section| section.offset);
        let (rodata, data) = (start_of(Kind::RoData), start_of(Kind::Data));
        let end = self.image.len.next_multiple_of(LARGE_PAGE);
        let parts = if self.description.protected {
            vec![(0, rodata, read_only), (rodata, data, read_only | NO_EXECUTE), (data, end, DATA)]
        } else {
            vec![(0, end, DATA & !NO_EXECUTE)]
        };
        for (from, to, flags) in parts {
            let addr = self.run_time(TEXT.wrapping_add(from));
            let phys = self.description.text_phys.wrapping_add(from);
            self.tables.map(&mut self.heap, addr, phys, to - from, 2, flags)?;
        }
        Ok(())
    }

    /// Maps pages of the heap, each where it happens to lie.
    pub(super) fn map_pages(&mut self, addr: VirtAddr, len: u64, flags: u64) -> Result<(), MachineError> {
        for offset in (0..len).step_by(PAGE as usize) {
            let phys = self.heap.take(PAGE, PAGE)?;
            self.tables.map(&mut self.heap, addr.wrapping_add(offset), phys, PAGE, 1, flags)?;
        }
        Ok(())
    }

    /// A process' top-level table: the kernel's upper half, and one page of `bytes` at `addr` in the lower.
    /// Returns the table's physical address.
    pub(super) fn user_space(&mut self, addr: VirtAddr, bytes: &[u8]) -> Result<PhysAddr, MachineError> {
        let root = self.heap.take(PAGE, PAGE)?;
        let mut upper = [0; PAGE as usize / 2];
        self.memory.read(self.image_table("init_top_pgt")?.wrapping_add(PAGE / 2), &mut upper)?;
        self.memory.write(root.wrapping_add(PAGE / 2), &upper)?;
        let page = self.heap.take(PAGE, PAGE)?;
        self.memory.write(page.wrapping_add(addr.offset_in(PAGE)), bytes)?;
        let tables = Tables::new(self.memory.clone(), root, self.description.levels);
        tables.map(&mut self.heap, addr.align_down(PAGE), page, PAGE, 1, TABLE | USER | NO_EXECUTE)?;
        Ok(root)
    }
}
