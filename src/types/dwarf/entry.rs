//! One entry and its children, read with gimli, as a [`Type`].
//!
//! Source: DWARF 5, chapter 5 (types), section 5.7.6 (members and bit-fields); DWARF 4, section 5.5.6, for the older
//! bit-field form that counts from the most significant bit.

use gimli::{
    Abbreviations, AttributeValue, DebugLineStr, DebugStr, DebugStrOffsets, DebugStrOffsetsBase,
    DebuggingInformationEntry, DwAt, EntriesRaw, UnitHeader, UnitOffset, constants as dw,
};

use super::{OFFSET_BITS, Slice, VOID};
use crate::types::{Aggregate, Encoding, Member, Tag, Type, TypeId};

type Entry<'d> = DebuggingInformationEntry<Slice<'d>>;

/// No struct of a kernel has more members, no enum more values, no function more parameters.
const MAX_CHILDREN: usize = 65_536;
/// Typedefs and qualifiers between a bit-field and its integer.
const MAX_DEPTH: u32 = 64;

/// Why an entry is no type.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Dwarf(#[from] gimli::Error),
    /// It can be read and makes no sense here.
    #[error("{0}")]
    Other(&'static str),
}

/// The unit an entry is in, and the sections it refers to.
pub(super) struct Unit<'u, 'd> {
    pub(super) header: UnitHeader<Slice<'d>>,
    /// From the start of `.debug_info`.
    pub(super) start: usize,
    pub(super) abbreviations: &'u Abbreviations,
    pub(super) str: DebugStr<Slice<'d>>,
    pub(super) line_str: DebugLineStr<Slice<'d>>,
    pub(super) str_offsets: DebugStrOffsets<Slice<'d>>,
}

impl<'u, 'd> Unit<'u, 'd> {
    /// The type at `place` in `.debug_info`; of an array with several dimensions, the one that begins with
    /// `dimension`.
    pub(super) fn read(&self, place: usize, dimension: u16) -> Result<Type, Error> {
        let (entry, children) = self.entry(place)?;
        let flag = |name| matches!(entry.attr_value(name), Some(AttributeValue::Flag(true)));
        let declaration = flag(dw::DW_AT_declaration);
        let size = || number(&entry, dw::DW_AT_byte_size).ok_or(Error::Other("a type has no size"));
        let name = self.name(&entry)?;
        Ok(match entry.tag() {
            tag @ (dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type) => {
                let tag = if tag == dw::DW_TAG_union_type { Tag::Union } else { Tag::Struct };
                match name {
                    Some(name) if declaration => Type::Forward { tag, name },
                    name => {
                        let members = self.members(children)?;
                        Type::Aggregate(Aggregate { tag, name, size: size()?, members })
                    }
                }
            }
            dw::DW_TAG_enumeration_type => match name {
                Some(name) if declaration => Type::Forward { tag: Tag::Enum, name },
                name => {
                    let values = self.values(&entry, children)?;
                    Type::Enum { name, size: size()?, values }
                }
            },
            dw::DW_TAG_base_type => {
                Type::Base { name: name.unwrap_or_default(), size: size()?, encoding: encoding(&entry) }
            }
            dw::DW_TAG_typedef => {
                Type::Typedef { name: name.unwrap_or_default(), target: self.target(&entry)? }
            }
            dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
                Type::Pointer(self.target(&entry)?)
            }
            dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type
            | dw::DW_TAG_packed_type
            | dw::DW_TAG_immutable_type
            | dw::DW_TAG_shared_type => Type::Qualified(self.target(&entry)?),
            dw::DW_TAG_array_type => self.array(place, &entry, children, dimension)?,
            dw::DW_TAG_subroutine_type => {
                let params = self.params(children)?;
                Type::Function { result: self.target(&entry)?, params }
            }
            dw::DW_TAG_unspecified_type => Type::Void,
            _ => return Err(Error::Other("the entry is no type")),
        })
    }

    /// The entry at `place`, and its children.
    fn entry(&self, place: usize) -> Result<(Entry<'d>, Children<'u, 'd>), Error> {
        let offset = place.checked_sub(self.start).ok_or(Error::Other("the entry is in another unit"))?;
        let mut raw = self.header.entries_raw(self.abbreviations, Some(UnitOffset(offset)))?;
        let mut entry = Entry::null();
        if !raw.read_entry(&mut entry)? {
            return Err(Error::Other("the entry is null"));
        }
        Ok((entry, Children { raw, entry: Entry::null(), count: 0 }))
    }

    fn name(&self, entry: &Entry<'d>) -> Result<Option<String>, Error> {
        let Some(value) = entry.attr_value(dw::DW_AT_name) else { return Ok(None) };
        let name = match value {
            AttributeValue::String(name) => name,
            AttributeValue::DebugStrRef(offset) => self.str.get_str(offset)?,
            AttributeValue::DebugLineStrRef(offset) => self.line_str.get_str(offset)?,
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let base = self.str_offsets_base()?;
                self.str.get_str(self.str_offsets.get_str_offset(self.header.format(), base, index)?)?
            }
            _ => return Err(Error::Other("a name is in another file")),
        };
        Ok(Some(name.to_string_lossy().into_owned()))
    }

    /// Where the unit's indexed strings begin; without the attribute, past the header of the first contribution.
    fn str_offsets_base(&self) -> Result<DebugStrOffsetsBase<usize>, Error> {
        let root = self.start.saturating_add(self.header.root_offset().0);
        match self.entry(root)?.0.attr_value(dw::DW_AT_str_offsets_base) {
            Some(AttributeValue::DebugStrOffsetsBase(base)) => Ok(base),
            _ => Ok(DebugStrOffsetsBase(2 * usize::from(self.header.format().word_size()))),
        }
    }

    /// What `DW_AT_type` refers to; `void` is its absence.
    fn target(&self, entry: &Entry<'d>) -> Result<TypeId, Error> {
        let place = match entry.attr_value(dw::DW_AT_type) {
            None => return Ok(VOID),
            Some(AttributeValue::UnitRef(offset)) => self.start.checked_add(offset.0),
            Some(AttributeValue::DebugInfoRef(offset)) => Some(offset.0),
            Some(_) => return Err(Error::Other("a type is in a type unit or in another file")),
        };
        let place =
            place.and_then(|place| u64::try_from(place).ok()).filter(|place| *place < 1 << OFFSET_BITS);
        place.map(TypeId).ok_or(Error::Other("a type is impossibly far away"))
    }

    fn members(&self, mut children: Children<'_, 'd>) -> Result<Vec<Member>, Error> {
        let mut members = Vec::new();
        while let Some(entry) = children.next()? {
            // A static member of C++ has no place in the struct.
            if entry.tag() == dw::DW_TAG_member && !entry.has_attr(dw::DW_AT_external) {
                members.push(self.member(entry)?);
            }
        }
        Ok(members)
    }

    fn member(&self, entry: &Entry<'d>) -> Result<Member, Error> {
        const FAR: Error = Error::Other("a member is impossibly far away");
        let ty = self.target(entry)?;
        let bit_size = number(entry, dw::DW_AT_bit_size);
        let bytes = match entry.attr_value(dw::DW_AT_data_member_location) {
            None => 0,
            Some(_) => number(entry, dw::DW_AT_data_member_location)
                .ok_or(Error::Other("a member's place is not a number"))?,
        };
        let start = bytes.checked_mul(8).ok_or(FAR)?;
        let from_top = number(entry, dw::DW_AT_bit_offset);
        let bit_offset = match (number(entry, dw::DW_AT_data_bit_offset), from_top, bit_size) {
            (Some(bits), _, _) => start.checked_add(bits),
            (None, Some(from_top), Some(width)) => {
                let storage = match number(entry, dw::DW_AT_byte_size) {
                    Some(size) => size,
                    None => self.storage_size(ty)?,
                };
                let end = storage.checked_mul(8).and_then(|bits| start.checked_add(bits));
                end.and_then(|end| end.checked_sub(from_top)?.checked_sub(width))
            }
            _ => Some(start),
        };
        Ok(Member { name: self.name(entry)?, bit_offset: bit_offset.ok_or(FAR)?, bit_size, ty })
    }

    /// Size of the integer or enum behind typedefs and qualifiers.
    fn storage_size(&self, ty: TypeId) -> Result<u64, Error> {
        let sized = self.behind(ty, |entry| number(entry, dw::DW_AT_byte_size))?;
        sized.ok_or(Error::Other("a bit-field's type has no size"))
    }

    /// What `get` finds in the first entry that has it, from `ty` along `DW_AT_type`.
    fn behind<T>(&self, ty: TypeId, get: impl Fn(&Entry<'d>) -> Option<T>) -> Result<Option<T>, Error> {
        let mut ty = ty;
        for _ in 0..MAX_DEPTH {
            if ty == VOID {
                return Ok(None);
            }
            let place = usize::try_from(ty.0).map_err(|_| Error::Other("a type is impossibly far away"))?;
            let (entry, _) = self.entry(place)?;
            if let Some(found) = get(&entry) {
                return Ok(Some(found));
            }
            ty = self.target(&entry)?;
        }
        Err(Error::Other("types refer to each other in a circle"))
    }

    fn values(
        &self,
        entry: &Entry<'d>,
        mut children: Children<'_, 'd>,
    ) -> Result<Vec<(String, i128)>, Error> {
        let mut values = Vec::new();
        let encoding = match raw_encoding(entry) {
            Some(encoding) => Some(encoding),
            None => self.behind(self.target(entry)?, raw_encoding)?,
        };
        let bits = number(entry, dw::DW_AT_byte_size).unwrap_or(0).saturating_mul(8);
        while let Some(child) = children.next()? {
            if child.tag() == dw::DW_TAG_enumerator {
                let name = self.name(child)?.ok_or(Error::Other("an enumerator has no name"))?;
                let value = child
                    .attr(dw::DW_AT_const_value)
                    .and_then(|attribute| constant(attribute, encoding, bits));
                values.push((name, value.ok_or(Error::Other("an enumerator has no value"))?));
            }
        }
        Ok(values)
    }

    fn array(
        &self,
        place: usize,
        entry: &Entry<'d>,
        mut children: Children<'_, 'd>,
        dimension: u16,
    ) -> Result<Type, Error> {
        let mut counts = Vec::new();
        while let Some(range) = children.next()? {
            if range.tag() == dw::DW_TAG_subrange_type {
                counts.push(count(range));
            }
        }
        if counts.is_empty() {
            counts.push(None);
        }
        let no_dimension = Error::Other("the array has no such dimension");
        let count = *counts.get(usize::from(dimension)).ok_or(no_dimension)?;
        let next = dimension.saturating_add(1);
        let element = if counts.len() > usize::from(next) {
            TypeId(place as u64 | u64::from(next) << OFFSET_BITS)
        } else {
            self.target(entry)?
        };
        Ok(Type::Array { element, count })
    }

    fn params(&self, mut children: Children<'_, 'd>) -> Result<Vec<TypeId>, Error> {
        let mut params = Vec::new();
        while let Some(child) = children.next()? {
            if child.tag() == dw::DW_TAG_formal_parameter {
                params.push(self.target(child)?);
            }
        }
        Ok(params)
    }
}

/// The children of an entry, without theirs.
struct Children<'u, 'd> {
    raw: EntriesRaw<'u, Slice<'d>>,
    entry: Entry<'d>,
    count: usize,
}

impl<'d> Children<'_, 'd> {
    fn next(&mut self) -> Result<Option<&Entry<'d>>, Error> {
        while !self.raw.is_empty() && self.raw.next_depth() > 0 {
            let depth = self.raw.next_depth();
            if self.raw.read_entry(&mut self.entry)? && depth == 1 {
                self.count += 1;
                if self.count > MAX_CHILDREN {
                    return Err(Error::Other("a type has impossibly many members"));
                }
                return Ok(Some(&self.entry));
            }
        }
        Ok(None)
    }
}

fn number(entry: &Entry<'_>, name: DwAt) -> Option<u64> {
    entry.attr(name)?.udata_value()
}

/// Elements of a dimension; `None` for a flexible one. A bound of -1 is how some compilers write `[0]`.
fn count(range: &Entry<'_>) -> Option<u64> {
    if range.has_attr(dw::DW_AT_count) {
        return number(range, dw::DW_AT_count);
    }
    match range.attr(dw::DW_AT_upper_bound)?.raw_value() {
        AttributeValue::Sdata(-1) => Some(0),
        _ => number(range, dw::DW_AT_upper_bound)?.checked_add(1).or(Some(0)),
    }
}

/// An enumerator's value: what stands there, taken modulo the `bits` of the enum, in the range of its encoding. A form
/// of fixed size is no hint at the sign: GCC writes 128 in one byte even for a signed enum.
fn constant(
    attribute: &gimli::Attribute<Slice<'_>>,
    encoding: Option<gimli::DwAte>,
    bits: u64,
) -> Option<i128> {
    let value = match attribute.raw_value() {
        AttributeValue::Sdata(value) => i128::from(value),
        _ => i128::from(attribute.udata_value()?),
    };
    let (Some(encoding), 1..=64) = (encoding, bits) else { return Some(value) };
    let modulus = 1_i128 << bits;
    let wrapped = value & (modulus - 1);
    let signed = matches!(encoding, dw::DW_ATE_signed | dw::DW_ATE_signed_char);
    Some(if signed && wrapped >= modulus / 2 { wrapped - modulus } else { wrapped })
}

fn raw_encoding(entry: &Entry<'_>) -> Option<gimli::DwAte> {
    match entry.attr_value(dw::DW_AT_encoding) {
        Some(AttributeValue::Encoding(encoding)) => Some(encoding),
        _ => None,
    }
}

fn encoding(entry: &Entry<'_>) -> Encoding {
    match raw_encoding(entry) {
        Some(dw::DW_ATE_signed) => Encoding::Signed,
        Some(dw::DW_ATE_unsigned) => Encoding::Unsigned,
        Some(dw::DW_ATE_boolean) => Encoding::Bool,
        Some(dw::DW_ATE_signed_char | dw::DW_ATE_unsigned_char | dw::DW_ATE_UTF) => Encoding::Char,
        _ => Encoding::Other,
    }
}
