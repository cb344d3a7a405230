//! The real-mode trampoline: what a kernel leaves below 1 MiB to start its other processors.
//!
//! Its page directory (`trampoline_pgd`) is a copy of the kernel's top-level table: of its whole kernel half since
//! 51523ed1c267 (5.16, and what stable kernels took of it), of the last slot alone before. The page after it begins with `struct trampoline_header`, whose CR4 says
//! how deep the tables are. So the first of all questions costs one word of each of 159 pages.
//! Source: `arch/x86/realmode/init.c` (`setup_real_mode`), `arch/x86/realmode/rm/trampoline_64.S`,
//! `arch/x86/include/asm/realmode.h`.

use std::{cell::RefCell, sync::Arc};

use super::{Hints, LocateError, Progress, Sighting, Target};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr},
    mem::{Fault, PhysMem, ReadOp, guard::Guard},
    paging::Levels,
};

/// Conventional memory: what is above belongs to video and firmware, what is below to the BIOS.
pub(super) const LOW_MEMORY: PhysRange =
    PhysRange { start: PhysAddr::new(0x1000), end: PhysAddr::new(0xa_0000) };

/// A page of pointers that looks like a top-level table is rare; more than this many are not looked at.
const MAX_CANDIDATES: usize = 16;

const LAST_SLOT: u64 = 511 * 8;
const PRESENT: u64 = 1 << 0;
const PAGE_SIZE_BIT: u64 = 1 << 7;
const HEADER_LEN: usize = 24;

const EFER_LME: u64 = 1 << 8;
const CR4_PAE: u32 = 1 << 5;
const CR4_LA57: u32 = 1 << 12;
const FLAG_SME_ACTIVE: u32 = 1 << 0;

/// Where AMD puts the encryption bit: 47 up to Zen 2, 51 from Zen 3 on (CPUID 0x8000001f EBX).
pub(super) const ENCRYPTION_BITS: u64 = 1 << 47 | 1 << 51;

/// `struct trampoline_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// `secondary_startup_64`, where a starting processor enters the kernel.
    pub(super) start: VirtAddr,
    /// From CR4.LA57.
    pub(super) levels: Levels,
    /// The kernel runs with SME.
    pub(super) sme_active: bool,
}

impl Header {
    /// Parses the header's bytes, `None` when they are not one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let start = u64::from_le_bytes(*bytes.first_chunk()?);
        let efer = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        let cr4 = u32::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
        let flags = u32::from_le_bytes(*bytes.get(20..)?.first_chunk()?);
        let kernel = super::image::KERNEL_SPACE;
        let plausible = (kernel.0.raw()..=kernel.1.raw()).contains(&start)
            && efer & EFER_LME != 0
            && efer >> 32 == 0
            && cr4 & CR4_PAE != 0;
        plausible.then_some(Self {
            start: VirtAddr::new(start),
            levels: if cr4 & CR4_LA57 == 0 { Levels::Four } else { Levels::Five },
            sme_active: flags & FLAG_SME_ACTIVE != 0,
        })
    }
}

/// Whether an entry of a top-level table could lead to a table.
pub(super) fn leads_to_table(entry: u64) -> bool {
    const RESERVED: u64 = 0x7ff0_0000_0000_0000;
    let frame = entry & 0x000f_ffff_ffff_f000;
    entry & PRESENT != 0 && entry & (PAGE_SIZE_BIT | RESERVED) == 0 && frame != 0
}

/// Whether a page could be `trampoline_pgd`: kernel half as in a table, user half empty but for slot 0.
pub(super) fn is_page_directory(page: &[u8]) -> bool {
    let (entries, _) = page.as_chunks::<8>();
    let mut slots = entries.iter().map(|entry| u64::from_le_bytes(*entry)).enumerate();
    slots.all(|(slot, entry)| match slot {
        1..=255 => entry == 0,
        511 => leads_to_table(entry),
        _ => entry & PRESENT == 0 || leads_to_table(entry),
    })
}

/// The trampoline of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trampoline {
    /// Where its page directory is.
    place: PhysAddr,
    /// What that says of the kernel's own half.
    last: [u8; 8],
    /// Where a starting processor enters the kernel.
    start: VirtAddr,
}

/// The trampolines in low memory that have a header, for comparing; there is one, or one more for each earlier boot that
/// left its own elsewhere.
///
/// # Errors
/// [`LocateError::LowMemory`] when no page at all could be read.
pub fn trampolines(guard: &Arc<Guard>) -> Result<Vec<Trampoline>, LocateError> {
    let led = guard.led_by_tables();
    // What is looked at here is permitted here.
    let guard = &Guard::new(Arc::clone(&led), None);
    let hints = Hints::default();
    let target =
        Target { guard, led: Arc::clone(&led), tables: led, hints: &hints, damaged: RefCell::default() };
    let found = sightings(&target)?.into_iter().filter_map(|sighting| {
        let last = *sighting.copied_root?.last_chunk()?;
        Some(Trampoline { place: sighting.place, last, start: sighting.entry? })
    });
    Ok(found.collect())
}

/// Page directories in low memory, best first: those followed by a header before those without.
///
/// # Errors
/// [`LocateError::LowMemory`] when no page at all could be read.
pub(super) fn sightings(target: &Target<'_>) -> Result<Vec<Sighting>, LocateError> {
    target.guard.permit(LOW_MEMORY);
    let pages = candidates(target)?;
    let mut bytes = vec![[0; PAGE_SIZE as usize]; pages.len()];
    let mut headers = vec![[0; HEADER_LEN]; pages.len()];
    let mut ops: Vec<ReadOp<'_>> = Vec::with_capacity(pages.len() * 2);
    for (page, (bytes, header)) in pages.iter().zip(bytes.iter_mut().zip(&mut headers)) {
        ops.push(ReadOp::new(*page, bytes));
        ops.push(ReadOp::new(page.wrapping_add(PAGE_SIZE), header));
    }
    target.guard.read_batch(&mut ops);
    let readable: Vec<(bool, bool)> = ops
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[page, header]| (page.result.is_ok(), header.result.is_ok()))
        .collect();
    drop(ops);

    let mut sightings: Vec<Sighting> = Vec::new();
    for ((page, bytes), (header, (page_ok, header_ok))) in
        pages.into_iter().zip(&bytes).zip(headers.iter().zip(readable))
    {
        if page_ok && is_page_directory(bytes) {
            let header = Header::parse(header).filter(|_| header_ok);
            sightings.push(sighting(page, bytes, header));
        }
    }
    sightings.sort_by_key(|sighting| sighting.levels.is_none());
    Ok(sightings)
}

fn sighting(page: PhysAddr, bytes: &[u8; PAGE_SIZE as usize], header: Option<Header>) -> Sighting {
    let last = bytes.last_chunk().map_or(0, |entry| u64::from_le_bytes(*entry));
    let sme = header.is_some_and(|header| header.sme_active);
    Sighting {
        copied_root: Some(Arc::new(*bytes)),
        levels: header.map(|header| header.levels),
        encryption_mask: if sme { last & ENCRYPTION_BITS } else { 0 },
        entry: header.map(|header| header.start),
        ..Sighting::new("real-mode trampoline", page, page)
    }
}

/// Pages whose last slot is present, from one word of each.
fn candidates(target: &Target<'_>) -> Result<Vec<PhysAddr>, LocateError> {
    let pages: Vec<PhysAddr> = (LOW_MEMORY.start.raw()..LOW_MEMORY.end.raw())
        .step_by(PAGE_SIZE as usize)
        .map(PhysAddr::new)
        .collect();
    target.progress(Progress { step: "reading low memory", done: 0, total: pages.len() as u64 });
    let mut words = vec![[0; 8]; pages.len()];
    let mut ops: Vec<ReadOp<'_>> = pages
        .iter()
        .zip(&mut words)
        .map(|(page, word)| ReadOp::new(page.wrapping_add(LAST_SLOT), word))
        .collect();
    // A dead link shows on the first read: better one time-out than 159.
    let (first, rest) = ops.split_at_mut(1);
    target.guard.read_batch(first);
    if let Some(Err(error)) = first.first().map(|op| &op.result)
        && matches!(error.fault, Fault::Link(_))
    {
        let again = &mut rest.get_mut(..1).unwrap_or_default();
        target.guard.read_batch(again);
        if let Some(Err(error)) = again.first().map(|op| &op.result) {
            return Err(LocateError::LowMemory { source: error.clone() });
        }
    }
    target.guard.read_batch(rest);
    let present: Vec<bool> = ops.iter().map(|op| op.result.is_ok()).collect();
    drop(ops);
    Ok(pages
        .into_iter()
        .zip(words)
        .zip(present)
        .filter(|((_, word), read)| *read && leads_to_table(u64::from_le_bytes(*word)))
        .map(|((page, _), _)| page)
        .take(MAX_CANDIDATES)
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(cr4: u32, flags: u32) -> Vec<u8> {
        let mut bytes = 0xffff_ffff_b200_0070_u64.to_le_bytes().to_vec();
        bytes.extend(0x901_u64.to_le_bytes());
        bytes.extend(cr4.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    }

    #[test]
    fn depth_and_encryption_come_from_the_header() {
        let parsed = Header::parse(&header(0x10b0, 0)).unwrap();
        assert_eq!(parsed.levels, Levels::Five);
        assert!(!parsed.sme_active);
        let parsed = Header::parse(&header(0xb0, 1)).unwrap();
        assert_eq!(parsed.levels, Levels::Four);
        assert!(parsed.sme_active);
        assert_eq!(Header::parse(&header(0x90, 0)), None, "no PAE");
        assert_eq!(Header::parse(&[0; HEADER_LEN]), None);
        assert_eq!(Header::parse(&header(0xb0, 0)[..23]), None);
    }

    #[test]
    fn a_user_half_or_a_large_page_is_no_directory() {
        let mut page = [0; 4096];
        page[4088..].copy_from_slice(&0xce1_4067_u64.to_le_bytes());
        assert!(is_page_directory(&page));
        page[8] = 1;
        assert!(!is_page_directory(&page));
        page[8] = 0;
        page[4088] |= 0x80;
        assert!(!is_page_directory(&page));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            Header::parse(&bytes);
            is_page_directory(&bytes);
        }
    }
}
