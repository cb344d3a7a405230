//! Members by name: a path such as `signal.nr_threads` or `comm` becomes an offset, once, and then cuts values
//! out of a structure's bytes.

use std::marker::PhantomData;

use super::{Aggregate, Encoding, FieldInfo, Member, Tag, Type, TypeError, TypeId, TypeSource};
use crate::addr::{VirtAddr, little_endian};

/// Typedefs, qualifiers and dimensions may nest this deep; damaged type information may not loop.
const MAX_DEPTH: u32 = 64;
/// Anonymous members searched for one member, and those in them; damaged type information may not fan out.
const MAX_ANONYMOUS: usize = 65_536;

impl dyn TypeSource + '_ {
    /// Bytes of a type, through typedefs and qualifiers; 0 for a flexible array and `void`.
    ///
    /// # Errors
    /// [`TypeError::Damaged`] on a cycle or an impossible size.
    pub fn size_of(&self, id: TypeId) -> Result<u64, TypeError> {
        let too_large = || self.damaged(id, "an array is impossibly large");
        let (mut at, mut count) = (id, 1_u64);
        for _ in 0..MAX_DEPTH {
            let size = match self.get(at)? {
                Type::Base { size, .. } | Type::Enum { size, .. } => size,
                Type::Aggregate(aggregate) => aggregate.size,
                Type::Pointer(_) => 8,
                Type::Array { element, count: elements } => {
                    count = count.checked_mul(elements.unwrap_or(0)).ok_or_else(too_large)?;
                    at = element;
                    continue;
                }
                Type::Typedef { target, .. } | Type::Qualified(target) => {
                    at = target;
                    continue;
                }
                Type::Forward { tag, name } => {
                    at = self.find(tag, &name)?;
                    continue;
                }
                Type::Void | Type::Function { .. } => 0,
            };
            return count.checked_mul(size).ok_or_else(too_large);
        }
        Err(self.damaged(id, "types refer to each other in a circle"))
    }

    /// Bytes of `struct NAME`.
    ///
    /// # Errors
    /// [`TypeError`] when there is no such complete struct.
    pub fn struct_size(&self, name: &str) -> Result<u64, TypeError> {
        self.size_of(self.find(Tag::Struct, name)?)
    }

    /// The type behind typedefs, qualifiers and forward declarations.
    ///
    /// # Errors
    /// [`TypeError::Damaged`] on a cycle, [`TypeError::NoType`] for a declaration that nothing completes.
    pub fn resolve(&self, id: TypeId) -> Result<Type, TypeError> {
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            at = match self.get(at)? {
                Type::Typedef { target, .. } | Type::Qualified(target) => target,
                Type::Forward { tag, name } => self.find(tag, &name)?,
                found => return Ok(found),
            };
        }
        Err(self.damaged(id, "types refer to each other in a circle"))
    }

    /// A member of `struct NAME` by a dotted path, through anonymous members.
    ///
    /// # Errors
    /// [`TypeError::NoType`] or [`TypeError::NoMember`]: what tells kernel versions apart.
    pub fn field(&self, structure: &str, path: &str) -> Result<FieldInfo, TypeError> {
        self.field_of(self.find(Tag::Struct, structure)?, structure, path)
    }

    /// As `field`, for a struct or union already found; `container` is its name in messages. A member of
    /// an array of structs is that of its first element.
    ///
    /// # Errors
    /// [`TypeError::NoMember`], or [`TypeError::Damaged`].
    pub fn field_of(&self, id: TypeId, container: &str, path: &str) -> Result<FieldInfo, TypeError> {
        let no_member = || TypeError::NoMember { container: container.to_owned(), member: path.to_owned() };
        let far = || self.damaged(id, "a member is impossibly far away");
        let (mut at, mut base, mut bit_size) = (id, 0_u64, None);
        for part in path.split('.') {
            let aggregate = self.aggregate(at)?.ok_or_else(no_member)?;
            let mut budget = MAX_ANONYMOUS;
            let (offset, member) = self.member(&aggregate, part, &mut budget, 0)?.ok_or_else(no_member)?;
            base = base.checked_add(offset).ok_or_else(far)?;
            (at, bit_size) = (member.ty, member.bit_size);
        }
        let offset = base / 8;
        Ok(match bit_size {
            None => FieldInfo { offset, size: self.size_of(at)?, bits: None, ty: at },
            Some(width) => {
                let (shift, width) = ((base % 8) as u32, u32::try_from(width).map_err(|_| far())?);
                let size = u64::from(shift).saturating_add(u64::from(width)).div_ceil(8);
                FieldInfo { offset, size, bits: Some((shift, width)), ty: at }
            }
        })
    }

    /// The struct or union behind typedefs, qualifiers and arrays; `None` for anything else, which has no members.
    fn aggregate(&self, id: TypeId) -> Result<Option<Aggregate>, TypeError> {
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            at = match self.resolve(at) {
                Ok(Type::Aggregate(aggregate)) => return Ok(Some(aggregate)),
                Ok(Type::Array { element, .. }) => element,
                Ok(_) | Err(TypeError::NoType { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Err(self.damaged(id, "types refer to each other in a circle"))
    }

    fn member(
        &self,
        aggregate: &Aggregate,
        name: &str,
        budget: &mut usize,
        depth: u32,
    ) -> Result<Option<(u64, Member)>, TypeError> {
        for member in &aggregate.members {
            match &member.name {
                Some(own) if own == name => return Ok(Some((member.bit_offset, member.clone()))),
                Some(_) => {}
                None => {
                    let Some(inner) = self.aggregate(member.ty)? else { continue };
                    *budget = budget
                        .checked_sub(inner.members.len().saturating_add(1))
                        .filter(|_| depth < MAX_DEPTH)
                        .ok_or_else(|| self.damaged(member.ty, "too many anonymous members in each other"))?;
                    if let Some((offset, found)) = self.member(&inner, name, budget, depth + 1)? {
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

    /// Whether nobody says how many bytes a member has.
    fn is_unsized(&self, info: &FieldInfo) -> Result<bool, TypeError> {
        Ok(info.size == 0 && info.bits.is_none() && matches!(self.get(info.ty)?, Type::Base { .. }))
    }

    fn is_signed(&self, id: TypeId) -> Result<bool, TypeError> {
        Ok(match self.resolve(id)? {
            Type::Base { encoding, name, .. } => {
                encoding == Encoding::Signed || (encoding == Encoding::Char && name != "unsigned char")
            }
            Type::Enum { values, .. } => values.iter().any(|(_, value)| *value < 0),
            _ => false,
        })
    }

    fn damaged(&self, place: TypeId, reason: &str) -> TypeError {
        TypeError::Damaged {
            source_name: self.source_name().to_owned(),
            place: place.0,
            reason: reason.to_owned(),
        }
    }
}

/// A value that can be cut out of a structure's bytes, little-endian.
pub trait Scalar: Sized {
    /// Widest form in the target, in bytes.
    const SIZE: u64;
    /// Whether a signed member's sign is kept.
    const SIGNED: bool = false;
    /// Whether what is read as this is never narrower, so that a member whose size nobody says has this one.
    const EXACT: bool;

    /// From the member's value, extended to 64 bits.
    fn from_bits(bits: u64) -> Self;
}

macro_rules! scalar {
    ($($ty:ty: $size:literal $signed:literal $exact:literal),*) => {
        $(impl Scalar for $ty {
            const SIZE: u64 = $size;
            const SIGNED: bool = $signed;
            const EXACT: bool = $exact;

            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        })*
    };
}
scalar!(
    u8: 1 false true, u16: 2 false false, u32: 4 false true, u64: 8 false false, i32: 4 true true, i64: 8 true false
);

impl Scalar for VirtAddr {
    const SIZE: u64 = 8;
    const EXACT: bool = true;

    fn from_bits(bits: u64) -> Self {
        Self::new(bits)
    }
}

/// A scalar member of a struct, resolved once by name.
#[derive(Debug, Clone)]
pub struct Field<T> {
    info: FieldInfo,
    signed: bool,
    value: PhantomData<fn() -> T>,
}

impl<T: Scalar> Field<T> {
    /// Finds `path` in `struct STRUCTURE`.
    ///
    /// # Errors
    /// [`TypeError`]: no such member, one wider than `T`, or one without a value (a flexible array).
    pub fn resolve(types: &dyn TypeSource, structure: &str, path: &str) -> Result<Self, TypeError> {
        let mut info = types.field(structure, path)?;
        if types.is_unsized(&info)? {
            if !T::EXACT {
                let reason = format!(
                    "{} does not say how many bytes `{structure}.{path}` has: its `size`",
                    types.source_name()
                );
                return Err(TypeError::Unavailable { reason });
            }
            info.size = T::SIZE;
        }
        let bits = info.bits.map_or(info.size.saturating_mul(8), |(_, width)| u64::from(width));
        if bits == 0 || bits > T::SIZE * 8 || info.size > 8 {
            return Err(TypeError::NoMember {
                container: structure.to_owned(),
                member: format!("{path} of 1 to {} bits (it has {bits})", T::SIZE * 8),
            });
        }
        let signed = T::SIGNED && types.is_signed(info.ty)?;
        Ok(Self { info, signed, value: PhantomData })
    }

    /// Bytes from the start of the struct.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.info.offset
    }

    /// The member's value in the bytes of a whole struct; `None` when they end before it.
    #[must_use]
    pub fn get(&self, structure: &[u8]) -> Option<T> {
        let bytes = member_bytes(structure, &self.info)?;
        let raw = little_endian(bytes);
        let (shift, width) = self.info.bits.unwrap_or((0, 8 * u32::try_from(bytes.len()).ok()?));
        let unused = 64_u32.checked_sub(width)?;
        let top = raw.checked_shr(shift)?.checked_shl(unused)?;
        Some(T::from_bits(if self.signed { (top as i64 >> unused) as u64 } else { top >> unused }))
    }
}

/// The bytes of an array member, such as `comm`; `None` when the struct's bytes end before it.
#[must_use]
pub fn member_bytes<'s>(structure: &'s [u8], info: &FieldInfo) -> Option<&'s [u8]> {
    let start = usize::try_from(info.offset).ok()?;
    structure.get(start..start.checked_add(usize::try_from(info.size).ok()?)?)
}

#[cfg(test)]
mod tests;
