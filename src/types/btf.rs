//! Types from BTF, the form in which a kernel carries its own types in memory.
//!
//! Input: the bytes of a `.BTF` section, the kernel's or a module's (a module's goes on where the kernel's ends: it
//! is "split"). Output: the [`Type`] model through [`TypeSource`], and [`Record`]s as they stand for whoever needs
//! more than the model keeps: functions, variables, sections, parameter names, which qualifier. Nothing here knows
//! where the bytes come from.
//!
//! A record has no length of its own, so the section is walked once, and the place of each is kept; everything else
//! is read when somebody asks. A [`TypeId`] is the BTF id, 0 is `void`. Of several definitions of one name the first
//! counts, as in DWARF.
//!
//! Source: `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`.

mod model;
mod record;

use std::{
    hash::{DefaultHasher, Hasher},
    ops::Range,
    sync::Arc,
};

pub use record::{Entry, Enumerator, Kind, Linkage, List, Param, Record, RecordMember, SectionEntry};

use super::{Tag, Type, TypeError, TypeId, TypeSource};

/// The first bytes of every little-endian `.BTF` of version 1.
pub const MAGIC: [u8; 3] = [0x9f, 0xeb, 1];
/// Bytes of the header's fields that are read; `hdr_len` may say that there are more.
pub const HEADER_LEN: usize = 24;
/// `KSYM_NAME_LEN` (`btf_name_valid_identifier`), with the zero at its end: any number of members may have one name.
const MAX_NAME: usize = 512;
/// Longest `.BTF` believed; Debian's kernels have 4 to 6 MiB, one with every driver built in has 30.
pub const MAX_LEN: usize = 32 << 20;

/// Where the two sections of a `.BTF` are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The records, from the start of the header.
    pub types: Range<usize>,
    /// The names.
    pub strings: Range<usize>,
}

impl Header {
    /// The header that `bytes` begin with; the sections may reach past the end of `bytes`.
    ///
    /// # Errors
    /// A sentence that says what is not as in a header.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if !bytes.starts_with(&MAGIC) {
            return Err("it does not begin as BTF of version 1 does");
        }
        let word =
            |at: usize| record::word(bytes, at).map(|word| word as usize).ok_or("its header is cut off");
        let header = word(4)?;
        if !(HEADER_LEN..=MAX_LEN).contains(&header) {
            return Err("its header has an impossible length");
        }
        let section = |at| -> Result<Range<usize>, &'static str> {
            let (start, len) = (word(at)?, word(at + 4)?);
            let start = header.checked_add(start).filter(|start| *start <= MAX_LEN);
            let end = start.and_then(|start| start.checked_add(len)).filter(|end| *end <= MAX_LEN);
            start.zip(end).map(|(start, end)| start..end).ok_or("a section is impossibly large")
        };
        let (types, strings) = (section(8)?, section(16)?);
        if types.start % 4 != 0 || types.len() % 4 != 0 {
            return Err("its records are not aligned");
        }
        Ok(Self { types, strings })
    }

    /// Bytes from the start of the header to the end of its sections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.end.max(self.strings.end)
    }

    /// Whether it has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

/// The types of a kernel, or of a module.
pub struct Btf {
    name: String,
    bytes: Vec<u8>,
    strings: Range<usize>,
    base: Option<Arc<Btf>>,
    /// The first id of its own: 1, or one past the base's last.
    first: u32,
    /// Place of each record in `bytes`.
    places: Vec<u32>,
    /// Hash of tag and name, and id, ascending.
    by_name: Vec<(u32, u32)>,
    /// The encoder says of an enum whether it is signed; older ones leave it open.
    knows_signs: bool,
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btf").field("name", &self.name).field("ids", &self.ids()).finish_non_exhaustive()
    }
}

impl Btf {
    /// Reads a kernel's `.BTF`; `name` stands for it in messages.
    ///
    /// # Errors
    /// [`TypeError::Damaged`] when the bytes are no BTF, or cut off.
    pub fn parse(name: &str, bytes: Vec<u8>) -> Result<Self, TypeError> {
        Self::new(name, bytes, None)
    }

    /// Reads a module's `.BTF`, which refers to the types and names of its kernel's.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn parse_split(name: &str, bytes: Vec<u8>, base: Arc<Self>) -> Result<Self, TypeError> {
        Self::new(name, bytes, Some(base))
    }

    fn new(name: &str, bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, TypeError> {
        let damaged = |place: usize, reason: &str| TypeError::Damaged {
            source_name: name.to_owned(),
            place: place as u64,
            reason: reason.to_owned(),
        };
        let header = Header::parse(&bytes).map_err(|reason| damaged(0, reason))?;
        if header.len() > bytes.len() {
            return Err(damaged(bytes.len(), "it is cut off"));
        }
        let types = bytes.get(header.types.clone()).unwrap_or_default();
        let mut places = Vec::with_capacity(types.len() / 24);
        let mut at = 0;
        while at < types.len() {
            let len = record::len(types, at).map_err(|reason| damaged(header.types.start + at, reason))?;
            let place = header.types.start + at;
            places.push(u32::try_from(place).map_err(|_| damaged(place, "it is impossibly long"))?);
            at += len;
        }
        let first = base.as_ref().map_or(1, |base| base.ids().end);
        let mut btf = Self {
            name: name.to_owned(),
            bytes,
            strings: header.strings,
            knows_signs: base.as_ref().is_some_and(|base| base.knows_signs),
            base,
            first,
            places,
            by_name: Vec::new(),
        };
        btf.index();
        Ok(btf)
    }

    /// Fills what is asked for by name, and what only all records together say.
    fn index(&mut self) {
        let mut by_name = Vec::with_capacity(self.places.len() / 2);
        let mut knows_signs = self.knows_signs;
        for id in self.ids() {
            let Ok(record) = self.record(TypeId(u64::from(id))) else { continue };
            knows_signs |=
                matches!(record.kind, Kind::Enum { signed: true, .. } | Kind::Enum { wide: true, .. });
            let Some(tag) = record.tag() else { continue };
            if !record.name.is_empty() {
                by_name.push((hash(tag, record.name), id));
            }
        }
        by_name.sort_unstable();
        (self.by_name, self.knows_signs) = (by_name, knows_signs);
    }

    /// The ids of its own records, in order; a module's begin where its kernel's end.
    #[must_use]
    pub fn ids(&self) -> Range<u32> {
        self.first..self.first.saturating_add(u32::try_from(self.places.len()).unwrap_or(u32::MAX))
    }

    /// The section.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[cfg(test)]
    pub(crate) fn strings_len(&self) -> u32 {
        self.strings.len() as u32
    }

    /// The record with that id, of the kernel for a module too; `None` for 0, which is `void` and has none.
    ///
    /// # Errors
    /// [`TypeError::Damaged`] when there is no such record, or it makes no sense.
    pub fn record(&self, id: TypeId) -> Result<Record<'_>, TypeError> {
        let number = u32::try_from(id.0).map_err(|_| self.damaged(id.0, "there is no such type id"))?;
        if number < self.first {
            return match &self.base {
                Some(base) => base.record(id),
                None => Err(self.damaged(id.0, "`void` has no record")),
            };
        }
        let place = self.places.get((number - self.first) as usize);
        let Some(&place) = place else { return Err(self.damaged(id.0, "there is no such type id")) };
        record::read(&self.bytes, place as usize, self)
            .map_err(|reason| self.damaged(u64::from(place), reason))
    }

    /// The string at an offset; that of an empty name is 0.
    fn string(&self, offset: u32) -> Option<&str> {
        let mut offset = offset as usize;
        if let Some(base) = &self.base {
            match offset.checked_sub(base.strings.len()) {
                Some(own) => offset = own,
                None => return base.string(offset as u32),
            }
        }
        let strings = self.bytes.get(self.strings.clone())?.get(offset..)?;
        let strings = strings.get(..MAX_NAME).unwrap_or(strings);
        // Names are C identifiers; one that is none cannot be what anybody asks for.
        std::str::from_utf8(strings.get(..memchr::memchr(0, strings)?)?).ok()
    }

    fn damaged(&self, place: u64, reason: &str) -> TypeError {
        TypeError::Damaged { source_name: self.name.clone(), place, reason: reason.to_owned() }
    }

    /// The ids that have a name, in their order: for a name alone nobody knows which of several is meant.
    fn named<'s>(&'s self, tag: Tag, name: &'s str) -> impl Iterator<Item = TypeId> + 's {
        let wanted = hash(tag, name);
        let start = self.by_name.partition_point(|(other, _)| *other < wanted);
        let same = self.by_name.iter().skip(start).take_while(move |(other, _)| *other == wanted);
        same.map(|(_, id)| TypeId(u64::from(*id))).filter(move |id| {
            self.record(*id).is_ok_and(|record| record.name == name && record.tag() == Some(tag))
        })
    }
}

fn hash(tag: Tag, name: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(tag as u8);
    hasher.write(name.as_bytes());
    hasher.finish() as u32
}

impl TypeSource for Btf {
    fn source_name(&self) -> &str {
        &self.name
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        if let Some(id) = self.named(tag, name).next() {
            return Ok(id);
        }
        match &self.base {
            Some(base) => base.find(tag, name),
            None => Err(TypeError::NoType {
                source_name: self.name.clone(),
                tag: tag.keyword(),
                name: name.to_owned(),
            }),
        }
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        if id == TypeId(0) {
            return Ok(Type::Void);
        }
        model::of(self, &self.record(id)?).map_err(|reason| self.damaged(id.0, reason))
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
