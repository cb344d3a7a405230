//! Which kernel it is, asked of its own memory: `linux_banner`, `init_uts_ns`, the build id in `.notes`, VMCOREINFO.
//!
//! With the kernel's vmlinux these are four reads. Without one they are searched for, cheapest first: the exports
//! name `init_uts_ns`; the exported `paddr_vmcoreinfo_note()` loads the pointer to VMCOREINFO; `.notes` follows the
//! exports' names.

use crate::{addr::VirtAddr, paging::VirtMem};

use super::{
    Progress, Sighting, Target,
    banner::{self, Banner, MAX_BANNER, UTS_LEN, Uts, parse_banner},
    claims::{Noted, Refused, Seen},
    exports::Exports,
    image::{Image, build_id, build_ids, find_build_id},
    proof::{Names, read_known},
};

/// Xen's notes included, `.notes` has some 512 bytes.
const MAX_NOTES: u64 = 4096;

/// From the end of the names to `.notes` lie parameters and the exception table.
const NOTES_SEARCH: u64 = 256 << 10;
const NOTES_STEP: u64 = 4 << 10;

/// `__ksymtab_strings` of a large configuration.
const MAX_STRINGS: u64 = 1 << 20;

/// Bytes of read-only data searched at a time for a build id.
const SEARCH_STEP: u64 = 64 << 10;

/// The vDSO is an ELF image in the kernel's data with a build id of its own, within its first pages.
const VDSO_PAGES: u64 = 2;

/// A build id and what it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BuildId {
    pub(super) id: Vec<u8>,
    pub(super) source: &'static str,
}

/// What a kernel says about itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    pub(super) banner: Option<Banner>,
    pub(super) uts: Option<Uts>,
    pub(super) build_id: Option<BuildId>,
    /// VMCOREINFO, when nothing contradicts it.
    pub(super) vmcoreinfo: Option<Noted>,
    /// The copies of it that were not believed.
    pub(super) refused: Vec<Refused>,
}

impl Identity {
    /// `uname -r`.
    pub(super) fn release(&self) -> Option<&str> {
        let by_banner = self.banner.as_ref().and_then(Banner::release);
        by_banner.or_else(|| Some(self.uts.as_ref()?.release.as_str()))
    }

    /// Whether VMCOREINFO tells of another kernel, or another boot.
    pub(super) fn is_contradicted(&self) -> bool {
        self.vmcoreinfo.is_none() && self.refused.iter().any(|refused| refused.contradicts)
    }
}

/// How the build id is known that stands among the image's notes.
pub(super) const NOTES: &str = ".notes";
/// How it is known where there are no notes.
pub(super) const NOTED: &str = "VMCOREINFO";

/// Asks at the places a vmlinux names.
pub(super) fn with_names(names: &Names<'_>, sighting: &Sighting, mut seen: Seen<'_, '_>) -> Identity {
    let space = seen.space;
    let notes = names.addr("__start_notes").zip(names.addr("__stop_notes"));
    let notes_len = notes.map_or(0, |(start, end)| end.wrapping_offset_from(start).min(MAX_NOTES));
    let wanted = [
        (names.addr("linux_banner"), MAX_BANNER),
        (names.addr("init_uts_ns"), UTS_LEN),
        (notes.map(|(start, _)| start), notes_len as usize),
    ];
    let mut read = read_known(space, &wanted).into_iter();
    let mut next = || read.next().flatten();
    let banner = next().and_then(|bytes| parse_banner(&bytes));
    let banner = banner.map(|text| Banner { text, method: "symbol linux_banner" });
    let uts = next().and_then(|bytes| Uts::parse(&bytes));
    let id = next().and_then(|bytes| build_id(&bytes));
    let mut found = Identity { banner, uts, ..Identity::default() };
    if found.banner.is_none() {
        return found;
    }
    let mut refused = Vec::new();
    let variables: Vec<VirtAddr> = names.addr("vmcoreinfo_note").into_iter().collect();
    seen.release = found.release().map(str::to_owned);
    let noted =
        seen.believed(sighting.vmcoreinfo.as_ref(), (&variables, "symbol vmcoreinfo_note"), &mut refused);
    found.build_id = id.map(|id| BuildId { id, source: NOTES });
    found.vmcoreinfo = noted;
    found.refused = refused;
    found
}

/// Searches, with what the kernel exports.
pub(super) fn without_names(
    exports: Option<&Exports>,
    sighting: &Sighting,
    mut seen: Seen<'_, '_>,
) -> Identity {
    let (target, space, image) = (seen.target, seen.space, seen.image);
    let uts = exports.and_then(|exports| {
        let addr = exports.lookup("init_uts_ns")?;
        Uts::parse(&space.read_vec(addr, UTS_LEN).ok()?)
    });
    let start = banner::start_of_rodata(space, image);
    let variables = exports.map_or_else(Vec::new, |exports| note_pointers(space, image, exports));
    let source = "export paddr_vmcoreinfo_note";
    let mut refused = Vec::new();
    let believed = |seen: &Seen<'_, '_>, refused: &mut Vec<Refused>| {
        seen.believed(sighting.vmcoreinfo.as_ref(), (&variables, source), refused)
    };
    seen.release = uts.as_ref().map(|uts| uts.release.clone());
    let mut vmcoreinfo = believed(&seen, &mut refused);
    let banner = banner::find(
        target,
        space,
        image,
        &start,
        (uts.as_ref(), vmcoreinfo.as_ref().map(|noted| &noted.info)),
    );
    if seen.release.is_none() && vmcoreinfo.is_some() {
        // Now that the banner was read, once more.
        refused.clear();
        seen.release = banner.as_ref().and_then(Banner::release).map(str::to_owned);
        vmcoreinfo = believed(&seen, &mut refused);
    }
    let build_id = exports.and_then(|exports| notes_after(space, exports));
    let build_id =
        build_id.or_else(|| exports.is_none().then(|| own_build_id(target, space, image)).flatten());
    let noted = || vmcoreinfo.as_ref()?.info.build_id().map(|id| BuildId { id, source: NOTED });
    let build_id = build_id.map(|id| BuildId { id, source: NOTES }).or_else(noted);
    Identity { banner, uts, build_id, vmcoreinfo, refused }
}

/// The variables that `paddr_vmcoreinfo_note()` loads: one of them points to the note.
fn note_pointers(space: &dyn VirtMem, image: &Image, exports: &Exports) -> Vec<VirtAddr> {
    const CODE: usize = 128;
    let function = exports.lookup("paddr_vmcoreinfo_note").filter(|addr| image.is_text(*addr));
    let code = function.and_then(|function| Some((function, space.read_vec(function, CODE).ok()?)));
    let mut variables = code.map_or_else(Vec::new, |(function, code)| loads(function, &code));
    variables.retain(|addr| image.phys(*addr).is_some());
    variables
}

/// Addresses that `mov` and `add DISPLACEMENT(%rip), %REG` instructions take 64 bits from (Intel SDM volume 2: REX.W
/// 8B and REX.W 03; the function adds `phys_base` or the page offset to the pointer, in either order).
fn loads(function: VirtAddr, code: &[u8]) -> Vec<VirtAddr> {
    const LEN: usize = 7;
    let windows = code.windows(LEN).enumerate();
    let load = windows.filter_map(|(at, bytes)| match *bytes {
        [0x48 | 0x4c, 0x8b | 0x03, modrm, a, b, c, d] if modrm & 0xc7 == 0x05 => {
            let next = function.wrapping_add((at + LEN) as u64);
            Some(next.wrapping_add(i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned()))
        }
        _ => None,
    });
    load.collect()
}

/// The build id in `.notes`, which is not far behind the exports' names.
fn notes_after(space: &dyn VirtMem, exports: &Exports) -> Option<Vec<u8>> {
    let start = end_of_strings(space, exports.a_name()?)?;
    (0..NOTES_SEARCH).step_by(NOTES_STEP as usize).find_map(|done| {
        let bytes = space.read_vec(start.wrapping_add(done), NOTES_STEP as usize + 64).ok()?;
        find_build_id(&bytes)
    })
}

/// The build id anywhere in the read-only data, for a kernel without exports: the vDSOs' are passed over.
fn own_build_id(target: &Target<'_>, space: &dyn VirtMem, image: &Image) -> Option<Vec<u8>> {
    const ELF: &[u8] = b"\x7fELF";
    const PAGE: u64 = crate::addr::PAGE_SIZE;
    let rodata = image.rodata()?;
    let mut vdso_until = 0;
    (0..rodata.len).step_by(SEARCH_STEP as usize).find_map(|done| {
        target.progress(Progress { step: "searching for .notes", done, total: rodata.len });
        let len = (rodata.len - done).min(SEARCH_STEP + 64);
        let bytes = space.read_vec(rodata.virt.wrapping_add(done), usize::try_from(len).ok()?).ok()?;
        let mut found: Vec<(u64, Vec<u8>)> =
            build_ids(&bytes).map(|(at, id)| (done + at as u64, id)).collect();
        for (page, bytes) in (0_u64..).zip(bytes.chunks(PAGE as usize)) {
            let start = done + page * PAGE;
            if bytes.starts_with(ELF) {
                vdso_until = start + VDSO_PAGES * PAGE;
            }
            let inside = |at: u64| at >= start && at < start + PAGE && at < vdso_until;
            found.retain(|(at, _)| !inside(*at));
        }
        found.into_iter().next().map(|(_, id)| id)
    })
}

/// Where the names that `inside` is one of end, by doubling steps, then bisection.
fn end_of_strings(space: &dyn VirtMem, inside: VirtAddr) -> Option<VirtAddr> {
    let is_text = |offset: u64| {
        let mut bytes = [0; 64];
        let read = space.read(inside.wrapping_add(offset), &mut bytes);
        let letter = |byte: &u8| matches!(byte, 0 | b'_' | b'.') || byte.is_ascii_alphanumeric();
        read.is_ok() && bytes.iter().all(letter) && bytes.iter().filter(|byte| **byte == 0).count() < 32
    };
    let (mut good, mut bad) = (0, NOTES_STEP);
    while is_text(bad) {
        good = bad;
        bad *= 2;
        if bad > MAX_STRINGS {
            return None;
        }
    }
    while bad - good > 512 {
        let middle = good + (bad - good) / 2;
        if is_text(middle) { good = middle } else { bad = middle }
    }
    Some(inside.wrapping_add(good))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loads_relative_to_the_next_instruction() {
        let mut code = vec![0xe8, 0, 0, 0, 0];
        code.extend([0x48, 0x8b, 0x15, 0x74, 0xc7, 0x31, 0x02]);
        code.extend([0x48, 0x8b, 0x45, 0, 0, 0, 0]);
        code.extend([0x48, 0x03, 0x05, 0, 0, 0, 0]);
        let function = VirtAddr::new(0xffff_ffff_8102_58b0);
        let wanted = [0xffff_ffff_8334_2030, 0xffff_ffff_8102_58b0 + 26].map(VirtAddr::new);
        assert_eq!(loads(function, &code), wanted);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            loads(VirtAddr::new(u64::MAX), &bytes);
        }
    }
}
