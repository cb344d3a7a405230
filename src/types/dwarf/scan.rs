//! One unit's top level, fast: the names of the complete types it defines.
//!
//! A kernel's `.debug_info` has tens of millions of entries, of which this touches those at the top of each unit and
//! steps over the rest. So an abbreviation is compiled once per unit to the few steps that lead past an entry's
//! attributes, and only the name and the sibling are looked at. Everything else about an entry is read by
//! [`super::entry`], when somebody asks for it.
//!
//! It knows bytes and forms, not types. Every step is bounds-checked: the worst a damaged unit can do is to end with
//! [`Damage`]. Source: DWARF 5, sections 7.5.3 to 7.5.6; DWARF 4, the same sections.

use gimli::constants::{self as dw, DwAt, DwForm, DwTag};

use crate::{addr::little_endian, types::Tag};

/// Abbreviation codes are small and dense; a table is grown this far at most.
const MAX_CODE: u64 = 1 << 16;

/// Where a unit stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnitSpan {
    /// Its header, from the start of `.debug_info`.
    pub(super) start: usize,
    /// Its first entry.
    pub(super) entries: usize,
    /// Past its last entry.
    pub(super) end: usize,
    /// Its abbreviations in `.debug_abbrev`.
    pub(super) abbreviations: usize,
    /// 4, or 8 in the 64-bit format.
    pub(super) offset_size: u8,
    /// Bytes of an address.
    pub(super) address_size: u8,
    /// Of DWARF.
    pub(super) version: u16,
}

/// Where the bytes of a name are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameAt {
    /// In `.debug_info`.
    Info(usize),
    /// In `.debug_str`.
    Str(usize),
    /// In `.debug_line_str`.
    LineStr(usize),
}

/// A complete type at the top of a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Definition {
    pub(super) tag: Tag,
    pub(super) name: NameAt,
    /// Its entry, from the start of `.debug_info`.
    pub(super) place: usize,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    /// From the start of `.debug_info`.
    pub(super) place: usize,
    pub(super) reason: &'static str,
}

/// One move past some attributes of an entry.
#[derive(Debug, Clone, Copy)]
enum Step {
    Skip(usize),
    Leb128,
    CString,
    /// A block after a length of that many bytes.
    Block(u8),
    /// A block after a LEB128 length.
    BlockLeb128,
    NameHere,
    /// An offset of a string, of that many bytes.
    NameStr(u8),
    NameLineStr(u8),
    /// An index of a string, of that many bytes.
    NameIndex(u8),
    NameIndexLeb128,
    /// An offset in the unit, of that many bytes.
    Sibling(u8),
    SiblingLeb128,
    /// `DW_AT_declaration` as a byte.
    Declaration,
    /// `DW_AT_str_offsets_base`.
    StrOffsetsBase(u8),
}

/// What an abbreviation says, compiled.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    /// Its steps in [`Scanner::steps`].
    start: usize,
    end: usize,
    /// Set for a type with a name that is no mere declaration.
    tag: Option<Tag>,
    children: bool,
    known: bool,
}

/// Scans units, one after the other, with the buffers of the one before.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// By abbreviation code.
    plans: Vec<Plan>,
    steps: Vec<Step>,
    /// What `plans` were compiled from: the table, the offset size, the address size, the version.
    compiled: Option<(usize, u8, u8, u16)>,
}

/// The sections a scan reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'d> {
    pub(super) info: &'d [u8],
    pub(super) abbrev: &'d [u8],
    pub(super) str_offsets: &'d [u8],
}

impl Scanner {
    /// Calls `found` with each type defined at the top of `unit`, in order.
    ///
    /// # Errors
    /// [`Damage`]; what was found before it stands.
    pub(super) fn scan(
        &mut self,
        source: Source<'_>,
        unit: &UnitSpan,
        mut found: impl FnMut(Definition),
    ) -> Result<(), Damage> {
        let key = (unit.abbreviations, unit.offset_size, unit.address_size, unit.version);
        if self.compiled != Some(key) {
            self.compiled = None;
            self.compile(source.abbrev, unit).map_err(|reason| Damage { place: unit.start, reason })?;
            self.compiled = Some(key);
        }
        let mut walk = Walk {
            at: Cursor { data: source.info.get(..unit.end).unwrap_or_default(), at: unit.entries },
            unit_start: unit.start,
            offset_size: unit.offset_size,
            str_offsets: source.str_offsets,
            // Past the header of a contribution, which is where producers let it start.
            str_offsets_base: 2 * usize::from(unit.offset_size),
        };
        let mut depth = 0_usize;
        loop {
            let place = walk.at.at;
            let damage = |reason| Damage { place, reason };
            if place >= unit.end {
                return Ok(());
            }
            let code = walk.at.leb128().ok_or(damage("an abbreviation code is cut off"))?;
            if code == 0 {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Ok(());
                }
                continue;
            }
            let plan = usize::try_from(code).ok().and_then(|code| self.plans.get(code));
            let plan = *plan.filter(|plan| plan.known).ok_or(damage("unknown abbreviation"))?;
            let steps = self.steps.get(plan.start..plan.end).unwrap_or_default();
            let seen = walk.entry(steps).ok_or(damage("an attribute is cut off or of an unknown form"))?;
            if depth == 1
                && let (Some(tag), Some(name), false) = (plan.tag, seen.name, seen.declaration)
            {
                found(Definition { tag, name, place });
            }
            if plan.children {
                match seen.sibling.filter(|sibling| depth > 0 && *sibling > walk.at.at) {
                    Some(sibling) => walk.at.at = sibling,
                    None => depth += 1,
                }
            } else if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Compiles the abbreviations of `unit`.
    fn compile(&mut self, section: &[u8], unit: &UnitSpan) -> Result<(), &'static str> {
        const CUT: &str = "its abbreviations are cut off";
        self.plans.clear();
        self.steps.clear();
        let mut at = Cursor { data: section, at: unit.abbreviations };
        loop {
            let code = at.leb128().ok_or(CUT)?;
            if code == 0 {
                return Ok(());
            }
            if code > MAX_CODE {
                return Err("an abbreviation code is impossibly large");
            }
            let (tag, children) = (at.leb128().ok_or(CUT)?, at.byte().ok_or(CUT)? != 0);
            let start = self.steps.len();
            let (mut named, mut declared) = (false, false);
            loop {
                let (name, form) = (at.leb128().ok_or(CUT)?, at.leb128().ok_or(CUT)?);
                if form == u64::from(dw::DW_FORM_implicit_const.0) {
                    at.leb128().ok_or(CUT)?;
                }
                if (name, form) == (0, 0) {
                    break;
                }
                let (name, form) = (u16::try_from(name).map(DwAt), u16::try_from(form).map(DwForm));
                let form = form.map_err(|_| "an attribute has an unknown form")?;
                let name = name.unwrap_or(DwAt(0));
                named |= name == dw::DW_AT_name;
                declared |= name == dw::DW_AT_declaration && form == dw::DW_FORM_flag_present;
                self.push(start, step(name, form, unit).ok_or("an attribute has an unknown form")?);
            }
            let tag = u16::try_from(tag).ok().and_then(|tag| definition_tag(DwTag(tag)));
            let tag = tag.filter(|_| named && !declared);
            let plan = Plan { start, end: self.steps.len(), tag, children, known: true };
            let code = usize::try_from(code).unwrap_or_default();
            if self.plans.len() <= code {
                self.plans.resize(code + 1, Plan::default());
            }
            if let Some(slot) = self.plans.get_mut(code) {
                *slot = plan;
            }
        }
    }

    /// Adds a step to the plan being compiled.
    fn push(&mut self, start: usize, step: Step) {
        match (self.steps.get_mut(start..).and_then(<[Step]>::last_mut), step) {
            (Some(Step::Skip(before)), Step::Skip(more)) => *before += more,
            (_, Step::Skip(0)) => {}
            _ => self.steps.push(step),
        }
    }
}

fn definition_tag(tag: DwTag) -> Option<Tag> {
    Some(match tag {
        dw::DW_TAG_structure_type => Tag::Struct,
        dw::DW_TAG_union_type => Tag::Union,
        dw::DW_TAG_enumeration_type => Tag::Enum,
        dw::DW_TAG_typedef => Tag::Typedef,
        dw::DW_TAG_base_type => Tag::Base,
        _ => return None,
    })
}

/// The step past an attribute; `None` for a form that is unknown.
fn step(name: DwAt, form: DwForm, unit: &UnitSpan) -> Option<Step> {
    let plain = plain_step(form, unit)?;
    Some(match (name, form, plain) {
        (dw::DW_AT_name, dw::DW_FORM_string, _) => Step::NameHere,
        (dw::DW_AT_name, dw::DW_FORM_strp, _) => Step::NameStr(unit.offset_size),
        (dw::DW_AT_name, dw::DW_FORM_line_strp, _) => Step::NameLineStr(unit.offset_size),
        (dw::DW_AT_name, dw::DW_FORM_strx, _) => Step::NameIndexLeb128,
        (
            dw::DW_AT_name,
            dw::DW_FORM_strx1 | dw::DW_FORM_strx2 | dw::DW_FORM_strx3 | dw::DW_FORM_strx4,
            Step::Skip(size),
        ) => Step::NameIndex(size as u8),
        (dw::DW_AT_sibling, dw::DW_FORM_ref_udata, _) => Step::SiblingLeb128,
        (
            dw::DW_AT_sibling,
            dw::DW_FORM_ref1 | dw::DW_FORM_ref2 | dw::DW_FORM_ref4 | dw::DW_FORM_ref8,
            Step::Skip(size),
        ) => Step::Sibling(size as u8),
        (dw::DW_AT_declaration, dw::DW_FORM_flag, _) => Step::Declaration,
        (dw::DW_AT_str_offsets_base, dw::DW_FORM_sec_offset, _) => Step::StrOffsetsBase(unit.offset_size),
        _ => plain,
    })
}

/// The step past a value that is not looked at.
fn plain_step(form: DwForm, unit: &UnitSpan) -> Option<Step> {
    Some(match form {
        dw::DW_FORM_flag_present | dw::DW_FORM_implicit_const => Step::Skip(0),
        dw::DW_FORM_data1 | dw::DW_FORM_ref1 | dw::DW_FORM_flag | dw::DW_FORM_strx1 | dw::DW_FORM_addrx1 => {
            Step::Skip(1)
        }
        dw::DW_FORM_data2 | dw::DW_FORM_ref2 | dw::DW_FORM_strx2 | dw::DW_FORM_addrx2 => Step::Skip(2),
        dw::DW_FORM_strx3 | dw::DW_FORM_addrx3 => Step::Skip(3),
        dw::DW_FORM_data4
        | dw::DW_FORM_ref4
        | dw::DW_FORM_strx4
        | dw::DW_FORM_addrx4
        | dw::DW_FORM_ref_sup4 => Step::Skip(4),
        dw::DW_FORM_data8 | dw::DW_FORM_ref8 | dw::DW_FORM_ref_sig8 | dw::DW_FORM_ref_sup8 => Step::Skip(8),
        dw::DW_FORM_data16 => Step::Skip(16),
        dw::DW_FORM_addr => Step::Skip(usize::from(unit.address_size)),
        dw::DW_FORM_ref_addr if unit.version < 3 => Step::Skip(usize::from(unit.address_size)),
        dw::DW_FORM_ref_addr
        | dw::DW_FORM_sec_offset
        | dw::DW_FORM_strp
        | dw::DW_FORM_line_strp
        | dw::DW_FORM_strp_sup
        | dw::DW_FORM_GNU_ref_alt
        | dw::DW_FORM_GNU_strp_alt => Step::Skip(usize::from(unit.offset_size)),
        dw::DW_FORM_udata
        | dw::DW_FORM_sdata
        | dw::DW_FORM_ref_udata
        | dw::DW_FORM_strx
        | dw::DW_FORM_addrx
        | dw::DW_FORM_loclistx
        | dw::DW_FORM_rnglistx => Step::Leb128,
        dw::DW_FORM_string => Step::CString,
        dw::DW_FORM_block1 => Step::Block(1),
        dw::DW_FORM_block2 => Step::Block(2),
        dw::DW_FORM_block4 => Step::Block(4),
        dw::DW_FORM_block | dw::DW_FORM_exprloc => Step::BlockLeb128,
        _ => return None,
    })
}

/// What a scan needs of an entry.
#[derive(Default)]
struct Seen {
    name: Option<NameAt>,
    sibling: Option<usize>,
    declaration: bool,
}

/// A place in a unit, and what its names are relative to.
struct Walk<'d> {
    at: Cursor<'d>,
    unit_start: usize,
    offset_size: u8,
    str_offsets: &'d [u8],
    str_offsets_base: usize,
}

impl Walk<'_> {
    /// Goes past the attributes of an entry.
    #[inline]
    fn entry(&mut self, steps: &[Step]) -> Option<Seen> {
        let mut seen = Seen::default();
        for step in steps {
            match *step {
                Step::Skip(len) => self.at.skip(len)?,
                Step::Leb128 => {
                    self.at.leb128()?;
                }
                Step::CString => self.at.c_string()?,
                Step::Block(size) => {
                    let len = self.at.uint(size)?;
                    self.at.skip(len)?;
                }
                Step::BlockLeb128 => {
                    let len = self.at.leb128()?;
                    self.at.skip(usize::try_from(len).ok()?)?;
                }
                Step::NameHere => {
                    seen.name = Some(NameAt::Info(self.at.at));
                    self.at.c_string()?;
                }
                Step::NameStr(size) => seen.name = Some(NameAt::Str(self.at.uint(size)?)),
                Step::NameLineStr(size) => seen.name = Some(NameAt::LineStr(self.at.uint(size)?)),
                Step::NameIndex(size) => {
                    let index = self.at.uint(size)?;
                    seen.name = self.indexed(index);
                }
                Step::NameIndexLeb128 => {
                    let index = self.at.leb128()?;
                    seen.name = self.indexed(usize::try_from(index).ok()?);
                }
                Step::Sibling(size) => seen.sibling = self.unit_start.checked_add(self.at.uint(size)?),
                Step::SiblingLeb128 => {
                    let offset = usize::try_from(self.at.leb128()?).ok()?;
                    seen.sibling = self.unit_start.checked_add(offset);
                }
                Step::Declaration => seen.declaration = self.at.byte()? != 0,
                Step::StrOffsetsBase(size) => self.str_offsets_base = self.at.uint(size)?,
            }
        }
        Some(seen)
    }

    /// The string of an index, by way of `.debug_str_offsets`.
    fn indexed(&self, index: usize) -> Option<NameAt> {
        let place = index.checked_mul(usize::from(self.offset_size))?.checked_add(self.str_offsets_base)?;
        let offset = Cursor { data: self.str_offsets, at: place }.uint(self.offset_size)?;
        Some(NameAt::Str(offset))
    }
}

/// Bytes being read, little-endian; `None` past the end.
struct Cursor<'d> {
    data: &'d [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.data.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn skip(&mut self, len: usize) -> Option<()> {
        self.at = self.at.checked_add(len).filter(|at| *at <= self.data.len())?;
        Some(())
    }

    /// An unsigned number of at most eight bytes.
    #[inline]
    fn uint(&mut self, size: u8) -> Option<usize> {
        let start = self.at;
        self.skip(usize::from(size))?;
        let bytes = self.data.get(start..self.at)?;
        if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
            return usize::try_from(u32::from_le_bytes(bytes)).ok();
        }
        let value = little_endian(bytes);
        usize::try_from(value).ok()
    }

    /// An unsigned LEB128; bits past 64 are lost, a signed one is only good for stepping over it.
    #[inline]
    fn leb128(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        let (mut value, mut shift) = (u64::from(first & 0x7f), 7_u32);
        loop {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Some(value);
            }
            shift = shift.saturating_add(7);
        }
    }

    /// Goes past a string and its NUL.
    #[inline]
    fn c_string(&mut self) -> Option<()> {
        let rest = self.data.get(self.at..)?;
        self.skip(memchr::memchr(0, rest)? + 1)
    }
}

#[cfg(test)]
mod tests;
