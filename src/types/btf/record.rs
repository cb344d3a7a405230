//! One record of BTF as it stands: 12 bytes that every kind has, and what follows them.
//!
//! Input: bytes and a place. Output: a [`Record`] that borrows from them. Lists (members, enumerators, parameters)
//! are read as they are walked; [`len`] makes sure beforehand that they end inside the section.
//!
//! Source: `struct btf_type` and the structs after it in `include/uapi/linux/btf.h`. The number of entries and the
//! kind are read as wide as the word lets them be: bits 16-23 and 29-30 were unused, thus 0, until somebody needed them.

use std::{fmt, marker::PhantomData};

use super::{Btf, Tag, TypeId};

/// Encoders write 16 bits of it.
const MAX_ENTRIES: usize = 1 << 17;

/// Bytes of `struct btf_type`.
const COMMON: usize = 12;

/// A record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'b> {
    /// Empty when it has none.
    pub name: &'b str,
    /// What it describes.
    pub kind: Kind<'b>,
}

/// What a record describes.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'b> {
    /// An integer.
    Int {
        /// Bytes.
        size: u32,
        /// `BTF_INT_SIGNED`.
        signed: bool,
        /// `BTF_INT_CHAR`.
        char: bool,
        /// `BTF_INT_BOOL`.
        bool: bool,
        /// Bits from the start of its storage.
        bit_offset: u8,
        /// Bits it has: fewer than its bytes have for a bit-field of an old encoder.
        bits: u8,
    },
    /// A pointer.
    Pointer(TypeId),
    /// An array.
    Array {
        /// Type of an element.
        element: TypeId,
        /// Elements; 0 for a flexible array too.
        count: u32,
    },
    /// A struct or union.
    Struct {
        /// Which.
        union: bool,
        /// Bytes.
        size: u32,
        /// In order.
        members: List<'b, RecordMember<'b>>,
    },
    /// An enum.
    Enum {
        /// Bytes.
        size: u32,
        /// `kind_flag`.
        signed: bool,
        /// Values of 64 bits (`BTF_KIND_ENUM64`).
        wide: bool,
        /// In order.
        values: List<'b, Enumerator<'b>>,
    },
    /// A struct or union that is declared, no more.
    Forward {
        /// Which.
        union: bool,
    },
    /// A typedef.
    Typedef(TypeId),
    /// `volatile`
    Volatile(TypeId),
    /// `const`
    Const(TypeId),
    /// `restrict`
    Restrict(TypeId),
    /// An attribute such as `__user` (`BTF_KIND_TYPE_TAG`).
    TypeTag(TypeId),
    /// A function; its type is a `Prototype`.
    Function {
        /// The prototype.
        prototype: TypeId,
        /// Who sees it.
        linkage: Linkage,
    },
    /// What a function takes and gives.
    Prototype {
        /// What it gives.
        result: TypeId,
        /// In order; a last one without type stands for `...`.
        params: List<'b, Param<'b>>,
    },
    /// A variable.
    Variable {
        /// Its type.
        ty: TypeId,
        /// Who sees it.
        linkage: Linkage,
    },
    /// An ELF section and the variables in it.
    Section {
        /// Bytes, 0 if not filled in.
        size: u32,
        /// In order.
        entries: List<'b, SectionEntry>,
    },
    /// A floating-point number.
    Float {
        /// Bytes.
        size: u32,
    },
    /// An attribute of a declaration.
    DeclTag(TypeId),
}

/// Who sees a function or variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Its own file.
    Static,
    /// Everybody.
    Global,
    /// It is defined elsewhere.
    Extern,
}

impl Linkage {
    fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::Global,
            2 => Self::Extern,
            _ => Self::Static,
        }
    }
}

/// A member of a struct or union.
#[derive(Debug, Clone, Copy)]
pub struct RecordMember<'b> {
    /// Empty for an anonymous one.
    pub name: &'b str,
    /// Its type.
    pub ty: TypeId,
    /// From the start of the struct.
    pub bit_offset: u32,
    /// Width of a bit-field of a current encoder, 0 for anything else.
    pub bit_size: u32,
}

/// A name and value of an enum.
#[derive(Debug, Clone, Copy)]
pub struct Enumerator<'b> {
    /// Its name.
    pub name: &'b str,
    /// Its value's bits, of 32 or 64.
    pub bits: u64,
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub struct Param<'b> {
    /// Empty when only its type is known.
    pub name: &'b str,
    /// Its type; 0 for `...`.
    pub ty: TypeId,
}

/// A variable's place in a section.
#[derive(Debug, Clone, Copy)]
pub struct SectionEntry {
    /// A `Variable`.
    pub variable: TypeId,
    /// Bytes from the start of the section.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

impl Record<'_> {
    /// The name space its name is in.
    pub(super) fn tag(&self) -> Option<Tag> {
        Some(match self.kind {
            Kind::Struct { union: false, .. } => Tag::Struct,
            Kind::Struct { union: true, .. } => Tag::Union,
            Kind::Enum { .. } => Tag::Enum,
            Kind::Typedef(_) => Tag::Typedef,
            Kind::Int { .. } | Kind::Float { .. } => Tag::Base,
            _ => return None,
        })
    }
}

/// What a record has several of.
pub trait Entry<'b>: Sized {
    /// Bytes of one.
    const STRIDE: usize;

    /// Reads one; `flag` is the record's `kind_flag`. `None` when its name is none.
    fn decode(bytes: &[u8], btf: &'b Btf, flag: bool) -> Option<Self>;
}

/// The entries after a record, each decoded when the walk reaches it.
pub struct List<'b, T> {
    bytes: &'b [u8],
    btf: &'b Btf,
    flag: bool,
    stride: usize,
    entry: PhantomData<T>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} entries]", self.len())
    }
}

impl<T> List<'_, T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.stride
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl<'b, T: Entry<'b>> List<'b, T> {
    fn new(tail: &'b [u8], count: usize, btf: &'b Btf, flag: bool) -> Option<Self> {
        Self::with_stride(tail, T::STRIDE, count, btf, flag)
    }

    fn with_stride(tail: &'b [u8], stride: usize, count: usize, btf: &'b Btf, flag: bool) -> Option<Self> {
        let bytes = tail.get(..stride.checked_mul(count)?)?;
        Some(Self { bytes, btf, flag, stride, entry: PhantomData })
    }

    /// The entries in order; `Err` for one whose name is none.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, &'static str>> + use<'b, T> {
        let Self { btf, flag, .. } = *self;
        let entries = self.bytes.chunks_exact(self.stride);
        entries.map(move |bytes| T::decode(bytes, btf, flag).ok_or("a name is outside the strings"))
    }
}

/// A little-endian word.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn id(bytes: &[u8], at: usize) -> Option<TypeId> {
    word(bytes, at).map(|id| TypeId(u64::from(id)))
}

/// The two shapes of what follows a record: so many bytes, and so many for each entry.
fn tail(kind: u32) -> Result<(usize, usize), &'static str> {
    Ok(match kind {
        1 | 14 | 17 => (4, 0),
        3 => (12, 0),
        4 | 5 | 15 | 19 => (0, 12),
        6 | 13 => (0, 8),
        2 | 7..=12 | 16 | 18 => (0, 0),
        _ => return Err("a record is of a kind nobody knows"),
    })
}

fn info(types: &[u8], at: usize) -> Option<(u32, usize, bool)> {
    let info = word(types, at.checked_add(4)?)?;
    Some((info >> 24 & 0x7f, (info & 0x00ff_ffff) as usize, info >> 31 == 1))
}

/// Bytes of the record at `at`, all of them inside `types`.
pub(super) fn len(types: &[u8], at: usize) -> Result<usize, &'static str> {
    const CUT: &str = "a record is cut off";
    let (kind, count, _) = info(types, at).ok_or(CUT)?;
    let (fixed, each) = tail(kind)?;
    if each > 0 && count > MAX_ENTRIES {
        return Err("a record has impossibly many entries");
    }
    // FUNC keeps its linkage where others count entries.
    let len = COMMON + fixed + each * count;
    let end = at.checked_add(len).ok_or(CUT)?;
    if end > types.len() { Err(CUT) } else { Ok(len) }
}

/// The record at `place` of `bytes`.
pub(super) fn read<'b>(bytes: &'b [u8], place: usize, btf: &'b Btf) -> Result<Record<'b>, &'static str> {
    decode(bytes, place, btf).ok_or("a record makes no sense")
}

fn decode<'b>(bytes: &'b [u8], place: usize, btf: &'b Btf) -> Option<Record<'b>> {
    let (kind, count, flag) = info(bytes, place)?;
    let name = btf.string(word(bytes, place)?)?;
    // A size or a type, whichever the kind has.
    let (size, target) = (word(bytes, place + 8)?, id(bytes, place + 8)?);
    let tail = bytes.get(place + COMMON..)?;
    let kind = match kind {
        1 => int(size, word(tail, 0)?),
        2 => Kind::Pointer(target),
        3 => Kind::Array { element: id(tail, 0)?, count: word(tail, 8)? },
        4 | 5 => Kind::Struct { union: kind == 5, size, members: List::new(tail, count, btf, flag)? },
        6 => Kind::Enum { size, signed: flag, wide: false, values: List::new(tail, count, btf, flag)? },
        7 => Kind::Forward { union: flag },
        8 => Kind::Typedef(target),
        9 => Kind::Volatile(target),
        10 => Kind::Const(target),
        11 => Kind::Restrict(target),
        12 => Kind::Function {
            prototype: target,
            linkage: Linkage::from_bits(u32::try_from(count).unwrap_or(u32::MAX)),
        },
        13 => Kind::Prototype { result: target, params: List::new(tail, count, btf, flag)? },
        14 => Kind::Variable { ty: target, linkage: Linkage::from_bits(word(tail, 0)?) },
        15 => Kind::Section { size, entries: List::new(tail, count, btf, flag)? },
        16 => Kind::Float { size },
        17 => Kind::DeclTag(target),
        18 => Kind::TypeTag(target),
        19 => {
            let values = List::with_stride(tail, WIDE_ENUMERATOR, count, btf, flag)?;
            Kind::Enum { size, signed: flag, wide: true, values }
        }
        _ => return None,
    };
    Some(Record { name, kind })
}

fn int(size: u32, data: u32) -> Kind<'static> {
    let [bits, _, bit_offset, encoding] = data.to_le_bytes();
    Kind::Int {
        size,
        signed: encoding & 1 != 0,
        char: encoding & 2 != 0,
        bool: encoding & 4 != 0,
        bit_offset,
        bits,
    }
}

impl<'b> Entry<'b> for RecordMember<'b> {
    const STRIDE: usize = 12;

    fn decode(bytes: &[u8], btf: &'b Btf, flag: bool) -> Option<Self> {
        let (name, ty, offset) = (btf.string(word(bytes, 0)?)?, id(bytes, 4)?, word(bytes, 8)?);
        let (bit_offset, bit_size) = if flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
        Some(Self { name, ty, bit_offset, bit_size })
    }
}

/// A value of 64 bits has four bytes more than one of 32.
const WIDE_ENUMERATOR: usize = 12;

impl<'b> Entry<'b> for Enumerator<'b> {
    const STRIDE: usize = 8;

    fn decode(bytes: &[u8], btf: &'b Btf, _: bool) -> Option<Self> {
        let (low, high) = (word(bytes, 4)?, word(bytes, 8).unwrap_or(0));
        Some(Self { name: btf.string(word(bytes, 0)?)?, bits: u64::from(high) << 32 | u64::from(low) })
    }
}

impl<'b> Entry<'b> for Param<'b> {
    const STRIDE: usize = 8;

    fn decode(bytes: &[u8], btf: &'b Btf, _: bool) -> Option<Self> {
        Some(Self { name: btf.string(word(bytes, 0)?)?, ty: id(bytes, 4)? })
    }
}

impl<'b> Entry<'b> for SectionEntry {
    const STRIDE: usize = 12;

    fn decode(bytes: &[u8], _: &'b Btf, _: bool) -> Option<Self> {
        Some(Self { variable: id(bytes, 0)?, offset: word(bytes, 4)?, size: word(bytes, 8)? })
    }
}
