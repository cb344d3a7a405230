//! What the operator's profile says of the kernel's place: a place to look at first, and a claim to hold what is found
//! against. A profile is of one host and one boot (without KASLR, of every boot); memory is the judge.

use crate::addr::{Hex, LinkAddr, PhysAddr, VirtAddr};

use super::{
    Confidence, Evidence, LocateError, Sighting, Target, image::START_KERNEL_MAP, init_task::is_named,
    proof::Proof,
};

/// What evidence calls this source.
const PROFILE: &str = "the profile";

/// What is known of the kernel's place without looking, all of it optional.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given {
    /// `phys_base`, modulo 2^64.
    pub phys_base: Option<u64>,
    /// KASLR slide, modulo 2^64.
    pub slide: Option<u64>,
    /// Link address of the top-level page table.
    pub root: Option<LinkAddr>,
    /// Link address of `init_task`.
    pub init_task: Option<LinkAddr>,
}

/// The kernel where the profile has its page tables.
pub(super) fn sighting(target: &Target<'_>) -> Option<Sighting> {
    let Given { phys_base, slide, root, .. } = target.hints.given;
    let linear = root?.raw().wrapping_add(slide?).wrapping_sub(START_KERNEL_MAP.raw());
    let root = PhysAddr::new(linear.wrapping_add(phys_base?));
    Some(Sighting::new(PROFILE, root, root))
}

/// Holds what was found against what was given; the slide is taken from there where nothing in memory says it.
///
/// # Errors
/// [`LocateError::NotAsGiven`], unless forced.
pub(super) fn check(
    target: &Target<'_>,
    proof: &mut Proof<'_>,
    evidence: &mut [Evidence],
) -> Result<(), LocateError> {
    let Given { phys_base, slide, .. } = target.hints.given;
    if let (Some(given), Some(found)) = (slide, proof.slide.value)
        && given != found
        && proof.slide.confidence != Confidence::Guessed
    {
        refuse(target, "slide", given, found)?;
    } else if let Some(given) = slide {
        second(evidence, "slide", proof.slide.value == Some(given), given);
        proof.slide.value = Some(given);
    }
    let found = proof.image.phys_base();
    match phys_base {
        Some(given) if given != found => refuse(target, "phys-base", given, found),
        Some(given) => {
            second(evidence, "phys_base", true, given);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The first task where the profile has it, if that is what is there.
///
/// # Errors
/// [`LocateError::NotTheFirstTask`].
pub(super) fn init_task(
    target: &Target<'_>,
    proof: &Proof<'_>,
    evidence: &mut Vec<Evidence>,
) -> Result<Option<VirtAddr>, LocateError> {
    let Some((linked, slide)) = target.hints.given.init_task.zip(proof.slide.value) else { return Ok(None) };
    let addr = VirtAddr::new(linked.raw().wrapping_add(slide));
    if !is_named(&*proof.space, addr) {
        return Err(LocateError::NotTheFirstTask { addr });
    }
    let detail = format!("{addr}, whose name is swapper/0");
    evidence.push(Evidence { what: "init_task", method: PROFILE, detail, confidence: Confidence::Proved });
    Ok(Some(addr))
}

fn refuse(target: &Target<'_>, key: &'static str, given: u64, found: u64) -> Result<(), LocateError> {
    let error = LocateError::NotAsGiven { key, given: Hex(given), found: Hex(found) };
    if !target.hints.force {
        return Err(error);
    }
    log::warn!("{error}");
    Ok(())
}

/// Adds the profile to the sources of a value, or makes it the source.
fn second(evidence: &mut [Evidence], what: &str, agrees: bool, given: u64) {
    let line = evidence
        .iter_mut()
        .find(|line| line.what == what && (!agrees || line.confidence != Confidence::Dropped));
    match line {
        Some(line) if agrees => line.second(PROFILE),
        Some(line) => {
            (line.method, line.detail, line.confidence) = (PROFILE, format!("{given:#x}"), Confidence::Found);
        }
        None => {}
    }
}
