//! What could not be read, and the list of it beside the dump (`FILE.unreadable`): one range and its reason a line.

use std::{
    fmt, fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use super::{DumpError, beside, private};
use crate::{
    addr::PhysRange,
    mem::{Fault, MemError},
};

/// More separate ranges than an ELF core's headers have room for are no RAM with holes but a broken link.
pub const MAX_RANGES: usize = 4096;

/// A range of RAM that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Which.
    pub range: PhysRange,
    /// Why, for its first page.
    pub reason: String,
    /// Ranges that are one fault are told as one.
    kind: std::mem::Discriminant<Fault>,
}

impl Unreadable {
    /// `range`, which failed by `error`.
    #[must_use]
    pub fn new(range: PhysRange, error: &MemError) -> Self {
        Self { range, reason: error.fault.to_string(), kind: std::mem::discriminant(&error.fault) }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.range, self.reason)
    }
}

/// Appends to an ascending list.
pub(super) fn push(list: &mut Vec<Unreadable>, next: Unreadable) -> Result<(), DumpError> {
    let full = list.len() >= MAX_RANGES;
    match list.last_mut() {
        Some(last) if last.range.end == next.range.start && last.kind == next.kind => {
            last.range.end = next.range.end;
        }
        _ if full => return Err(DumpError::TooManyUnreadable),
        _ => list.push(next),
    }
    Ok(())
}

/// The list's file.
#[must_use]
pub fn path(dump: &Path) -> PathBuf {
    beside(dump, ".unreadable")
}

/// Writes the list, or removes an older one if nothing is on it.
pub(super) fn write(dump: &Path, list: &[Unreadable]) -> Result<(), DumpError> {
    if list.is_empty() {
        return remove(dump);
    }
    let text: String = list.iter().map(|unreadable| format!("{unreadable}\n")).collect();
    let path = path(dump);
    let made = private().create(true).truncate(true).open(&path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(DumpError::file("write", &path))
}

/// Removes an older list.
pub(super) fn remove(dump: &Path) -> Result<(), DumpError> {
    let path = path(dump);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(DumpError::file("remove", &path)(error)),
        _ => Ok(()),
    }
}
