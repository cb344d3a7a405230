//! Types: one entry for each record that describes one, and for a pointer or an array that only a variable needs.

use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use gimli::{
    DwTag, constants as dw,
    write::{AttributeValue, DebugInfoRef, UnitEntryId, UnitId},
};

use super::Maker;
use crate::types::{
    Encoding, Type, TypeError, TypeId, TypeSource,
    btf::{Btf, Enumerator, Kind, List, Param, Record, RecordMember},
};

/// Attributes and dimensions in a row; damaged types may not loop.
const MAX_DEPTH: usize = 32;

/// The kernel's types that a module's are built of.
enum Base<'b> {
    /// These are the kernel's.
    None,
    /// In a unit of their own.
    Unit(&'b Types<'b>, UnitId),
    /// In this unit, those that are needed, by id; structs are declared and not defined.
    Declared(BTreeMap<u64, UnitEntryId>),
}

/// The entries of a unit by type.
pub(super) struct Types<'b> {
    btf: &'b Btf,
    base: Base<'b>,
    /// By id, from the first of its own.
    entries: Vec<Option<UnitEntryId>>,
    pointers: HashMap<Option<UnitEntryId>, UnitEntryId>,
}

impl<'b> Types<'b> {
    pub(super) fn new(btf: &'b Btf) -> Self {
        Self { btf, base: Base::None, entries: Vec::new(), pointers: HashMap::new() }
    }

    /// A module's, whose kernel's are in a unit of their own.
    pub(super) fn of_module(btf: &'b Btf, kernel: &'b Types<'b>, unit: UnitId) -> Self {
        Self { base: Base::Unit(kernel, unit), ..Self::new(btf) }
    }

    /// A module's, in a file without the kernel's.
    pub(super) fn of_module_alone(btf: &'b Btf) -> Self {
        Self { base: Base::Declared(BTreeMap::new()), ..Self::new(btf) }
    }

    /// The first id that has an entry here.
    fn first(&self) -> u64 {
        match self.base {
            Base::None => 0,
            Base::Unit(..) | Base::Declared(_) => u64::from(self.btf.ids().start),
        }
    }

    /// Entries made.
    pub(super) fn count(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Writes all types.
    pub(super) fn write(&mut self, maker: &mut Maker<'_>) -> Result<(), TypeError> {
        if let Base::Declared(_) = self.base {
            self.declare(maker)?;
        }
        let root = maker.unit.root();
        let (first, wanted) = (self.first(), self.wanted()?);
        self.entries = vec![None; wanted.len()];
        for ((id, wanted), entry) in (first..).zip(wanted).zip(&mut self.entries) {
            if wanted {
                let record = self.btf.record(TypeId(id))?;
                *entry = tag(&record).map(|tag| maker.add(root, tag));
            }
        }
        for (id, entry) in (first..).map(TypeId).zip(self.entries.clone()) {
            if let Some(entry) = entry {
                let record = self.btf.record(id)?;
                self.fill(maker, entry, id, &record).map_err(|reason| self.damaged(id, reason))?;
            }
        }
        Ok(())
    }

    fn damaged(&self, id: TypeId, reason: &str) -> TypeError {
        TypeError::Damaged {
            source_name: self.btf.source_name().to_owned(),
            place: id.0,
            reason: reason.to_owned(),
        }
    }

    /// Writes those of the kernel's types that the module's lead to, up to structs that have a name.
    fn declare(&mut self, maker: &mut Maker<'_>) -> Result<(), TypeError> {
        let (root, first) = (maker.unit.root(), self.first());
        let mut known = BTreeMap::new();
        let mut next = Vec::new();
        for id in self.btf.ids() {
            let record = self.btf.record(TypeId(u64::from(id)))?;
            match record.kind {
                // A function carries its prototype itself.
                Kind::Function { prototype, .. } => references(&self.btf.record(prototype)?, &mut next),
                _ => references(&record, &mut next),
            }
        }
        while let Some(id) = next.pop() {
            let Some(id) = self.plain(id).filter(|id| (1..first).contains(&id.0)) else { continue };
            let record = self.btf.record(id)?;
            if let (Entry::Vacant(place), Some(tag)) = (known.entry(id.0), tag(&record)) {
                place.insert(maker.add(root, tag));
                if !is_defined_elsewhere(&record) {
                    references(&record, &mut next);
                }
            }
        }
        self.base = Base::Declared(known.clone());
        for (id, entry) in known {
            let record = self.btf.record(TypeId(id))?;
            if is_defined_elsewhere(&record) {
                maker.name(entry, record.name);
                maker.flag(entry, dw::DW_AT_declaration);
            } else {
                let filled = self.fill(maker, entry, TypeId(id), &record);
                filled.map_err(|reason| self.damaged(TypeId(id), reason))?;
            }
        }
        Ok(())
    }

    /// Which ids get an entry: all but the prototypes that belong to functions only, which carry them themselves.
    fn wanted(&self) -> Result<Vec<bool>, TypeError> {
        let (first, ids) = (self.first(), self.btf.ids());
        let mut wanted = vec![true; usize::try_from(u64::from(ids.end) - first).unwrap_or(0)];
        let mut set = |id: TypeId, value| {
            let own = id.0.checked_sub(first).and_then(|at| usize::try_from(at).ok());
            if let Some(place) = own.and_then(|at| wanted.get_mut(at)) {
                *place = value;
            }
        };
        set(TypeId(0), false);
        let records =
            || ids.clone().map(|id| (TypeId(u64::from(id)), self.btf.record(TypeId(u64::from(id)))));
        for (id, record) in records() {
            if let Kind::Prototype { .. } = record?.kind {
                set(id, false);
            }
        }
        let mut referred = Vec::new();
        for (_, record) in records() {
            references(&record?, &mut referred);
            referred.drain(..).for_each(|id| set(id, true));
        }
        set(TypeId(0), false);
        Ok(wanted)
    }

    /// The entry of a type of its own; `None` is `void`.
    pub(super) fn entry(&self, id: TypeId) -> Option<UnitEntryId> {
        let id = self.plain(id)?.0;
        match (&self.base, id.checked_sub(self.first())) {
            (Base::Declared(known), None) => known.get(&id).copied(),
            (_, at) => *self.entries.get(usize::try_from(at?).ok()?)?,
        }
    }

    /// What refers to a type from within the unit; `None` is `void`.
    fn reference(&self, id: TypeId) -> Option<AttributeValue> {
        let id = self.plain(id)?;
        match self.base {
            Base::Unit(base, unit) if id.0 < self.first() => {
                Some(AttributeValue::DebugInfoRef(DebugInfoRef::Entry(unit, base.entry(id)?)))
            }
            _ => self.entry(id).map(AttributeValue::UnitRef),
        }
    }

    /// An attribute has no entry: what it is of stands for it.
    fn plain(&self, id: TypeId) -> Option<TypeId> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            match self.btf.record(id).ok()?.kind {
                Kind::TypeTag(target) => id = target,
                _ => return Some(id),
            }
        }
        None
    }

    pub(super) fn refer(&self, maker: &mut Maker<'_>, entry: UnitEntryId, id: TypeId) {
        if let Some(target) = self.reference(id) {
            maker.set(entry, dw::DW_AT_type, target);
        }
    }

    /// A type with a qualifier.
    pub(super) fn qualified(
        maker: &mut Maker<'_>,
        target: Option<UnitEntryId>,
        qualifier: DwTag,
    ) -> UnitEntryId {
        let entry = maker.add(maker.unit.root(), qualifier);
        refer(maker, entry, target);
        entry
    }

    /// A pointer to a type.
    pub(super) fn pointer_to(&mut self, maker: &mut Maker<'_>, target: Option<UnitEntryId>) -> UnitEntryId {
        *self.pointers.entry(target).or_insert_with(|| {
            let entry = maker.add(maker.unit.root(), dw::DW_TAG_pointer_type);
            maker.number(entry, dw::DW_AT_byte_size, 8);
            refer(maker, entry, target);
            entry
        })
    }

    /// An array of a type.
    pub(super) fn array_of(
        &self,
        maker: &mut Maker<'_>,
        element: Option<UnitEntryId>,
        count: u64,
    ) -> UnitEntryId {
        let entry = maker.add(maker.unit.root(), dw::DW_TAG_array_type);
        refer(maker, entry, element);
        let range = maker.add(entry, dw::DW_TAG_subrange_type);
        maker.number(range, dw::DW_AT_count, count);
        entry
    }

    fn fill(
        &self,
        maker: &mut Maker<'_>,
        entry: UnitEntryId,
        id: TypeId,
        record: &Record<'_>,
    ) -> Result<(), &'static str> {
        match record.kind {
            Kind::Int { size, .. } | Kind::Float { size } => {
                maker.name(entry, record.name);
                maker.number(entry, dw::DW_AT_byte_size, u64::from(size));
                let encoding = AttributeValue::Encoding(self.encoding(id, record.name));
                maker.set(entry, dw::DW_AT_encoding, encoding);
            }
            Kind::Pointer(target) => {
                maker.number(entry, dw::DW_AT_byte_size, 8);
                self.refer(maker, entry, target);
            }
            Kind::Array { .. } => self.fill_array(maker, entry, id),
            Kind::Struct { size, members, .. } => {
                maker.name(entry, record.name);
                maker.number(entry, dw::DW_AT_byte_size, u64::from(size));
                self.fill_members(maker, entry, members)?;
            }
            Kind::Enum { size, signed, wide, values } => {
                maker.name(entry, record.name);
                maker.number(entry, dw::DW_AT_byte_size, u64::from(size));
                fill_values(maker, entry, values, self.btf.is_signed_enum(signed, wide), wide)?;
            }
            Kind::Forward { .. } => {
                maker.name(entry, record.name);
                maker.flag(entry, dw::DW_AT_declaration);
            }
            Kind::Typedef(target) => {
                maker.name(entry, record.name);
                self.refer(maker, entry, target);
            }
            Kind::Const(target) | Kind::Volatile(target) | Kind::Restrict(target) => {
                self.refer(maker, entry, target);
            }
            Kind::Prototype { result, params } => {
                maker.flag(entry, dw::DW_AT_prototyped);
                self.refer(maker, entry, result);
                self.fill_params(maker, entry, params)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn encoding(&self, id: TypeId, name: &str) -> gimli::DwAte {
        match self.btf.get(id) {
            Ok(Type::Base { encoding: Encoding::Bool, .. }) => dw::DW_ATE_boolean,
            Ok(Type::Base { encoding: Encoding::Char, .. }) if name == "unsigned char" => {
                dw::DW_ATE_unsigned_char
            }
            Ok(Type::Base { encoding: Encoding::Char, .. }) => dw::DW_ATE_signed_char,
            Ok(Type::Base { encoding: Encoding::Signed, .. }) => dw::DW_ATE_signed,
            Ok(Type::Base { encoding: Encoding::Unsigned, .. }) => dw::DW_ATE_unsigned,
            _ => dw::DW_ATE_float,
        }
    }

    /// An array of arrays is one entry with several dimensions.
    fn fill_array(&self, maker: &mut Maker<'_>, entry: UnitEntryId, id: TypeId) {
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            let Ok(Kind::Array { element, count }) = self.btf.record(at).map(|record| record.kind) else {
                break;
            };
            let range = maker.add(entry, dw::DW_TAG_subrange_type);
            // No elements are how BTF writes a flexible array.
            if count > 0 {
                maker.number(range, dw::DW_AT_count, u64::from(count));
            }
            at = element;
        }
        self.refer(maker, entry, at);
    }

    fn fill_members(
        &self,
        maker: &mut Maker<'_>,
        entry: UnitEntryId,
        members: List<'_, RecordMember<'_>>,
    ) -> Result<(), &'static str> {
        for member in members.iter() {
            let member = member?;
            let child = maker.add(entry, dw::DW_TAG_member);
            maker.name(child, member.name);
            self.refer(maker, child, member.ty);
            let (bit_offset, bit_size) = self.btf.bit_field(&member);
            match bit_size {
                Some(bits) => {
                    maker.number(child, dw::DW_AT_bit_size, u64::from(bits));
                    maker.number(child, dw::DW_AT_data_bit_offset, u64::from(bit_offset));
                }
                None => maker.number(child, dw::DW_AT_data_member_location, u64::from(bit_offset / 8)),
            }
        }
        Ok(())
    }

    fn fill_params(
        &self,
        maker: &mut Maker<'_>,
        entry: UnitEntryId,
        params: List<'_, Param<'_>>,
    ) -> Result<(), &'static str> {
        for param in params.iter() {
            let param = param?;
            if param.ty == TypeId(0) {
                maker.add(entry, dw::DW_TAG_unspecified_parameters);
            } else {
                let child = maker.add(entry, dw::DW_TAG_formal_parameter);
                self.refer(maker, child, param.ty);
            }
        }
        Ok(())
    }
}

fn refer(maker: &mut Maker<'_>, entry: UnitEntryId, target: Option<UnitEntryId>) {
    if let Some(target) = target {
        maker.set(entry, dw::DW_AT_type, AttributeValue::UnitRef(target));
    }
}

fn fill_values(
    maker: &mut Maker<'_>,
    entry: UnitEntryId,
    values: List<'_, Enumerator<'_>>,
    signed: bool,
    wide: bool,
) -> Result<(), &'static str> {
    let encoding = if signed { dw::DW_ATE_signed } else { dw::DW_ATE_unsigned };
    maker.set(entry, dw::DW_AT_encoding, AttributeValue::Encoding(encoding));
    for value in values.iter() {
        let value = value?;
        let child = maker.add(entry, dw::DW_TAG_enumerator);
        maker.name(child, value.name);
        let number = value.value(signed, wide);
        let number = match (signed, u64::try_from(number)) {
            (false, Ok(number)) => AttributeValue::Udata(number),
            _ => AttributeValue::Sdata(number as i64),
        };
        maker.set(child, dw::DW_AT_const_value, number);
    }
    Ok(())
}

/// The types a record is made of; a variable's and what a function is are not asked for.
fn references(record: &Record<'_>, to: &mut Vec<TypeId>) {
    match record.kind {
        Kind::Pointer(target) | Kind::Typedef(target) | Kind::Const(target) | Kind::Volatile(target) => {
            to.push(target);
        }
        Kind::Restrict(target) | Kind::TypeTag(target) => to.push(target),
        Kind::Array { element, .. } => to.push(element),
        Kind::Struct { members, .. } => to.extend(members.iter().flatten().map(|member| member.ty)),
        Kind::Prototype { result, params } => {
            to.push(result);
            to.extend(params.iter().flatten().map(|param| param.ty));
        }
        _ => {}
    }
}

/// Whether a module's file may leave the definition to the kernel's own.
fn is_defined_elsewhere(record: &Record<'_>) -> bool {
    matches!(record.kind, Kind::Struct { .. }) && !record.name.is_empty()
}

/// The tag of a type's entry; `None` for what has none.
fn tag(record: &Record<'_>) -> Option<DwTag> {
    Some(match record.kind {
        Kind::Int { .. } | Kind::Float { .. } => dw::DW_TAG_base_type,
        Kind::Pointer(_) => dw::DW_TAG_pointer_type,
        Kind::Array { .. } => dw::DW_TAG_array_type,
        Kind::Struct { union: true, .. } | Kind::Forward { union: true } => dw::DW_TAG_union_type,
        Kind::Struct { .. } | Kind::Forward { .. } => dw::DW_TAG_structure_type,
        Kind::Enum { .. } => dw::DW_TAG_enumeration_type,
        Kind::Typedef(_) => dw::DW_TAG_typedef,
        Kind::Volatile(_) => dw::DW_TAG_volatile_type,
        Kind::Const(_) => dw::DW_TAG_const_type,
        Kind::Restrict(_) => dw::DW_TAG_restrict_type,
        Kind::Prototype { .. } => dw::DW_TAG_subroutine_type,
        Kind::Function { .. } | Kind::Variable { .. } | Kind::Section { .. } => return None,
        Kind::DeclTag(_) | Kind::TypeTag(_) => return None,
    })
}
