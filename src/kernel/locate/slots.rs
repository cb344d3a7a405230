//! Searches of RAM for when the trampoline is gone: they cost a read per 2 MiB, or per page.
//!
//! With a vmlinux only the place of the image is unknown, and `_text` stands on a multiple of 2 MiB: one read
//! where `linux_banner` would be, per slot. Without one, the page that begins with VMCOREINFO's note says where
//! the tables are. Both search what the operator calls RAM and nothing else: no other map is known yet.

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
    let slots = places(ram, TEXT_ALIGN);
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
    let pages = places(ram, PAGE_SIZE);
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

/// The multiples of `step` in `ram`, lazily, and how many there are.
fn places(ram: &[PhysRange], step: u64) -> (u64, impl Iterator<Item = PhysAddr> + use<>) {
    let stretches: Vec<(u64, u64)> = ram
        .iter()
        .filter_map(|range| Some((range.start.raw().checked_next_multiple_of(step)?, range.end.raw())))
        .filter(|(start, end)| start < end)
        .collect();
    let count = stretches.iter().map(|(start, end)| (end - start).div_ceil(step)).sum();
    let each = stretches.into_iter().flat_map(move |(start, end)| {
        (0..(end - start).div_ceil(step)).map(move |index| PhysAddr::new(start + index * step))
    });
    (count, each)
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
        let (count, each) = places(&ram, 2 << 20);
        let each: Vec<u64> = each.map(PhysAddr::raw).collect();
        assert_eq!(each, [2 << 20, 4 << 20, 8 << 20]);
        assert_eq!(count, 3);
        let end: PhysRange = PhysRange { start: PhysAddr::new(u64::MAX - 8), end: PhysAddr::new(u64::MAX) };
        assert_eq!(places(&[end], 4096).0, 0);
    }
}
