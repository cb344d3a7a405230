//! Where the tables of kallsyms lie around its tokens, told by their own structure.
//!
//! Two orders exist: addresses, base, count, names, markers, (sequence), tokens, index; and since 404bad70fcf7 (6.4)
//! count, names, markers, tokens, index, addresses, base, (sequence). Stable kernels moved parts one by one, so nothing
//! is taken from a version: in both the count, the names and the markers stand before the tokens, and three tables that
//! confirm each other to the byte are found by trying every word as the count. Source: `scripts/kallsyms.c`.

use super::{
    FormatError, MAX_SYMBOLS, MIN_SYMBOLS,
    addresses::{Candidate, Encoding},
    names::{self, Lengths},
};

/// What every table begins at a multiple of: 4 where no table holds addresses of 64 bits any more (7.0).
const ALIGNMENTS: [usize; 2] = [8, 4];

/// Bytes that a name takes at least, its length included: with fewer, a number is no count.
const SHORTEST_NAME: usize = 2;

/// Names measured in one search, however many tables of tokens it finds: those of a few whole tables, so that numbers
/// which only look like counts cannot make it endless.
pub const MAX_MEASURED: usize = 16 * MAX_SYMBOLS;

/// The tables before the tokens, as positions in the bytes searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesAt {
    /// Position of `kallsyms_num_syms`.
    pub num_syms: usize,
    /// Its value.
    pub count: usize,
    /// Position of `kallsyms_names`.
    pub names: usize,
    /// Bytes of it.
    pub len: usize,
    /// How lengths are written.
    pub lengths: Lengths,
    /// What the tables are aligned to.
    pub align: usize,
}

/// Looks for the count, names and markers that end where the tokens begin (at the end of `before`), nearest first.
/// Positions in `before` are aligned as addresses are; the count is among the first `fresh` bytes. `budget` is how many
/// names may be measured, at first [`MAX_MEASURED`].
pub fn names_before(before: &[u8], fresh: usize, budget: &mut usize) -> Option<NamesAt> {
    ALIGNMENTS.into_iter().find_map(|align| {
        let words = before.get(..fresh).unwrap_or(before).chunks_exact(align);
        words.enumerate().rev().find_map(|(word, value)| {
            let count = value.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
            tables_at(before, word * align, count, align, budget)
        })
    })
}

/// The tables, if `num_syms` is the position of the count.
fn tables_at(
    before: &[u8],
    num_syms: usize,
    count: usize,
    align: usize,
    budget: &mut usize,
) -> Option<NamesAt> {
    let names = num_syms + align;
    let bytes = before.get(names..)?;
    let plausible = (MIN_SYMBOLS..=MAX_SYMBOLS).contains(&count) && count * SHORTEST_NAME <= bytes.len();
    if !plausible {
        return None;
    }
    [Lengths::ByteOrTwo, Lengths::Byte].into_iter().find_map(|lengths| {
        if *budget == 0 {
            return None;
        }
        let measured = names::measure(bytes, count, lengths);
        *budget = budget.saturating_sub(measured.as_ref().map_or_else(FormatError::place, |_| count));
        let (len, marks) = measured.ok()?;
        let markers = (names + len).next_multiple_of(align);
        [4, 8].into_iter().find_map(|width| {
            let end = markers_end(before, markers, width, &marks)?.next_multiple_of(align);
            let rest = before.len().checked_sub(end)?;
            (rest == 0 || is_sequence(rest, count, align)).then_some(NamesAt {
                num_syms,
                count,
                names,
                len,
                lengths,
                align,
            })
        })
    })
}

/// Where `kallsyms_markers` ends, if it is at `at` and says `marks` in words of `width` bytes (8 before 4.20).
fn markers_end(bytes: &[u8], at: usize, width: usize, marks: &[u64]) -> Option<usize> {
    let end = at.checked_add(marks.len().checked_mul(width)?)?;
    let mut noted = bytes.get(at..end)?.chunks_exact(width);
    let same =
        marks.iter().zip(&mut noted).all(|(mark, noted)| mark.to_le_bytes().get(..width) == Some(noted));
    same.then_some(end)
}

/// Whether `len` bytes between the markers and the tokens may be `kallsyms_seqs_of_names`, with an entry for each symbol.
fn is_sequence(len: usize, count: usize, align: usize) -> bool {
    [3, 4].into_iter().any(|width| (count * width).next_multiple_of(align) == len)
}

/// Where the addresses of `count` symbols may be, when the count is at `num_syms` and the tokens' index ends at
/// `index_end`. All tables are aligned to `align`.
#[must_use]
pub fn addresses_around(num_syms: u64, index_end: u64, count: usize, align: usize) -> Vec<Candidate> {
    let count = count as u64;
    let align = |addr: u64| addr.checked_next_multiple_of(align as u64).unwrap_or(addr);
    let base_before = num_syms.wrapping_sub(8);
    let offsets_before = base_before.wrapping_sub(align(count * 4));
    let offsets_after = align(index_end);
    let base_after = align(offsets_after.wrapping_add(count * 4));
    vec![
        Candidate { encoding: Encoding::AbsolutePercpu, table: offsets_before, base: Some(base_before) },
        Candidate { encoding: Encoding::Relative, table: offsets_before, base: Some(base_before) },
        Candidate { encoding: Encoding::PlaceRelative, table: offsets_after, base: None },
        Candidate { encoding: Encoding::AbsolutePercpu, table: offsets_after, base: Some(base_after) },
        Candidate { encoding: Encoding::Relative, table: offsets_after, base: Some(base_after) },
        Candidate {
            encoding: Encoding::Absolute,
            table: num_syms.wrapping_sub(count.wrapping_mul(8)),
            base: None,
        },
        Candidate { encoding: Encoding::Absolute, table: offsets_after, base: None },
    ]
}
