//! Whose kernel it is, by the marks distributions leave in `linux_banner`.
//!
//! A pure function over the banner's text. A mark that only a distribution's own build has (its build host, its
//! package's name or version) is worth more than its compiler, which builds anybody's kernel. Without a mark
//! nothing is said.
//! Source: `scripts/mkcompile_h` (`LINUX_COMPILE_BY`, `LINUX_COMPILE_HOST`, `LINUX_COMPILER`, `UTS_VERSION`) and the
//! banners of the distributions' published kernels.

use crate::kernel::Confidence;

/// A distribution, and what in the banner says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Its name, with its version where the mark has one.
    pub name: String,
    /// The part of the banner that the mark stands in: `release`, `builder`, `compiler` or `version`.
    pub part: &'static str,
    /// The mark, as it stands there.
    pub mark: String,
    /// `Found` by a mark of its packages, `Guessed` by its compiler or a family's mark.
    pub confidence: Confidence,
}

/// The parts of a banner: `Linux version RELEASE (BUILDER) (COMPILER) #VERSION`.
#[derive(Debug, Clone, Copy)]
struct Parts<'b> {
    release: &'b str,
    builder: &'b str,
    compiler: &'b str,
    version: &'b str,
}

impl<'b> Parts<'b> {
    fn of(banner: &'b str) -> Option<Self> {
        let (release, rest) = banner.strip_prefix("Linux version ")?.split_once(" (")?;
        let (builder, rest) = rest.split_once(") (")?;
        // The compiler has brackets of its own, and what follows it begins with the build's number.
        let (compiler, version) = rest.rsplit_once(") #")?;
        Some(Self { release, builder, compiler, version })
    }

    fn get(&self, part: Part) -> &'b str {
        match part {
            Part::Release => self.release,
            Part::Builder => self.builder,
            Part::Compiler => self.compiler,
            Part::Version => self.version,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Release,
    Builder,
    Compiler,
    Version,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Builder => "builder",
            Self::Compiler => "compiler",
            Self::Version => "version",
        }
    }
}

/// What follows a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The end of the word.
    End,
    /// Digits, the distribution's version.
    Number,
    /// Digits that say nothing of the distribution.
    Revision,
    /// Anything.
    Any,
}

use Part::{Builder, Compiler, Release, Version};
use Then::{Any, End, Number, Revision};

/// Marks that only a distribution's own packages have. Derivatives stand before what they derive from.
const OWN: [(Part, &str, Then, &str); 32] = [
    (Release, "uek", End, "Oracle Linux (Unbreakable Enterprise Kernel)"),
    (Release, ".amzn", Number, "Amazon Linux"),
    (Release, ".azl", Number, "Azure Linux"),
    (Release, ".cm", Number, "CBL-Mariner"),
    (Release, ".oe", Number, "openEuler"),
    (Release, ".elrepo", End, "ELRepo"),
    (Release, "-pve", End, "Proxmox VE"),
    (Release, "-kali", Revision, "Kali Linux"),
    (Release, "-MANJARO", End, "Manjaro"),
    (Release, "-gentoo", End, "Gentoo"),
    (Release, "-flatcar", End, "Flatcar"),
    (Release, "-microsoft-standard", End, "Microsoft WSL"),
    (Builder, "@kali.org", End, "Kali Linux"),
    (Builder, "rockylinux.org", End, "Rocky Linux"),
    (Builder, "almalinux.org", End, "AlmaLinux"),
    (Builder, "centos.org", End, "CentOS"),
    (Builder, ".stream.rdu2.redhat.com", End, "CentOS Stream"),
    (Builder, "oracle.com", End, "Oracle Linux"),
    (Builder, "fedoraproject.org", End, "Fedora"),
    (Builder, "redhat.com", End, "Red Hat Enterprise Linux"),
    (Builder, "geeko@buildhost", End, "SUSE"),
    (Builder, "linux@archlinux", End, "Arch Linux"),
    (Builder, "voidlinux", Any, "Void Linux"),
    (Builder, "buildd@lcy", Any, "Ubuntu"),
    (Builder, "debian-kernel@lists.debian.org", End, "Debian"),
    (Release, ".fc", Number, "Fedora"),
    (Release, "-arch", Revision, "Arch Linux"),
    (Version, "-Ubuntu", End, "Ubuntu"),
    (Version, "-Alpine", End, "Alpine Linux"),
    (Version, "-NixOS", End, "NixOS"),
    (Version, "PMX ", Any, "Proxmox VE"),
    (Version, " Debian ", Any, "Debian"),
];

/// Marks that a family shares, and compilers, which build anybody's kernel.
const SHARED: [(Part, &str, Then, &str); 7] = [
    (Release, ".el", Number, "Red Hat Enterprise Linux or a rebuild of it, version"),
    (Compiler, "(Debian ", Any, "Debian"),
    (Compiler, "(Ubuntu ", Any, "Ubuntu"),
    (Compiler, "(SUSE Linux", Any, "SUSE"),
    (Compiler, "(Gentoo ", Any, "Gentoo"),
    (Compiler, "(Alpine ", Any, "Alpine Linux"),
    (Compiler, "(Red Hat ", Any, "Red Hat, Fedora or a relative of theirs"),
];

/// The distribution whose kernel says this of itself; `None` when nothing in it is a distribution's.
#[must_use]
pub fn distribution(banner: &str) -> Option<Distribution> {
    let parts = Parts::of(banner)?;
    let by = |marks: &[(Part, &str, Then, &str)], confidence| {
        marks.iter().find_map(|&(part, mark, then, name)| {
            let (mark, version) = find(parts.get(part), mark, then)?;
            let name = if version.is_empty() { name.to_owned() } else { format!("{name} {version}") };
            Some(Distribution { name, part: part.name(), mark: mark.trim().to_owned(), confidence })
        })
    };
    by(&OWN, Confidence::Found).or_else(|| by(&SHARED, Confidence::Guessed))
}

/// The mark in `text` with the digits that follow it, and those digits if they are a version.
fn find<'b>(text: &'b str, mark: &str, then: Then) -> Option<(&'b str, &'b str)> {
    text.match_indices(mark).find_map(|(at, _)| {
        let rest = text.get(at + mark.len()..)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let whole = text.get(at..at + mark.len() + digits)?;
        match then {
            Any => Some((text.get(at..at + mark.len())?, "")),
            End => (!rest.starts_with(|c: char| c.is_ascii_alphanumeric())).then_some((whole, "")),
            Revision => (digits > 0).then_some((whole, "")),
            Number => (digits > 0).then_some((whole, rest.get(..digits)?)),
        }
    })
}

#[cfg(test)]
mod tests;
