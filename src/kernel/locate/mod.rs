//! Finds a running or panicked kernel in physical memory: [`locate`] writes down a [`KernelMap`].
//!
//! Four methods, cheapest first: the real-mode trampoline (`trampoline`), 2 MiB slots and VMCOREINFO (`slots`), the
//! first task (`init_task`).
//! Each gives `Sighting`s, cheap guesses at a top-level page table; a guess counts when the kernel behind it says
//! through those tables who it is (`proof`, `identity`). Then the address space's bases and the RAM map are read,
//! and the guard is confined to that map. No vmlinux is needed; with one, places are known instead of searched.
//!
//! Until the RAM map is known, reads go to 0x1000-0x9ffff, where page tables lead, and into the operator's own
//! ranges: on a real host a DMA read outside RAM can freeze the machine.

mod bases;
mod error;
mod exports;
mod identity;
mod image;
mod init_task;
mod proof;
mod ram;
mod slots;
mod trampoline;
pub mod vmcoreinfo;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use error::{Attempt, LocateError};

use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr, hex_bytes},
    mem::{
        PhysMem,
        cache::{Cache, Validity},
        guard::Guard,
    },
    paging::Levels,
    symbols::SymbolTable,
    types::TypeSource,
};

use super::{Confidence, Evidence, KernelMap};
use bases::Bases;
use image::banner_release;
use proof::{Names, Proof};
use ram::RamMap;
use vmcoreinfo::VmcoreInfo;

/// What `_text` is linked at unless `CONFIG_PHYSICAL_START` was changed.
const USUAL_LINK_TEXT: u64 = 0xffff_ffff_8100_0000;

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
    /// Go on although the vmlinux is another build's (`--force`).
    pub force: bool,
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

/// The memory searched, by the three ways it may be read, and what is known beforehand.
struct Target<'a> {
    /// What something vouches for.
    guard: &'a Guard,
    /// Where page tables lead.
    led: Arc<dyn PhysMem>,
    /// The same, keeping what was read: one search reads the same tables again and again.
    tables: Arc<dyn PhysMem>,
    hints: &'a Hints<'a>,
}

impl Target<'_> {
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
    let tables: Arc<dyn PhysMem> = Arc::new(Cache::new(Arc::clone(&led), Validity::Stop));
    let target = Target { guard, led, tables, hints };
    let mut attempts = Vec::new();

    let sightings = trampoline::sightings(&target)?;
    if let Some(proved) = prove_all(&target, &sightings, &mut attempts)? {
        return finish(&target, proved);
    }
    match guard.limits() {
        None => attempts.push(Attempt::skipped(
            "2 MiB slots, VMCOREINFO, init_task",
            "RAM is not known: give --ram START-END",
        )),
        Some(ram) => {
            // Vouched for by the operator; without their word a search of all addresses is out of the question.
            ram.iter().for_each(|range| guard.permit(*range));
            match hints.symbols {
                Some(symbols) => {
                    let hits = slots::in_slots(&target, symbols, ram);
                    if let Some(proved) = prove_first(&target, "2 MiB slots", hits, &mut attempts) {
                        return finish(&target, proved);
                    }
                }
                None => attempts.push(Attempt::skipped("2 MiB slots", "they need symbols: give --vmlinux")),
            }
            let hits = slots::by_vmcoreinfo(&target, ram);
            if let Some(proved) = prove_first(&target, "VMCOREINFO", hits, &mut attempts) {
                return finish(&target, proved);
            }
            match hints.types {
                Some(types) => {
                    let hits = init_task::sightings(&target, types, ram);
                    if let Some(proved) = prove_first(&target, "init_task", hits, &mut attempts) {
                        return finish(&target, proved);
                    }
                }
                None => attempts.push(Attempt::skipped("init_task", "it needs types: give --vmlinux")),
            }
        }
    }
    Err(LocateError::NotFound { attempts })
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
                // The vmlinux's own build, if one of the two is, is the one asked for.
                match (other.slide.is_some(), proof.slide.is_some()) {
                    (false, true) => proved = Some((sighting.clone(), proof)),
                    (true, false) => {}
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
    sightings: impl Iterator<Item = Sighting>,
    attempts: &mut Vec<Attempt>,
) -> Option<(Sighting, Proof<'a>)> {
    let mut attempt = Attempt::new(method);
    for sighting in sightings {
        match proof::prove(target, &sighting) {
            Ok(proof) => return Some((sighting, proof)),
            Err(reason) => attempt.refuse(sighting.place, reason),
        }
    }
    attempts.push(attempt);
    None
}

/// Refuses another build's vmlinux, reads what is left, confines the guard.
fn finish(target: &Target<'_>, (sighting, proof): (Sighting, Proof<'_>)) -> Result<KernelMap, LocateError> {
    let Target { hints, tables, guard, .. } = target;
    check_build(hints, &proof)?;
    let mut evidence = Vec::new();
    describe(&sighting, &proof, hints, &mut evidence);
    let bases = bases::find(&**tables, &proof, &mut evidence);
    let ram = confine(guard, target, &proof, &bases, &mut evidence)?;
    let types = hints.types.filter(|_| hints.symbols.is_none());
    let init_task = types.and_then(|types| init_task::find(target, &proof, types, &mut evidence));

    let Proof { image, identity, root, .. } = proof;
    let info = identity.vmcoreinfo;
    let (slide, _) = slide(image.text, proof.slide, info.as_ref());
    let noted_mask = info.as_ref().and_then(|info| info.number("sme_mask"));
    let release = identity.banner.as_deref().and_then(banner_release).map(str::to_owned);
    let release = release.or(identity.uts_release);
    Ok(KernelMap {
        text: image.text,
        text_phys: image.text_phys,
        phys_base: image.phys_base(),
        slide: Some(slide),
        root: root.table,
        levels: proof.tables.levels,
        page_offset: bases.page_offset,
        vmalloc_base: bases.vmalloc,
        vmemmap_base: bases.vmemmap,
        sme_mask: noted_mask.unwrap_or(sighting.encryption_mask),
        image: image.phys_range().ok_or(LocateError::NotFound { attempts: Vec::new() })?,
        banner: identity.banner,
        release,
        build_id: identity.build_id,
        vmcoreinfo: info,
        ram,
        init_task,
        evidence,
    })
}

/// The slide and how it is known.
fn slide(
    text: VirtAddr,
    by_vmlinux: Option<u64>,
    info: Option<&VmcoreInfo>,
) -> (u64, (&'static str, Confidence)) {
    let noted = info.and_then(VmcoreInfo::slide);
    let usual = text.raw().wrapping_sub(USUAL_LINK_TEXT);
    match (by_vmlinux, noted) {
        (Some(slide), Some(noted)) if slide == noted => (slide, ("vmlinux", Confidence::Proved)),
        (Some(slide), _) => (slide, ("vmlinux", Confidence::Found)),
        (None, Some(slide)) if slide == usual => (slide, ("VMCOREINFO", Confidence::Proved)),
        // Either the kernel is linked at an unusual place or the note is damaged.
        (None, Some(slide)) => (slide, ("VMCOREINFO, against the usual link address", Confidence::Guessed)),
        (None, None) => (usual, ("_text is usually linked at 0xffffffff81000000", Confidence::Guessed)),
    }
}

fn check_build(hints: &Hints<'_>, proof: &Proof<'_>) -> Result<(), LocateError> {
    let same = match (hints.build_id, proof.identity.build_id.as_deref()) {
        (Some(wanted), Some(found)) => wanted == found,
        // Without both build ids, the banner at the vmlinux's address is what there is.
        _ => hints.symbols.is_none() || matches!(proof.names, Names::Vmlinux(..)),
    };
    if same || hints.force {
        return Ok(());
    }
    Err(LocateError::OtherBuild {
        vmlinux: hints.vmlinux_name.unwrap_or("the vmlinux").to_owned(),
        vmlinux_id: hints.build_id.map(<[u8]>::to_vec),
        target_id: proof.identity.build_id.clone(),
        banner: proof.identity.banner.clone().or_else(|| proof.identity.uts_release.clone()),
    })
}

/// Writes down how the image, the root and the identity were found.
fn describe(sighting: &Sighting, proof: &Proof<'_>, hints: &Hints<'_>, evidence: &mut Vec<Evidence>) {
    let Proof { image, identity, root, .. } = proof;
    let mut add = |what, method, detail, confidence| {
        evidence.push(Evidence { what, method, detail, confidence });
    };
    let levels = proof.tables.levels.count();
    let seen = format!("{} through the {levels}-level tables at {}", image.text, sighting.root);
    add("text", sighting.method, seen, Confidence::Proved);
    let agreed = if root.agrees { Confidence::Proved } else { Confidence::Found };
    add("root", root.method, root.table.to_string(), agreed);
    let info = identity.vmcoreinfo.as_ref();
    let (value, (method, confidence)) = slide(image.text, proof.slide, info);
    add("slide", method, format!("{value:#x}"), confidence);
    if let Some(banner) = &identity.banner {
        let method = match proof.names {
            Names::Vmlinux(..) => "symbol linux_banner",
            _ => "search of the read-only data",
        };
        let confirmed = info.and_then(VmcoreInfo::release) == banner_release(banner);
        let confidence = if confirmed { Confidence::Proved } else { Confidence::Found };
        add("banner", method, "read through the tables".to_owned(), confidence);
    } else if let Some(release) = &identity.uts_release {
        add("release", "init_uts_ns", release.clone(), Confidence::Proved);
    }
    if let Some(id) = &identity.build_id {
        let same = hints.build_id == Some(id.as_slice());
        let confidence = if same { Confidence::Proved } else { Confidence::Found };
        add("build id", identity.build_id_source, hex_bytes(id), confidence);
    }
    match info {
        Some(info) => {
            let detail = format!("{} bytes, OSRELEASE={}", info.text().len(), info.release().unwrap_or("?"));
            add("VMCOREINFO", identity.vmcoreinfo_source, detail, Confidence::Proved);
        }
        None => log::debug!("no VMCOREINFO found"),
    }
}

/// Finds the RAM map and lets the guard pass nothing else. Where no map is to be had, the operator's ranges stand,
/// or else the image alone.
fn confine(
    guard: &Guard,
    target: &Target<'_>,
    proof: &Proof<'_>,
    bases: &Bases,
    evidence: &mut Vec<Evidence>,
) -> Result<Vec<PhysRange>, LocateError> {
    let found = ram::find(&*target.tables, proof, bases, target.hints.types);
    let (source, ranges, confidence) = match (found, guard.limits()) {
        (Some(RamMap { source, ranges }), _) => (source, ranges, Confidence::Found),
        (None, Some(limits)) => ("given by the operator", limits.to_vec(), Confidence::Guessed),
        (None, None) => {
            ("the kernel image alone", proof.image.phys_range().into_iter().collect(), Confidence::Guessed)
        }
    };
    let bytes: u64 = ranges.iter().map(PhysRange::len).sum();
    let detail = format!("{} ranges, {} MiB", ranges.len(), bytes >> 20);
    evidence.push(Evidence { what: "ram", method: source, detail, confidence });
    guard.confine(&ranges);
    Ok(ranges)
}
