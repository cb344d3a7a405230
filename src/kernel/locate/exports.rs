//! Symbols of a kernel for which there is no vmlinux: those it exports to its modules.
//!
//! `__ksymtab` and `__ksymtab_gpl` stand one after the other in read-only data, each sorted by name, and every
//! entry points, relative to itself, at its symbol and its name. A row of such entries cannot be mistaken for
//! anything else, so it is found by sampling; a name then costs a binary search. Among the exports are the
//! bases of the kernel's address space, and a function that loads the pointer to VMCOREINFO.
//! Source: `include/linux/export.h`, `include/linux/export-internal.h`, `kernel/module/main.c` (`find_symbol`).

use std::sync::Arc;

use crate::{addr::VirtAddr, paging::VirtMem};

use super::image::Image;

/// Distance of samples: a distribution's two tables take some 110 KiB together. Coarse, then finer.
const SAMPLE_STEPS: [u64; 3] = [96 << 10, 24 << 10, 4 << 10];
const SAMPLE_LEN: usize = 64;
const SAMPLES_AT_ONCE: usize = 16;

/// Bytes of an entry with (from 5.4) and without a namespace.
const STRIDES: [u64; 2] = [12, 8];

/// Entries in a row that must hold together.
const ROW: usize = 4;

/// Symbol names are at most 127 bytes for C, 511 for Rust; what follows these many decides nothing here.
const NAME_LEN: usize = 64;

/// Random bytes are no identifier of this length.
const SURE_NAME_LEN: usize = 6;

/// No kernel exports more.
const MAX_ENTRIES: i64 = 1 << 16;

/// Samples among which the one descent of names, where `__ksymtab_gpl` begins, is looked for.
const ORDER_SAMPLES: i64 = 16;

/// The tables of exported symbols.
pub(super) struct Exports {
    space: Arc<dyn VirtMem>,
    image: Arc<Image>,
    /// An entry of the tables; indices count from it, in both directions.
    origin: VirtAddr,
    stride: u64,
    /// First index and first index past the end of each sorted table.
    tables: Vec<(i64, i64)>,
}

struct Entry {
    value: VirtAddr,
    name: VirtAddr,
}

impl Exports {
    /// Looks for the tables in the image's read-only data.
    pub(super) fn find(space: &Arc<dyn VirtMem>, image: &Arc<Image>) -> Option<Self> {
        let rodata = image.rodata()?;
        SAMPLE_STEPS.iter().find_map(|step| {
            let places: Vec<VirtAddr> =
                (0..rodata.len / step).map(|sample| rodata.virt.wrapping_add(sample * step)).collect();
            places.chunks(SAMPLES_AT_ONCE).find_map(|places| {
                let samples = space.read_each::<SAMPLE_LEN>(places);
                places
                    .iter()
                    .zip(samples)
                    .find_map(|(place, sample)| Self::at(space, image, *place, &sample.ok()?))
            })
        })
    }

    /// The tables that `sample`, read at `place`, is a part of.
    fn at(space: &Arc<dyn VirtMem>, image: &Arc<Image>, place: VirtAddr, sample: &[u8]) -> Option<Self> {
        let (origin, stride) = row(image, place, sample)?;
        let (space, image) = (Arc::clone(space), Arc::clone(image));
        let mut exports = Self { space, image, origin, stride, tables: Vec::new() };
        exports.measure()?;
        Some(exports)
    }

    /// The address of an exported symbol.
    pub(super) fn lookup(&self, name: &str) -> Option<VirtAddr> {
        self.tables.iter().find_map(|(start, end)| {
            let (mut low, mut high) = (*start, *end);
            while low < high {
                let middle = low + (high - low) / 2;
                match self.name(middle)?.as_str().cmp(name) {
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Equal => return Some(self.entry(middle)?.value),
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
            None
        })
    }

    /// Address of the name of some entry: inside `__ksymtab_strings`.
    pub(super) fn a_name(&self) -> Option<VirtAddr> {
        Some(self.entry(0)?.name)
    }

    /// Finds where the tables begin and end, and where the second follows the first.
    fn measure(&mut self) -> Option<()> {
        let start = -self.extent(-1)?;
        let end = self.extent(1)? + 1;
        let step = ((end - start) / ORDER_SAMPLES).max(1);
        let mut samples: Vec<i64> = (start..end).step_by(usize::try_from(step).unwrap_or(1)).collect();
        samples.push(end - 1);
        let names: Vec<String> = samples.iter().map(|index| self.name(*index)).collect::<Option<_>>()?;
        let descent = names.iter().zip(names.iter().skip(1)).position(|(before, after)| before > after);
        let Some(at) = descent else {
            self.tables = vec![(start, end)];
            return Some(());
        };
        let (mut low, mut high) = (*samples.get(at)?, *samples.get(at + 1)?);
        let first = names.get(at)?;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.name(middle)? >= *first { low = middle } else { high = middle }
        }
        self.tables = vec![(start, high), (high, end)];
        Some(())
    }

    /// How far valid entries go from index 0 in one direction: doubling steps, then bisection.
    fn extent(&self, direction: i64) -> Option<i64> {
        let mut good = 0;
        let mut bad = 1;
        while self.is_row(direction * bad, direction) {
            good = bad;
            bad *= 2;
            if bad > MAX_ENTRIES {
                return None;
            }
        }
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if self.is_row(direction * middle, direction) { good = middle } else { bad = middle }
        }
        Some(good)
    }

    /// Whether the entry is one: a short name (`up`) may be there by chance, and the one before (seen from the
    /// origin) has to vouch for it.
    fn is_row(&self, index: i64, direction: i64) -> bool {
        let Some(name) = self.name(index) else { return false };
        let neighbour = || self.name(index - direction).map_or(0, |name| name.len());
        name.len() >= SURE_NAME_LEN || name.len() + neighbour() > SURE_NAME_LEN
    }

    fn addr(&self, index: i64) -> VirtAddr {
        self.origin.wrapping_add(index.wrapping_mul(self.stride.cast_signed()).cast_unsigned())
    }

    fn entry(&self, index: i64) -> Option<Entry> {
        let addr = self.addr(index);
        let mut bytes = [0; 8];
        self.space.read(addr, &mut bytes).ok()?;
        entry(&self.image, addr, &bytes)
    }

    fn name(&self, index: i64) -> Option<String> {
        let mut bytes = [0; NAME_LEN];
        self.space.read(self.entry(index)?.name, &mut bytes).ok()?;
        identifier(&bytes)
    }
}

/// The identifier that `bytes` begin with, cut at their end.
fn identifier(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|byte| *byte == 0).next()?;
    let letters = name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    (letters && !name.is_empty()).then(|| String::from_utf8(name.to_vec()).ok()).flatten()
}

/// The entry whose first eight bytes these are, if it points at a symbol in the image and a name in read-only data.
fn entry(image: &Image, addr: VirtAddr, bytes: &[u8]) -> Option<Entry> {
    let relative = |at: usize| {
        let offset = i32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        Some(addr.wrapping_add(at as u64).wrapping_add(i64::from(offset).cast_unsigned()))
    };
    let (value, name) = (relative(0)?, relative(4)?);
    let rodata = image.rodata()?;
    let named = rodata.virt <= name && name <= rodata.last();
    // A per-CPU variable of a kernel before 6.15 is exported at an offset from 0: far from the image, and right.
    (named && name != addr && value != addr).then_some(Entry { value, name })
}

/// The first place and stride in a sample at which several entries stand in a row.
fn row(image: &Image, place: VirtAddr, sample: &[u8]) -> Option<(VirtAddr, u64)> {
    STRIDES.iter().find_map(|&stride| {
        (0..stride).step_by(4).find_map(|phase| {
            let entries = sample.get(phase as usize..)?.chunks_exact(stride as usize);
            let (mut names, mut in_image) = (Vec::new(), 0);
            for (index, bytes) in (0_u64..).zip(entries) {
                let entry = entry(image, place.wrapping_add(phase + index * stride), bytes)?;
                in_image += usize::from(image.phys(entry.value).is_some());
                names.push(entry.name);
            }
            names.sort_unstable();
            names.dedup();
            (names.len().min(in_image) >= ROW).then(|| (place.wrapping_add(phase), stride))
        })
    })
}
