//! The kernel's top-level page table by what it is, for when nothing says where it stands.
//!
//! `init_top_pgt` is a page of the image's data, its user half is empty, it maps the image, itself included, and has
//! the direct map: no process' table and no copy is inside the image it maps, and no table of a lower level has the
//! direct map. That is looked for near a place in the image, or, when all else is gone, in all RAM at one word per
//! page. What is found still has to prove itself (`proof`).
//! Source: `arch/x86/kernel/head_64.S` (`init_top_pgt`), `arch/x86/kernel/vmlinux.lds.S`.

use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange},
    mem::PhysMem,
    paging::{Levels, runs::Tables},
};

use super::{
    Sighting, Sightings, Target, bases,
    image::Image,
    slots::{pages_from_the_ends, search},
    trampoline::{is_page_directory, leads_to_table},
};

/// An image is not longer than this.
const MAX_DISTANCE: u64 = 64 << 20;

/// Pages asked for one word each at once.
const PAGES_AT_ONCE: usize = 1024;

/// Tables that are looked through. A host has some ten such pages; memory may be full of what only looks like them.
const MAX_DIRECTORIES: usize = 4096;

const LAST_SLOT: u64 = PAGE_SIZE - 8;

/// Kernels whose top-level table maps the image that holds it, anywhere in `ram`.
pub(super) fn sightings<'t>(
    target: &'t Target<'_>,
    ram: &'t [PhysRange],
) -> Result<Sightings<'t>, &'static str> {
    let pages = pages_from_the_ends(ram);
    let hits = search::<8>(target, "searching for page tables", pages, LAST_SLOT, |word| {
        leads_to_table(u64::from_le_bytes(*word))
    });
    let pages = hits.map(|(page, _)| page).filter(|page| is_directory(target, *page));
    Ok(Box::new(pages.take(MAX_DIRECTORIES).filter_map(|page| {
        let levels = depth(target, page, |_| true)?;
        Some(Sighting { levels: Some(levels), ..Sighting::new("page tables", page, page) })
    })))
}

/// The top-level table, and its depth, of the image whose read-only data begins at `rodata`.
pub(super) fn root_of_rodata(
    target: &Target<'_>,
    rodata: PhysAddr,
    ram: &[PhysRange],
) -> Option<(PhysAddr, Levels)> {
    let begins_there = |image: &Image| match image.is_protected() {
        true => image.rodata().is_some_and(|run| run.phys == rodata),
        false => image.phys_range().is_some_and(|range| range.contains(rodata, PAGE_SIZE)),
    };
    root_near(target, ram, rodata, |root| depth(target, root, begins_there))
}

/// The depth of a table inside the image it maps, if that image is as wanted.
fn depth(target: &Target<'_>, root: PhysAddr, wanted: impl Fn(&Image) -> bool) -> Option<Levels> {
    [Levels::Five, Levels::Four].into_iter().find(|levels| {
        let tables = Tables { root, levels: *levels, encryption_mask: 0 };
        let Ok(image) = Image::survey(&*target.tables, tables) else { return false };
        let inside = image.phys_range().is_some_and(|range| range.contains(root, PAGE_SIZE));
        inside && wanted(&image) && bases::have_direct_map(&target.tables, tables, image.text_phys)
    })
}

fn is_directory(target: &Target<'_>, page: PhysAddr) -> bool {
    let mut bytes = [0; PAGE_SIZE as usize];
    target.guard.read(page, &mut bytes).is_ok() && is_page_directory(&bytes)
}

/// The nearest page to `place` that could be a top-level table of a kernel and is `accept`ed.
pub(super) fn root_near<T>(
    target: &Target<'_>,
    ram: &[PhysRange],
    place: PhysAddr,
    accept: impl Fn(PhysAddr) -> Option<T>,
) -> Option<(PhysAddr, T)> {
    let page = place.align_down(PAGE_SIZE);
    let distances = (0..=MAX_DISTANCE).step_by(PAGE_SIZE as usize);
    let mut pages = distances
        .flat_map(|distance| [page.checked_add(distance), page.checked_sub(distance)])
        .flatten()
        .filter(|page| ram.iter().any(|range| range.contains(*page, PAGE_SIZE)));
    let guard: &dyn PhysMem = target.guard;
    let mut left = MAX_DIRECTORIES;
    loop {
        let batch: Vec<PhysAddr> = pages.by_ref().take(PAGES_AT_ONCE).collect();
        if batch.is_empty() || left == 0 {
            return None;
        }
        let slots: Vec<PhysAddr> = batch.iter().map(|page| page.wrapping_add(LAST_SLOT)).collect();
        let words = guard.read_each(&slots);
        let leads = |word: &Result<[u8; 8], _>| {
            word.as_ref().is_ok_and(|word| leads_to_table(u64::from_le_bytes(*word)))
        };
        let tables = batch.into_iter().zip(words).filter(|(_, word)| leads(word));
        let tables = tables.map(|(page, _)| page).filter(|page| is_directory(target, *page));
        let mut tables = tables.take(left).inspect(|_| left -= 1);
        let found = tables.find_map(|page| Some((page, accept(page)?)));
        if found.is_some() {
            return found;
        }
    }
}
