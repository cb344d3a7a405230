//! The addresses of kallsyms, in each form they had.
//!
//! `kallsyms_addresses` (to 6.10) holds addresses; `kallsyms_offsets` holds offsets of 32 bits from
//! `kallsyms_relative_base`, or from their own place since a081b5789255 (7.0). With zero-based per-CPU variables (to
//! 6.14) a negative offset is counted down from the base and any other is an absolute value. What tells the forms
//! apart is `_text`, whose address is known. Source: `kernel/kallsyms.c` (`kallsyms_sym_address`).

/// What an entry of the table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// An address of 64 bits.
    Absolute,
    /// A distance from the base.
    Relative,
    /// A negative number n is the base - 1 - n; any other is an absolute value.
    AbsolutePercpu,
    /// A distance from the entry itself.
    PlaceRelative,
}

impl Encoding {
    /// Bytes of an entry.
    #[must_use]
    pub const fn width(self) -> u64 {
        match self {
            Self::Absolute => 8,
            _ => 4,
        }
    }

    /// Whether `kallsyms_relative_base` is needed.
    #[must_use]
    pub const fn needs_base(self) -> bool {
        matches!(self, Self::Relative | Self::AbsolutePercpu)
    }

    /// The address that the entry at run-time address `place` means.
    #[must_use]
    pub fn address(self, entry: &[u8], place: u64, base: u64) -> Option<u64> {
        if self == Self::Absolute {
            return Some(u64::from_le_bytes(*entry.first_chunk()?));
        }
        let offset = u32::from_le_bytes(*entry.first_chunk()?);
        let signed = i64::from(offset.cast_signed());
        Some(match self {
            Self::AbsolutePercpu if signed < 0 => base.wrapping_sub(1).wrapping_sub(signed.cast_unsigned()),
            Self::AbsolutePercpu => u64::from(offset),
            Self::PlaceRelative => place.wrapping_add(signed.cast_unsigned()),
            _ => base.wrapping_add(u64::from(offset)),
        })
    }

    /// All the addresses of a table that begins at run-time address `place`.
    #[must_use]
    pub fn addresses(self, table: &[u8], place: u64, base: u64) -> Vec<u64> {
        let places = (0..).map(|index: u64| place.wrapping_add(index.wrapping_mul(self.width())));
        let entries = table.chunks_exact(self.width() as usize);
        entries.zip(places).filter_map(|(entry, place)| self.address(entry, place, base)).collect()
    }
}

/// A place where the addresses may be, and the form they would have there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The form.
    pub encoding: Encoding,
    /// Run-time address of the table.
    pub table: u64,
    /// Run-time address of `kallsyms_relative_base`.
    pub base: Option<u64>,
}

impl Candidate {
    /// Run-time address of the entry at `index`.
    #[must_use]
    pub fn entry(&self, index: usize) -> u64 {
        self.table.wrapping_add((index as u64).wrapping_mul(self.encoding.width()))
    }
}
