//! Members by name: a path such as `signal.nr_threads` or `comm` becomes an offset, once, and then cuts values
//! out of a structure's bytes.

use std::marker::PhantomData;

use super::{Aggregate, FieldInfo, Member, Tag, Type, TypeError, TypeId, TypeSource};
use crate::addr::VirtAddr;

/// Typedefs, qualifiers and anonymous aggregates may nest this deep; damaged debug information may not loop.
const MAX_DEPTH: u32 = 64;

impl dyn TypeSource + '_ {
    /// Bytes of a type, through typedefs and qualifiers; 0 for a flexible array and `void`.
    ///
    /// # Errors
    /// [`TypeError::Damaged`] on a cycle or an impossible size.
    pub fn size_of(&self, id: TypeId) -> Result<u64, TypeError> {
        let damaged = |reason: &str| TypeError::Damaged {
            source_name: self.source_name().to_owned(),
            place: id.0,
            reason: reason.to_owned(),
        };
        let (mut id, mut count) = (id, 1_u64);
        for _ in 0..MAX_DEPTH {
            let size = match self.get(id)? {
                Type::Base { size, .. } | Type::Enum { size, .. } => size,
                Type::Aggregate(aggregate) => aggregate.size,
                Type::Pointer(_) => 8,
                Type::Array { element, count: elements } => {
                    count = count.checked_mul(elements.unwrap_or(0)).ok_or_else(|| damaged("array size"))?;
                    id = element;
                    continue;
                }
                Type::Typedef { target, .. } | Type::Qualified(target) => {
                    id = target;
                    continue;
                }
                Type::Forward { tag: Tag::Struct, name } => {
                    id = self.find(Tag::Struct, &name)?;
                    continue;
                }
                _ => 0,
            };
            return count.checked_mul(size).ok_or_else(|| damaged("array size"));
        }
        Err(damaged("types refer to each other in a circle"))
    }

    /// Bytes of `struct NAME`.
    ///
    /// # Errors
    /// [`TypeError`] when there is no such complete struct.
    pub fn struct_size(&self, name: &str) -> Result<u64, TypeError> {
        self.size_of(self.find(Tag::Struct, name)?)
    }

    /// The struct or union behind typedefs and qualifiers.
    ///
    /// # Errors
    /// [`TypeError::NoMember`] when the type is neither (nothing can be a member of it).
    pub fn aggregate(&self, id: TypeId) -> Result<Aggregate, TypeError> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            id = match self.get(id)? {
                Type::Aggregate(aggregate) => return Ok(aggregate),
                Type::Typedef { target, .. } | Type::Qualified(target) => target,
                Type::Array { element, .. } => element,
                Type::Forward { tag, name } => self.find(tag, &name)?,
                other => {
                    return Err(TypeError::NoMember {
                        container: format!("{other:?}"),
                        member: String::new(),
                    });
                }
            };
        }
        Err(TypeError::Damaged {
            source_name: self.source_name().to_owned(),
            place: id.0,
            reason: "types refer to each other in a circle".to_owned(),
        })
    }

    /// A member of `struct NAME` by a dotted path, through anonymous members.
    ///
    /// # Errors
    /// [`TypeError::NoType`] or [`TypeError::NoMember`]: what tells kernel versions apart.
    pub fn field(&self, structure: &str, path: &str) -> Result<FieldInfo, TypeError> {
        self.field_of(self.find(Tag::Struct, structure)?, structure, path)
    }

    /// As `field`, for a struct or union already found; `container` is its name in messages.
    ///
    /// # Errors
    /// [`TypeError::NoMember`].
    pub fn field_of(&self, id: TypeId, container: &str, path: &str) -> Result<FieldInfo, TypeError> {
        let no_member = || TypeError::NoMember { container: container.to_owned(), member: path.to_owned() };
        let (mut id, mut base, mut found) = (id, 0_u64, None);
        for part in path.split('.') {
            let (bit_offset, member) = self.member(&self.aggregate(id)?, part, 0)?.ok_or_else(no_member)?;
            base = base.checked_add(bit_offset).ok_or_else(no_member)?;
            id = member.ty;
            found = Some(member);
        }
        let member = found.ok_or_else(no_member)?;
        let bits = match member.bit_size {
            Some(width) => Some(((base % 8) as u32, u32::try_from(width).map_err(|_| no_member())?)),
            None => None,
        };
        Ok(FieldInfo { offset: base / 8, size: self.size_of(id)?, bits, ty: id })
    }

    fn member(
        &self,
        aggregate: &Aggregate,
        name: &str,
        depth: u32,
    ) -> Result<Option<(u64, Member)>, TypeError> {
        if depth > MAX_DEPTH {
            return Ok(None);
        }
        for member in &aggregate.members {
            match &member.name {
                Some(own) if own == name => return Ok(Some((member.bit_offset, member.clone()))),
                Some(_) => {}
                None => {
                    let Ok(inner) = self.aggregate(member.ty) else { continue };
                    if let Some((offset, found)) = self.member(&inner, name, depth + 1)? {
                        return Ok(Some((member.bit_offset.saturating_add(offset), found)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The value of an enumerator of `enum NAME`.
    ///
    /// # Errors
    /// [`TypeError::NoType`] or [`TypeError::NoMember`].
    pub fn enumerator(&self, name: &str, enumerator: &str) -> Result<i128, TypeError> {
        let no_member = || TypeError::NoMember { container: name.to_owned(), member: enumerator.to_owned() };
        match self.get(self.find(Tag::Enum, name)?)? {
            Type::Enum { values, .. } => values
                .iter()
                .find(|(own, _)| own == enumerator)
                .map(|(_, value)| *value)
                .ok_or_else(no_member),
            _ => Err(no_member()),
        }
    }
}

/// A value that can be cut out of a structure's bytes, little-endian.
pub trait Scalar: Sized {
    /// Widest form in the target, in bytes.
    const SIZE: u64;

    /// From the member's zero-extended value.
    fn from_bits(bits: u64) -> Self;
}

macro_rules! scalar {
    ($($ty:ty: $size:literal),*) => {
        $(impl Scalar for $ty {
            const SIZE: u64 = $size;

            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        })*
    };
}
scalar!(u8: 1, u16: 2, u32: 4, u64: 8, i32: 4, i64: 8);

impl Scalar for VirtAddr {
    const SIZE: u64 = 8;

    fn from_bits(bits: u64) -> Self {
        Self::new(bits)
    }
}

/// A scalar member of a struct, resolved once by name.
#[derive(Debug, Clone)]
pub struct Field<T> {
    info: FieldInfo,
    value: PhantomData<fn() -> T>,
}

impl<T: Scalar> Field<T> {
    /// Finds `path` in `struct STRUCTURE`.
    ///
    /// # Errors
    /// [`TypeError`]: no such member, or one wider than `T`.
    pub fn resolve(types: &dyn TypeSource, structure: &str, path: &str) -> Result<Self, TypeError> {
        let info = types.field(structure, path)?;
        if info.size > T::SIZE {
            return Err(TypeError::NoMember {
                container: structure.to_owned(),
                member: format!("{path} of at most {} bytes (it has {})", T::SIZE, info.size),
            });
        }
        Ok(Self { info, value: PhantomData })
    }

    /// Bytes from the start of the struct.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.info.offset
    }

    /// The member's value in the bytes of a whole struct; `None` when they end before it.
    #[must_use]
    pub fn get(&self, structure: &[u8]) -> Option<T> {
        let start = usize::try_from(self.info.offset).ok()?;
        let len = usize::try_from(self.info.size.min(8)).ok()?;
        let bytes = structure.get(start..start.checked_add(len)?)?;
        let mut raw = bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        if let Some((shift, width)) = self.info.bits {
            raw = raw.checked_shr(shift)? & 1_u64.checked_shl(width).map_or(u64::MAX, |bit| bit - 1);
        }
        Some(T::from_bits(raw))
    }
}

/// The bytes of an array member, such as `comm`; `None` when the struct's bytes end before it.
#[must_use]
pub fn member_bytes<'s>(structure: &'s [u8], info: &FieldInfo) -> Option<&'s [u8]> {
    let start = usize::try_from(info.offset).ok()?;
    structure.get(start..start.checked_add(usize::try_from(info.size).ok()?)?)
}
