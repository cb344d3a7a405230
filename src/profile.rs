//! Target profiles: everything about one host that does not change between sessions, in TOML.
//!
//! Input: a file. Output: plain data ([`Profile`]), checked when it is loaded: an unknown key is an error, so a typing
//! mistake cannot silently widen where reads may go. What a key means is known to whoever uses it, not here.
//! `target-profiles/README.md` lists every key with unit and default.

mod keys;
mod schema;
mod written;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use crate::addr::PhysRange;

pub use keys::KEYS;
pub use schema::{Kernel, Link, Member, Memory, Policy, Profile, Struct};

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
    /// Loads and checks the profile at `path`; relative files are taken from the profile's directory.
    ///
    /// # Errors
    /// [`ProfileError`] naming the file and the key.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let text = read(path)?;
        let mut profile =
            Self::parse(&text).map_err(|reason| ProfileError::Invalid { path: path.to_owned(), reason })?;
        if let Some(directory) = path.parent() {
            let kernel = &mut profile.kernel;
            for file in [&mut kernel.vmlinux, &mut kernel.types].into_iter().flatten() {
                *file = directory.join(&*file);
            }
        }
        Ok(profile)
    }

    /// The line of the file at `path` that each of its keys stands in, by the key's full name (`link.tags`).
    ///
    /// # Errors
    /// [`ProfileError`] naming the file.
    pub fn lines(path: &Path) -> Result<BTreeMap<String, usize>, ProfileError> {
        let text = read(path)?;
        let table = DeTable::parse(&text)
            .map_err(|error| ProfileError::Invalid { path: path.to_owned(), reason: place(&error, &text) })?;
        let places = keys::places(table.get_ref());
        Ok(places.into_iter().map(|(key, at)| (key, line(&text, at))).collect())
    }

    /// The profile that `text` is; files in it are as written.
    fn parse(text: &str) -> Result<Self, String> {
        let table = DeTable::parse(text).map_err(|error| place(&error, text))?;
        if let Some(unknown) = keys::unknown(table.get_ref()) {
            return Err(format!("line {}: {}", line(text, unknown.at), unknown.reason));
        }
        let profile: Self = toml::from_str(text).map_err(|error| place(&error, text))?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(link) = &self.link {
            if link.tags.is_some_and(|tags| !(1..=256).contains(&tags)) {
                return Err("`link.tags` is from 1 to 256".to_owned());
            }
            if link.mrrs.is_some_and(|mrrs| !mrrs.is_power_of_two() || !(128..=4096).contains(&mrrs)) {
                return Err("`link.mrrs` is 128, 256, 512, 1024, 2048 or 4096".to_owned());
            }
            if link.timeout_ms.is_some_and(|timeout| !(1..=60_000).contains(&timeout)) {
                return Err("`link.timeout-ms` is from 1 to 60000".to_owned());
            }
            if link.retries.is_some_and(|retries| retries > 100) {
                return Err("`link.retries` is from 0 to 100".to_owned());
            }
            let room = |base: u16| base.checked_add(link.port_mask.unwrap_or(0xff) & 0xff);
            if link.port_base.is_some_and(|base| base == 0 || room(base).is_none()) {
                return Err(
                    "`link.port-base` leaves no room for the ports of all tags from 1 to 65535".to_owned()
                );
            }
        }
        if let Some((write, forbidden)) = overlap(&self.memory.write, &self.memory.forbidden) {
            return Err(format!("`memory.write` has {write}, of which `memory.forbidden` has {forbidden}"));
        }
        let ram = &self.memory.ram;
        let outside = |range: &&PhysRange| !ram.iter().any(|ram| ram.contains(range.start, range.len()));
        if let Some(write) = self.memory.write.iter().find(outside).filter(|_| !ram.is_empty()) {
            return Err(format!("`memory.write` has {write}, which no range of `memory.ram` holds"));
        }
        self.kernel.check()
    }
}

impl Kernel {
    fn check(&self) -> Result<(), String> {
        if self.vmlinux.is_some() && self.types.is_some() {
            return Err("`kernel.vmlinux` has types: leave out `kernel.types`".to_owned());
        }
        for (name, layout) in &self.structs {
            for (member, Member { offset, size }) in &layout.members {
                if let Some((outer, _)) = member.rsplit_once('.')
                    && !layout.members.contains_key(outer)
                {
                    return Err(format!("`kernel.structs.{name}.\"{member}\"` needs `{outer}` beside it"));
                }
                let end = offset.checked_add(size.unwrap_or(0));
                if end.is_none_or(|end| layout.size.is_some_and(|size| end > size || *offset >= size)) {
                    return Err(format!("`kernel.structs.{name}.{member}` lies outside the structure"));
                }
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, ProfileError> {
    std::fs::read_to_string(path).map_err(|source| ProfileError::Read { path: path.to_owned(), source })
}

/// Ranges of the two lists that have a byte in common.
fn overlap(these: &[PhysRange], those: &[PhysRange]) -> Option<(PhysRange, PhysRange)> {
    let pairs = these.iter().flat_map(|this| those.iter().map(move |that| (*this, *that)));
    pairs.into_iter().find(|(this, that)| this.start < that.end && that.start < this.end)
}

/// One line: what is wrong, and in which line of the file.
fn place(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    match error.span() {
        Some(span) => format!("line {}: {message}", line(text, span.start)),
        None => message,
    }
}

/// The number of the line that byte `at` stands in.
fn line(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.matches('\n').count()) + 1
}

#[cfg(test)]
mod tests;
