//! The target's types: one model, whatever it was read from ([`dwarf`], [`btf`]).
//!
//! Types are found by name on demand: a kernel has 100,000 of them and a command needs twenty. A member is
//! asked for once, by name, through anonymous structs and unions; nothing here knows a kernel version.

pub mod btf;
pub mod dwarf;
pub mod field;
pub mod profile;

pub use field::Field;

/// A type within one [`TypeSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u64);

/// C's tag name spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tag {
    /// `struct NAME`
    Struct,
    /// `union NAME`
    Union,
    /// `enum NAME`
    Enum,
    /// `typedef ... NAME`
    Typedef,
    /// A base type such as `unsigned int`.
    Base,
}

impl Tag {
    /// As C writes it.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Struct => "struct",
            Self::Union => "union",
            Self::Enum => "enum",
            Self::Typedef => "typedef",
            Self::Base => "base type",
        }
    }
}

/// How the bits of an integer are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Unsigned integer.
    Unsigned,
    /// Two's complement.
    Signed,
    /// `char`-like.
    Char,
    /// `_Bool`.
    Bool,
    /// Anything else (floating point does not occur in a kernel's structures).
    Other,
}

/// A type, one level deep: what it refers to is another [`TypeId`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Type {
    /// `void`, or a function's missing result.
    Void,
    /// An integer.
    Base {
        /// Name as the compiler wrote it.
        name: String,
        /// Bytes; 0 where nobody says.
        size: u64,
        /// How it is read.
        encoding: Encoding,
    },
    /// A pointer of 8 bytes.
    Pointer(TypeId),
    /// An array; `count` is `None` for a flexible one.
    Array {
        /// Type of an element.
        element: TypeId,
        /// Elements.
        count: Option<u64>,
    },
    /// A struct or union with its members.
    Aggregate(Aggregate),
    /// An enumeration.
    Enum {
        /// Tag, if it has one.
        name: Option<String>,
        /// Bytes.
        size: u64,
        /// Names and values.
        values: Vec<(String, i128)>,
    },
    /// A typedef.
    Typedef {
        /// Its name.
        name: String,
        /// What it stands for.
        target: TypeId,
    },
    /// `const`, `volatile`, `restrict`, an attribute: the same layout as the target.
    Qualified(TypeId),
    /// A function.
    Function {
        /// Result.
        result: TypeId,
        /// Parameters in order.
        params: Vec<TypeId>,
    },
    /// Declared here, defined nowhere in this source.
    Forward {
        /// Which tag.
        tag: Tag,
        /// Its name.
        name: String,
    },
}

/// A struct or union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// [`Tag::Struct`] or [`Tag::Union`].
    pub tag: Tag,
    /// Tag name, if any.
    pub name: Option<String>,
    /// Bytes.
    pub size: u64,
    /// In declaration order.
    pub members: Vec<Member>,
}

/// A member of an [`Aggregate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `None` for an anonymous struct or union, whose members count as the outer one's.
    pub name: Option<String>,
    /// From the start of the aggregate.
    pub bit_offset: u64,
    /// Set for a bit-field only.
    pub bit_size: Option<u64>,
    /// Type of the member.
    pub ty: TypeId,
}

/// A member found by path, seen from the outermost struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldInfo {
    /// Bytes from the start of the struct (of the containing byte for a bit-field).
    pub offset: u64,
    /// Bytes the member takes; 0 for a flexible array.
    pub size: u64,
    /// For a bit-field: bits from the least significant bit of the byte at `offset`, and their number.
    pub bits: Option<(u32, u32)>,
    /// Type of the member.
    pub ty: TypeId,
}

/// Why a type or member is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// No complete type of that name.
    #[error("{source_name} has no complete `{tag} {name}`")]
    NoType {
        /// The file or table searched.
        source_name: String,
        /// `struct`, `union`, `enum`, `typedef` or `base type`.
        tag: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The type has no such member.
    #[error("`{container}` has no member `{member}`")]
    NoMember {
        /// The struct or union.
        container: String,
        /// The member asked for.
        member: String,
    },
    /// The debug information contradicts itself.
    #[error("{source_name} is damaged at {place:#x}: {reason}")]
    Damaged {
        /// The file or table.
        source_name: String,
        /// Offset of the entry.
        place: u64,
        /// What is wrong there.
        reason: String,
    },
    /// There are no types at all.
    #[error("{reason}")]
    Unavailable {
        /// Why, and which way remains.
        reason: String,
    },
    /// Whether there is such a type is not known: what would say so could not be read.
    #[error("{reason}")]
    Unread {
        /// What failed, and where.
        reason: String,
    },
}

/// Somewhere types are read from.
pub trait TypeSource: Send + Sync {
    /// The file or table, for messages.
    fn source_name(&self) -> &str;

    /// The complete type of that tag and name.
    ///
    /// # Errors
    /// [`TypeError::NoType`], or [`TypeError::Damaged`].
    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError>;

    /// The type itself.
    ///
    /// # Errors
    /// [`TypeError::Damaged`] when the entry cannot be read.
    fn get(&self, id: TypeId) -> Result<Type, TypeError>;
}
