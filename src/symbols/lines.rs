//! Source lines of code, and what was inlined there, from the DWARF of a [`Vmlinux`].
//!
//! Nothing is read until somebody asks; then many addresses at once, because the directory of all units is made for
//! each question. What was found is remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gimli::{Dwarf, EndianSlice, LittleEndian};

use crate::{
    addr::LinkAddr,
    vmlinux::{Vmlinux, VmlinuxError},
};

type Slice<'d> = EndianSlice<'d, LittleEndian>;

/// Functions inlined into each other at one place; damaged debug information may not go on for ever.
const MAX_INLINED: usize = 256;

/// A function that is executing at a place in code, and where in its source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFrame {
    /// Its name, if it has one.
    pub function: Option<String>,
    /// The file, as the compiler was given it.
    pub file: Option<String>,
    /// The line, from 1 on.
    pub line: Option<u32>,
}

/// Somewhere source lines are read from.
pub trait SourceLines: Send + Sync {
    /// What executes at each of `addrs`: functions inlined into each other, innermost first, last the one they were
    /// inlined into; nothing where nobody knows.
    fn frames(&self, addrs: &[LinkAddr]) -> Vec<Vec<SourceFrame>>;
}

/// The lines of a vmlinux.
pub struct DwarfLines {
    file: Arc<Vmlinux>,
    known: Mutex<HashMap<LinkAddr, Vec<SourceFrame>>>,
}

impl DwarfLines {
    /// The lines of `file`.
    #[must_use]
    pub fn new(file: Arc<Vmlinux>) -> Self {
        Self { file, known: Mutex::default() }
    }

    fn find(&self, addrs: &[LinkAddr]) -> Result<Vec<(LinkAddr, Vec<SourceFrame>)>, LinesError> {
        let section = |id: gimli::SectionId| -> Result<Slice<'_>, LinesError> {
            Ok(EndianSlice::new(self.file.debug_section(id.name())?, LittleEndian))
        };
        let context = addr2line::Context::from_dwarf(Dwarf::load(section)?)?;
        let mut found = Vec::with_capacity(addrs.len());
        for addr in addrs {
            let frames = frames(&context, *addr).unwrap_or_else(|error| {
                log::debug!("no source line for {addr}: {error}");
                Vec::new()
            });
            found.push((*addr, frames));
        }
        Ok(found)
    }
}

/// Why there are no lines.
#[derive(Debug, thiserror::Error)]
enum LinesError {
    #[error(transparent)]
    File(#[from] VmlinuxError),
    #[error("its debug information is damaged: {0}")]
    Damaged(#[from] gimli::Error),
}

fn frames(context: &addr2line::Context<Slice<'_>>, addr: LinkAddr) -> Result<Vec<SourceFrame>, gimli::Error> {
    let mut found = Vec::new();
    let mut frames = context.find_frames(addr.raw()).skip_all_loads()?;
    while let Some(frame) = frames.next()? {
        let name = frame.function.as_ref().map(|name| name.raw_name()).transpose()?;
        let (file, line) = frame.location.map_or((None, None), |place| (place.file, place.line));
        found.push(SourceFrame {
            function: name.map(|name| name.into_owned()),
            file: file.map(str::to_owned),
            line: line.filter(|line| *line > 0),
        });
        if found.len() == MAX_INLINED {
            break;
        }
    }
    Ok(found)
}

impl SourceLines for DwarfLines {
    fn frames(&self, addrs: &[LinkAddr]) -> Vec<Vec<SourceFrame>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<LinkAddr> =
            addrs.iter().copied().filter(|addr| !known.contains_key(addr)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            match self.find(&missing) {
                Ok(found) => known.extend(found),
                Err(error) => log::warn!("no source lines of {}: {error}", self.file.name()),
            }
        }
        addrs.iter().map(|addr| known.get(addr).cloned().unwrap_or_default()).collect()
    }
}
