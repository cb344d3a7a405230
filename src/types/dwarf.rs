//! Types from DWARF 4 and 5.
//!
//! Names are indexed unit by unit, in file order, only as far as somebody asks: a kernel has thousands of units, and
//! the structures a command needs are defined in the first of them. Of several definitions of one name the first in
//! file order counts, which for the kernel's own structures is the one of its core code.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, EndianSlice, LittleEndian, Section,
    UnitHeader, constants as dw,
};
use object::{Object, ObjectSection};

use super::{Aggregate, Encoding, Member, Tag, Type, TypeError, TypeId, TypeSource};
use crate::vmlinux::{Vmlinux, VmlinuxError};

type Slice<'d> = EndianSlice<'d, LittleEndian>;
type Entry<'d> = DebuggingInformationEntry<Slice<'d>>;

/// `void` has no entry of its own.
const VOID: TypeId = TypeId(u64::MAX);
/// No struct of a kernel has more members, no enum more values.
const MAX_CHILDREN: usize = 65_536;

/// What was indexed so far.
#[derive(Default)]
struct Index {
    names: HashMap<Tag, HashMap<Box<str>, u64>>,
    /// Start and end of each unit seen, ascending.
    units: Vec<(usize, usize)>,
    next: usize,
    complete: bool,
}

/// The DWARF types of a [`Vmlinux`].
pub struct Dwarf {
    file: Arc<Vmlinux>,
    index: Mutex<Index>,
}

impl Dwarf {
    /// The types of `file`; nothing is read yet.
    ///
    /// # Errors
    /// [`VmlinuxError::NoDebugInfo`] when it has none.
    pub fn new(file: Arc<Vmlinux>) -> Result<Self, VmlinuxError> {
        if file.elf()?.section_by_name(".debug_info").is_none_or(|section| section.size() == 0) {
            return Err(file.no_debug_info());
        }
        Ok(Self { file, index: Mutex::default() })
    }

    fn damaged(&self, place: usize, reason: impl ToString) -> TypeError {
        TypeError::Damaged {
            source_name: self.file.name().to_owned(),
            place: place as u64,
            reason: reason.to_string(),
        }
    }

    fn sections(&self) -> Result<gimli::Dwarf<Slice<'_>>, TypeError> {
        let elf = self.file.elf().map_err(|error| self.damaged(0, error))?;
        gimli::Dwarf::load(|id| {
            let data = elf.section_by_name(id.name()).map(|section| section.data()).transpose();
            data.map(|data| EndianSlice::new(data.unwrap_or_default(), LittleEndian))
        })
        .map_err(|error: object::Error| self.damaged(0, error))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Indexes the next unit; `false` when there is none.
    fn advance(&self, dwarf: &gimli::Dwarf<Slice<'_>>, index: &mut Index) -> Result<bool, TypeError> {
        let start = index.next;
        if start >= dwarf.debug_info.reader().len() {
            index.complete = true;
            return Ok(false);
        }
        let damaged = |error: gimli::Error| self.damaged(start, error);
        let header = dwarf.debug_info.header_from_offset(DebugInfoOffset(start)).map_err(damaged)?;
        let end = start.saturating_add(header.length_including_self());
        index.units.push((start, end));
        index.next = end;
        self.scan(dwarf, header, index).map_err(damaged)?;
        Ok(true)
    }

    /// Indexes the named, complete types at the top level of a unit.
    fn scan(
        &self,
        dwarf: &gimli::Dwarf<Slice<'_>>,
        header: UnitHeader<Slice<'_>>,
        index: &mut Index,
    ) -> gimli::Result<()> {
        let start = header.debug_info_offset().map_or(0, |offset| offset.0);
        let unit = dwarf.unit(header)?;
        let (mut entries, mut outer) = (unit.entries_raw(None)?, 0);
        while !entries.is_empty() {
            let (offset, depth) = (entries.next_offset(), outer + entries.next_depth());
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            let tag = (depth == 1).then(|| tag_of(abbreviation.tag())).flatten();
            let (mut name, mut declared, mut sibling) = (None, false, None);
            if tag.is_none() && (depth != 1 || !abbreviation.has_children()) {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            for spec in abbreviation.attributes() {
                let attribute = entries.read_attribute(*spec)?;
                match (attribute.name(), attribute.raw_value()) {
                    (dw::DW_AT_name, value) if tag.is_some() => name = Some(value),
                    (dw::DW_AT_declaration, AttributeValue::Flag(set)) => declared = set,
                    (dw::DW_AT_sibling, AttributeValue::UnitRef(offset)) => sibling = Some(offset),
                    _ => {}
                }
            }
            if let (Some(tag), Some(name), false) = (tag, name, declared) {
                let name = dwarf.attr_string(&unit, name)?;
                if let Ok(name) = std::str::from_utf8(name.slice()) {
                    let names = index.names.entry(tag).or_default();
                    if !names.contains_key(name) {
                        names.insert(name.into(), (start + offset.0) as u64);
                    }
                }
            }
            if let Some(sibling) = sibling.filter(|sibling| sibling.0 > entries.next_offset().0)
                && abbreviation.has_children()
            {
                (entries, outer) = (unit.entries_raw(Some(sibling))?, depth);
            }
        }
        Ok(())
    }

    /// The unit that holds an entry.
    fn unit_of<'d>(
        &self,
        dwarf: &gimli::Dwarf<Slice<'d>>,
        place: usize,
    ) -> Result<UnitHeader<Slice<'d>>, TypeError> {
        let mut index = self.index();
        while index.next <= place && self.advance(dwarf, &mut index)? {}
        let after = index.units.partition_point(|(start, _)| *start <= place);
        let unit = after.checked_sub(1).and_then(|at| index.units.get(at)).filter(|(_, end)| place < *end);
        let (start, _) = *unit.ok_or_else(|| self.damaged(place, "no unit is there"))?;
        dwarf
            .debug_info
            .header_from_offset(DebugInfoOffset(start))
            .map_err(|error| self.damaged(start, error))
    }

    fn read(&self, id: TypeId) -> Result<Type, TypeError> {
        let place = usize::try_from(id.0).map_err(|_| self.damaged(usize::MAX, "no such offset"))?;
        let dwarf = self.sections()?;
        let header = self.unit_of(&dwarf, place)?;
        let damaged = |error: gimli::Error| self.damaged(place, error);
        let start = header.debug_info_offset().map_or(0, |offset| offset.0);
        let unit = dwarf.unit(header).map_err(damaged)?;
        let mut tree = unit.entries_tree(Some(gimli::UnitOffset(place - start))).map_err(damaged)?;
        let root = tree.root().map_err(damaged)?;
        let view = View { dwarf: &dwarf, unit: &unit, start };
        view.read(root).map_err(damaged)?.ok_or_else(|| self.damaged(place, "it is no type"))
    }
}

impl TypeSource for Dwarf {
    fn source_name(&self) -> &str {
        self.file.name()
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        let mut index = self.index();
        let known =
            |index: &Index| index.names.get(&tag).and_then(|names| names.get(name)).copied().map(TypeId);
        if known(&index).is_none() && !index.complete {
            let dwarf = self.sections()?;
            while known(&index).is_none() && self.advance(&dwarf, &mut index)? {}
        }
        known(&index).ok_or_else(|| TypeError::NoType {
            source_name: self.file.name().to_owned(),
            tag: tag.keyword(),
            name: name.to_owned(),
        })
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        if id == VOID { Ok(Type::Void) } else { self.read(id) }
    }
}

fn tag_of(tag: gimli::DwTag) -> Option<Tag> {
    Some(match tag {
        dw::DW_TAG_structure_type => Tag::Struct,
        dw::DW_TAG_union_type => Tag::Union,
        dw::DW_TAG_enumeration_type => Tag::Enum,
        dw::DW_TAG_typedef => Tag::Typedef,
        dw::DW_TAG_base_type => Tag::Base,
        _ => return None,
    })
}

/// One unit, for reading an entry and its children.
struct View<'v, 'd> {
    dwarf: &'v gimli::Dwarf<Slice<'d>>,
    unit: &'v gimli::Unit<Slice<'d>>,
    start: usize,
}

impl<'d> View<'_, 'd> {
    fn name(&self, entry: &Entry<'d>) -> gimli::Result<Option<String>> {
        let Some(value) = entry.attr_value(dw::DW_AT_name) else { return Ok(None) };
        let name = self.dwarf.attr_string(self.unit, value)?;
        Ok(Some(name.to_string_lossy().into_owned()))
    }

    fn number(entry: &Entry<'d>, attribute: gimli::DwAt) -> Option<u64> {
        entry.attr(attribute)?.udata_value()
    }

    /// What `DW_AT_type` refers to.
    fn target(&self, entry: &Entry<'d>) -> TypeId {
        match entry.attr_value(dw::DW_AT_type) {
            Some(AttributeValue::UnitRef(offset)) => TypeId(self.start as u64 + offset.0 as u64),
            Some(AttributeValue::DebugInfoRef(offset)) => TypeId(offset.0 as u64),
            _ => VOID,
        }
    }

    fn read(&self, node: gimli::EntriesTreeNode<'_, '_, Slice<'d>>) -> gimli::Result<Option<Type>> {
        let entry = node.entry();
        let (name, size) = (self.name(entry)?, Self::number(entry, dw::DW_AT_byte_size).unwrap_or(0));
        let declared = matches!(entry.attr_value(dw::DW_AT_declaration), Some(AttributeValue::Flag(true)));
        let target = self.target(entry);
        Ok(Some(match entry.tag() {
            tag @ (dw::DW_TAG_structure_type | dw::DW_TAG_union_type | dw::DW_TAG_enumeration_type)
                if declared =>
            {
                let (Some(tag), Some(name)) = (tag_of(tag), name) else { return Ok(None) };
                Type::Forward { tag, name }
            }
            tag @ (dw::DW_TAG_structure_type | dw::DW_TAG_union_type) => {
                let tag = if tag == dw::DW_TAG_union_type { Tag::Union } else { Tag::Struct };
                Type::Aggregate(Aggregate { tag, name, size, members: self.members(node)? })
            }
            dw::DW_TAG_enumeration_type => Type::Enum { name, size, values: self.values(node)? },
            dw::DW_TAG_base_type => {
                let encoding = encoding(entry);
                Type::Base { name: name.unwrap_or_default(), size, encoding }
            }
            dw::DW_TAG_typedef => Type::Typedef { name: name.unwrap_or_default(), target },
            dw::DW_TAG_pointer_type => Type::Pointer(target),
            dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type => Type::Qualified(target),
            dw::DW_TAG_array_type => self.array(node, target)?,
            dw::DW_TAG_subroutine_type => Type::Function { result: target, params: self.params(node)? },
            _ => return Ok(None),
        }))
    }

    fn members(&self, node: gimli::EntriesTreeNode<'_, '_, Slice<'d>>) -> gimli::Result<Vec<Member>> {
        let (mut members, mut children) = (Vec::new(), node.children());
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != dw::DW_TAG_member || members.len() == MAX_CHILDREN {
                continue;
            }
            let bytes = Self::number(entry, dw::DW_AT_data_member_location).unwrap_or(0);
            let bit_size = Self::number(entry, dw::DW_AT_bit_size);
            let bits = match (
                Self::number(entry, dw::DW_AT_data_bit_offset),
                Self::number(entry, dw::DW_AT_bit_offset),
                bit_size,
            ) {
                (Some(bits), _, _) => bits,
                // DWARF 2 counts from the most significant bit of the storage unit.
                (None, Some(from_top), Some(width)) => {
                    let unit = Self::number(entry, dw::DW_AT_byte_size).unwrap_or(0).saturating_mul(8);
                    unit.saturating_sub(from_top).saturating_sub(width)
                }
                _ => 0,
            };
            members.push(Member {
                name: self.name(entry)?,
                bit_offset: bytes.saturating_mul(8).saturating_add(bits),
                bit_size,
                ty: self.target(entry),
            });
        }
        Ok(members)
    }

    fn values(&self, node: gimli::EntriesTreeNode<'_, '_, Slice<'d>>) -> gimli::Result<Vec<(String, i128)>> {
        let (mut values, mut children) = (Vec::new(), node.children());
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let Some(attribute) = entry.attr(dw::DW_AT_const_value) else { continue };
            let value = match attribute.raw_value() {
                AttributeValue::Sdata(value) => Some(i128::from(value)),
                _ => attribute.udata_value().map(i128::from),
            };
            if let (Some(name), Some(value)) = (self.name(entry)?, value)
                && values.len() < MAX_CHILDREN
            {
                values.push((name, value));
            }
        }
        Ok(values)
    }

    /// An array; the dimensions of a multi-dimensional one are multiplied.
    fn array(&self, node: gimli::EntriesTreeNode<'_, '_, Slice<'d>>, element: TypeId) -> gimli::Result<Type> {
        let (mut count, mut children) = (None, node.children());
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let bound = Self::number(entry, dw::DW_AT_upper_bound).and_then(|bound| bound.checked_add(1));
            let own = Self::number(entry, dw::DW_AT_count).or(bound);
            count = match (count, own) {
                (None, own) => own,
                (Some(count), own) => u64::checked_mul(count, own.unwrap_or(0)),
            };
        }
        Ok(Type::Array { element, count })
    }

    fn params(&self, node: gimli::EntriesTreeNode<'_, '_, Slice<'d>>) -> gimli::Result<Vec<TypeId>> {
        let (mut params, mut children) = (Vec::new(), node.children());
        while let Some(child) = children.next()? {
            if child.entry().tag() == dw::DW_TAG_formal_parameter && params.len() < MAX_CHILDREN {
                params.push(self.target(child.entry()));
            }
        }
        Ok(params)
    }
}

fn encoding(entry: &Entry<'_>) -> Encoding {
    match entry.attr_value(dw::DW_AT_encoding) {
        Some(AttributeValue::Encoding(dw::DW_ATE_signed)) => Encoding::Signed,
        Some(AttributeValue::Encoding(dw::DW_ATE_unsigned)) => Encoding::Unsigned,
        Some(AttributeValue::Encoding(dw::DW_ATE_boolean)) => Encoding::Bool,
        Some(AttributeValue::Encoding(dw::DW_ATE_signed_char | dw::DW_ATE_unsigned_char)) => Encoding::Char,
        _ => Encoding::Other,
    }
}
