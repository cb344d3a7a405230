//! A record as a [`Type`] of the model that DWARF has too.
//!
//! BTF leaves open what DWARF says in two places: whether an array of no elements is flexible, which the model does
//! not tell apart either as far as sizes go, and whether the enums of an old encoder are signed.

use super::{Btf, Enumerator, Kind, Record, RecordMember};
use crate::types::{Aggregate, Encoding, Member, Tag, Type, TypeId};

/// Typedefs and qualifiers between a bit-field and its integer.
const MAX_DEPTH: u32 = 64;

pub(super) fn of(btf: &Btf, record: &Record<'_>) -> Result<Type, &'static str> {
    let name = || (!record.name.is_empty()).then(|| record.name.to_owned());
    Ok(match record.kind {
        Kind::Int { size, .. } => {
            Type::Base { name: record.name.to_owned(), size: u64::from(size), encoding: encoding(record) }
        }
        Kind::Float { size } => {
            Type::Base { name: record.name.to_owned(), size: u64::from(size), encoding: Encoding::Other }
        }
        Kind::Pointer(target) => Type::Pointer(target),
        Kind::Array { element, count } => {
            Type::Array { element, count: (count > 0).then_some(u64::from(count)) }
        }
        Kind::Struct { union, size, members } => {
            let members = members.iter().map(|member| member.map(|member| of_member(btf, &member)));
            Type::Aggregate(Aggregate {
                tag: if union { Tag::Union } else { Tag::Struct },
                name: name(),
                size: u64::from(size),
                members: members.collect::<Result<_, _>>()?,
            })
        }
        Kind::Enum { size, signed, wide, values } => {
            let signed = btf.is_signed_enum(signed, wide);
            let values = values
                .iter()
                .map(|value| value.map(|value| (value.name.to_owned(), value.value(signed, wide))));
            Type::Enum { name: name(), size: u64::from(size), values: values.collect::<Result<_, _>>()? }
        }
        Kind::Forward { union } => {
            let tag = if union { Tag::Union } else { Tag::Struct };
            Type::Forward { tag, name: record.name.to_owned() }
        }
        Kind::Typedef(target) => Type::Typedef { name: record.name.to_owned(), target },
        Kind::Volatile(target) | Kind::Const(target) | Kind::Restrict(target) | Kind::TypeTag(target) => {
            Type::Qualified(target)
        }
        Kind::Function { prototype, .. } => Type::Qualified(prototype),
        Kind::Prototype { result, params } => {
            let params = params.iter().map(|param| param.map(|param| param.ty));
            let mut params: Vec<TypeId> = params.collect::<Result<_, _>>()?;
            // `...` is no parameter.
            if params.last() == Some(&TypeId(0)) {
                params.pop();
            }
            Type::Function { result, params }
        }
        Kind::Variable { .. } | Kind::Section { .. } | Kind::DeclTag(_) => {
            return Err("the record is no type");
        }
    })
}

/// What DWARF calls it, which knows `char` from a number of one byte.
fn encoding(record: &Record<'_>) -> Encoding {
    match record.kind {
        Kind::Int { bool: true, .. } => Encoding::Bool,
        Kind::Int { char: true, .. } => Encoding::Char,
        Kind::Int { .. } if matches!(record.name, "char" | "signed char" | "unsigned char") => Encoding::Char,
        Kind::Int { signed: true, .. } => Encoding::Signed,
        Kind::Int { .. } => Encoding::Unsigned,
        _ => Encoding::Other,
    }
}

impl Enumerator<'_> {
    /// The value that the bits stand for.
    #[must_use]
    pub fn value(&self, signed: bool, wide: bool) -> i128 {
        match (signed, wide) {
            (true, true) => i128::from(self.bits.cast_signed()),
            (true, false) => i128::from((self.bits as u32).cast_signed()),
            (false, _) => i128::from(self.bits),
        }
    }
}

fn of_member(btf: &Btf, member: &RecordMember<'_>) -> Member {
    let (bit_offset, bit_size) = btf.bit_field(member);
    Member {
        name: (!member.name.is_empty()).then(|| member.name.to_owned()),
        bit_offset: u64::from(bit_offset),
        bit_size: bit_size.map(u64::from),
        ty: member.ty,
    }
}

impl Btf {
    /// A member's bit offset, and its width if it is a bit-field: in the member, or for an old encoder in its integer.
    #[must_use]
    pub fn bit_field(&self, member: &RecordMember<'_>) -> (u32, Option<u32>) {
        if member.bit_size > 0 {
            return (member.bit_offset, Some(member.bit_size));
        }
        let mut ty = member.ty;
        for _ in 0..MAX_DEPTH {
            match self.record(ty).map(|record| record.kind) {
                Ok(
                    Kind::Typedef(target)
                    | Kind::Volatile(target)
                    | Kind::Const(target)
                    | Kind::Restrict(target)
                    | Kind::TypeTag(target),
                ) => ty = target,
                Ok(Kind::Int { size, bit_offset, bits, .. }) if u32::from(bits) < size.saturating_mul(8) => {
                    let at = member.bit_offset.saturating_add(u32::from(bit_offset));
                    return (at, Some(u32::from(bits)));
                }
                _ => break,
            }
        }
        (member.bit_offset, None)
    }

    /// Whether an enum with that flag is signed; the older encoders did not say, and their readers took it for signed.
    #[must_use]
    pub fn is_signed_enum(&self, signed: bool, wide: bool) -> bool {
        signed || !(wide || self.knows_signs)
    }
}
