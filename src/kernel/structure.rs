//! The members of one struct that are wanted, and how many of its bytes hold them: what a structure is fetched by.

use crate::types::{Field, FieldInfo, TypeError, TypeSource, field::Scalar};

/// A struct whose members are being resolved.
pub(super) struct Structure<'t> {
    types: &'t dyn TypeSource,
    name: &'static str,
    /// Offset and size of every member resolved so far.
    places: Vec<(u64, u64)>,
}

impl<'t> Structure<'t> {
    pub(super) fn new(types: &'t dyn TypeSource, name: &'static str) -> Self {
        Self { types, name, places: Vec::new() }
    }

    /// A scalar member by the first of `names` that the struct has.
    ///
    /// # Errors
    /// [`TypeError::NoMember`] with all of them; [`TypeError::NoType`] when there is no such struct.
    pub(super) fn field<T: Scalar>(&mut self, names: &[&str]) -> Result<Field<T>, TypeError> {
        let field = self.first(names, |name| Field::<T>::resolve(self.types, self.name, name))?;
        self.places.push((field.offset(), T::SIZE));
        Ok(field)
    }

    /// As [`Structure::field`], for what only some kernels have.
    ///
    /// # Errors
    /// [`TypeError::Damaged`]: absence is an answer, damage is not.
    pub(super) fn optional<T: Scalar>(&mut self, names: &[&str]) -> Result<Option<Field<T>>, TypeError> {
        present(self.field(names))
    }

    /// A member of any type.
    ///
    /// # Errors
    /// As [`Structure::field`].
    pub(super) fn member(&mut self, names: &[&str]) -> Result<FieldInfo, TypeError> {
        let info = self.first(names, |name| self.types.field(self.name, name))?;
        self.places.push((info.offset, info.size));
        Ok(info)
    }

    /// Offset and size of every member resolved so far.
    pub(super) fn places(&self) -> &[(u64, u64)] {
        &self.places
    }

    /// Bytes from the start of the struct that hold every member resolved so far.
    ///
    /// # Errors
    /// [`TypeError`] when the struct has no size.
    pub(super) fn bytes(&self) -> Result<usize, TypeError> {
        let size = self.types.struct_size(self.name)?;
        let ends = self.places.iter().map(|(offset, len)| offset.saturating_add(*len));
        Ok(usize::try_from(ends.max().unwrap_or(0).min(size)).unwrap_or(0))
    }

    fn first<M>(
        &self,
        names: &[&str],
        resolve: impl Fn(&str) -> Result<M, TypeError>,
    ) -> Result<M, TypeError> {
        let mut absent = None;
        for name in names {
            match resolve(name) {
                Err(error @ (TypeError::NoMember { .. } | TypeError::NoType { .. })) => absent = Some(error),
                outcome => return outcome,
            }
        }
        match absent {
            Some(error) if names.len() == 1 || matches!(error, TypeError::NoType { .. }) => Err(error),
            _ => Err(TypeError::NoMember { container: self.name.to_owned(), member: names.join("` or `") }),
        }
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
