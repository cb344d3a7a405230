//! ELF cores of physical memory (`/proc/vmcore`, kdump, QEMU's `dump-guest-memory`, our own `dump`): which bytes
//! of the file are which physical addresses.
//!
//! Input: the file, read at offsets; its headers are not trusted. Output: stretches, ascending and disjoint. Only
//! `p_paddr`, `p_offset` and `p_filesz` count here; what the virtual addresses mean is not known to this module.
//! Source: ELF-64 object file format, version 1.5, and `fs/proc/vmcore.c`.

use std::io;

use crate::addr::{PhysAddr, PhysRange};

/// What a file begins with that may be an ELF core.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
/// From here on the number of program headers stands elsewhere.
const PN_XNUM: u16 = 0xffff;
/// What `/proc/kcore` gives as physical address of memory that has no fixed one.
const NO_PADDR: u64 = u64::MAX;

/// A stretch of a file that is a stretch of physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) range: PhysRange,
    pub(super) offset: u64,
}

/// Why the headers cannot be used.
#[derive(Debug)]
pub(super) enum Defect {
    /// They cannot be read.
    Io(io::Error),
    /// They are not of a core of physical memory.
    Kind(&'static str),
}

/// Reads the headers through `read_at`, which fills a buffer from an offset of the file.
pub(super) fn stretches(read_at: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Result<Vec<Stretch>, Defect> {
    let mut header = [0; EHDR_LEN];
    read_at(&mut header, 0).map_err(Defect::Io)?;
    let (offset, count) = program_headers(&header).map_err(Defect::Kind)?;
    let mut table = vec![0; usize::from(count) * PHDR_LEN];
    read_at(&mut table, offset).map_err(Defect::Io)?;
    loads(&table).map(disjoint).map_err(Defect::Kind)
}

/// Offset and number of the program headers.
fn program_headers(header: &[u8; EHDR_LEN]) -> Result<(u64, u16), &'static str> {
    let (class, data) = (header.get(4).copied(), header.get(5).copied());
    let half = |at| u16_at(header, at).unwrap_or_default();
    if class != Some(ELFCLASS64) || data != Some(ELFDATA2LSB) || half(18) != EM_X86_64 {
        return Err("an ELF file, but not of x86-64");
    }
    if half(16) != ET_CORE {
        return Err("an ELF file, but not a core: it holds no physical memory");
    }
    if usize::from(half(54)) != PHDR_LEN || half(56) == PN_XNUM {
        return Err("an ELF core with program headers of another size or too many of them");
    }
    Ok((u64_at(header, 32).unwrap_or_default(), half(56)))
}

fn loads(table: &[u8]) -> Result<Vec<Stretch>, &'static str> {
    let mut loads = Vec::new();
    for header in table.chunks_exact(PHDR_LEN).filter(|header| u32_at(header, 0) == Some(PT_LOAD)) {
        let word = |at| u64_at(header, at).unwrap_or_default();
        let (offset, phys, len) = (word(8), word(24), word(32));
        if len == 0 || phys == NO_PADDR {
            continue;
        }
        let range =
            PhysRange::with_len(PhysAddr::new(phys), len).filter(|_| offset.checked_add(len).is_some());
        loads.push(Stretch { range: range.ok_or("an ELF core whose segments pass 2^64")?, offset });
    }
    match loads.as_slice() {
        [] => Err("an ELF core without memory; is it of a dump that has not ended?"),
        [_, _, ..] if loads.iter().all(|load| load.range.start.raw() == 0) => {
            Err("an ELF core without physical addresses; is it of a process?")
        }
        _ => Ok(loads),
    }
}

/// Ascending, each address once. A core may map memory twice, such as the kernel's text beside the direct map:
/// the same bytes, at one place in the file or (in `/proc/vmcore`) at two.
fn disjoint(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort_by_key(|stretch| stretch.range.start);
    let mut end = PhysAddr::new(0);
    let mut kept = Vec::with_capacity(stretches.len());
    for Stretch { range, offset } in stretches {
        let start = range.start.max(end);
        let Some(rest) = PhysRange::new(start, range.end) else { continue };
        kept.push(Stretch { range: rest, offset: offset + start.wrapping_offset_from(range.start) });
        end = range.end;
    }
    kept
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(file: &[u8]) -> Result<Vec<(u64, u64, u64)>, String> {
        let read_at = |buf: &mut [u8], offset: u64| {
            let from = usize::try_from(offset).ok().and_then(|offset| file.get(offset..)?.get(..buf.len()));
            buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        match stretches(read_at) {
            Ok(found) => {
                Ok(found.iter().map(|s| (s.range.start.raw(), s.range.end.raw(), s.offset)).collect())
            }
            Err(Defect::Kind(reason)) => Err(reason.to_owned()),
            Err(Defect::Io(error)) => Err(error.to_string()),
        }
    }

    /// A core with a PT_LOAD for each (physical address, file offset, length).
    fn core(loads: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(EHDR_LEN, 0);
        for (at, value) in [(16, ET_CORE), (18, EM_X86_64), (32, 64), (54, 56), (56, loads.len() as u16)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        for (phys, offset, len) in loads {
            let mut header = [0; PHDR_LEN];
            header[0] = PT_LOAD as u8;
            for (at, value) in [(8, offset), (24, phys), (32, len), (40, len)] {
                header[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn memory_mapped_twice_is_there_once() {
        let file = core(&[(0x10_0000, 0x1000, 0x10_0000), (0x12_0000, 0x21_000, 0x1000), (0, 0x500, 0x400)]);
        assert_eq!(parse(&file).unwrap(), [(0, 0x400, 0x500), (0x10_0000, 0x20_0000, 0x1000)]);
        let file = core(&[(0x2000, 0x9000, 0x2000), (0x1000, 0x5000, 0x2000), (NO_PADDR, 0, 0x1000)]);
        assert_eq!(parse(&file).unwrap(), [(0x1000, 0x3000, 0x5000), (0x3000, 0x4000, 0xa000)]);
    }

    #[test]
    fn what_is_no_core_of_physical_memory_is_refused() {
        assert!(parse(&core(&[])).unwrap_err().contains("has not ended"));
        assert!(parse(&core(&[(0, 0, 8), (0, 8, 8)])).unwrap_err().contains("of a process"));
        assert!(parse(&core(&[(u64::MAX - 8, 0, 16)])).unwrap_err().contains("2^64"));
        assert!(parse(&core(&[(0, u64::MAX, 16)])).unwrap_err().contains("2^64"));
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert!(parse(&program).unwrap_err().contains("not a core"));
        assert!(parse(&core(&[(0, 0, 8)])[..100]).is_err());
    }

    proptest! {
        #[test]
        fn hostile_headers_end_in_disjoint_stretches(
            loads in proptest::collection::vec(any::<(u64, u64, u64)>(), 0..8),
            at in 16..EHDR_LEN,
            value: u8,
        ) {
            let mut file = core(&loads);
            file[at] = value;
            if let Ok(found) = parse(&file) {
                prop_assert!(found.iter().all(|(start, end, _)| start < end));
                prop_assert!(found.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            }
        }
    }
}
