//! Finds a running or panicked kernel in physical memory: [`locate`] writes down a [`KernelMap`].
//!
//! Where a profile says where the page tables are, they are looked at first. Otherwise there are six methods, cheapest
//! first: the real-mode trampoline (`trampoline`), 2 MiB slots, the banner at the start of
//! read-only data, VMCOREINFO (`slots`), the first task (`init_task`), page tables that map themselves (`image_tables`).
//! Each gives `Sighting`s, cheap guesses at a top-level page table; a guess counts when the kernel behind it says
//! through those tables who it is (`proof`, `identity`). What VMCOREINFO adds is believed as far as nothing
//! contradicts it (`claims`, `slide`). Then the address space's bases and the RAM map are read, and the guard is
//! confined to that map. No vmlinux is needed; with one, places are known instead of searched.
//!
//! Until the RAM map is known, reads go to 0x1000-0x9ffff, where page tables lead, and into the operator's own
//! ranges: on a real host a DMA read outside RAM can freeze the machine.

mod banner;
mod bases;
mod claims;
mod error;
mod evidence;
mod exports;
mod given;
mod identity;
mod image;
mod image_tables;
mod init_task;
mod proof;
mod ram;
mod slide;
mod slots;
mod trampoline;
pub mod vmcoreinfo;

#[cfg(test)]
mod tests;

use std::{cell::RefCell, cmp::Ordering, sync::Arc};

pub use error::{Advice, Attempt, LocateError};
pub use given::Given;
pub use proof::TOP_LEVEL_TABLE;
pub use ram::Shortfall;
pub use trampoline::{Trampoline, trampolines};

use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr},
    mem::{
        PhysMem,
        cache::{Cache, Validity},
        guard::{Guard, Limits},
    },
    paging::{Levels, runs::Run},
    symbols::SymbolTable,
    types::TypeSource,
};

use super::{Confidence, Evidence, KernelMap};
use bases::Bases;
use proof::{Names, Proof};
use ram::RamMap;
use vmcoreinfo::VmcoreInfo;

/// Damaged places told of; memory may be full of them.
const MAX_DAMAGED: usize = 8;

/// What is known beforehand, all of it optional.
#[derive(Clone, Copy, Default)]
pub struct Hints<'a> {
    /// Symbols of the vmlinux.
    pub symbols: Option<&'a dyn SymbolTable>,
    /// Types of the vmlinux.
    pub types: Option<&'a dyn TypeSource>,
    /// The vmlinux's GNU build id.
    pub build_id: Option<&'a [u8]>,
    /// The vmlinux's name, for messages.
    pub vmlinux_name: Option<&'a str>,
    /// What the operator's profile says of the kernel's place.
    pub given: Given,
    /// Go on although the vmlinux is another build's, or the kernel is not where it was said to be (`--force`).
    pub force: bool,
    /// The target is a memory image.
    pub image: bool,
    /// Told how far a search is.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is searched, such as `probing 2 MiB slots`.
    pub step: &'static str,
    /// Reads (or bytes) done.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// A place where the top-level page table of a kernel may be.
#[derive(Debug, Clone)]
struct Sighting {
    method: &'static str,
    /// What was seen: a page, or the start of an image.
    place: PhysAddr,
    /// The table to look through.
    root: PhysAddr,
    /// Its bytes, when it is a copy the kernel made of its own.
    copied_root: Option<Arc<[u8; PAGE_SIZE as usize]>>,
    /// `None`: try both.
    levels: Option<Levels>,
    encryption_mask: u64,
    /// An address that must be in the text.
    entry: Option<VirtAddr>,
    /// Where `_text` must be.
    text_phys: Option<PhysAddr>,
    vmcoreinfo: Option<VmcoreInfo>,
}

impl Sighting {
    fn new(method: &'static str, place: PhysAddr, root: PhysAddr) -> Self {
        Self {
            method,
            place,
            root,
            copied_root: None,
            levels: None,
            encryption_mask: 0,
            entry: None,
            text_phys: None,
            vmcoreinfo: None,
        }
    }
}

/// Sightings of one method, looked for as they are asked for.
type Sightings<'t> = Box<dyn Iterator<Item = Sighting> + 't>;

/// A search of RAM; the error says what it lacks.
type Search = for<'t, 'a> fn(&'t Target<'a>, &'t [PhysRange]) -> Result<Sightings<'t>, &'static str>;

/// The searches of RAM, cheapest first.
const SEARCHES: [(&str, Search); 5] = [
    ("2 MiB slots", slots::in_slots),
    ("banner at 2 MiB", slots::by_banner),
    ("VMCOREINFO", slots::by_vmcoreinfo),
    ("init_task", init_task::sightings),
    ("page tables", image_tables::sightings),
];

/// The memory searched, by the three ways it may be read, and what is known beforehand.
struct Target<'a> {
    /// What something vouches for.
    guard: &'a Guard,
    /// Where page tables lead.
    led: Arc<dyn PhysMem>,
    /// The same, keeping what was read: one search reads the same tables again and again.
    tables: Arc<dyn PhysMem>,
    hints: &'a Hints<'a>,
    /// What the search under way met and could not even sight a kernel by.
    damaged: RefCell<Vec<(PhysAddr, String)>>,
}

impl Target<'_> {
    fn note_damage(&self, place: PhysAddr, reason: String) {
        let mut damaged = self.damaged.borrow_mut();
        if damaged.len() < MAX_DAMAGED {
            damaged.push((place, reason));
        }
    }

    fn progress(&self, progress: Progress) {
        if let Some(report) = self.hints.progress {
            report(progress);
        }
    }
}

/// Finds the kernel in the memory behind `guard`, and confines `guard` to the kernel's own RAM map.
///
/// # Errors
/// [`LocateError`]: nothing found (with what was tried), another build's vmlinux, or a dead link.
pub fn locate(guard: &Arc<Guard>, hints: &Hints<'_>) -> Result<KernelMap, LocateError> {
    let led = guard.led_by_tables();
    let tables = Cache::new(Arc::clone(&led), Validity::Stop);
    tables.read_ahead(false);
    let tables: Arc<dyn PhysMem> = Arc::new(tables);
    let target = Target { guard, led, tables, hints, damaged: RefCell::default() };
    let mut attempts = Vec::new();

    if let Some(sighting) = given::sighting(&target)
        && let Some(proved) = prove_first(&target, "profile", Box::new([sighting].into_iter()), &mut attempts)
    {
        return finish(&target, proved, &attempts);
    }
    let sightings = trampoline::sightings(&target)?;
    if let Some(proved) = prove_all(&target, &sightings, &mut attempts)? {
        return finish(&target, proved, &attempts);
    }
    let Some(limits) = guard.limits() else {
        attempts.push(Attempt::skipped("searches of RAM", "what is RAM is not known: give --ram START-END"));
        return Err(LocateError::NotFound { attempts, advice: Advice::on(hints) });
    };
    let ram = limits.ranges();
    // Vouched for by the operator, or all there is; without their word a search of all addresses is out of the question.
    ram.iter().for_each(|range| guard.permit(*range));
    for (method, search) in SEARCHES {
        match search(&target, ram) {
            Err(lacks) => attempts.push(Attempt::skipped(method, lacks)),
            Ok(hits) => {
                if let Some(proved) = prove_first(&target, method, hits, &mut attempts) {
                    return finish(&target, proved, &attempts);
                }
            }
        }
    }
    Err(LocateError::NotFound { attempts, advice: Advice::on(hints) })
}

/// Proves every sighting in low memory: two kernels that both prove are a question the operator must answer.
fn prove_all<'a>(
    target: &Target<'a>,
    sightings: &[Sighting],
    attempts: &mut Vec<Attempt>,
) -> Result<Option<(Sighting, Proof<'a>)>, LocateError> {
    let mut attempt = Attempt::new("real-mode trampoline");
    let mut proved: Option<(Sighting, Proof<'a>)> = None;
    for sighting in sightings {
        // Stray bytes may lead anywhere, a device's registers included.
        if sighting.entry.is_none() && target.guard.limits().is_none() {
            attempt.refuse(sighting.place, "no trampoline header follows it".to_owned());
            continue;
        }
        let proof = match proof::prove(target, sighting) {
            Ok(proof) => proof,
            Err(_) if sighting.encryption_mask != 0 => {
                return Err(LocateError::Encrypted { place: sighting.place });
            }
            Err(reason) => {
                attempt.refuse(sighting.place, reason);
                continue;
            }
        };
        match &proved {
            Some((first, other)) if other.image.text_phys != proof.image.text_phys => {
                // The vmlinux's own build, if one of the two is, is the one asked for; leftovers of another boot
                // have a VMCOREINFO that contradicts them.
                let worth = |proof: &Proof<'_>| (proof.by_vmlinux, !proof.identity.is_contradicted());
                match worth(&proof).cmp(&worth(other)) {
                    Ordering::Greater => proved = Some((sighting.clone(), proof)),
                    Ordering::Less => {}
                    _ if target.hints.force => {}
                    _ => return Err(LocateError::TwoKernels { places: [first.place, sighting.place] }),
                }
            }
            Some(_) => {}
            None => proved = Some((sighting.clone(), proof)),
        }
    }
    attempts.push(attempt);
    Ok(proved)
}

fn prove_first<'a>(
    target: &Target<'a>,
    method: &'static str,
    sightings: Sightings<'_>,
    attempts: &mut Vec<Attempt>,
) -> Option<(Sighting, Proof<'a>)> {
    let mut attempt = Attempt::new(method);
    let mut proved = None;
    for sighting in sightings {
        match proof::prove(target, &sighting) {
            Ok(proof) => {
                proved = Some((sighting, proof));
                break;
            }
            Err(reason) => attempt.refuse(sighting.place, reason),
        }
    }
    target.damaged.take().into_iter().for_each(|(place, reason)| attempt.refuse(place, reason));
    attempts.push(attempt);
    proved
}

/// Refuses another build's vmlinux, reads what is left, confines the guard.
fn finish(
    target: &Target<'_>,
    (sighting, mut proof): (Sighting, Proof<'_>),
    attempts: &[Attempt],
) -> Result<KernelMap, LocateError> {
    let Target { hints, tables, guard, .. } = target;
    check_build(hints, &proof)?;
    let mut evidence = Vec::new();
    evidence::describe(&sighting, &proof, hints, &mut evidence);
    given::check(target, &mut proof, &mut evidence)?;
    evidence.extend(attempts.iter().flat_map(Attempt::evidence));
    let bases = bases::find(&**tables, &proof, &mut evidence);
    let (ram, ram_shortfall) = confine(guard, target, &proof, &bases, &mut evidence);
    let init_task = match (given::init_task(target, &proof, &mut evidence)?, hints.symbols) {
        (None, None) => init_task::find(target, &proof, hints.types, &mut evidence),
        (given, _) => given,
    };

    let release = proof.identity.release().map(str::to_owned);
    let Proof { image, identity, root, slide, .. } = proof;
    let protected = |run: Option<Run>| run.filter(|_| image.is_protected())?.pages();
    Ok(KernelMap {
        text: image.text,
        text_phys: image.text_phys,
        phys_base: image.phys_base(),
        slide: slide.value,
        root: root.table,
        levels: proof.tables.levels,
        page_offset: bases.page_offset,
        vmalloc_base: bases.vmalloc,
        vmemmap_base: bases.vmemmap,
        sme_mask: sighting.encryption_mask,
        image: image
            .phys_range()
            .ok_or(LocateError::NotFound { attempts: Vec::new(), advice: Advice::on(hints) })?,
        text_pages: protected(image.runs.first().copied()),
        rodata: protected(image.rodata()),
        banner: identity.banner.map(|banner| banner.text),
        release,
        build_id: identity.build_id.map(|found| found.id),
        vmcoreinfo: identity.vmcoreinfo.map(|noted| noted.info),
        ram,
        ram_shortfall,
        init_task,
        evidence,
    })
}

fn check_build(hints: &Hints<'_>, proof: &Proof<'_>) -> Result<(), LocateError> {
    let found = proof.identity.build_id.as_ref().map(|found| found.id.clone());
    let same = match (hints.build_id, &found) {
        (Some(wanted), Some(found)) => wanted == found,
        // Without both build ids, the banner at the vmlinux's address is what there is.
        _ => hints.symbols.is_none() || matches!(proof.names, Names::Vmlinux(..)),
    };
    if same || hints.force {
        return Ok(());
    }
    let release = || proof.identity.release().map(str::to_owned);
    Err(LocateError::OtherBuild {
        vmlinux: hints.vmlinux_name.unwrap_or("the vmlinux").to_owned(),
        vmlinux_id: hints.build_id.map(<[u8]>::to_vec),
        target_id: found,
        banner: proof.identity.banner.as_ref().map(|banner| banner.text.clone()).or_else(release),
    })
}

/// Finds the RAM map and lets the guard pass nothing else. Where no map is to be had, the limits stand,
/// or else the kernel's image alone.
fn confine(
    guard: &Guard,
    target: &Target<'_>,
    proof: &Proof<'_>,
    bases: &Bases,
    evidence: &mut Vec<Evidence>,
) -> (Vec<PhysRange>, Option<Shortfall>) {
    let ram::Found { map, unread } = ram::find(&*target.tables, proof, bases, target.hints.types);
    let (source, ranges, confidence, shortfall) = match (map, guard.limits()) {
        (Some(RamMap { source: ram::DIRECT_MAP, ranges }), _) if unread.tables > 0 => {
            (ram::DIRECT_MAP, ranges, Confidence::Guessed, Some(Shortfall::Tables(unread)))
        }
        (Some(RamMap { source, ranges }), _) => (source, ranges, Confidence::Found, None),
        (None, Some(limits)) => {
            let source = match limits {
                Limits::Operator(_) => "given by the operator",
                Limits::Image(_) => "what the image holds",
            };
            (source, limits.ranges().to_vec(), Confidence::Guessed, None)
        }
        (None, None) => {
            let image = proof.image.phys_range().into_iter().collect();
            ("the kernel image alone", image, Confidence::Guessed, Some(Shortfall::ImageAlone))
        }
    };
    let bytes: u64 = ranges.iter().map(PhysRange::len).sum();
    let mut detail = format!("{} ranges, {} MiB", ranges.len(), bytes >> 20);
    if let Some(shortfall) = shortfall {
        detail.push_str(&format!("; {shortfall}"));
        log::warn!("the target may have more RAM than is known here: {shortfall}");
    }
    evidence.push(Evidence { what: "ram", method: source, detail, confidence });
    guard.confine(&ranges);
    (ranges, shortfall)
}
