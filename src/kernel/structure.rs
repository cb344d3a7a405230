//! The members of one struct that are wanted, and how many of its bytes hold them: what a structure is fetched by.

use crate::types::{Field, FieldInfo, TypeError, TypeSource, field::Scalar};

/// A struct whose members are being resolved.
pub(super) struct Structure<'t> {
    types: &'t dyn TypeSource,
    name: &'static str,
    end: u64,
}

impl<'t> Structure<'t> {
    pub(super) fn new(types: &'t dyn TypeSource, name: &'static str) -> Self {
        Self { types, name, end: 0 }
    }

    /// A scalar member by the first of `names` that the struct has.
    ///
    /// # Errors
    /// [`TypeError::NoMember`] with all of them.
    pub(super) fn field<T: Scalar>(&mut self, names: &[&str]) -> Result<Field<T>, TypeError> {
        match self.optional(names)? {
            Some(field) => Ok(field),
            None => Err(self.missing(names)),
        }
    }

    /// As [`Structure::field`], for what only some kernels have.
    ///
    /// # Errors
    /// [`TypeError::Damaged`]: absence is an answer, damage is not.
    pub(super) fn optional<T: Scalar>(&mut self, names: &[&str]) -> Result<Option<Field<T>>, TypeError> {
        for name in names {
            if let Some(field) = present(Field::<T>::resolve(self.types, self.name, name))? {
                self.end = self.end.max(field.offset().saturating_add(T::SIZE));
                return Ok(Some(field));
            }
        }
        Ok(None)
    }

    /// A member of any type.
    ///
    /// # Errors
    /// As [`Structure::field`].
    pub(super) fn member(&mut self, names: &[&str]) -> Result<FieldInfo, TypeError> {
        for name in names {
            if let Some(info) = present(self.types.field(self.name, name))? {
                self.end = self.end.max(info.offset.saturating_add(info.size));
                return Ok(info);
            }
        }
        Err(self.missing(names))
    }

    /// Bytes from the start of the struct that hold every member resolved so far.
    ///
    /// # Errors
    /// [`TypeError`] when the struct has no size.
    pub(super) fn bytes(&self) -> Result<usize, TypeError> {
        let size = self.types.struct_size(self.name)?;
        Ok(usize::try_from(self.end.min(size)).unwrap_or(0))
    }

    fn missing(&self, names: &[&str]) -> TypeError {
        TypeError::NoMember { container: self.name.to_owned(), member: names.join("` or `") }
    }
}

/// Absence is an answer, damage is not.
pub(super) fn present<T>(outcome: Result<T, TypeError>) -> Result<Option<T>, TypeError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(TypeError::NoMember { .. } | TypeError::NoType { .. }) => Ok(None),
        Err(damage) => Err(damage),
    }
}
