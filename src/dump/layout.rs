//! Which byte of RAM goes where in the file, and the arithmetic of ranges that a dump needs.

use super::{DumpError, elf};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};

/// The format of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Byte N of the file is physical address N.
    Raw,
    /// An ELF core (vmcore) as drgn and crash open it.
    Elf,
}

impl Format {
    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Elf => "elf",
        }
    }
}

/// The file offset of every byte of RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    format: Format,
    places: Vec<(PhysRange, u64)>,
    file_len: u64,
}

impl Layout {
    /// Lays out `ram`, which is ascending and disjoint. An ELF core holds its ranges one behind the other, each at
    /// its address modulo the page size.
    ///
    /// # Errors
    /// [`DumpError::NoLayout`] without RAM, or with more than a file can hold.
    pub fn new(format: Format, ram: &[PhysRange]) -> Result<Self, DumpError> {
        let too_long = || DumpError::NoLayout("it does not fit a file");
        let mut file_len = match format {
            Format::Raw => 0,
            Format::Elf => elf::HEADER_LEN,
        };
        let mut places = Vec::with_capacity(ram.len());
        for range in ram {
            let offset = match format {
                Format::Raw => range.start.raw(),
                Format::Elf => file_len.next_multiple_of(PAGE_SIZE) + range.start.offset_in(PAGE_SIZE),
            };
            places.push((*range, offset));
            file_len = offset.checked_add(range.len()).filter(|end| *end < 1 << 62).ok_or_else(too_long)?;
        }
        if places.is_empty() {
            return Err(DumpError::NoLayout("it is unknown (give the vmlinux, or --ram)"));
        }
        Ok(Self { format, places, file_len })
    }

    /// Its format.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the whole file.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Where the bytes of `range` stand, which lies in one range of RAM.
    #[must_use]
    pub fn offset(&self, range: PhysRange) -> Option<u64> {
        let (place, offset) =
            self.places.iter().find(|(place, _)| place.contains(range.start, range.len()))?;
        Some(offset + range.start.wrapping_offset_from(place.start))
    }
}

/// Cuts `range` at the multiples of `align`, a power of two.
pub(super) fn cut(range: PhysRange, align: u64) -> impl Iterator<Item = PhysRange> {
    let mut next = range.start;
    std::iter::from_fn(move || {
        let end = next.align_down(align).checked_add(align).map_or(range.end, |end| end.min(range.end));
        let piece = PhysRange::new(next, end)?;
        next = end;
        Some(piece)
    })
}

/// What of `ranges` is not in `taken`; both ascending and disjoint.
pub(super) fn subtract(ranges: &[PhysRange], taken: &[PhysRange]) -> Vec<PhysRange> {
    let mut rest = Vec::new();
    for range in ranges {
        let first = taken.partition_point(|taken| taken.end <= range.start);
        let mut from: PhysAddr = range.start;
        for taken in taken.iter().skip(first).take_while(|taken| taken.start < range.end) {
            rest.extend(PhysRange::new(from, taken.start.max(from)));
            from = taken.end.min(range.end).max(from);
        }
        rest.extend(PhysRange::new(from, range.end));
    }
    rest
}

/// What both of `ranges` and `with` hold; `ranges` ascending and disjoint.
pub(super) fn intersect(ranges: &[PhysRange], with: PhysRange) -> Vec<PhysRange> {
    let both = |range: &PhysRange| PhysRange::new(range.start.max(with.start), range.end.min(with.end));
    ranges.iter().filter_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Vec<PhysRange> {
        text.split_whitespace().map(|range| range.parse().unwrap()).collect()
    }

    fn shown(ranges: impl IntoIterator<Item = PhysRange>) -> String {
        ranges.into_iter().map(|range| range.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn arithmetic_of_ranges() {
        let ram = ranges("0x1000-0x5000 0x8000-0x9000");
        assert_eq!(shown(subtract(&ram, &[])), "0x1000-0x5000 0x8000-0x9000");
        assert_eq!(
            shown(subtract(&ram, &ranges("0-0x2000 0x3000-0x4000 0x4800-0x8800"))),
            "0x2000-0x3000 0x4000-0x4800 0x8800-0x9000"
        );
        assert_eq!(shown(subtract(&ram, &ranges("0-0x9000"))), "");
        assert_eq!(shown(intersect(&ram, ranges("0x4000-0x8800")[0])), "0x4000-0x5000 0x8000-0x8800");
        assert_eq!(
            shown(cut(ranges("0x1800-0x3800")[0], 0x1000)),
            "0x1800-0x2000 0x2000-0x3000 0x3000-0x3800"
        );
        let top = PhysRange::new(PhysAddr::new(u64::MAX - 1), PhysAddr::new(u64::MAX)).unwrap();
        assert_eq!(cut(top, 0x1000).count(), 1);
    }

    #[test]
    fn places() {
        let ram = ranges("0x1000-0x9fc00 1M-2M 4G-5G");
        let raw = Layout::new(Format::Raw, &ram).unwrap();
        assert_eq!(raw.offset(ranges("4G-5G")[0]), Some(4 << 30));
        assert_eq!(raw.file_len(), 5 << 30);
        let elf = Layout::new(Format::Elf, &ram).unwrap();
        assert_eq!(elf.offset(ranges("0x1000-0x2000")[0]), Some(elf::HEADER_LEN));
        assert_eq!(elf.offset(ranges("1M-2M")[0]), Some(elf::HEADER_LEN + 0x9f000));
        assert_eq!(elf.file_len(), elf::HEADER_LEN + 0x9f000 + (1 << 20) + (1 << 30));
        assert_eq!(elf.offset(ranges("0x9f000-0x9fe00")[0]), None);
        assert!(Layout::new(Format::Raw, &[]).is_err());
        assert!(Layout::new(Format::Elf, &ranges("0-0xffffffffffffffff")).is_err());
    }
}
