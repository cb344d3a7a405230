//! Addresses of the three spaces a remote kernel lives in, ranges of them, and their text form.
//!
//! A physical address, a run-time virtual address and an address "as linked" in a `vmlinux` are three
//! types, so that none can stand where another is meant. Only [`crate::symbols::Relocated`] turns a
//! [`LinkAddr`] into a [`VirtAddr`]; only [`crate::paging`] turns a [`VirtAddr`] into a [`PhysAddr`].

use std::{fmt, str::FromStr};

/// Bytes in the smallest page of x86-64 (Intel SDM volume 3, section 4.5).
pub const PAGE_SIZE: u64 = 4096;

/// A number, size, address or range that is not written as this program reads them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct ParseError {
    text: String,
    wanted: &'static str,
}

/// Reads `0x...` as hexadecimal and anything else as decimal.
///
/// # Errors
/// When `text` is not such a number or does not fit 64 bits.
pub fn parse_number(text: &str) -> Result<u64, ParseError> {
    let digits = text.trim().replace('_', "");
    let parsed = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.map_err(|_| ParseError { text: text.to_owned(), wanted: "a number (0x... or decimal)" })
}

/// Reads a number with an optional binary suffix: `512`, `0x200`, `4k`, `2M`, `1G`.
///
/// # Errors
/// When `text` is not such a size or does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    with_suffix(text, "a size (bytes, or with k, M, G, T: 4k, 2M, 1G)")
}

/// Reads an address, which may have a suffix as a size has: `0x1000`, `4G`.
///
/// # Errors
/// When `text` is not such an address or does not fit 64 bits.
pub fn parse_address(text: &str) -> Result<u64, ParseError> {
    with_suffix(text, "an address (0x..., decimal, or with k, M, G, T)")
}

fn with_suffix(text: &str, wanted: &'static str) -> Result<u64, ParseError> {
    let bad = || ParseError { text: text.to_owned(), wanted };
    let trimmed = text.trim();
    let (digits, shift) = match trimmed.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (trimmed.get(..at), 10),
        Some((at, 'm' | 'M')) => (trimmed.get(..at), 20),
        Some((at, 'g' | 'G')) => (trimmed.get(..at), 30),
        Some((at, 't' | 'T')) => (trimmed.get(..at), 40),
        _ => (Some(trimmed), 0),
    };
    let number = parse_number(digits.ok_or_else(bad)?).map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The value.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of the space.
            #[must_use]
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// The address `bytes` before, or `None` below zero.
            #[must_use]
            pub fn checked_sub(self, bytes: u64) -> Option<Self> {
                self.0.checked_sub(bytes).map(Self)
            }

            /// The address `bytes` further on, modulo 2^64, as the kernel itself computes.
            #[must_use]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The address `bytes` before, modulo 2^64.
            #[must_use]
            pub const fn wrapping_sub(self, bytes: u64) -> Self {
                Self(self.0.wrapping_sub(bytes))
            }

            /// Distance from `start` in bytes, modulo 2^64.
            #[must_use]
            pub const fn wrapping_offset_from(self, start: Self) -> u64 {
                self.0.wrapping_sub(start.0)
            }

            /// The address rounded down to a multiple of `align`, a power of two.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// Bytes from the last multiple of `align`, a power of two.
            #[must_use]
            pub const fn offset_in(self, align: u64) -> u64 {
                self.0 & (align - 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                parse_number(text).map(Self)
            }
        }
    };
}

address!(
    /// A physical address: what goes into a TLP.
    PhysAddr
);
address!(
    /// A virtual address of the running kernel (or of a process), KASLR included.
    VirtAddr
);
impl VirtAddr {
    /// What a pointer to nothing holds.
    pub const NULL: Self = Self(0);

    /// Whether this is NULL.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address, unless it is NULL.
    #[must_use]
    pub fn non_null(self) -> Option<Self> {
        (!self.is_null()).then_some(self)
    }

    /// Whether it is in the half of all addresses that is the kernel's; the other is each process' own.
    #[must_use]
    pub const fn is_upper_half(self) -> bool {
        self.0 >> 63 == 1
    }
}

address!(
    /// An address as the linker wrote it into a `vmlinux`, before KASLR.
    LinkAddr
);

/// A number, such as a slide, that is shown and serialized as `0x...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl serde::Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The number that up to eight bytes are, the least significant first; of more, the first eight count.
#[must_use]
pub fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Bytes, such as a build id, as hexadecimal digits.
#[must_use]
pub fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Physical addresses `start..end`; `end` is exclusive and above `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhysRange {
    /// First address inside.
    pub start: PhysAddr,
    /// First address past the range.
    pub end: PhysAddr,
}

impl PhysRange {
    /// The range, or `None` when it would be empty or reversed.
    #[must_use]
    pub fn new(start: PhysAddr, end: PhysAddr) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The `len` bytes from `start`, or `None` when empty or past the end of the space.
    #[must_use]
    pub fn with_len(start: PhysAddr, len: u64) -> Option<Self> {
        Self::new(start, start.checked_add(len)?)
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(&self) -> u64 {
        self.end.wrapping_offset_from(self.start)
    }

    /// Whether all `len` bytes from `addr` lie inside.
    #[must_use]
    pub fn contains(&self, addr: PhysAddr, len: u64) -> bool {
        addr >= self.start && addr.checked_add(len).is_some_and(|end| end <= self.end)
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// `ranges` ascending and disjoint; those that touch or overlap become one.
#[must_use]
pub fn merged(ranges: impl IntoIterator<Item = PhysRange>) -> Vec<PhysRange> {
    let mut sorted: Vec<PhysRange> = ranges.into_iter().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<PhysRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

impl FromStr for PhysRange {
    type Err = ParseError;

    /// Reads `START-END`, both sizes as [`parse_size`] reads them, `END` exclusive.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError { text: text.to_owned(), wanted: "a range START-END with START below END" };
        let (start, end) = text.split_once('-').ok_or_else(bad)?;
        let (start, end) = (parse_size(start)?, parse_size(end)?);
        Self::new(PhysAddr::new(start), PhysAddr::new(end)).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(parse_number("0x10"), Ok(16));
        assert_eq!(parse_number("10"), Ok(10));
        assert!(parse_number("10x").is_err());
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("0x200"), Ok(512));
        assert!(parse_size("18446744073709551615k").is_err());
        assert!(parse_size("").is_err());
        assert_eq!(parse_address("1T"), Ok(1 << 40));
        assert!(parse_address("init_task").unwrap_err().to_string().contains("is not an address"));
    }

    #[test]
    fn bytes_are_a_number() {
        assert_eq!(little_endian(&[]), 0);
        assert_eq!(little_endian(&[0x34, 0x12]), 0x1234);
        assert_eq!(little_endian(&[0xff; 8]), u64::MAX);
        assert_eq!(little_endian(&[1, 0, 0, 0, 0, 0, 0, 0x80, 9]), 0x8000_0000_0000_0001);
    }

    #[test]
    fn ranges() {
        let range: PhysRange = "1M-2M".parse().unwrap();
        assert_eq!(range.to_string(), "0x100000-0x200000");
        assert!(range.contains(PhysAddr::new(0x1f_fff8), 8));
        assert!(!range.contains(PhysAddr::new(0x1f_fff9), 8));
        assert!(!range.contains(PhysAddr::new(u64::MAX), 8));
        assert!("2M-1M".parse::<PhysRange>().is_err());
    }

    #[test]
    fn ranges_that_touch_are_merged() {
        let ranges =
            |text: &str| text.split(' ').map(|range| range.parse().unwrap()).collect::<Vec<PhysRange>>();
        assert_eq!(merged(ranges("3-4 1-2 2-3 6-9 7-8")), ranges("1-4 6-9"));
        assert_eq!(merged([]), []);
    }
}
