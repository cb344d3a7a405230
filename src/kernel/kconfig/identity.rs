//! Whether a configuration is the running kernel's, by its header line.
//!
//! The header has the version of the source (`6.1.192`), the release may have another one (`6.1.0-56-cloud-amd64`); a
//! distribution's banner usually has both.

/// How well a header fits the running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Another kernel's.
    Other,
    /// The same series: all that can be said when a distribution hides the source's version.
    Series,
    /// The very version.
    Version,
}

/// What the running kernel says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity<'a> {
    /// `uname -r`.
    pub release: Option<&'a str>,
    /// `linux_banner`.
    pub banner: Option<&'a str>,
}

impl Identity<'_> {
    pub(super) fn fit(&self, version: &str) -> Fit {
        let texts = || [self.release, self.banner].into_iter().flatten();
        let series = |text: &str| text.split(['.', '-']).take(2).map(str::to_owned).collect::<Vec<_>>();
        if texts().any(|text| has_version(text, version)) {
            Fit::Version
        } else if self.release.is_some_and(|release| series(release) == series(version)) {
            Fit::Series
        } else {
            Fit::Other
        }
    }
}

/// Whether `version` stands in `text` and is not a part of a longer one.
fn has_version(text: &str, version: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == '.');
    text.match_indices(version).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + version.len()..).and_then(|text| text.chars().next());
        !part(before) && !part(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_fits_a_kernel() {
        let debian = Identity {
            release: Some("6.1.0-56-cloud-amd64"),
            banner: Some(
                "Linux version 6.1.0-56-cloud-amd64 (a@b) (gcc-12) #1 SMP Debian 6.1.192-2 (2026-11-16)",
            ),
        };
        let fits = ["6.1.192", "6.1.19", "6.1.170", "5.10.251"].map(|version| debian.fit(version));
        assert_eq!(fits, [Fit::Version, Fit::Series, Fit::Series, Fit::Other]);
        let own = Identity { release: Some("6.1.7-mine"), banner: None };
        assert_eq!(own.fit("6.1.7"), Fit::Version);
        assert_eq!(Identity::default().fit("6.1.7"), Fit::Other);
    }
}
