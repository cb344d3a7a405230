//! Source lines of code, and what was inlined there, from the DWARF of a [`Vmlinux`].
//!
//! Nothing is read until somebody asks; then many addresses at once, in the one unit that `.debug_aranges` names for
//! each. A directory of all units takes a hundred megabytes: it is made only for addresses of which no unit, or more than
//! one, says that they are its own. What was found is remembered.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use gimli::{DebugInfoOffset, DwForm, Dwarf, EndianSlice, LittleEndian, Reader, SectionId};

use crate::{
    addr::LinkAddr,
    vmlinux::{Vmlinux, VmlinuxError},
};

type Slice<'d> = EndianSlice<'d, LittleEndian>;
/// Addresses by the part of `.debug_info` that tells their lines.
type ByUnit = Vec<(Option<Range<usize>>, Vec<LinkAddr>)>;

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
        let mut found = Vec::with_capacity(addrs.len());
        for (unit, addrs) in by_unit(&self.file.for_one_pass(), addrs)? {
            let file = self.file.for_one_pass();
            let section = |id: SectionId| -> Result<Slice<'_>, LinesError> {
                let bytes = file.debug_section(id.name())?;
                let bytes = match (&unit, id) {
                    (Some(unit), SectionId::DebugInfo) => bytes.get(unit.clone()).unwrap_or_default(),
                    (Some(_), SectionId::DebugAranges) => &[],
                    _ => bytes,
                };
                Ok(EndianSlice::new(bytes, LittleEndian))
            };
            let context = addr2line::Context::from_dwarf(Dwarf::load(section)?)?;
            for addr in addrs {
                let frames = frames(&context, addr).unwrap_or_else(|error| {
                    log::debug!("no source line for {addr}: {error}");
                    Vec::new()
                });
                found.push((addr, frames));
            }
        }
        Ok(found)
    }
}

/// `addrs` by the one unit that has all there is to know of them, as a range of `.debug_info`; `None` for those of which
/// it takes a directory of all units to tell.
///
/// Source: DWARF 5, section 6.1.2 (lookup by address).
fn by_unit(file: &Vmlinux, addrs: &[LinkAddr]) -> Result<ByUnit, LinesError> {
    let section = |name| Ok::<_, LinesError>(EndianSlice::new(file.debug_section(name)?, LittleEndian));
    let mut units: HashMap<LinkAddr, Vec<DebugInfoOffset>> = HashMap::new();
    let aranges = gimli::DebugAranges::from(section(".debug_aranges")?);
    let mut headers = aranges.headers();
    while let Some(header) = headers.next()? {
        let mut entries = header.entries();
        while let Some(entry) = entries.next()? {
            let range = entry.range();
            let first = addrs.partition_point(|addr| addr.raw() < range.begin);
            let inside = addrs.iter().skip(first).take_while(|addr| addr.raw() < range.end);
            for addr in inside {
                units.entry(*addr).or_default().push(header.debug_info_offset());
            }
        }
    }
    let (info, abbrev) = (gimli::DebugInfo::from(section(".debug_info")?), section(".debug_abbrev")?);
    let mut looked_at: HashMap<_, Option<Range<usize>>> = HashMap::new();
    let mut sorted = ByUnit::new();
    for addr in addrs {
        let unit = match units.get(addr).map(Vec::as_slice) {
            Some([unit]) => match looked_at.entry(*unit) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(new) => new.insert(self_contained(&info, abbrev, *unit)?).clone(),
            },
            _ => None,
        };
        match sorted.iter_mut().find(|(known, _)| *known == unit) {
            Some((_, addrs)) => addrs.push(*addr),
            None => sorted.push((unit, vec![*addr])),
        }
    }
    Ok(sorted)
}

/// Where a unit stands that refers to no entry of another one.
fn self_contained(
    info: &gimli::DebugInfo<Slice<'_>>,
    abbrev: Slice<'_>,
    unit: DebugInfoOffset,
) -> gimli::Result<Option<Range<usize>>> {
    let header = info.header_from_offset(unit)?;
    let mut table = abbrev;
    table.skip(header.debug_abbrev_offset().0)?;
    let leaves = |form: &DwForm| matches!(*form, gimli::DW_FORM_ref_addr | gimli::DW_FORM_indirect);
    let stays = !forms(table)?.iter().any(leaves);
    Ok(stays.then(|| unit.0..unit.0.saturating_add(header.length_including_self())))
}

/// The forms of all attributes in a table of abbreviations, whatever their codes.
///
/// Source: DWARF 5, section 7.5.3.
fn forms(mut table: Slice<'_>) -> gimli::Result<Vec<DwForm>> {
    let mut forms = Vec::new();
    while table.read_uleb128()? != 0 {
        table.read_uleb128()?;
        table.read_u8()?;
        loop {
            let (name, form) = (table.read_uleb128()?, DwForm(table.read_uleb128_u16()?));
            if form == gimli::DW_FORM_implicit_const {
                table.read_sleb128()?;
            }
            if (name, form) == (0, gimli::DW_FORM_null) {
                break;
            }
            forms.push(form);
        }
    }
    Ok(forms)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use object::LittleEndian as LE;
    use object::read::elf::Sym;

    use super::*;

    #[test]
    fn codes_of_abbreviations_may_have_gaps() {
        // Code, tag, children; names and forms; and the end. What follows is another table's.
        let first = [1, 0x11, 1, 0x03, 0x08, 0x13, 0x21, 0x7f, 0, 0];
        let second = [9, 0x34, 0, 0x49, 0x10, 0, 0];
        let table = [first.as_slice(), &second, &[0, 1, 0x11, 0, 0x03, 0x16, 0, 0, 0]].concat();
        let forms = |bytes| forms(EndianSlice::new(bytes, LittleEndian));
        let expected = [gimli::DW_FORM_string, gimli::DW_FORM_implicit_const, gimli::DW_FORM_ref_addr];
        assert_eq!(forms(&table).unwrap(), expected);
        assert!(forms(&table[..12]).is_err(), "it has no end");
    }

    /// This very program has debug information of many units, some of which refer to others.
    #[test]
    fn one_unit_tells_what_the_directory_of_all_units_tells() {
        let file = Vmlinux::open(Path::new("/proc/self/exe")).unwrap();
        let symbols = file.symbols().unwrap();
        let functions = symbols.iter().filter(|symbol| symbol.st_value(LE) != 0 && symbol.st_size(LE) > 8);
        let mut addrs: Vec<LinkAddr> =
            functions.map(|symbol| LinkAddr::new(symbol.st_value(LE) + 4)).collect();
        addrs.sort_unstable();
        addrs.dedup();
        let units = by_unit(&file, &addrs).unwrap();
        let alone: Vec<LinkAddr> =
            units.iter().filter(|(unit, _)| unit.is_some()).flat_map(|(_, addrs)| addrs.clone()).collect();
        assert!(!alone.is_empty() && alone.len() < addrs.len(), "{} of {}", alone.len(), addrs.len());

        let section = |id: SectionId| {
            Ok::<_, VmlinuxError>(EndianSlice::new(file.debug_section(id.name())?, LittleEndian))
        };
        let directory = addr2line::Context::from_dwarf(Dwarf::load(section).unwrap()).unwrap();
        let told = DwarfLines::new(Arc::clone(&file)).frames(&alone);
        for (addr, told) in alone.iter().zip(told) {
            assert_eq!(told, frames(&directory, *addr).unwrap(), "{addr}");
        }
    }
}
