//! Types from DWARF 4 and 5.
//!
//! Input: the `.debug_*` sections of a [`Vmlinux`]. Output: the [`Type`] model. A name is looked for in the units in
//! file order and no further than needed ([`index`], [`scan`]); an entry becomes a [`Type`] when somebody asks for it
//! ([`entry`]). A [`TypeId`] is the entry's offset in `.debug_info`; the dimension of an array that has several stands
//! in its upper bits.
//!
//! Of several definitions of one name the first in file order counts, which is the one of the kernel's core code.
//!
//! Source: DWARF 4 and 5, chapters 2, 5 and 7.

mod entry;
mod index;
mod scan;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gimli::{
    Abbreviations, DebugInfo, DebugInfoOffset, DebugLineStr, DebugStr, EndianSlice, LittleEndian, UnitHeader,
};

use self::{
    entry::Unit,
    index::{Index, Strings},
    scan::{Source, UnitSpan},
};
use super::{Tag, Type, TypeError, TypeId, TypeSource};
use crate::vmlinux::{Vmlinux, VmlinuxError};

type Slice<'d> = EndianSlice<'d, LittleEndian>;

/// `void` has no entry of its own.
const VOID: TypeId = TypeId(u64::MAX);
/// Bits of a [`TypeId`] that are the entry's offset; above them stands the dimension.
const OFFSET_BITS: u32 = 48;

/// The DWARF types of a [`Vmlinux`].
pub struct Dwarf {
    file: Arc<Vmlinux>,
    /// Ascending.
    units: Vec<UnitSpan>,
    /// Where the chain of units breaks off before the end of the section, and why.
    broken: Option<(usize, String)>,
    index: Mutex<Index>,
    /// Of the units that types were read from, by position in `units`.
    abbreviations: Mutex<HashMap<usize, Arc<Abbreviations>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dwarf {
    /// The types of `file`; only the units' headers are read yet.
    ///
    /// # Errors
    /// [`VmlinuxError::NoDebugInfo`] when it has none, [`VmlinuxError::Compressed`].
    pub fn new(file: Arc<Vmlinux>) -> Result<Self, VmlinuxError> {
        for name in [".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_str_offsets"] {
            file.debug_section(name)?;
        }
        let headers = file.for_one_pass();
        let info = headers.debug_section(".debug_info")?;
        if info.is_empty() {
            return Err(VmlinuxError::NoDebugInfo { path: file.path().to_owned() });
        }
        let (mut units, mut broken) = (Vec::new(), None);
        let mut headers = DebugInfo::new(info, LittleEndian).units();
        loop {
            match headers.next() {
                Ok(Some(header)) => units.extend(span(&header)),
                Ok(None) => break,
                Err(error) => {
                    let place = units.last().map_or(0, |unit: &UnitSpan| unit.end);
                    broken = Some((place, error.to_string()));
                    break;
                }
            }
        }
        Ok(Self { file, units, broken, index: Mutex::default(), abbreviations: Mutex::default() })
    }

    /// A section that [`Dwarf::new`] found readable.
    fn section(&self, name: &str) -> &[u8] {
        self.file.section(name).unwrap_or_default()
    }

    fn damaged(&self, place: usize, reason: impl ToString) -> TypeError {
        TypeError::Damaged {
            source_name: self.file.name().to_owned(),
            place: place as u64,
            reason: reason.to_string(),
        }
    }

    /// Reads the entry at an offset in `.debug_info`.
    fn read(&self, place: usize, dimension: u16) -> Result<Type, TypeError> {
        let at = self.units.partition_point(|unit| unit.start <= place).checked_sub(1);
        let unit =
            at.and_then(|at| self.units.get(at)).filter(|unit| unit.entries <= place && place < unit.end);
        let (Some(at), Some(unit)) = (at, unit) else {
            return Err(self.damaged(place, "no unit has a type there"));
        };
        let damaged = |error: gimli::Error| self.damaged(place, error);
        let info = DebugInfo::new(self.section(".debug_info"), LittleEndian);
        let header = info.header_from_offset(DebugInfoOffset(unit.start)).map_err(damaged)?;
        let abbreviations = self.abbreviations(at, &header).map_err(damaged)?;
        let unit = Unit {
            header,
            start: unit.start,
            abbreviations: &abbreviations,
            str: DebugStr::new(self.section(".debug_str"), LittleEndian),
            line_str: DebugLineStr::new(self.section(".debug_line_str"), LittleEndian),
            str_offsets: EndianSlice::new(self.section(".debug_str_offsets"), LittleEndian).into(),
        };
        unit.read(place, dimension).map_err(|error| self.damaged(place, error))
    }

    fn abbreviations(&self, at: usize, header: &UnitHeader<Slice<'_>>) -> gimli::Result<Arc<Abbreviations>> {
        if let Some(known) = lock(&self.abbreviations).get(&at) {
            return Ok(Arc::clone(known));
        }
        let section = gimli::DebugAbbrev::new(self.section(".debug_abbrev"), LittleEndian);
        let read = Arc::new(header.abbreviations(&section)?);
        lock(&self.abbreviations).insert(at, Arc::clone(&read));
        Ok(read)
    }
}

/// Where a unit stands; `None` for a unit that cannot be referred to by offset.
fn span(header: &UnitHeader<Slice<'_>>) -> Option<UnitSpan> {
    let start = header.debug_info_offset()?.0;
    Some(UnitSpan {
        start,
        entries: start.checked_add(header.size_of_header())?,
        end: start.checked_add(header.length_including_self())?,
        abbreviations: header.debug_abbrev_offset().0,
        offset_size: header.format().word_size(),
        address_size: header.address_size(),
        version: header.version(),
    })
}

impl TypeSource for Dwarf {
    fn source_name(&self) -> &str {
        self.file.name()
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        let mut index = lock(&self.index);
        if let Some(place) = index.get(tag, name) {
            return Ok(TypeId(place as u64));
        }
        let file = self.file.for_one_pass();
        let section = |name| file.section(name).unwrap_or_default();
        let source = Source {
            info: section(".debug_info"),
            abbrev: section(".debug_abbrev"),
            str_offsets: section(".debug_str_offsets"),
        };
        let strings = Strings { str: section(".debug_str"), line_str: section(".debug_line_str") };
        while index.advance(source, strings, &self.units) {
            if let Some(place) = index.get(tag, name) {
                return Ok(TypeId(place as u64));
            }
        }
        match (index.damage(), &self.broken) {
            (Some(damage), _) => Err(self.damaged(damage.place, damage.reason)),
            (None, Some((place, reason))) => Err(self.damaged(*place, reason)),
            (None, None) => Err(TypeError::NoType {
                source_name: self.file.name().to_owned(),
                tag: tag.keyword(),
                name: name.to_owned(),
            }),
        }
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        if id == VOID {
            return Ok(Type::Void);
        }
        let place = usize::try_from(id.0 & ((1 << OFFSET_BITS) - 1)).unwrap_or(usize::MAX);
        self.read(place, (id.0 >> OFFSET_BITS) as u16)
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
