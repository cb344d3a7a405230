//! Which kernel it is, asked of its own memory: `linux_banner`, the build id in `.notes`, VMCOREINFO.
//!
//! With the kernel's vmlinux these are four reads. Without one they are searched for, cheapest first: the exported
//! `paddr_vmcoreinfo_note()` loads the pointer to VMCOREINFO; the banner stands where read-only data begins or,
//! since `init/version-timestamp.c` is linked last (6.2 and its stable backports), before the kallsyms tables;
//! `.notes` follows the exports' names.

use std::sync::Arc;

use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    paging::VirtMem,
};

use super::{
    Progress, Target,
    exports::{Exports, read_each},
    image::{BANNER_PREFIX, Image, MAX_BANNER, build_id, find_build_id, parse_banner},
    proof::{Names, read_all},
    vmcoreinfo::{self, VmcoreInfo},
};

/// Xen's notes included, `.notes` has some 512 bytes.
const MAX_NOTES: u64 = 4096;

/// The first read-only data searched for the banner, then the stretch before kallsyms.
const BANNER_START: u64 = 4 << 10;
const BANNER_BEFORE_KALLSYMS: u64 = 2 << 10;

/// Bytes searched at a time where nothing says where the banner is.
const BANNER_STEP: usize = 16 << 10;

/// From the end of the names to `.notes` lie parameters and the exception table.
const NOTES_SEARCH: u64 = 256 << 10;
const NOTES_STEP: u64 = 4 << 10;

/// `__ksymtab_strings` of a large configuration.
const MAX_STRINGS: u64 = 1 << 20;

/// What a kernel says about itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    /// `linux_banner`.
    pub(super) banner: Option<String>,
    /// `uname -r` from `init_uts_ns`, asked where there is no vmlinux.
    pub(super) uts_release: Option<String>,
    /// The build id.
    pub(super) build_id: Option<Vec<u8>>,
    /// What the build id is from: `.notes` or VMCOREINFO.
    pub(super) build_id_source: &'static str,
    /// VMCOREINFO.
    pub(super) vmcoreinfo: Option<VmcoreInfo>,
    /// How VMCOREINFO was found.
    pub(super) vmcoreinfo_source: &'static str,
}

const NOTES: &str = ".notes";

/// Asks at the places a vmlinux names.
pub(super) fn with_names(space: &dyn VirtMem, names: &Names<'_>) -> Identity {
    let notes = names.addr("__start_notes").zip(names.addr("__stop_notes"));
    let notes_len = notes.map_or(0, |(start, end)| end.wrapping_offset_from(start).min(MAX_NOTES));
    let wanted = [
        (names.addr("linux_banner"), MAX_BANNER),
        (notes.map(|(start, _)| start), notes_len as usize),
        (names.addr("vmcoreinfo_note"), 8),
    ];
    let mut read = read_all(space, &wanted).into_iter();
    let mut next = || read.next().flatten();
    let banner = next().and_then(|bytes| parse_banner(&bytes));
    let build_id = next().and_then(|bytes| build_id(&bytes));
    let pointer = next().and_then(|bytes| bytes.first_chunk().map(|word| u64::from_le_bytes(*word)));
    let vmcoreinfo = pointer.and_then(|pointer| note_at(space, VirtAddr::new(pointer)));
    let vmcoreinfo_source = "symbol vmcoreinfo_note";
    Identity { banner, uts_release: None, build_id, build_id_source: NOTES, vmcoreinfo, vmcoreinfo_source }
}

/// Searches; `seen` is a VMCOREINFO already found.
pub(super) fn without_names(
    target: &Target<'_>,
    space: &Arc<dyn VirtMem>,
    image: &Image,
    exports: Option<&Exports>,
    seen: Option<VmcoreInfo>,
) -> Identity {
    let vmcoreinfo_source = if seen.is_some() { "page scan" } else { "export paddr_vmcoreinfo_note" };
    let vmcoreinfo = seen.or_else(|| exported_note(&**space, image, exports?));
    let uts = || {
        let addr = exports?.lookup("init_uts_ns")?;
        uts_release(&space.read_vec(addr, 512).ok()?)
    };
    let mut banner = near_banner(&**space, image, vmcoreinfo.as_ref());
    let uts_release = if banner.is_none() { uts() } else { None };
    if banner.is_none() && (uts_release.is_none() || vmcoreinfo.is_none()) {
        banner = far_banner(target, &**space, image);
    }
    let build_id = exports.and_then(|exports| notes_after(&**space, exports));
    let build_id_source = if build_id.is_some() { NOTES } else { "VMCOREINFO" };
    let build_id = build_id.or_else(|| vmcoreinfo.as_ref()?.build_id());
    Identity { banner, uts_release, build_id, build_id_source, vmcoreinfo, vmcoreinfo_source }
}

/// The VMCOREINFO note at `addr`.
fn note_at(space: &dyn VirtMem, addr: VirtAddr) -> Option<VmcoreInfo> {
    if addr.offset_in(PAGE_SIZE) != 0 {
        return None;
    }
    let header = space.read_vec(addr, vmcoreinfo::HEADER_LEN).ok()?;
    let len = vmcoreinfo::HEADER_LEN + vmcoreinfo::text_len(&header)?;
    VmcoreInfo::from_note(&space.read_vec(addr, len).ok()?)
}

/// The note whose pointer `paddr_vmcoreinfo_note()` loads.
fn exported_note(space: &dyn VirtMem, image: &Image, exports: &Exports) -> Option<VmcoreInfo> {
    const CODE: usize = 128;
    let function = exports.lookup("paddr_vmcoreinfo_note").filter(|addr| image.is_text(*addr))?;
    let code = space.read_vec(function, CODE).ok()?;
    let mut variables = loads(function, &code);
    variables.retain(|addr| image.phys(*addr).is_some());
    let pointers = read_each::<8>(space, &variables);
    let mut pointers = pointers.into_iter().flatten().map(|word| VirtAddr::new(u64::from_le_bytes(word)));
    pointers.find_map(|pointer| note_at(space, pointer))
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

/// `release` in the bytes of `init_uts_ns`: the third of `struct new_utsname`'s fields of 65 bytes.
fn uts_release(uts: &[u8]) -> Option<String> {
    const FIELD: usize = 65;
    let start = memchr::memmem::find(uts, b"Linux\0").filter(|at| *at < 64)?;
    let release = uts.get(start + 2 * FIELD..start + 3 * FIELD)?.split(|byte| *byte == 0).next()?;
    let readable = release.first()?.is_ascii_digit() && release.iter().all(u8::is_ascii_graphic);
    readable.then(|| String::from_utf8(release.to_vec()).ok()).flatten()
}

/// The banner, where linkers are known to put it.
fn near_banner(space: &dyn VirtMem, image: &Image, info: Option<&VmcoreInfo>) -> Option<String> {
    let kallsyms = info.and_then(|info| {
        let tables = ["kallsyms_offsets", "kallsyms_num_syms", "kallsyms_names", "kallsyms_addresses"];
        tables.iter().filter_map(|name| info.symbol(name)).min()
    });
    let before = kallsyms.and_then(|addr| addr.checked_sub(BANNER_BEFORE_KALLSYMS));
    let start = image.rodata().map(|run| run.virt);
    let windows = [before.zip(Some(BANNER_BEFORE_KALLSYMS)), start.zip(Some(BANNER_START))];
    windows.iter().flatten().find_map(|(addr, len)| first_banner(&space.read_vec(*addr, *len as usize).ok()?))
}

/// The banner anywhere in the read-only data.
fn far_banner(target: &Target<'_>, space: &dyn VirtMem, image: &Image) -> Option<String> {
    let rodata = image.rodata()?;
    (0..rodata.len).step_by(BANNER_STEP).find_map(|done| {
        target.progress(Progress { step: "searching for linux_banner", done, total: rodata.len });
        let left = usize::try_from(rodata.len - done).unwrap_or(usize::MAX);
        let len = left.min(BANNER_STEP + MAX_BANNER);
        first_banner(&space.read_vec(rodata.virt.wrapping_add(done), len).ok()?)
    })
}

/// The first banner with a build number: the weak one that `init/version.c` leaves behind says "# SMP".
fn first_banner(bytes: &[u8]) -> Option<String> {
    let numbered = |banner: &String| !banner.contains("# ");
    let banners =
        memchr::memmem::find_iter(bytes, BANNER_PREFIX).map(|at| bytes.get(at..).and_then(parse_banner));
    banners.flatten().find(numbered)
}

/// The build id in `.notes`, which is not far behind the exports' names.
fn notes_after(space: &dyn VirtMem, exports: &Exports) -> Option<Vec<u8>> {
    let start = end_of_strings(space, exports.a_name()?)?;
    (0..NOTES_SEARCH).step_by(NOTES_STEP as usize).find_map(|done| {
        let bytes = space.read_vec(start.wrapping_add(done), NOTES_STEP as usize + 64).ok()?;
        find_build_id(&bytes)
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

    #[test]
    fn release_of_a_uts_namespace() {
        let mut uts = vec![0; 400];
        uts[4..9].copy_from_slice(b"Linux");
        uts[134..140].copy_from_slice(b"5.10.0");
        assert_eq!(uts_release(&uts).as_deref(), Some("5.10.0"));
        assert_eq!(uts_release(&uts[..150]), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            loads(VirtAddr::new(u64::MAX), &bytes);
            uts_release(&bytes);
            first_banner(&bytes);
        }
    }
}
