//! Lookups in ORC tables: many at a time, each bounded.

use crate::{
    addr::VirtAddr,
    kernel::KernelError,
    paging::{VirtError, VirtMem, VirtOp},
    symbols::Relocated,
};

/// No kernel has more entries (Debian's have 400,000).
pub(super) const MAX_ENTRIES: u64 = 16 << 20;
/// `LOOKUP_BLOCK_SIZE` (`arch/x86/include/asm/orc_lookup.h`): bytes of text that one word of `orc_lookup` is about.
const BLOCK: u64 = 256;
/// Entries that are read at once; more of them are narrowed down first.
const FINAL: u64 = 512;
/// Places looked at in each round of narrowing.
const PROBES: u64 = 64;

/// A table of addresses and the one of entries beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    /// Signed 32-bit distances of code from the word itself.
    pub(super) ips: VirtAddr,
    /// Of `struct orc_entry`.
    pub(super) entries: VirtAddr,
    /// Of both.
    pub(super) count: u64,
    pub(super) blocks: Option<Blocks>,
}

/// `orc_lookup`: by block of text, the first entry that is about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    start: VirtAddr,
    text: VirtAddr,
    text_len: u64,
}

impl Table {
    /// The kernel's own.
    pub(super) fn of_image(symbols: &Relocated, entry_len: usize) -> Result<Self, KernelError> {
        let [ips, ips_end] = [symbols.addr("__start_orc_unwind_ip")?, symbols.addr("__stop_orc_unwind_ip")?];
        let [entries, end] = [symbols.addr("__start_orc_unwind")?, symbols.addr("__stop_orc_unwind")?];
        let count = ips_end.wrapping_offset_from(ips) / 4;
        if count.checked_mul(entry_len as u64) != Some(end.wrapping_offset_from(entries))
            || count > MAX_ENTRIES
        {
            return Err(KernelError::Inconsistent {
                step: "finding the ORC tables",
                addr: entries,
                reason: format!("the table of addresses has {count} words, that of entries another number"),
            });
        }
        Ok(Self { ips, entries, count, blocks: Blocks::of(symbols) })
    }
}

impl Blocks {
    /// `None` unless it covers the kernel's text exactly.
    fn of(symbols: &Relocated) -> Option<Self> {
        let [start, end] = [symbols.find("orc_lookup")?, symbols.find("orc_lookup_end")?];
        let [text, text_end] = [symbols.find("_stext")?, symbols.find("_etext")?];
        let text_len = text_end.wrapping_offset_from(text);
        let words = text_len.div_ceil(BLOCK).checked_add(1)?;
        (end.wrapping_offset_from(start) == words.checked_mul(4)?).then_some(Self { start, text, text_len })
    }

    /// Where the words are that bound the entries for `addr`.
    fn words(&self, addr: VirtAddr) -> Option<VirtAddr> {
        let offset = addr.wrapping_offset_from(self.text);
        (offset < self.text_len).then(|| self.start.wrapping_add(offset / BLOCK * 4))
    }
}

/// A lookup on its way: the entry is the last whose address is not above `addr`, and at `low` or behind it, before
/// `high`.
struct Search<'t> {
    table: &'t Table,
    addr: VirtAddr,
    low: u64,
    high: u64,
    failed: Option<VirtError>,
}

impl Search<'_> {
    fn is_wide(&self) -> bool {
        self.failed.is_none() && self.high.saturating_sub(self.low) > FINAL
    }

    fn probes(&self) -> impl Iterator<Item = u64> + use<> {
        let (low, len) = (self.low, self.high.saturating_sub(self.low));
        (0..PROBES).map(move |at| low.saturating_add(len * at / PROBES))
    }

    /// Whether the entry at `at`, whose word is `word`, starts at or before the address looked up.
    fn starts_before(&self, at: u64, word: &[u8; 4]) -> bool {
        let place = self.table.ips.wrapping_add(at.wrapping_mul(4));
        place.wrapping_add(i64::from(i32::from_le_bytes(*word)) as u64) <= self.addr
    }
}

/// Finds the entries for addresses, each in its table, in their order; `None` where the table begins later.
pub(super) fn find<'t>(
    memory: &dyn VirtMem,
    entry_len: usize,
    wanted: impl Iterator<Item = (&'t Table, VirtAddr)>,
) -> Vec<Result<Option<Vec<u8>>, VirtError>> {
    let all = |(table, addr): (&'t Table, VirtAddr)| Search {
        table,
        addr,
        low: 0,
        high: table.count.min(MAX_ENTRIES),
        failed: None,
    };
    let mut searches: Vec<Search<'_>> = wanted.map(all).collect();
    use_blocks(memory, &mut searches);
    // Each round leaves less than a 32nd of a range: five of them leave of the largest table one entry.
    for _ in 0..8 {
        narrow(memory, &mut searches);
    }
    take(memory, entry_len, searches)
}

/// Bounds the searches of the kernel's text by `orc_lookup`; what it says is not believed when it cannot be.
fn use_blocks(memory: &dyn VirtMem, searches: &mut [Search<'_>]) {
    let words = |search: &Search<'_>| search.table.blocks.and_then(|blocks| blocks.words(search.addr));
    let places: Vec<VirtAddr> = searches.iter().filter_map(words).collect();
    let mut buffers = vec![[0; 8]; places.len()];
    let read = read(memory, places.iter().copied().zip(buffers.iter_mut().map(|buf| &mut buf[..])));
    let mut answers = buffers.iter().zip(read);
    for search in searches.iter_mut().filter(|search| words(search).is_some()) {
        let Some((bytes, Ok(()))) = answers.next() else { continue };
        let [l0, l1, l2, l3, h0, h1, h2, h3] = *bytes;
        let low = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        let high = u64::from(u32::from_le_bytes([h0, h1, h2, h3])) + 1;
        if low < high && high <= search.high {
            (search.low, search.high) = (low, high);
        }
    }
}

/// One round: every wide range is looked at in [`PROBES`] places.
fn narrow(memory: &dyn VirtMem, searches: &mut [Search<'_>]) {
    let places: Vec<VirtAddr> = searches
        .iter()
        .filter(|search| search.is_wide())
        .flat_map(|search| search.probes().map(|at| search.table.ips.wrapping_add(at.wrapping_mul(4))))
        .collect();
    let mut words = vec![[0; 4]; places.len()];
    let read = read(memory, places.into_iter().zip(words.iter_mut().map(|word| &mut word[..])));
    let mut answers = words.iter().zip(read);
    for search in searches.iter_mut().filter(|search| search.is_wide()) {
        let (mut low, mut high) = (search.low, search.high);
        for at in search.probes() {
            match answers.next() {
                Some((word, Ok(()))) if search.starts_before(at, word) => low = low.max(at),
                Some((_, Ok(()))) => high = high.min(at.max(low)),
                Some((_, Err(error))) => search.failed = Some(error),
                None => {}
            }
        }
        (search.low, search.high) = (low, high);
    }
}

/// Reads what is left of the ranges, addresses and entries, and picks.
fn take(
    memory: &dyn VirtMem,
    entry_len: usize,
    searches: Vec<Search<'_>>,
) -> Vec<Result<Option<Vec<u8>>, VirtError>> {
    let mut buffers: Vec<(Vec<u8>, Vec<u8>)> = searches
        .iter()
        .map(|search| {
            let len =
                if search.failed.is_some() { 0 } else { search.high.saturating_sub(search.low).min(FINAL) };
            (vec![0; len as usize * 4], vec![0; len as usize * entry_len])
        })
        .collect();
    let ops = searches.iter().zip(&mut buffers).flat_map(|(search, (ips, entries))| {
        let table = search.table;
        let entry = search.low.wrapping_mul(entry_len as u64);
        [
            (table.ips.wrapping_add(search.low.wrapping_mul(4)), &mut ips[..]),
            (table.entries.wrapping_add(entry), &mut entries[..]),
        ]
    });
    let mut results = read(memory, ops).into_iter();
    let mut found = Vec::with_capacity(searches.len());
    for (search, (ips, entries)) in searches.into_iter().zip(buffers) {
        let outcome = [results.next(), results.next()].into_iter().flatten().collect::<Result<Vec<()>, _>>();
        let words = ips.as_chunks::<4>().0;
        let before =
            (search.low..).zip(words).take_while(|(at, word)| search.starts_before(*at, word)).count();
        let entry = before.checked_sub(1).and_then(|at| entries.chunks_exact(entry_len.max(1)).nth(at));
        found.push(match search.failed {
            Some(error) => Err(error),
            None => outcome.map(|_| entry.map(<[u8]>::to_vec)),
        });
    }
    found
}

fn read<'b>(
    memory: &dyn VirtMem,
    places: impl Iterator<Item = (VirtAddr, &'b mut [u8])>,
) -> Vec<Result<(), VirtError>> {
    let mut ops: Vec<VirtOp<'_>> = places.map(|(addr, buf)| VirtOp::new(addr, buf)).collect();
    for op in ops.iter_mut().filter(|op| op.buf.is_empty()) {
        op.result = Ok(());
    }
    memory.read_batch(&mut ops);
    ops.into_iter().map(|op| if op.buf.is_empty() { Ok(()) } else { op.result }).collect()
}
