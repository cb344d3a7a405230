//! Which physical addresses are RAM, in the target's own words: what every read is confined to afterwards.
//!
//! `iomem_resource` is the kernel's live map, and proves its own layout where no types say it; `e820_table` is the
//! firmware's, `memblock` the early allocator's, and both need types. Without any, the direct map is asked: it maps RAM,
//! the legacy hole with it, and memory of devices that was handed to drivers as pages, such as a BAR for peer-to-peer DMA
//! (`drivers/pci/p2pdma.c`), which is not mapped write-back. What its page tables do not say because they cannot be read
//! is a [`Shortfall`].
//! Source: `kernel/resource.c`, `include/linux/ioport.h`, `arch/x86/include/asm/e820/types.h`,
//! `include/linux/memblock.h`, `arch/x86/mm/init.c` (`init_range_memory_mapping`).

use std::collections::{HashMap, HashSet};

use crate::{
    addr::{self, PhysAddr, PhysRange, VirtAddr},
    mem::PhysMem,
    paging::{
        VirtMem,
        runs::{Run, Tables, Unread, runs},
    },
    types::{Field, TypeSource},
};

use super::{bases::Bases, proof::Proof};

/// A large host has some hundred resources at the top of the tree.
const MAX_RESOURCES: usize = 4096;

/// `E820_MAX_ENTRIES` is 320 at most; memblock starts with 128 regions and doubles.
const MAX_REGIONS: u64 = 4096;

/// Tables of a direct map read: of 32 TiB in pages of 2 MiB, or of 64 GiB where all of it was split into pages of 4 KiB.
const MAX_TABLES: usize = 1 << 15;

/// `E820_TYPE_RAM`.
const E820_RAM: u32 = 1;

/// A structure here has some tens of bytes.
const MAX_STRUCT: u64 = 512;

/// The source that page tables are.
pub(super) const DIRECT_MAP: &str = "direct map";

const LEGACY_HOLE: (u64, u64) = (0xa_0000, 0x10_0000);

/// A RAM map and the table it is from.
pub(super) struct RamMap {
    pub(super) source: &'static str,
    pub(super) ranges: Vec<PhysRange>,
}

/// Why a RAM map may not have all of the target's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// Part of the direct map's page tables is not known.
    #[error(
        "{} page tables of the direct map could not be read (they could map up to {} MiB)",
        .0.tables, .0.bytes.div_ceil(1 << 20)
    )]
    Tables(Unread),
    /// No source could be read at all.
    #[error("only the kernel image is known to be RAM")]
    ImageAlone,
}

/// What the sources say.
pub(super) struct Found {
    /// The first one that is believed.
    pub(super) map: Option<RamMap>,
    /// What the direct map lacks, when it had to be asked.
    pub(super) unread: Unread,
}

/// Asks the sources in order; one that does not hold the kernel image itself is not believed.
pub(super) fn find(
    mem: &dyn PhysMem,
    proof: &Proof<'_>,
    bases: &Bases,
    types: Option<&dyn TypeSource>,
) -> Found {
    let mut unread = Unread::default();
    let map = believed(mem, proof, bases, types, &mut unread);
    Found { map, unread }
}

fn believed(
    mem: &dyn PhysMem,
    proof: &Proof<'_>,
    bases: &Bases,
    types: Option<&dyn TypeSource>,
    unread: &mut Unread,
) -> Option<RamMap> {
    let typed = |name: &str, read: fn(&dyn VirtMem, VirtAddr, &dyn TypeSource) -> Option<Vec<PhysRange>>| {
        let types = types?;
        read(&*proof.space, proof.names.addr(name)?, types)
    };
    let resource = types.and_then(Resource::by).unwrap_or(Resource::UNTYPED);
    let iomem = || iomem(&*proof.space, proof.names.addr("iomem_resource")?, &resource);
    let image = proof.image.phys_range()?;
    let checked = |source, ranges: Option<Vec<PhysRange>>| {
        let ranges = addr::merged(ranges?);
        ranges
            .iter()
            .any(|range| range.contains(image.start, image.len()))
            .then_some(RamMap { source, ranges })
    };
    checked("iomem_resource", iomem())
        .or_else(|| checked("e820_table", typed("e820_table", e820)))
        .or_else(|| checked("memblock", typed("memblock", memblock)))
        .or_else(|| checked(DIRECT_MAP, direct_map(mem, proof, bases, unread)))
}

/// Offsets in `struct resource`.
struct Resource {
    size: usize,
    start: u64,
    end: u64,
    name: u64,
    parent: u64,
    sibling: u64,
    child: u64,
}

impl Resource {
    /// As it has been since 43ee493bde78 (4.6). Nobody is believed who does not lead back to its parent.
    const UNTYPED: Self = Self { size: 64, start: 0, end: 8, name: 16, parent: 40, sibling: 48, child: 56 };

    fn by(types: &dyn TypeSource) -> Option<Self> {
        let size = types.struct_size("resource").ok().filter(|size| *size <= MAX_STRUCT)? as usize;
        let offset = |name| Some(Field::<u64>::resolve(types, "resource", name).ok()?.offset());
        let [start, end, name] = [offset("start")?, offset("end")?, offset("name")?];
        let [parent, sibling, child] = [offset("parent")?, offset("sibling")?, offset("child")?];
        Some(Self { size, start, end, name, parent, sibling, child })
    }
}

fn word(bytes: &[u8], offset: u64) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(usize::try_from(offset).ok()?..)?.first_chunk()?))
}

/// "System RAM" among the children of `iomem_resource`; what a driver adds deeper in the tree is left out.
fn iomem(space: &dyn VirtMem, root: VirtAddr, layout: &Resource) -> Option<Vec<PhysRange>> {
    let mut resources: Vec<(u64, u64, VirtAddr)> = Vec::new();
    let mut seen = HashSet::new();
    let top = space.read_vec(root, layout.size).ok()?;
    let mut next = VirtAddr::new(word(&top, layout.child).filter(|_| word(&top, layout.parent) == Some(0))?);
    while next.raw() != 0 {
        if !seen.insert(next) || seen.len() > MAX_RESOURCES {
            return None;
        }
        let resource = space.read_vec(next, layout.size).ok()?;
        if word(&resource, layout.parent)? != root.raw() {
            return None;
        }
        let name = VirtAddr::new(word(&resource, layout.name)?);
        resources.push((word(&resource, layout.start)?, word(&resource, layout.end)?, name));
        next = VirtAddr::new(word(&resource, layout.sibling)?);
    }
    let mut names: Vec<VirtAddr> = resources.iter().map(|(_, _, name)| *name).collect();
    names.sort_unstable();
    names.dedup();
    // A range whose name is lost may be RAM: then the next source is asked.
    let is_ram: HashMap<VirtAddr, bool> = names
        .iter()
        .zip(space.read_each::<11>(&names))
        .map(|(name, text)| Some((*name, text.ok()? == *b"System RAM\0")))
        .collect::<Option<_>>()?;
    let ram = resources.iter().filter(|(_, _, name)| is_ram.get(name).copied().unwrap_or(false));
    ram.map(|(start, end, _)| PhysRange::new(PhysAddr::new(*start), PhysAddr::new(end.checked_add(1)?)))
        .collect()
}

/// RAM in the firmware's map, through the pointer `e820_table`.
fn e820(space: &dyn VirtMem, pointer: VirtAddr, types: &dyn TypeSource) -> Option<Vec<PhysRange>> {
    let table = space.read_ptr(pointer).ok()?;
    let count = types.field("e820_table", "nr_entries").ok()?;
    let entries = types.field("e820_table", "entries").ok()?;
    let count = u64::from(space.read_u32(table.wrapping_add(count.offset)).ok()?);
    let kind = Field::<u32>::resolve(types, "e820_entry", "type").ok()?;
    let records = Records {
        structure: "e820_entry",
        start: "addr",
        size: "size",
        first: table.wrapping_add(entries.offset),
        count,
    };
    records.read(space, types, |record| kind.get(record) == Some(E820_RAM))
}

/// `memblock.memory`.
fn memblock(space: &dyn VirtMem, memblock: VirtAddr, types: &dyn TypeSource) -> Option<Vec<PhysRange>> {
    let member = |path: &str| Some(memblock.wrapping_add(types.field("memblock", path).ok()?.offset));
    let count = space.read_u64(member("memory.cnt")?).ok()?;
    let first = space.read_ptr(member("memory.regions")?).ok()?;
    let records = Records { structure: "memblock_region", start: "base", size: "size", first, count };
    records.read(space, types, |_| true)
}

/// An array of structs that each hold a start and a size.
struct Records {
    structure: &'static str,
    start: &'static str,
    size: &'static str,
    first: VirtAddr,
    count: u64,
}

impl Records {
    fn read(
        &self,
        space: &dyn VirtMem,
        types: &dyn TypeSource,
        is_ram: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<PhysRange>> {
        let stride = types.struct_size(self.structure).ok().filter(|size| (1..=MAX_STRUCT).contains(size))?;
        let start = Field::<u64>::resolve(types, self.structure, self.start).ok()?;
        let size = Field::<u64>::resolve(types, self.structure, self.size).ok()?;
        if self.count > MAX_REGIONS {
            return None;
        }
        let bytes = space.read_vec(self.first, (stride * self.count) as usize).ok()?;
        let ram = bytes.chunks_exact(stride as usize).filter(|record| is_ram(record));
        ram.map(|record| PhysRange::with_len(PhysAddr::new(start.get(record)?), size.get(record)?)).collect()
    }
}

/// What the direct map maps write-back, without the legacy hole.
fn direct_map(
    mem: &dyn PhysMem,
    proof: &Proof<'_>,
    bases: &Bases,
    unread: &mut Unread,
) -> Option<Vec<PhysRange>> {
    let base = bases.page_offset?;
    // The most the direct map can take: 64 TiB with 4 levels, 32 PiB with 5.
    let bits = proof.tables.levels.address_bits() - 2;
    let last = base.wrapping_add((1 << bits) - 1);
    let last = bases
        .vmalloc
        .filter(|vmalloc| *vmalloc > base)
        .map_or(last, |vmalloc| last.min(vmalloc.wrapping_sub(1)));
    let tables = Tables { root: proof.root.table, ..proof.tables };
    let mapped = runs(mem, tables, base, last, MAX_TABLES);
    *unread = mapped.unread;
    let linear = |run: &&Run| run.virt.wrapping_offset_from(base) == run.phys.raw();
    let direct = mapped.runs.iter().filter(|run| run.write_back).filter(linear);
    let ranges = direct.flat_map(|run| {
        let (start, end) = (run.phys.raw(), run.phys.raw().saturating_add(run.len));
        [(start, end.min(LEGACY_HOLE.0)), (start.max(LEGACY_HOLE.1), end)]
    });
    Some(ranges.filter_map(|(start, end)| PhysRange::new(PhysAddr::new(start), PhysAddr::new(end))).collect())
}
