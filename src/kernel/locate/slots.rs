//! Searches of RAM for when the trampoline is gone: they cost a read per 2 MiB, or per page.
//!
//! With a vmlinux only the place of the image is unknown, and `_text` stands on a multiple of 2 MiB: one read
//! where `linux_banner` would be, per slot. Without one, the page that begins with VMCOREINFO's note says where
//! the tables are. Both search what the operator calls RAM and nothing else: no other map is known yet.

use std::collections::VecDeque;

use crate::{
    addr::{LinkAddr, PAGE_SIZE, PhysAddr, PhysRange},
    mem::{PhysMem, ReadOp},
    paging::Levels,
    symbols::SymbolTable,
};

use super::{
    Progress, Sighting, Target,
    image::{BANNER_PREFIX, START_KERNEL_MAP, TEXT_ALIGN},
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
    symbols: &dyn SymbolTable,
    ram: &[PhysRange],
) -> Box<dyn Iterator<Item = Sighting> + 't> {
    let Some(layout) = Layout::of(symbols) else { return Box::new(std::iter::empty()) };
    let slots = slots(ram);
    let hits = search::<PROBE>(target, "probing 2 MiB slots", slots, layout.banner, |bytes| {
        bytes.starts_with(BANNER_PREFIX)
    });
    Box::new(hits.map(move |(slot, _)| Sighting {
        method: "2 MiB slots",
        place: slot,
        root: slot.wrapping_add(layout.root),
        copied_root: None,
        levels: None,
        encryption_mask: 0,
        entry: None,
        text_phys: Some(slot),
        vmcoreinfo: None,
    }))
}

/// Kernels whose VMCOREINFO note begins a page.
pub(super) fn by_vmcoreinfo<'t>(
    target: &'t Target<'_>,
    ram: &[PhysRange],
) -> Box<dyn Iterator<Item = Sighting> + 't> {
    const LEN: usize = vmcoreinfo::HEADER_LEN;
    let pages = pages_from_the_ends(ram);
    let hits = search::<LEN>(target, "searching for VMCOREINFO", pages, 0, |bytes| {
        vmcoreinfo::text_len(bytes).is_some()
    });
    Box::new(hits.filter_map(|(page, header)| {
        let mut note = vec![0; LEN + vmcoreinfo::text_len(&header)?];
        target.tables.read(page, &mut note).ok()?;
        from_vmcoreinfo(page, VmcoreInfo::from_note(&note)?)
    }))
}

fn from_vmcoreinfo(page: PhysAddr, info: VmcoreInfo) -> Option<Sighting> {
    let linear = info.top_level_table()?.raw().wrapping_sub(START_KERNEL_MAP.raw());
    let levels =
        info.number("pgtable_l5_enabled").map(|l5| if l5 == 1 { Levels::Five } else { Levels::Four });
    Some(Sighting {
        method: "VMCOREINFO",
        place: page,
        root: PhysAddr::new(linear.wrapping_add(info.number("phys_base")?)),
        copied_root: None,
        levels,
        encryption_mask: info.number("sme_mask").unwrap_or(0),
        entry: None,
        text_phys: None,
        vmcoreinfo: Some(info),
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
fn pages_from_the_ends(ram: &[PhysRange]) -> (u64, impl Iterator<Item = PhysAddr> + use<>) {
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
fn search<'t, const N: usize>(
    target: &'t Target<'_>,
    step: &'static str,
    (total, mut places): (u64, impl Iterator<Item = PhysAddr> + 't),
    offset: u64,
    is_hit: impl Fn(&[u8; N]) -> bool + 't,
) -> impl Iterator<Item = (PhysAddr, [u8; N])> + 't {
    let mut done = 0;
    std::iter::from_fn(move || {
        let batch: Vec<PhysAddr> = places.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return None;
        }
        target.progress(Progress { step, done, total });
        done += batch.len() as u64;
        let mut bytes = vec![[0; N]; batch.len()];
        let mut ops: Vec<ReadOp<'_>> = batch
            .iter()
            .zip(&mut bytes)
            .map(|(place, bytes)| ReadOp::new(place.wrapping_add(offset), bytes))
            .collect();
        target.guard.read_batch(&mut ops);
        let read: Vec<bool> = ops.iter().map(|op| op.result.is_ok()).collect();
        drop(ops);
        let hits = batch.into_iter().zip(bytes).zip(read).filter(|((_, bytes), read)| *read && is_hit(bytes));
        Some(hits.map(|(hit, _)| hit).collect::<Vec<_>>())
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
