//! Keeps per-CPU symbols right in a GDB that has moved the kernel by its KASLR slide.
//!
//! Before 6.15 the section `.data..percpu` is linked at address 0, and a per-CPU variable of CPU n is at
//! `__per_cpu_offset[n]` + symbol. `qOffsets` gives GDB one offset for all segments, so GDB's value of such a
//! symbol is too high by the slide, and every script that adds the two reads the wrong place. Taking the slide
//! off the array as GDB sees it makes the sum right again, in the kernel's own scripts and in ours, unmodified. A per-CPU
//! pointer in the target's memory was not moved: with that, the sum is too low by the slide.
//!
//! This is the one place where GDB is shown bytes that are not in the target: only those of that array, only
//! after it asked for the offsets, never with `--percpu-rebase=off`. Pure: addresses and bytes in, bytes out.

use crate::addr::{VirtAddr, little_endian};

/// Bytes of an element of `__per_cpu_offset[]`.
const WORD: usize = 8;

/// Where `__per_cpu_offset[]` is in a kernel whose per-CPU section is linked at 0, and the slide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercpuRebase {
    /// Run-time address of `__per_cpu_offset[]`, a multiple of 8.
    pub array: VirtAddr,
    /// Its elements.
    pub cpus: u64,
    /// KASLR slide, modulo 2^64.
    pub slide: u64,
}

/// The aligned addresses a rebase needs to see to treat `len` bytes from `addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// First address, a multiple of 8.
    pub start: VirtAddr,
    /// Bytes, a multiple of 8.
    pub len: usize,
}

impl PercpuRebase {
    /// The whole array elements that `len` bytes from `addr` touch; `None` when they touch none.
    ///
    /// An element can only be rebased when all of it is known: a borrow runs from its low bytes to its high ones.
    #[must_use]
    pub fn words(&self, addr: VirtAddr, len: usize) -> Option<Words> {
        let array_end = self.array.raw().checked_add(self.cpus.checked_mul(WORD as u64)?)?;
        let start = addr.raw().max(self.array.raw());
        let end = addr.raw().checked_add(len as u64)?.min(array_end);
        if start >= end {
            return None;
        }
        let start = VirtAddr::new(start).align_down(WORD as u64);
        let end = VirtAddr::new(end).checked_add(WORD as u64 - 1)?.align_down(WORD as u64);
        Some(Words { start, len: usize::try_from(end.wrapping_offset_from(start)).ok()? })
    }

    /// Replaces the part of `bytes` (read from `addr`) that lies in the array, given the array elements that
    /// [`PercpuRebase::words`] named, as they are in the target.
    pub fn apply(&self, addr: VirtAddr, bytes: &mut [u8], words: Words, elements: &[u8]) {
        let rebased = elements.chunks_exact(WORD).flat_map(|word| {
            let value = little_endian(word);
            value.wrapping_sub(self.slide).to_le_bytes()
        });
        for (at, byte) in (words.start.raw()..).zip(rebased) {
            let place = at.checked_sub(addr.raw()).and_then(|offset| usize::try_from(offset).ok());
            if let Some(target) = place.and_then(|offset| bytes.get_mut(offset)) {
                *target = byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARRAY: u64 = 0xffff_ffff_8220_0100;

    fn rebase() -> PercpuRebase {
        PercpuRebase { array: VirtAddr::new(ARRAY), cpus: 4, slide: 0x1100_0000 }
    }

    /// The target's memory around the array: every byte follows from its address.
    fn target(start: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|at| (start + at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]).collect()
    }

    /// The same memory as GDB should see it, one whole word at a time.
    fn expected(start: u64, len: usize) -> Vec<u8> {
        let mut memory = target(ARRAY - 64, 160);
        for word in memory[64..96].chunks_exact_mut(8) {
            let value = u64::from_le_bytes(word.try_into().unwrap());
            word.copy_from_slice(&value.wrapping_sub(0x1100_0000).to_le_bytes());
        }
        let from = (start - (ARRAY - 64)) as usize;
        memory[from..from + len].to_vec()
    }

    fn seen(start: u64, len: usize) -> Vec<u8> {
        let (rebase, addr) = (rebase(), VirtAddr::new(start));
        let mut bytes = target(start, len);
        if let Some(words) = rebase.words(addr, len) {
            assert_eq!((words.start.raw() % 8, words.len % 8), (0, 0));
            let array = target(words.start.raw(), words.len);
            rebase.apply(addr, &mut bytes, words, &array);
        }
        bytes
    }

    #[test]
    fn one_element() {
        assert_eq!(seen(ARRAY + 8, 8), expected(ARRAY + 8, 8));
        assert_ne!(seen(ARRAY + 8, 8), target(ARRAY + 8, 8));
    }

    #[test]
    fn outside_the_array_nothing_changes() {
        assert_eq!(rebase().words(VirtAddr::new(ARRAY - 8), 8), None);
        assert_eq!(rebase().words(VirtAddr::new(ARRAY + 32), 8), None);
        assert_eq!(rebase().words(VirtAddr::new(ARRAY), 0), None);
        assert_eq!(rebase().words(VirtAddr::new(u64::MAX), 8), None);
    }

    #[test]
    fn a_kernel_linked_above_where_it_runs() {
        let down = PercpuRebase { slide: 0_u64.wrapping_sub(0x20_0000), ..rebase() };
        let mut bytes = 0x1000_u64.to_le_bytes();
        let word = bytes;
        down.apply(down.array, &mut bytes, Words { start: down.array, len: 8 }, &word);
        assert_eq!(u64::from_le_bytes(bytes), 0x20_1000);
    }

    proptest! {
        #[test]
        fn any_read_sees_what_a_read_of_whole_words_sees(offset in 0_u64..120, len in 0_usize..40) {
            let start = ARRAY - 64 + offset;
            prop_assert_eq!(seen(start, len), expected(start, len));
        }
    }
}
