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

/// Every table begins at a multiple of it.
const ALIGN: usize = 8;

/// Bytes that a name takes at least, its length included: with fewer, a number is no count.
const SHORTEST_NAME: usize = 2;

/// Names measured in one search: those of a few whole tables, so that numbers which only look like counts cannot make
/// it endless.
const MAX_MEASURED: usize = 16 * MAX_SYMBOLS;

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
    /// Bytes of each entry of `kallsyms_seqs_of_names`, when it stands between.
    pub seqs: Option<usize>,
}

/// Looks for the count, names and markers that end where the tokens begin (at `token_table`), nearest first.
#[must_use]
pub fn names_before(bytes: &[u8], token_table: usize) -> Option<NamesAt> {
    let before = bytes.get(..token_table)?;
    // `bytes` starts at a page, so that positions are aligned as addresses are.
    let (words, _) = before.as_chunks::<ALIGN>();
    let mut budget = MAX_MEASURED;
    words.iter().enumerate().rev().find_map(|(word, value)| {
        let count = usize::try_from(u64::from_le_bytes(*value)).ok()?;
        let names = (word + 1) * ALIGN;
        let plausible = (MIN_SYMBOLS..=MAX_SYMBOLS).contains(&count)
            && count.saturating_mul(SHORTEST_NAME) <= token_table.saturating_sub(names);
        if !plausible {
            return None;
        }
        [Lengths::ByteOrTwo, Lengths::Byte].into_iter().find_map(|lengths| {
            let measured = names::measure(before.get(names..)?, count, lengths);
            budget = budget.checked_sub(measured.as_ref().map_or_else(FormatError::place, |_| count))?;
            let (len, marks) = measured.ok()?;
            let markers = (names + len).next_multiple_of(ALIGN);
            [4, 8].into_iter().find_map(|width| {
                let end = markers_end(before, markers, width, &marks)?.next_multiple_of(ALIGN);
                let seqs = gap(token_table.checked_sub(end)?, count)?;
                Some(NamesAt { num_syms: word * ALIGN, count, names, len, lengths, seqs })
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

/// What `len` bytes between the markers and the tokens are: nothing, or a table with an entry for each symbol.
#[expect(clippy::option_option, reason = "no table there is an answer, bytes that are no table are none")]
fn gap(len: usize, count: usize) -> Option<Option<usize>> {
    if len == 0 {
        return Some(None);
    }
    [3, 4].into_iter().find(|width| (count * width).next_multiple_of(ALIGN) == len).map(Some)
}

/// Where the addresses of `count` symbols may be, when the count is at `num_syms` and the tokens' index ends at
/// `index_end`.
#[must_use]
pub fn addresses_around(num_syms: u64, index_end: u64, count: usize) -> Vec<Candidate> {
    let count = count as u64;
    let align = |addr: u64| addr.checked_next_multiple_of(ALIGN as u64).unwrap_or(addr);
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
