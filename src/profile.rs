//! Target profiles: everything about one host that does not change between sessions, in TOML.
//!
//! A profile is plain data, checked when it is loaded: an unknown key is an error, so a typing mistake cannot
//! silently widen where reads may go. `target-profiles/README.md` lists every key with unit and default.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::addr::{PhysRange, parse_number};

/// A target profile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Profile {
    /// What the host is called, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How to reach its memory over NetTLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Where its memory is, and what may be done with it.
    pub memory: Memory,
    /// Its kernel.
    pub kernel: KernelFiles,
}

/// The `[link]` table. Keys that are left out take the link's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// IP address of the adapter.
    pub adapter: IpAddr,
    /// Our own IP address on that network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The adapter's requester ID, `BB:DD.F`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// IP address of the host's operating system, asked for the requester ID when that is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_host: Option<IpAddr>,
    /// Reads in flight at once, 1 to 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<u16>,
    /// Maximum read request size in bytes, 128 to 4096, a power of two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrrs: Option<u32>,
    /// UDP port of tag 0.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number")]
    pub port_base: Option<u16>,
    /// Bits of the tag that are added to the port.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number")]
    pub port_mask: Option<u16>,
    /// Milliseconds to wait for a completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Attempts after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// The `[memory]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Memory {
    /// Ranges that no read leaves, `START-END`; anything the target calls RAM when empty.
    #[serde(with = "ranges")]
    pub ram: Vec<PhysRange>,
}

/// The `[kernel]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct KernelFiles {
    /// Its `vmlinux` with debug information; relative to the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmlinux: Option<PathBuf>,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the profile {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value out of range.
    #[error("the profile {} is not valid: {reason} (target-profiles/README.md lists the keys)", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
}

impl Profile {
    /// Loads and checks the profile at `path`; a relative `vmlinux` is taken from the profile's directory.
    ///
    /// # Errors
    /// [`ProfileError`] naming the file and the key.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ProfileError::Read { path: path.to_owned(), source })?;
        let invalid = |reason| ProfileError::Invalid { path: path.to_owned(), reason };
        let mut profile: Self = toml::from_str(&text).map_err(|error| invalid(place(&error, &text)))?;
        profile.check().map_err(invalid)?;
        if let (Some(vmlinux), Some(directory)) = (&mut profile.kernel.vmlinux, path.parent()) {
            *vmlinux = directory.join(&*vmlinux);
        }
        Ok(profile)
    }

    fn check(&self) -> Result<(), String> {
        let Some(link) = &self.link else { return Ok(()) };
        if link.tags.is_some_and(|tags| !(1..=256).contains(&tags)) {
            return Err("`link.tags` is from 1 to 256".to_owned());
        }
        if link.mrrs.is_some_and(|mrrs| !mrrs.is_power_of_two() || !(128..=4096).contains(&mrrs)) {
            return Err("`link.mrrs` is 128, 256, 512, 1024, 2048 or 4096".to_owned());
        }
        Ok(())
    }
}

/// One line: what is wrong, and in which line of the file.
fn place(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// Ports as TOML integers or as strings such as `"0x3000"`.
mod number {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u16),
        Text(String),
    }

    #[expect(clippy::ref_option, reason = "the signature serde's `with` asks for")]
    pub(super) fn serialize<S: Serializer>(value: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(Some(value)),
            Written::Text(text) => {
                let value = parse_number(&text).map_err(D::Error::custom)?;
                u16::try_from(value).map(Some).map_err(|_| D::Error::custom("more than 16 bits"))
            }
        }
    }
}

/// Ranges as `"START-END"`.
mod ranges {
    use super::*;

    pub(super) fn serialize<S: Serializer>(ranges: &[PhysRange], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ranges.iter().map(PhysRange::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<PhysRange>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Profile, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host.toml");
        std::fs::write(&path, text).unwrap();
        let shown = |error: ProfileError| error.to_string().replace(&path.display().to_string(), "host.toml");
        Profile::load(&path).map_err(shown)
    }

    #[test]
    fn a_profile_names_link_memory_and_kernel() {
        let profile = load(
            "name = 'rack 4'\n[link]\nadapter = '192.168.10.1'\nport-base = 0x3000\nport-mask = '0xf'\n\
             [memory]\nram = ['0-2G', '4G-10G']\n[kernel]\nvmlinux = 'vmlinux'\n",
        )
        .unwrap();
        let link = profile.link.unwrap();
        assert_eq!((link.port_base, link.port_mask, link.tags), (Some(0x3000), Some(0xf), None));
        assert_eq!(profile.memory.ram[1].to_string(), "0x100000000-0x280000000");
        assert!(profile.kernel.vmlinux.unwrap().is_absolute());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let mistake = |text: &str, said: &str| {
            let error = load(text).unwrap_err();
            assert!(error.contains(said) && error.lines().count() == 1, "{error}");
        };
        mistake(
            "[link]\nadapter = '1.2.3.4'\ntag = 3\n",
            "line 3: unknown field `tag`, expected one of `adapter`",
        );
        mistake("[link]\nadapter = '1.2.3.4'\ntags = 0\n", "`link.tags` is from 1 to 256");
        mistake(
            "[memory]\nram = ['2G-1G']\n",
            "line 2: `2G-1G` is not a range START-END with START below END",
        );
        mistake("name = ", "line 1");
    }
}
