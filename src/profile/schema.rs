//! The tables of a profile as values.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::written;
use crate::addr::{LinkAddr, PhysRange};

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
    pub kernel: Kernel,
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
    #[serde(default, skip_serializing_if = "Option::is_none", with = "written::port")]
    pub port_base: Option<u16>,
    /// Bits of the tag that are added to the port.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "written::port")]
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
    #[serde(with = "written::ranges", skip_serializing_if = "Vec::is_empty")]
    pub ram: Vec<PhysRange>,
    /// Ranges of which no byte is ever read or written.
    #[serde(with = "written::ranges", skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<PhysRange>,
    /// What may be read of processes.
    #[serde(skip_serializing_if = "Policy::is_default")]
    pub policy: Policy,
    /// Ranges that may be written where writing was allowed; none when empty.
    #[serde(with = "written::ranges", skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<PhysRange>,
}

/// What may be read of the memory of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Everything.
    #[default]
    All,
    /// Nothing: only the kernel's own.
    KernelOnly,
}

impl Policy {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::KernelOnly => "kernel-only",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The `[kernel]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Kernel {
    /// `uname -r` of the kernel that is expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Its GNU build id.
    #[serde(with = "written::bytes", skip_serializing_if = "Option::is_none")]
    pub build_id: Option<Vec<u8>>,
    /// Its `vmlinux` with debug information; relative to the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmlinux: Option<PathBuf>,
    /// An object with its types alone, instead of a `vmlinux`; relative to the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub types: Option<PathBuf>,
    /// What the kernel calls `phys_base`, modulo 2^64.
    #[serde(with = "written::number", skip_serializing_if = "Option::is_none")]
    pub phys_base: Option<u64>,
    /// Run-time minus link address, modulo 2^64.
    #[serde(with = "written::number", skip_serializing_if = "Option::is_none")]
    pub slide: Option<u64>,
    /// Symbols as linked.
    #[serde(with = "written::symbols", skip_serializing_if = "BTreeMap::is_empty")]
    pub symbols: BTreeMap<String, LinkAddr>,
    /// Structures by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub structs: BTreeMap<String, Struct>,
}

impl Kernel {
    /// The file that its types come from, and its symbols if it has any: `vmlinux` or `types`.
    #[must_use]
    pub fn file(&self) -> Option<&PathBuf> {
        self.vmlinux.as_ref().or(self.types.as_ref())
    }
}

/// A `[kernel.structs.NAME]` table: the layout of one structure, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Struct {
    /// `sizeof`, where it is known.
    pub size: Option<u64>,
    /// Members by name; a nested one by its path, such as `mm.pgd`.
    pub members: BTreeMap<String, Member>,
}

/// Where a member of a structure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the structure.
    pub offset: u64,
    /// Its bytes; `None`: as many as it is read as.
    pub size: Option<u64>,
}
