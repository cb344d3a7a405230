//! Searches of RAM for when the trampoline is gone: they cost a read per 2 MiB, or per page.
//!
//! With a vmlinux only the place of the image is unknown, and `_text` stands on a multiple of 2 MiB: one read
//! where `linux_banner` would be, per slot. Without one, the read-only data stands on a multiple of 2 MiB too, and
//! begins with the banner or its weak copy; and the page that begins with VMCOREINFO, its note or its text, says
//! where the tables are. All search what the operator calls RAM and nothing else: no other map is known yet.

use std::collections::VecDeque;

use crate::{
    addr::{LinkAddr, PAGE_SIZE, PhysAddr, PhysRange},
    mem::PhysMem,
    paging::Levels,
    symbols::SymbolTable,
};

use super::{
    Progress, Sighting, Sightings, Target,
    banner::{BANNER_PREFIX, BANNER_START, holds_banner},
    image::{START_KERNEL_MAP, TEXT_ALIGN},
    image_tables,
    trampoline::ENCRYPTION_BITS,
    vmcoreinfo::{self, VmcoreInfo},
};

/// Reads per batch: enough to keep any window full, few enough to show progress.
const BATCH: usize = 1024;

/// Bytes of a probe for the banner.
const PROBE: usize = 64;

/// Where a vmlinux puts what a search needs, relative to `_text`.
struct Layout {
    banner: u64,
    root: u64,
}

impl Layout {
    fn of(symbols: &dyn SymbolTable) -> Option<Self> {
        let text = symbols.lookup("_text")?.addr;
        let offset = |addr: LinkAddr| addr.raw().checked_sub(text.raw());
        Some(Self {
            banner: offset(symbols.lookup("linux_banner")?.addr)?,
            root: offset(super::proof::top_level_symbol(symbols)?.addr)?,
        })
    }
}

/// Kernels whose banner stands where the vmlinux has it, counted from a multiple of 2 MiB.
pub(super) fn in_slots<'t>(
    target: &'t Target<'_>,
    ram: &'t [PhysRange],
) -> Result<Sightings<'t>, &'static str> {
    let symbols = target.hints.symbols.ok_or("they need symbols: give --vmlinux")?;
    let layout = Layout::of(symbols).ok_or("the vmlinux has no linux_banner and init_top_pgt")?;
    let hits = search::<PROBE>(target, "probing 2 MiB slots", slots(ram), layout.banner, |bytes| {
        bytes.starts_with(BANNER_PREFIX)
    });
    Ok(Box::new(hits.map(move |(slot, _)| {
        let root = slot.wrapping_add(layout.root);
        Sighting { text_phys: Some(slot), ..Sighting::new("2 MiB slots", slot, root) }
    })))
}

/// Kernels whose read-only data begins with a banner, with the page table in the data after it.
pub(super) fn by_banner<'t>(
    target: &'t Target<'_>,
    ram: &'t [PhysRange],
) -> Result<Sightings<'t>, &'static str> {
    const STEP: &str = "reading the start of 2 MiB slots";
    let hits = search::<BANNER_START>(target, STEP, slots(ram), 0, |bytes| holds_banner(bytes));
    Ok(Box::new(hits.filter_map(|(slot, _)| {
        let (root, levels) = image_tables::root_of_rodata(target, slot, ram)?;
        Some(Sighting { levels: Some(levels), ..Sighting::new("banner at 2 MiB", slot, root) })
    })))
}

/// Kernels whose VMCOREINFO, the note or the text, begins a page.
pub(super) fn by_vmcoreinfo<'t>(
    target: &'t Target<'_>,
    ram: &'t [PhysRange],
) -> Result<Sightings<'t>, &'static str> {
    const LEN: usize = vmcoreinfo::HEADER_LEN;
    let pages = pages_from_the_ends(ram);
    let hits = search::<LEN>(target, "searching for VMCOREINFO", pages, 0, |bytes| {
        vmcoreinfo::text_len(bytes).is_some() || bytes.starts_with(vmcoreinfo::BEGINNING)
    });
    Ok(Box::new(hits.filter_map(|(page, header)| {
        let len = vmcoreinfo::text_len(&header).map_or(PAGE_SIZE as usize, |len| LEN + len);
        let mut bytes = vec![0; len];
        target.tables.read(page, &mut bytes).ok()?;
        let is_text = bytes.starts_with(vmcoreinfo::BEGINNING);
        let info = if is_text { VmcoreInfo::parse_text(&bytes) } else { VmcoreInfo::parse_note(&bytes) };
        let sighting = info.map_err(|damage| damage.to_string()).and_then(|info| {
            from_vmcoreinfo(target, page, info)
                .ok_or_else(|| "it does not say where the tables are".to_owned())
        });
        sighting.map_err(|reason| target.note_damage(page, reason)).ok()
    })))
}

fn from_vmcoreinfo(target: &Target<'_>, page: PhysAddr, info: VmcoreInfo) -> Option<Sighting> {
    let linear = info.top_level_table()?.raw().wrapping_sub(START_KERNEL_MAP.raw());
    let root = PhysAddr::new(linear.wrapping_add(info.number("phys_base")?));
    let levels =
        info.number("pgtable_l5_enabled").map(|l5| if l5 == 1 { Levels::Five } else { Levels::Four });
    // A bit that the entry for the image does not have encrypts nothing.
    let entry = target.tables.read_u64(root.wrapping_add(PAGE_SIZE - 8)).unwrap_or(0);
    let encryption_mask = info.number("sme_mask").unwrap_or(0) & entry & ENCRYPTION_BITS;
    Some(Sighting {
        levels,
        encryption_mask,
        vmcoreinfo: Some(info),
        ..Sighting::new("VMCOREINFO", page, root)
    })
}

/// The multiples of 2 MiB in `ram`, lazily, and how many there are.
fn slots(ram: &[PhysRange]) -> (u64, impl Iterator<Item = PhysAddr> + use<>) {
    const STEP: u64 = TEXT_ALIGN;
    let stretches: Vec<(u64, u64)> = ram
        .iter()
        .filter_map(|range| Some((range.start.raw().checked_next_multiple_of(STEP)?, range.end.raw())))
        .filter(|(start, end)| start < end)
        .collect();
    let count = stretches.iter().map(|(start, end)| (end - start).div_ceil(STEP)).sum();
    let each = stretches.into_iter().flat_map(|(start, end)| {
        (0..(end - start).div_ceil(STEP)).map(move |index| PhysAddr::new(start + index * STEP))
    });
    (count, each)
}

/// The pages of `ram`, in stripes taken by turns from both ends of every range: VMCOREINFO is among the first pages a
/// booting kernel allocates, and those are near one of the ends of a zone.
pub(super) fn pages_from_the_ends(ram: &[PhysRange]) -> (u64, impl Iterator<Item = PhysAddr> + use<>) {
    let mut left: VecDeque<(u64, u64, bool)> = ram
        .iter()
        .map(|range| (range.start.raw().div_ceil(PAGE_SIZE), range.end.raw() / PAGE_SIZE, false))
        .filter(|(start, end, _)| start < end)
        .collect();
    let count = left.iter().map(|(start, end, _)| end - start).sum();
    let stripes = std::iter::from_fn(move || {
        let (start, end, from_top) = left.pop_front()?;
        let len = (end - start).min(BATCH as u64);
        let (stripe, rest) = if from_top {
            (end - len..end, start..end - len)
        } else {
            (start..start + len, start + len..end)
        };
        if !rest.is_empty() {
            left.push_back((rest.start, rest.end, !from_top));
        }
        Some(stripe)
    });
    (count, stripes.flatten().map(|page| PhysAddr::new(page * PAGE_SIZE)))
}

/// Reads `N` bytes at `offset` from each place, in batches as the hits are asked for.
pub(super) fn search<'t, const N: usize>(
    target: &'t Target<'_>,
    step: &'static str,
    (total, mut places): (u64, impl Iterator<Item = PhysAddr> + 't),
    offset: u64,
    is_hit: impl Fn(&[u8; N]) -> bool + 't,
) -> impl Iterator<Item = (PhysAddr, [u8; N])> + 't {
    let guard: &dyn PhysMem = target.guard;
    let mut done = 0;
    std::iter::from_fn(move || {
        let batch: Vec<PhysAddr> = places.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return None;
        }
        target.progress(Progress { step, done, total });
        done += batch.len() as u64;
        let places: Vec<PhysAddr> = batch.iter().map(|place| place.wrapping_add(offset)).collect();
        let read = batch.into_iter().zip(guard.read_each(&places));
        let read = read.filter_map(|(place, bytes)| Some((place, bytes.ok()?)));
        Some(read.filter(|(_, bytes)| is_hit(bytes)).collect::<Vec<_>>())
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_multiples_inside_the_ranges() {
        let ram: Vec<PhysRange> = ["0x1000-5M", "8M-9M"].iter().map(|text| text.parse().unwrap()).collect();
        let (count, each) = slots(&ram);
        let each: Vec<u64> = each.map(PhysAddr::raw).collect();
        assert_eq!(each, [2 << 20, 4 << 20, 8 << 20]);
        assert_eq!(count, 3);
        let end: PhysRange = PhysRange { start: PhysAddr::new(u64::MAX - 8), end: PhysAddr::new(u64::MAX) };
        assert_eq!(slots(&[end]).0, 0);
    }

    #[test]
    fn every_page_comes_once_and_the_ends_come_first() {
        let ram: Vec<PhysRange> =
            ["0x1000-16M", "4G-0x100002000"].iter().map(|text| text.parse().unwrap()).collect();
        let (count, pages) = pages_from_the_ends(&ram);
        let pages: Vec<u64> = pages.map(PhysAddr::raw).collect();
        assert_eq!(pages.len() as u64, count);
        let stripe = BATCH * PAGE_SIZE as usize;
        let early = [0x1000, 1 << 32, (16 << 20) - stripe as u64];
        for page in early {
            assert!(pages.iter().take(BATCH + 3).any(|other| *other == page), "{page:#x}");
        }
        let mut sorted = pages;
        sorted.sort_unstable();
        let all: Vec<u64> = (1..4096).chain([1 << 20, (1 << 20) + 1]).map(|page| page * PAGE_SIZE).collect();
        assert_eq!(sorted, all);
    }
}
