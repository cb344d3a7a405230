//! How far KASLR moved the kernel: run-time minus link address, settled between those who claim to know.
//!
//! A vmlinux knows. VMCOREINFO says so (`KERNELOFFSET`), and most kernels are linked at one address; where the two
//! contradict each other, the boot loader's `struct setup_header`, which the kernel keeps in `boot_params`, has the
//! link address as its `pref_address`.
//! Source: `arch/x86/boot/header.S`, `arch/x86/include/asm/boot.h` (`LOAD_PHYSICAL_ADDR`),
//! `Documentation/arch/x86/boot.rst`.

use crate::{
    addr::{PhysRange, VirtAddr},
    kernel::Confidence,
    mem::PhysMem,
};

use super::{
    Progress, Target,
    image::{Image, START_KERNEL_MAP, TEXT_ALIGN},
};

/// `LOAD_PHYSICAL_ADDR` unless `CONFIG_PHYSICAL_START` was changed.
const USUAL_START: u64 = 16 << 20;

/// Bytes of the image's data read at once.
const CHUNK: u64 = 64 << 10;

/// Offsets in `struct boot_params`.
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const ALIGNMENT: usize = 0x230;
const PREFERRED: usize = 0x258;
const HEADER_END: usize = 0x260;

/// The slide and how it is known.
#[derive(Debug, Clone)]
pub(super) struct Slide {
    /// `None` where two sources contradict each other and nothing decides.
    pub(super) value: Option<u64>,
    pub(super) method: &'static str,
    pub(super) detail: String,
    pub(super) confidence: Confidence,
}

impl Slide {
    fn new(value: u64, method: &'static str, confidence: Confidence) -> Self {
        Self { value: Some(value), method, detail: format!("{value:#x}"), confidence }
    }
}

/// The slide of a kernel linked at `__START_KERNEL_map` plus `start`.
fn linked_at(image: &Image, start: u64) -> u64 {
    image.text.raw().wrapping_sub(START_KERNEL_MAP.wrapping_add(start).raw())
}

/// The slide without VMCOREINFO.
pub(super) fn alone(image: &Image, by_vmlinux: Option<u64>) -> Slide {
    const USUAL: &str = "_text is usually linked at 0xffffffff81000000";
    match by_vmlinux {
        Some(value) => Slide::new(value, "vmlinux", Confidence::Found),
        None => Slide::new(linked_at(image, USUAL_START), USUAL, Confidence::Guessed),
    }
}

/// Settles it between a vmlinux, with whether that is this kernel's own, and VMCOREINFO; the error says that
/// VMCOREINFO is wrong, and why. `preferred_start` is asked only where the two leave it open.
pub(super) fn settle(
    image: &Image,
    by_vmlinux: Option<(u64, bool)>,
    noted: Option<u64>,
    preferred_start: impl Fn() -> Option<u64>,
) -> Result<Slide, String> {
    let Some(noted) = noted else { return Ok(alone(image, by_vmlinux.map(|(slide, _)| slide))) };
    let wrong = |known: u64, source: &str| {
        Err(format!("its KERNELOFFSET is {noted:#x}, by the {source} it is {known:#x}"))
    };
    let usual = linked_at(image, USUAL_START);
    match by_vmlinux {
        Some((slide, true)) if slide != noted => return wrong(slide, "vmlinux"),
        Some((slide, _)) if slide == noted => return Ok(Slide::new(slide, "vmlinux", Confidence::Proved)),
        Some((slide, _)) => return Ok(Slide::new(slide, "vmlinux", Confidence::Found)),
        None if noted == usual => return Ok(Slide::new(noted, "VMCOREINFO", Confidence::Proved)),
        None if !is_link_address(image.text.wrapping_sub(noted), image.text) => {
            return Err(format!("by its KERNELOFFSET {noted:#x} no kernel can be linked"));
        }
        None => {}
    }
    match preferred_start().map(|start| linked_at(image, start)) {
        Some(slide) if slide == noted => {
            Ok(Slide::new(noted, "VMCOREINFO and boot_params", Confidence::Proved))
        }
        Some(slide) => wrong(slide, "link address in boot_params"),
        None => Ok(Slide {
            value: None,
            method: "VMCOREINFO, against the usual link address",
            detail: format!("{noted:#x} by the one, {usual:#x} by the other: a vmlinux would decide"),
            confidence: Confidence::Dropped,
        }),
    }
}

fn is_link_address(linked: VirtAddr, text: VirtAddr) -> bool {
    START_KERNEL_MAP <= linked && linked <= text && linked.offset_in(TEXT_ALIGN) == 0
}

/// `LOAD_PHYSICAL_ADDR` from the setup header in the image's data.
pub(super) fn preferred_start(target: &Target<'_>, image: &Image) -> Option<u64> {
    let data: Vec<PhysRange> = image.data_ranges().collect();
    let total = data.iter().map(PhysRange::len).sum();
    let mut done = 0;
    let mut bytes = vec![0; CHUNK as usize + HEADER_END];
    data.iter().find_map(|range| {
        (0..range.len()).step_by(CHUNK as usize).find_map(|at| {
            target.progress(Progress { step: "searching for boot_params", done, total });
            let left = range.len() - at;
            done += left.min(CHUNK);
            let chunk = bytes.get_mut(..left.min(CHUNK + HEADER_END as u64) as usize)?;
            target.led.read(range.start.wrapping_add(at), chunk).ok()?;
            let chunk = &*chunk;
            let magic = memchr::memmem::find_iter(chunk, b"HdrS");
            magic.filter_map(|at| at.checked_sub(MAGIC)).find_map(|at| setup_header(chunk.get(at..)?))
        })
    })
}

/// `pref_address` of the `struct boot_params` that `bytes` begin with.
fn setup_header(bytes: &[u8]) -> Option<u64> {
    const HAS_PREFERRED: u16 = 0x20a;
    let half = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let alignment = u32::from_le_bytes(*bytes.get(ALIGNMENT..)?.first_chunk()?);
    let preferred = u64::from_le_bytes(*bytes.get(PREFERRED..)?.first_chunk()?);
    let header = half(BOOT_FLAG)? == 0xaa55 && half(VERSION)? >= HAS_PREFERRED;
    let plausible = preferred.is_multiple_of(TEXT_ALIGN) && (1..1 << 30).contains(&preferred);
    (header && plausible && u64::from(alignment).is_multiple_of(TEXT_ALIGN)).then_some(preferred)
}

#[cfg(test)]
pub(super) fn boot_params(preferred: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[BOOT_FLAG..][..2].copy_from_slice(&[0x55, 0xaa]);
    bytes[MAGIC..][..4].copy_from_slice(b"HdrS");
    bytes[VERSION..][..2].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[ALIGNMENT..][..4].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    bytes[PREFERRED..][..8].copy_from_slice(&preferred.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_setup_header_and_what_only_has_its_magic() {
        let whole = boot_params(0x200_0000);
        assert_eq!(setup_header(&whole), Some(0x200_0000));
        assert_eq!(setup_header(&boot_params(0x200_1000)), None);
        assert_eq!(setup_header(&boot_params(0)), None);
        assert_eq!(setup_header(&whole[..HEADER_END - 1]), None);
        for at in [BOOT_FLAG, VERSION + 1, ALIGNMENT] {
            let mut bytes = whole.clone();
            bytes[at] ^= 2;
            assert_eq!(setup_header(&bytes), None, "{at:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            setup_header(&bytes);
        }
    }
}
