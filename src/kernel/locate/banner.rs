//! `linux_banner`: the line that says which kernel it is, and where linkers put it.
//!
//! Read-only data begins with it or, since `init/version-timestamp.c` is linked last (6.2 and its stable
//! backports), with a weak copy that lacks the build's number ("# SMP"); the banner then stands before the tables of
//! kallsyms. The weak copy and `init_uts_ns` together say all the banner says.
//! Source: `init/version.c`, `init/version-timestamp.c`, `include/linux/uts_namespace.h`.

use crate::paging::VirtMem;

use super::{Progress, Target, image::Image, vmcoreinfo::VmcoreInfo};

/// What every `linux_banner` begins with.
pub(super) const BANNER_PREFIX: &[u8] = b"Linux version ";

/// A banner is a line of some 200 bytes.
pub(super) const MAX_BANNER: usize = 512;

/// The first read-only data searched for the banner, then the stretch before kallsyms.
pub(super) const BANNER_START: usize = 4 << 10;
const BANNER_BEFORE_KALLSYMS: usize = 2 << 10;

/// Bytes searched at a time where nothing says where the banner is.
const BANNER_STEP: usize = 16 << 10;

/// Between what the compiler and what the build's own file contributed.
const UNNUMBERED: &str = ") # ";

/// `init_uts_ns.name`, as far as it tells kernels apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uts {
    /// `uname -r`.
    pub(super) release: String,
    /// `uname -v`.
    pub(super) version: String,
}

/// Enough of `init_uts_ns` to hold its names.
pub(super) const UTS_LEN: usize = 512;

impl Uts {
    /// `release` and `version` in the bytes of `init_uts_ns`: the third and fourth of `struct new_utsname`'s fields
    /// of 65 bytes.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        const FIELD: usize = 65;
        let start = memchr::memmem::find(bytes, b"Linux\0").filter(|at| *at < 64)?;
        let field = |index: usize| {
            let field = bytes.get(start + index * FIELD..start + (index + 1) * FIELD)?;
            let text = field.split(|byte| *byte == 0).next().filter(|text| text.len() < FIELD)?;
            let readable = !text.is_empty() && text.iter().all(|byte| matches!(byte, b' '..=b'~'));
            readable.then(|| String::from_utf8(text.to_vec()).ok()).flatten()
        };
        let release = field(2).filter(|release| release.starts_with(|first: char| first.is_ascii_digit()))?;
        Some(Self { release, version: field(3)? })
    }
}

/// A banner and how it was come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Banner {
    pub(super) text: String,
    pub(super) method: &'static str,
}

impl Banner {
    /// `uname -r`.
    pub(super) fn release(&self) -> Option<&str> {
        banner_release(&self.text)
    }
}

/// The banner that `bytes` begin with, without its newline.
pub(super) fn parse_banner(bytes: &[u8]) -> Option<String> {
    // The weak copy.
    line(bytes).filter(|banner| !banner.contains("# ")).map(str::to_owned)
}

/// The line that `bytes` begin with, if it is a banner, its weak copy included.
fn line(bytes: &[u8]) -> Option<&str> {
    let line = bytes.get(..MAX_BANNER.min(bytes.len()))?.split(|byte| matches!(byte, b'\n' | 0)).next()?;
    let ended = line.len() < bytes.len();
    let readable = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
    // linux_proc_banner begins alike, followed by a format: "%s version %s" or "Linux version %s".
    let formatted = line.contains(&b'%');
    let banner = (ended && readable && !formatted && line.starts_with(BANNER_PREFIX)).then_some(line)?;
    let banner = std::str::from_utf8(banner).ok()?;
    banner_release(banner).map(|_| banner)
}

/// `uname -r` in a banner: its third word.
pub(super) fn banner_release(banner: &str) -> Option<&str> {
    banner.split(' ').nth(2).filter(|release| release.starts_with(|first: char| first.is_ascii_digit()))
}

/// The lines in `bytes` that are banners or weak copies.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    memchr::memmem::find_iter(bytes, BANNER_PREFIX).filter_map(|at| line(bytes.get(at..)?))
}

/// Whether `bytes` hold a banner, or its weak copy.
pub(super) fn holds_banner(bytes: &[u8]) -> bool {
    lines(bytes).next().is_some()
}

fn first_banner(bytes: &[u8]) -> Option<String> {
    memchr::memmem::find_iter(bytes, BANNER_PREFIX).find_map(|at| parse_banner(bytes.get(at..)?))
}

/// The banner put together: the weak copy's beginning, and the number, date and options `init_uts_ns` has.
fn composed(bytes: &[u8], uts: &Uts) -> Option<String> {
    lines(bytes).find_map(|weak| {
        let head = weak.get(..weak.rfind(UNNUMBERED)? + ") ".len())?;
        (banner_release(weak) == Some(uts.release.as_str())).then(|| format!("{head}{}", uts.version))
    })
}

/// Where read-only data begins.
pub(super) fn start_of_rodata(space: &dyn VirtMem, image: &Image) -> Vec<u8> {
    image.rodata().and_then(|run| space.read_vec(run.virt, BANNER_START).ok()).unwrap_or_default()
}

/// The banner, cheapest first; `start` is the read-only data's beginning.
pub(super) fn find(
    target: &Target<'_>,
    space: &dyn VirtMem,
    image: &Image,
    start: &[u8],
    (uts, info): (Option<&Uts>, Option<&VmcoreInfo>),
) -> Option<Banner> {
    let banner = |method| move |text| Banner { text, method };
    first_banner(start)
        .map(banner("start of the read-only data"))
        .or_else(|| before_kallsyms(space, info?).map(banner("before kallsyms, by VMCOREINFO")))
        .or_else(|| composed(start, uts?).map(banner("its weak copy and init_uts_ns")))
        .or_else(|| in_rodata(target, space, image).map(banner("search of the read-only data")))
}

/// The banner before the tables of kallsyms, as VMCOREINFO places them.
fn before_kallsyms(space: &dyn VirtMem, info: &VmcoreInfo) -> Option<String> {
    let tables = ["kallsyms_offsets", "kallsyms_num_syms", "kallsyms_names", "kallsyms_addresses"];
    let first = tables.iter().filter_map(|name| info.symbol(name)).min()?;
    let start = first.checked_sub(BANNER_BEFORE_KALLSYMS as u64)?;
    first_banner(&space.read_vec(start, BANNER_BEFORE_KALLSYMS).ok()?)
}

/// The banner anywhere in the read-only data.
fn in_rodata(target: &Target<'_>, space: &dyn VirtMem, image: &Image) -> Option<String> {
    let rodata = image.rodata()?;
    (0..rodata.len).step_by(BANNER_STEP).find_map(|done| {
        target.progress(Progress { step: "searching for linux_banner", done, total: rodata.len });
        let left = usize::try_from(rodata.len - done).unwrap_or(usize::MAX);
        let len = left.min(BANNER_STEP + MAX_BANNER);
        first_banner(&space.read_vec(rodata.virt.wrapping_add(done), len).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BANNER: &str = "Linux version 6.1.0-56-cloud-amd64 (debian@x) (gcc-12 (Debian) 12) #1 SMP Debian";
    const WEAK: &str = "Linux version 6.1.0-56-cloud-amd64 (debian@x) (gcc-12 (Debian) 12) # SMP Debian";

    fn uts(release: &str) -> Uts {
        Uts { release: release.to_owned(), version: "#1 SMP Debian".to_owned() }
    }

    #[test]
    fn banners_and_what_only_looks_like_one() {
        assert_eq!(parse_banner(format!("{BANNER}\n\0rest").as_bytes()).as_deref(), Some(BANNER));
        assert_eq!(banner_release(BANNER), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(parse_banner(BANNER.as_bytes()), None, "no end");
        assert_eq!(parse_banner(format!("{WEAK}\n\0").as_bytes()), None, "the weak copy");
        assert_eq!(parse_banner(b"Linux version %s (x)\n\0"), None);
        assert_eq!(parse_banner(b"Linux version \n"), None);
        assert_eq!(parse_banner(b""), None);
    }

    #[test]
    fn a_weak_copy_and_the_names_make_a_banner() {
        let start = format!("\0\0%s version %s (debian@x) %s\n\0{WEAK}\n\0");
        assert!(holds_banner(start.as_bytes()));
        assert_eq!(first_banner(start.as_bytes()), None);
        assert_eq!(composed(start.as_bytes(), &uts("6.1.0-56-cloud-amd64")).as_deref(), Some(BANNER));
        assert_eq!(composed(start.as_bytes(), &uts("5.10.0")), None, "another kernel's names");
    }

    #[test]
    fn names_of_a_uts_namespace() {
        let mut bytes = vec![0; 400];
        bytes[4..9].copy_from_slice(b"Linux");
        bytes[134..140].copy_from_slice(b"5.10.0");
        assert_eq!(Uts::parse(&bytes), None, "no version");
        bytes[199..206].copy_from_slice(b"#1 SMP ");
        let uts = Uts::parse(&bytes).unwrap();
        assert_eq!((uts.release.as_str(), uts.version.as_str()), ("5.10.0", "#1 SMP "));
        assert_eq!(Uts::parse(&bytes[..150]), None);
        bytes[199..264].fill(b'x');
        assert_eq!(Uts::parse(&bytes), None, "no end");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            Uts::parse(&bytes);
            let mut banner = BANNER_PREFIX.to_vec();
            banner.extend(&bytes);
            for bytes in [bytes, banner] {
                parse_banner(&bytes);
                first_banner(&bytes);
                composed(&bytes, &uts("6"));
            }
        }
    }
}
