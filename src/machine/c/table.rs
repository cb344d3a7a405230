//! The types declared so far, and the layout rules of the x86-64 System V ABI.

use std::collections::HashMap;

use crate::types::{Aggregate, Encoding, Member, Tag, Type, TypeError, TypeId, TypeSource};

/// Types in the order they were declared; a [`TypeId`] is an index.
#[derive(Debug, Clone, Default)]
pub struct TypeTable {
    types: Vec<Type>,
    names: HashMap<(Tag, String), TypeId>,
    aligns: HashMap<TypeId, u64>,
}

/// A member before it has an offset.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) name: Option<String>,
    pub(super) ty: TypeId,
    pub(super) bits: Option<u64>,
    pub(super) align: u64,
    pub(super) at: Option<u64>,
}

/// What stands behind a struct's closing brace.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape {
    pub(super) packed: bool,
    pub(super) align: u64,
    pub(super) size: Option<u64>,
}

impl TypeTable {
    pub(super) fn push(&mut self, ty: Type) -> TypeId {
        let id = TypeId(self.types.len() as u64);
        self.types.push(ty);
        id
    }

    pub(super) fn void(&mut self) -> TypeId {
        let known = self.iter().find_map(|(id, ty)| (*ty == Type::Void).then_some(id));
        known.unwrap_or_else(|| self.push(Type::Void))
    }

    /// The base type of that name, made on first use.
    pub(super) fn base(&mut self, name: &str, size: u64, encoding: Encoding) -> TypeId {
        if let Some(id) = self.names.get(&(Tag::Base, name.to_owned())) {
            return *id;
        }
        let id = self.push(Type::Base { name: name.to_owned(), size, encoding });
        self.names.insert((Tag::Base, name.to_owned()), id);
        id
    }

    pub(super) fn named(&self, tag: Tag, name: &str) -> Option<TypeId> {
        self.names.get(&(tag, name.to_owned())).copied()
    }

    /// The type of that tag and name, forward-declared on first use.
    pub(super) fn tagged(&mut self, tag: Tag, name: &str) -> TypeId {
        self.named(tag, name).unwrap_or_else(|| {
            let id = self.push(Type::Forward { tag, name: name.to_owned() });
            self.names.insert((tag, name.to_owned()), id);
            id
        })
    }

    /// Gives a type its name, in the place a forward declaration may already hold.
    pub(super) fn define(&mut self, tag: Tag, name: Option<&str>, ty: Type) -> TypeId {
        let Some(name) = name else { return self.push(ty) };
        let id = self.tagged(tag, name);
        if let Some(slot) = usize::try_from(id.0).ok().and_then(|index| self.types.get_mut(index)) {
            *slot = ty;
        }
        id
    }

    /// All types, in order.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0..).map(TypeId).zip(&self.types)
    }

    /// Alignment of a type in bytes.
    ///
    /// # Errors
    /// [`TypeError`] for an incomplete type.
    pub fn align_of(&self, id: TypeId) -> Result<u64, TypeError> {
        let mut id = id;
        loop {
            if let Some(align) = self.aligns.get(&id) {
                return Ok(*align);
            }
            id = match self.get(id)? {
                Type::Array { element: inner, .. }
                | Type::Typedef { target: inner, .. }
                | Type::Qualified(inner) => inner,
                _ => return Ok(self.size_of(id)?.max(1)),
            };
        }
    }

    /// Bytes of a type.
    ///
    /// # Errors
    /// [`TypeError`] for an incomplete type.
    pub fn size_of(&self, id: TypeId) -> Result<u64, TypeError> {
        if let Type::Forward { tag, name } = self.get(id)? {
            return Err(self.no_type(tag, &name));
        }
        (self as &dyn TypeSource).size_of(id)
    }

    pub(super) fn aggregate(
        &mut self,
        tag: Tag,
        name: Option<&str>,
        drafts: Vec<Draft>,
        shape: Shape,
    ) -> Result<TypeId, TypeError> {
        let (mut end, mut align) = (0_u64, shape.align.max(1));
        let mut members = Vec::new();
        for draft in drafts {
            let size = self.size_of(draft.ty)?;
            let natural = if shape.packed { 1 } else { self.align_of(draft.ty)? }.max(draft.align);
            let from = if tag == Tag::Union { 0 } else { end };
            let bit_offset = match (draft.at, draft.bits) {
                (Some(at), _) => at * 8,
                (None, None) => from.next_multiple_of(natural * 8),
                (None, Some(0)) => from.next_multiple_of(size * 8),
                (None, Some(width)) if from % (size * 8) + width > size * 8 => {
                    from.next_multiple_of(size * 8)
                }
                (None, Some(_)) => from,
            };
            align = align.max(natural);
            end = end.max(bit_offset + draft.bits.unwrap_or(size * 8));
            if draft.bits != Some(0) {
                members.push(Member { name: draft.name, bit_offset, bit_size: draft.bits, ty: draft.ty });
            }
        }
        let size = shape.size.unwrap_or_else(|| end.div_ceil(8).next_multiple_of(align));
        let aggregate = Aggregate { tag, name: name.map(str::to_owned), size, members };
        let id = self.define(tag, name, Type::Aggregate(aggregate));
        self.aligns.insert(id, align);
        Ok(id)
    }

    fn no_type(&self, tag: Tag, name: &str) -> TypeError {
        let tag = match tag {
            Tag::Struct => "struct",
            Tag::Union => "union",
            Tag::Enum => "enum",
            Tag::Typedef => "typedef",
            Tag::Base => "base type",
        };
        TypeError::NoType { source_name: self.source_name().to_owned(), tag, name: name.to_owned() }
    }
}

impl TypeSource for TypeTable {
    fn source_name(&self) -> &'static str {
        "the synthetic kernel's source"
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        let id = self.named(tag, name).ok_or_else(|| self.no_type(tag, name))?;
        match self.get(id)? {
            Type::Forward { .. } => Err(self.no_type(tag, name)),
            _ => Ok(id),
        }
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        let found = usize::try_from(id.0).ok().and_then(|index| self.types.get(index)).cloned();
        found.ok_or_else(|| TypeError::Damaged {
            source_name: self.source_name().to_owned(),
            place: id.0,
            reason: "no such type".to_owned(),
        })
    }
}
