//! What of a dump is stored: a file beside it (`FILE.nettlp-dump`) that lives as long as the dump is incomplete.
//!
//! Lines of JSON. The first says of which target the dump is; each further one, appended after the bytes went to the
//! dump, names a stored range with its checksum. Whoever resumes believes a line only if the dump's bytes have that
//! checksum, so a run may be killed between any two writes and the disk may write in any order. A line cut short is
//! not believed either.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{DumpError, Format, beside, private};
use crate::{
    addr::{PhysAddr, PhysRange, hex_bytes},
    kernel::KernelMap,
};

/// A longer line is not ours; the first one names every range of RAM.
const MAX_LINE: u64 = 1 << 20;

/// What tells a target and a format from others: two boots of one host differ too when KASLR is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the journal.
    nettlp_dump: u32,
    format: String,
    build_id: String,
    text: String,
    text_phys: String,
    page_offset: String,
    ram: String,
}

impl Identity {
    /// Of a dump of `map` as `format`.
    #[must_use]
    pub fn of(map: &KernelMap, format: Format) -> Self {
        Self {
            nettlp_dump: 1,
            format: format.name().to_owned(),
            build_id: map.build_id.as_deref().map(hex_bytes).unwrap_or_default(),
            text: map.text.to_string(),
            text_phys: map.text_phys.to_string(),
            page_offset: map.page_offset.map(|base| base.to_string()).unwrap_or_default(),
            ram: map.ram.iter().map(PhysRange::to_string).collect::<Vec<_>>().join(" "),
        }
    }

    /// The first difference: its name, ours, theirs.
    fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let parts = |of: &Self| {
            [
                ("journal version", of.nettlp_dump.to_string()),
                ("format", of.format.clone()),
                ("kernel (build id)", of.build_id.clone()),
                ("boot (_text)", of.text.clone()),
                ("boot (physical _text)", of.text_phys.clone()),
                ("boot (page_offset_base)", of.page_offset.clone()),
                ("RAM map", of.ram.clone()),
            ]
        };
        let mut pairs = parts(self).into_iter().zip(parts(other));
        pairs.find_map(|((what, ours), (_, theirs))| (ours != theirs).then_some((what, ours, theirs)))
    }
}

/// A stored range and the checksum of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub range: PhysRange,
    /// Checksum.
    pub sum: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    start: u64,
    end: u64,
    sum: u64,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    dump: PathBuf,
    file: Option<File>,
    stored: Vec<Stored>,
}

/// The journal of the dump at `path`.
#[must_use]
pub fn path(dump: &Path) -> PathBuf {
    beside(dump, ".nettlp-dump")
}

impl Journal {
    /// Begins a journal, in place of an older one.
    pub(super) fn create(dump: &Path, identity: &Identity) -> Result<Self, DumpError> {
        let mut journal = Self { path: path(dump), dump: dump.to_owned(), file: None, stored: Vec::new() };
        journal.rewrite(identity)?;
        Ok(journal)
    }

    /// Reads the journal of `dump`, which must be of `identity`.
    pub(super) fn load(dump: &Path, identity: &Identity) -> Result<Self, DumpError> {
        let path = path(dump);
        let none = || DumpError::NoJournal { path: dump.to_owned(), journal: path.clone() };
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => none(),
            _ => DumpError::file("open", &path)(error),
        })?;
        let (of, stored) =
            read(BufReader::new(file)).map_err(DumpError::file("read", &path))?.ok_or_else(none)?;
        if let Some((what, stored, now)) = of.difference(identity) {
            return Err(DumpError::OtherTarget { path: dump.to_owned(), what, stored, now });
        }
        Ok(Self { path, dump: dump.to_owned(), file: None, stored })
    }

    /// Forgets what `proved` does not confirm, and says how many bytes that was.
    pub(super) fn keep_if(&mut self, proved: impl Fn(Stored) -> bool) -> u64 {
        let before = super::total(self.stored.iter().map(|stored| stored.range));
        self.stored.retain(|stored| proved(*stored));
        before - super::total(self.stored.iter().map(|stored| stored.range))
    }

    /// Writes the whole journal anew, so that the old one stays until the new one is on the disk.
    pub(super) fn rewrite(&mut self, identity: &Identity) -> Result<(), DumpError> {
        let failed = || DumpError::file("write", &self.path);
        let mut text = serde_json::to_vec(identity).map_err(io::Error::from).map_err(failed())?;
        text.push(b'\n');
        for stored in &self.stored {
            text.extend(encoded(*stored).map_err(failed())?);
        }
        let new = beside(&self.path, ".new");
        let made = private().create(true).truncate(true).open(&new);
        let mut file = made.map_err(DumpError::file("make", &new))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(DumpError::file("write", &new))?;
        fs::rename(&new, &self.path).map_err(failed())?;
        let file = OpenOptions::new().append(true).open(&self.path).map_err(failed())?;
        self.file = Some(file);
        Ok(())
    }

    /// Notes that `stored` is in the dump.
    pub(super) fn append(&mut self, stored: Stored) -> Result<(), DumpError> {
        let failed = DumpError::file("write", &self.path);
        let line = encoded(stored).and_then(|line| match &mut self.file {
            Some(file) => file.write_all(&line),
            None => Err(ErrorKind::NotFound.into()),
        });
        line.map_err(failed)?;
        self.stored.push(stored);
        Ok(())
    }

    /// What is stored.
    pub(super) fn stored(&self) -> &[Stored] {
        &self.stored
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> Result<(), DumpError> {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(DumpError::file("write", &self.path))
    }

    /// Ends the journal of a complete dump.
    pub(super) fn remove(self) -> Result<(), DumpError> {
        log::debug!("{} is complete", self.dump.display());
        fs::remove_file(&self.path).map_err(DumpError::file("remove", &self.path))
    }
}

/// What a journal says: of which target the dump is, and what of it is stored, ascending and disjoint. `None` for what
/// is no journal; lines that are none are left out.
///
/// # Errors
/// Those of `journal`.
pub fn read(mut journal: impl BufRead) -> io::Result<Option<(Identity, Vec<Stored>)>> {
    let Some(identity) = line(&mut journal)?.and_then(|first| serde_json::from_slice(&first).ok()) else {
        return Ok(None);
    };
    let mut stored = Vec::new();
    while let Some(line) = line(&mut journal)? {
        stored.extend(entry(&line));
    }
    stored.sort_unstable_by_key(|stored: &Stored| stored.range.start);
    stored.dedup_by(|next, kept| next.range.start < kept.range.end);
    Ok(Some((identity, stored)))
}

/// The next line without its end; `None` at the end of the file, or when the rest is no whole line.
fn line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    io::Read::take(reader, MAX_LINE).read_until(b'\n', &mut line)?;
    Ok((line.pop() == Some(b'\n')).then_some(line))
}

fn entry(line: &[u8]) -> Option<Stored> {
    let Line { start, end, sum } = serde_json::from_slice(line).ok()?;
    Some(Stored { range: PhysRange::new(PhysAddr::new(start), PhysAddr::new(end))?, sum })
}

fn encoded(stored: Stored) -> io::Result<Vec<u8>> {
    let Stored { range: PhysRange { start, end }, sum } = stored;
    let mut line = serde_json::to_vec(&Line { start: start.raw(), end: end.raw(), sum })?;
    line.push(b'\n');
    Ok(line)
}
