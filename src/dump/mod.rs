//! A target's RAM in a file: raw, or an ELF core that drgn and crash open.
//!
//! Input: physical memory, and the [`KernelMap`] that says what of it is RAM. Output: the file, sparse; beside it a
//! journal while it is incomplete ([`journal`]), and the list of what could not be read ([`unreadable`]).
//!
//! Memory goes through in pieces of 1 MiB: one is on the wire while those before are written, so a dump takes a few
//! MiB of ours whatever the size of the target's. It may end anywhere, by a signal or without: what the journal names
//! and the file really holds (checksums) is kept by the next run and not read again. A piece nobody vouches for is
//! never in an ELF core and is a hole in a raw file, where a hole may also be a page of zeros.

mod copy;
mod data;
pub mod elf;
pub mod journal;
pub mod layout;
pub mod unreadable;

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use self::{
    data::Data,
    journal::{Identity, Journal},
    layout::Layout,
    unreadable::Unreadable,
};
use crate::{
    addr::{self, PhysRange},
    kernel::KernelMap,
    mem::{MemError, PhysMem},
};

pub use layout::Format;

/// What happens to a file that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Refuse,
    /// It is continued, if its journal says it is of the same target; a file that is not there is begun.
    Resume,
    /// It is replaced.
    Overwrite,
}

/// Why a dump failed. What was stored before stays stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// A file cannot be made, read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// Such as `write`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is there and nobody said what to do with it.
    #[error("{} exists: --resume continues it, --overwrite replaces it", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// Another run writes it.
    #[error("another dump writes {} now: wait for it, or choose another file", path.display())]
    Busy {
        /// Which file.
        path: PathBuf,
    },
    /// The file is there without a journal.
    #[error(
        "nothing to resume: {} has no journal {}, so it is complete or not of an interrupted dump",
        path.display(), journal.display()
    )]
    NoJournal {
        /// The file.
        path: PathBuf,
        /// Its journal's name.
        journal: PathBuf,
    },
    /// The journal is of something else.
    #[error("cannot resume {}: it is of another {what}: {stored}, now {now}", path.display())]
    OtherTarget {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the journal.
        stored: String,
        /// Of the target.
        now: String,
    },
    /// The target has no RAM map, or an impossible one.
    #[error("the target's RAM map makes no dump: {0}")]
    NoLayout(&'static str),
    /// Even the kernel's own image does not answer any more.
    #[error("the target stopped answering; what was read is stored, --resume continues: {0}")]
    Lost(#[source] MemError),
    /// Memory of two boots makes no dump.
    #[error(
        "the host was booted anew while its memory was read: the file has memory of both boots and is no dump of either; \
         begin again, with another file or --overwrite"
    )]
    BootedAnew,
    /// So many separate places cannot be read that something else must be wrong.
    #[error("more than {} separate ranges cannot be read: gave up", unreadable::MAX_RANGES)]
    TooManyUnreadable,
}

impl DumpError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Bytes of RAM that the target has.
    pub ram: u64,
    /// Bytes that earlier runs stored and this one proved to be there.
    pub kept: u64,
    /// Bytes that earlier runs claimed to have stored and that are not there any more: read again.
    pub damaged: u64,
    /// Bytes read and stored by this run.
    pub read: u64,
    /// Bytes of pages that were all zeros, and of which nothing was written.
    pub zeros: u64,
    /// What this run could not read, ascending.
    pub unreadable: Vec<Unreadable>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl Report {
    /// Bytes that were tried and could not be read.
    #[must_use]
    pub fn unreadable_bytes(&self) -> u64 {
        self.unreadable.iter().map(|unreadable| unreadable.range.len()).sum()
    }

    /// Whether all RAM is stored.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.kept + self.read == self.ram
    }
}

/// A dump that is ready to run: the file is open and what it holds already is known.
#[derive(Debug)]
pub struct Dump<'k> {
    map: &'k KernelMap,
    path: PathBuf,
    layout: Layout,
    data: Data,
    journal: Journal,
    damaged: u64,
}

impl<'k> Dump<'k> {
    /// Opens or makes the file at `path` for the RAM of `map`.
    ///
    /// # Errors
    /// [`DumpError`]; then an existing file is as it was.
    pub fn open(
        path: &Path,
        format: Format,
        map: &'k KernelMap,
        existing: Existing,
    ) -> Result<Self, DumpError> {
        let layout = Layout::new(format, &map.ram)?;
        let identity = Identity::of(map, format);
        let (data, journal, damaged) = match existing {
            Existing::Resume if path.exists() => {
                let data = Data::open(path)?;
                let mut journal = Journal::load(path, &identity)?;
                let data = data.resized(&layout)?;
                let damaged = journal.keep_if(|stored| data.sum(&layout, stored.range) == Some(stored.sum));
                journal.rewrite(&identity)?;
                (data, journal, damaged)
            }
            _ => {
                let data = Data::create(path, &layout, existing == Existing::Overwrite)?;
                unreadable::remove(path)?;
                (data, Journal::create(path, &identity)?, 0)
            }
        };
        let dump = Self { map, path: path.to_owned(), layout, data, journal, damaged };
        // What an earlier run claimed may not be there any more.
        dump.write_header()?;
        Ok(dump)
    }

    fn write_header(&self) -> Result<(), DumpError> {
        if self.layout.format() == Format::Elf {
            let stored = addr::merged(self.journal.stored().iter().map(|stored| stored.range));
            self.data.write_header(&elf::header(self.map, &self.layout, &stored)?)?;
        }
        Ok(())
    }

    /// Bytes that need not be read.
    #[must_use]
    pub fn kept(&self) -> u64 {
        total(self.journal.stored().iter().map(|stored| stored.range))
    }

    /// Bytes of RAM in all.
    #[must_use]
    pub fn ram(&self) -> u64 {
        total(self.map.ram.iter().copied())
    }

    /// Reads what is missing until it is there or `stop` is set. `progress` is told how many bytes are done, and
    /// `booted_anew` is asked now and then, and in the end, whether the host was.
    ///
    /// # Errors
    /// [`DumpError`]; what was stored before stays stored, and the journal says so.
    pub fn run(
        mut self,
        phys: &dyn PhysMem,
        stop: &AtomicBool,
        booted_anew: &dyn Fn() -> bool,
        progress: &dyn Fn(u64),
    ) -> Result<Report, DumpError> {
        let (ram, kept) = (self.ram(), self.kept());
        let stored = addr::merged(self.journal.stored().iter().map(|stored| stored.range));
        let todo = layout::subtract(&self.map.ram, &stored);
        let copy =
            copy::Copy { phys, canary: self.map.image, layout: &self.layout, stop, booted_anew, progress };
        let outcome = copy.run(&todo, &self.data, &mut self.journal);
        let read = total(self.journal.stored().iter().map(|stored| stored.range)) - kept;
        // However it ended, the file says what it holds.
        let sealed = self.seal();
        let copied = outcome?;
        sealed?;
        let report = Report {
            ram,
            kept,
            damaged: self.damaged,
            read,
            zeros: copied.zeros,
            unreadable: copied.unreadable,
            interrupted: copied.interrupted,
        };
        unreadable::write(&self.path, &report.unreadable)?;
        if report.is_complete() {
            self.journal.remove()?;
        }
        Ok(report)
    }

    /// Writes the headers of what is stored, and everything to the disk.
    fn seal(&self) -> Result<(), DumpError> {
        self.write_header()?;
        self.data.sync()?;
        self.journal.sync()
    }
}

fn total(ranges: impl Iterator<Item = PhysRange>) -> u64 {
    ranges.fold(0, |sum, range| sum.saturating_add(range.len()))
}

/// How what holds a host's memory, or tells of it, is made: for nobody else's eyes.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// `FILE` with `suffix` behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
