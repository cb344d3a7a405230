//! What lies where in physical memory, as the kernel writes it down three times: `iomem_resource`
//! (kernel/resource.c), `e820_table` (arch/x86/kernel/e820.c) and `memblock` (mm/memblock.c).

use super::{Boot, Object};
use crate::{
    addr::{PhysAddr, PhysRange},
    machine::{
        MachineError,
        link::{Kind, LinkedSection},
    },
};

/// `IORESOURCE_MEM`
const MEM: u64 = 0x200;
/// `IORESOURCE_IO`
const IO: u64 = 0x100;
/// `IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY`
const SYSTEM_RAM: u64 = 0x8100_0000 | MEM;
/// `E820_TYPE_RAM`
const E820_RAM: u32 = 1;
/// `E820_TYPE_RESERVED`
const E820_RESERVED: u32 = 2;

/// A line of `/proc/iomem`, its last address included.
struct Region {
    start: u64,
    last: u64,
    name: &'static str,
    flags: u64,
    children: Vec<Region>,
}

impl Region {
    fn new(start: u64, last: u64, name: &'static str, flags: u64) -> Self {
        Self { start, last, name, flags, children: Vec::new() }
    }
}

impl Boot<'_> {
    pub(super) fn set_up_firmware_map(&mut self) -> Result<(), MachineError> {
        let iomem = self.global("resource", "iomem_resource")?;
        self.fill_resource(iomem, &Region::new(0, u64::MAX, "PCI mem", MEM))?;
        let regions = self.regions();
        self.add_resources(iomem, &regions)?;
        let ioport = self.global("resource", "ioport_resource")?;
        self.fill_resource(ioport, &Region::new(0, 0xffff, "PCI IO", IO))?;
        let ports = [(0x20, 0x21, "pic1"), (0x60, 0x60, "keyboard"), (0x3f8, 0x3ff, "serial")];
        let ports: Vec<_> = ports.map(|(start, last, name)| Region::new(start, last, name, IO)).into();
        self.add_resources(ioport, &ports)?;
        self.write_e820()?;
        self.write_memblock()
    }

    /// RAM without page 0, which firmware owns.
    fn usable(&self) -> Vec<PhysRange> {
        let usable = |range: &PhysRange| PhysRange::new(range.start.max(PhysAddr::new(0x1000)), range.end);
        self.description.ram.iter().filter_map(usable).collect()
    }

    fn regions(&mut self) -> Vec<Region> {
        let mut regions = vec![
            Region::new(0, 0xfff, "Reserved", MEM),
            Region::new(0xa_0000, 0xb_ffff, "PCI Bus 0000:00", MEM),
            Region::new(0xf_0000, 0xf_ffff, "System ROM", MEM),
            Region::new(0xfec0_0000, 0xfec0_03ff, "IOAPIC 0", MEM),
            Region::new(0xfee0_0000, 0xfee0_0fff, "Local APIC", MEM),
        ];
        self.truth.ram = self.usable();
        for range in &self.truth.ram {
            let mut ram = Region::new(range.start.raw(), range.end.raw() - 1, "System RAM", SYSTEM_RAM);
            if range.contains(self.description.text_phys, self.image.len) {
                ram.children = self.image_regions();
            }
            regions.push(ram);
        }
        regions.sort_by_key(|region| region.start);
        regions
    }

    fn image_regions(&self) -> Vec<Region> {
        let parts = [
            ("Kernel code", Kind::Text, Kind::Text),
            ("Kernel rodata", Kind::RoData, Kind::Notes),
            ("Kernel data", Kind::Data, Kind::Data),
            ("Kernel bss", Kind::Bss, Kind::Bss),
        ];
        let place = |section: &LinkedSection| self.description.text_phys.wrapping_add(section.offset).raw();
        let region = |(name, first, last)| {
            let (first, last) = (self.image.section(first)?, self.image.section(last)?);
            Some(Region::new(place(first), place(last) + last.size.max(1) - 1, name, SYSTEM_RAM))
        };
        parts.into_iter().filter_map(region).collect()
    }

    fn add_resources(&mut self, parent: Object, regions: &[Region]) -> Result<(), MachineError> {
        let mut previous = None;
        for region in regions {
            let resource = self.alloc_object("resource")?;
            self.fill_resource(resource, region)?;
            self.set(resource, "parent", parent.addr)?;
            match previous.replace(resource) {
                None => self.set(parent, "child", resource.addr)?,
                Some(previous) => self.set(previous, "sibling", resource.addr)?,
            }
            self.add_resources(resource, &region.children)?;
        }
        Ok(())
    }

    fn fill_resource(&mut self, resource: Object, region: &Region) -> Result<(), MachineError> {
        let name = self.alloc_string(region.name)?;
        self.set(resource, "start", region.start)?;
        self.set(resource, "end", region.last)?;
        self.set(resource, "name", name)?;
        self.set(resource, "flags", region.flags)
    }

    fn write_e820(&mut self) -> Result<(), MachineError> {
        let table = self.global("e820_table", "e820_table_init")?;
        self.set_global("e820_table", table.addr)?;
        let ram = self.usable();
        let mut entries = vec![(0, 0x1000, E820_RESERVED)];
        entries.extend(ram.iter().map(|range| (range.start.raw(), range.len(), E820_RAM)));
        entries.push((0xfeff_c000, 0x4000, E820_RESERVED));
        entries.sort_unstable();
        self.set(table, "nr_entries", entries.len())?;
        let mut entry = Object { ty: "e820_entry", addr: self.at(table, "entries")? };
        for (addr, size, kind) in entries {
            self.set(entry, "addr", addr)?;
            self.set(entry, "size", size)?;
            self.set(entry, "type", kind)?;
            entry.addr = self.after(entry)?;
        }
        Ok(())
    }

    fn write_memblock(&mut self) -> Result<(), MachineError> {
        let ram = self.usable();
        let memblock = self.global("memblock", "memblock")?;
        let mut region = self.global("memblock_region", "memblock_memory_init_regions")?;
        let name = self.alloc_string("memory")?;
        self.set(memblock, "current_limit", u64::MAX)?;
        self.set(memblock, "memory.cnt", ram.len())?;
        self.set(memblock, "memory.max", 128)?;
        self.set(memblock, "memory.total_size", ram.iter().map(PhysRange::len).sum::<u64>())?;
        self.set(memblock, "memory.regions", region.addr)?;
        self.set(memblock, "memory.name", name)?;
        for range in ram {
            self.set(region, "base", range.start)?;
            self.set(region, "size", range.len())?;
            region.addr = self.after(region)?;
        }
        Ok(())
    }
}
