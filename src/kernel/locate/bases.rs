//! Where the direct map, the vmalloc area and the array of `struct page` begin.
//!
//! The kernel keeps all three in variables (`CONFIG_DYNAMIC_MEMORY_LAYOUT`), which a vmlinux or the exports name.
//! Otherwise the direct map is the first thing its tables map in the kernel half.
//! Source: `arch/x86/mm/kaslr.c`, `Documentation/arch/x86/x86_64/mm.rst`.

use std::sync::Arc;

use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    kernel::{Confidence, Evidence},
    mem::PhysMem,
    paging::{
        AddressSpace, VirtMem,
        runs::{Tables, runs},
    },
};

use super::proof::{Proof, read_known};

/// First slot of the kernel half that the direct map can begin in; guard holes are below. Since d52888aa2753 (4.20) it
/// begins in the next one, and a process' LDT may be in this.
const FIRST_SLOT: u64 = 272;

/// The first mappings of the direct map are behind one table per level.
const MAX_TABLES: usize = 6;

/// The three bases.
#[derive(Debug, Clone, Default)]
pub(super) struct Bases {
    pub(super) page_offset: Option<VirtAddr>,
    pub(super) vmalloc: Option<VirtAddr>,
    pub(super) vmemmap: Option<VirtAddr>,
}

/// Finds what can be found of the three.
pub(super) fn find(mem: &dyn PhysMem, proof: &Proof<'_>, evidence: &mut Vec<Evidence>) -> Bases {
    const NAMES: [&str; 3] = ["page_offset_base", "vmalloc_base", "vmemmap_base"];
    let wanted = NAMES.map(|name| (proof.names.addr(name), 8));
    let read = read_known(&*proof.space, &wanted);
    let mut values = NAMES.into_iter().zip(read).map(|(name, bytes)| {
        let value = VirtAddr::new(u64::from_le_bytes(*bytes?.first_chunk()?));
        in_kernel_half(value).then(|| {
            evidence.push(Evidence {
                what: name,
                method: "variable",
                detail: value.to_string(),
                confidence: Confidence::Found,
            });
            value
        })
    });
    let mut next = || values.next().flatten();
    let (variable, vmalloc, vmemmap) = (next(), next(), next());
    drop(values);

    let is_direct_map = |base: &VirtAddr| maps_image(&*proof.space, *base, proof.image.text_phys);
    let page_offset = variable.filter(is_direct_map);
    if page_offset.is_some() {
        for entry in evidence.iter_mut().filter(|entry| entry.what == "page_offset_base") {
            entry.confidence = Confidence::Proved;
        }
    } else {
        evidence.retain(|entry| entry.what != "page_offset_base");
    }
    let page_offset = page_offset.or_else(|| {
        let tables = Tables { root: proof.root.table, ..proof.tables };
        let base = first_mapped(mem, tables, is_direct_map)?;
        evidence.push(Evidence {
            what: "page_offset_base",
            method: "page tables",
            detail: format!("{base}, where one of the first two mappings of the kernel half begins, which maps the image too"),
            confidence: Confidence::Proved,
        });
        Some(base)
    });
    let vmemmap = vmemmap.or_else(|| {
        let info = &proof.identity.vmcoreinfo.as_ref()?.info;
        let base = info.number("vmemmap").or_else(|| Some(info.symbol("vmemmap")?.raw()));
        let base = base.map(VirtAddr::new).filter(|base| in_kernel_half(*base))?;
        evidence.push(Evidence {
            what: "vmemmap_base",
            method: "VMCOREINFO",
            detail: base.to_string(),
            confidence: Confidence::Found,
        });
        Some(base)
    });
    Bases { page_offset, vmalloc, vmemmap }
}

fn in_kernel_half(base: VirtAddr) -> bool {
    base.is_upper_half() && base.offset_in(PAGE_SIZE) == 0
}

/// Whether `tables` have a direct map, which maps the image at `text_phys` a second time. A kernel's top-level table
/// has; the table below it, which maps the image as a top-level table of a lesser depth would, has not.
pub(super) fn have_direct_map(mem: &Arc<dyn PhysMem>, tables: Tables, text_phys: PhysAddr) -> bool {
    let Tables { root, levels, encryption_mask } = tables;
    let space = AddressSpace::new(Arc::clone(mem), root, levels, encryption_mask);
    first_mapped(&**mem, tables, |base| maps_image(&space, *base, text_phys)).is_some()
}

/// Whether `base` maps the kernel image where a direct map does.
fn maps_image(space: &dyn VirtMem, base: VirtAddr, text_phys: PhysAddr) -> bool {
    base.checked_add(text_phys.raw())
        .and_then(|addr| space.translate(addr).ok())
        .is_some_and(|translation| translation.phys == text_phys)
}

/// The address that stands for physical 0, by the first mappings of the kernel half that are a direct map.
fn first_mapped(
    mem: &dyn PhysMem,
    tables: Tables,
    is_direct_map: impl Fn(&VirtAddr) -> bool,
) -> Option<VirtAddr> {
    let bits = tables.levels.address_bits();
    let slot_size = 1_u64 << (bits - 9);
    let half = 0_u64.wrapping_sub(1 << (bits - 1));
    let mut entries = [0; 8 * (512 - FIRST_SLOT as usize)];
    mem.read(tables.root.wrapping_add(FIRST_SLOT * 8), &mut entries).ok()?;
    let present = |entry: &[u8; 8]| u64::from_le_bytes(*entry) & 1 != 0;
    let slots = (FIRST_SLOT..).zip(entries.as_chunks::<8>().0).filter(|(_, entry)| present(entry));
    // The LDT and the direct map are the first two.
    slots.take(2).find_map(|(slot, _)| {
        let first = half + (slot - 256) * slot_size;
        let last = first + (slot_size - 1);
        let found = runs(mem, tables, VirtAddr::new(first), VirtAddr::new(last), MAX_TABLES);
        let run = found.runs.first()?;
        let base = run.virt.checked_sub(run.phys.raw())?;
        (base.offset_in(1 << 30) == 0 && is_direct_map(&base)).then_some(base)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mem::{PhysWrite as _, sparse::Sparse},
        paging::Levels,
    };

    /// What the kernel maps of a process' LDT is below the direct map, where that was in former times.
    #[test]
    fn the_ldt_is_not_the_direct_map() {
        let mem = Sparse::new(["0-64k".parse().unwrap()]);
        let large = 0x83;
        for (at, entry) in [
            (0x1000 + 272 * 8, 0x2003),
            (0x2000, 0x3003),
            (0x3000, 0x4000_0000 | large),
            (0x1000 + 273 * 8, 0x5003),
            (0x5000, 0x6003),
            (0x6000, large),
        ] {
            mem.write(PhysAddr::new(at), &u64::to_le_bytes(entry)).unwrap();
        }
        let tables = Tables { root: PhysAddr::new(0x1000), levels: Levels::Four, encryption_mask: 0 };
        let base = |is_direct_map: fn(&VirtAddr) -> bool| first_mapped(&mem, tables, is_direct_map);
        let (old, new) =
            (VirtAddr::new(0xffff_8800_0000_0000 - (1 << 30)), VirtAddr::new(0xffff_8880_0000_0000));
        assert_eq!(base(|_| true), Some(old), "where it was before 4.20");
        assert_eq!(base(|base| base.raw() >= 0xffff_8880_0000_0000), Some(new));
        assert_eq!(base(|_| false), None);
    }
}
