//! Finds the tables by what they are, where nothing names them.
//!
//! Reading all read-only data would do and costs megabytes; but the table of offsets, which is near, can be told from
//! a few of its bytes: sixteen numbers in order, close to each other. Samples find it, and the search goes outwards.

use super::{
    KallsymsError, Span,
    places::{NamesPlace, Places},
};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    paging::VirtMem,
    symbols::kallsyms::{
        Tokens,
        layout::{self, NamesAt},
        tokens::{INDEX_LEN, MAX_TABLE_LEN},
    },
};

/// Read-only data of a kernel: some 10 MiB, more with BTF.
const MAX_SEARCHED: u64 = 256 << 20;

/// Distance of samples: the offsets of a small distribution kernel take 250 KiB.
const SAMPLE_STEP: u64 = 64 << 10;
const SAMPLE_LEN: usize = 64;
/// Offsets of sixteen neighbours lie this close.
const MAX_SPREAD: i64 = 64 << 10;
/// ... and are not all of one place.
const MIN_DISTINCT: usize = 6;

const CHUNK: u64 = 256 << 10;
/// The tokens and their index may begin in one chunk and end in the next.
const OVERLAP: u64 = (MAX_TABLE_LEN + INDEX_LEN) as u64;

/// There is one; a few more may be somebody's joke.
const MAX_TOKEN_TABLES: u32 = 8;

/// The names begin somewhere before the tokens; read this much more until they do.
const REACH: u64 = 1 << 20;
const MAX_REACH: u64 = 64 << 20;

/// The tables in `spans`.
pub(super) fn places(memory: &dyn VirtMem, spans: &[Span]) -> Result<Places, KallsymsError> {
    let (mut searched, mut unread, mut tables) = (0, 0, 0);
    let (mut budget, mut failed) = (layout::MAX_MEASURED, None);
    for (span, start) in chunks(memory, spans) {
        let alone = CHUNK.min(span.len - start);
        let overlapping = (CHUNK + OVERLAP).min(span.len - start);
        let read = |len| memory.read_vec(span.start.wrapping_add(start), len as usize);
        searched += alone;
        // The next chunk may be what cannot be read.
        let Ok(bytes) = read(overlapping).or_else(|_| read(alone)) else {
            unread += alone;
            continue;
        };
        let Some(found) = Tokens::find(&bytes) else { continue };
        let (table, index) = (start + found.table as u64, start + found.index as u64);
        log::debug!("kallsyms_token_table at {}", span.start.wrapping_add(table));
        match around(memory, span, (table, index), &mut budget) {
            Ok(Some(places)) => return Ok(places),
            Ok(None) => {}
            // These tokens may be none: others are looked for, and what failed is said if there are none.
            Err(error) => _ = failed.get_or_insert(error),
        }
        tables += 1;
        if tables == MAX_TOKEN_TABLES {
            break;
        }
    }
    Err(failed.unwrap_or(KallsymsError::NotFound { bytes: searched, unread }))
}

/// The tables around tokens at the offsets `table` and `index` of `span`.
fn around(
    memory: &dyn VirtMem,
    span: Span,
    (table, index): (u64, u64),
    budget: &mut usize,
) -> Result<Option<Places>, KallsymsError> {
    let step = "searching kallsyms_names";
    let at = |offset: u64| span.start.wrapping_add(offset);
    let (mut bytes, mut start) = (Vec::new(), table);
    while start > 0 && table - start < MAX_REACH && *budget > 0 {
        let from = start.saturating_sub(REACH) / PAGE_SIZE * PAGE_SIZE;
        let more = memory.read_vec(at(from), (start - from) as usize);
        let mut more = more.map_err(|source| KallsymsError::Read { step, source })?;
        let fresh = more.len();
        more.append(&mut bytes);
        (bytes, start) = (more, from);
        let Some(found) = layout::names_before(&bytes, fresh, budget) else { continue };
        let NamesAt { num_syms, count, names, len, lengths, align, .. } = found;
        let index_end = at(index + INDEX_LEN as u64).raw();
        let num_syms = at(start + num_syms as u64).raw();
        return Ok(Some(Places {
            names: NamesPlace::Read {
                addr: at(start + names as u64),
                bytes: bytes.get(names..names + len).unwrap_or_default().to_vec(),
                count,
                lengths,
            },
            token_table: at(table),
            token_index: at(index),
            addresses: layout::addresses_around(num_syms, index_end, count, align),
        }));
    }
    Ok(None)
}

/// Chunks of the spans as offsets, those next to what looks like offsets first.
fn chunks(memory: &dyn VirtMem, spans: &[Span]) -> Vec<(Span, u64)> {
    let mut left = MAX_SEARCHED;
    let mut chunks = Vec::new();
    for span in spans {
        let len = span.len.min(left);
        left -= len;
        let hints = samples(memory, Span { len, ..*span });
        for start in (0..len).step_by(CHUNK as usize) {
            let middle = start + CHUNK / 2;
            let distance = hints.iter().map(|hint| hint.abs_diff(middle)).min();
            chunks.push((distance.unwrap_or(u64::MAX), *span, start));
        }
    }
    chunks.sort_by_key(|(distance, ..)| *distance);
    chunks.into_iter().map(|(_, span, start)| (span, start)).collect()
}

/// Offsets in `span` where samples look like the table of offsets.
fn samples(memory: &dyn VirtMem, span: Span) -> Vec<u64> {
    let places: Vec<u64> = (0..span.len).step_by(SAMPLE_STEP as usize).collect();
    let addrs: Vec<VirtAddr> = places.iter().map(|at| span.start.wrapping_add(*at)).collect();
    let read = places.into_iter().zip(memory.read_each::<SAMPLE_LEN>(&addrs));
    read.filter(|(_, bytes)| bytes.as_ref().is_ok_and(is_row)).map(|(at, _)| at).collect()
}

/// Whether `bytes` are numbers in order (ascending or descending, 32 bits) that lie close together.
fn is_row(bytes: &[u8; SAMPLE_LEN]) -> bool {
    let numbers: Vec<i64> =
        bytes.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_le_bytes(*word))).collect();
    let steps: Vec<i64> = numbers.iter().zip(numbers.iter().skip(1)).map(|(one, next)| next - one).collect();
    let ordered = steps.iter().all(|step| *step >= 0) || steps.iter().all(|step| *step <= 0);
    let distinct = steps.iter().filter(|step| **step != 0).count();
    ordered && distinct >= MIN_DISTINCT && steps.iter().sum::<i64>().abs() <= MAX_SPREAD
}
