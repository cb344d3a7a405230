//! An address space: a batched page-table walk and the reads it leads to.

use std::sync::Arc;

use super::{
    Levels, Translation, VirtError, VirtFault, VirtMem, VirtOp,
    paths::{Path, Paths},
};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    mem::{PhysMem, ReadOp},
};

pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// PWT and PCD: with neither set memory is write-back, whatever the PAT bit.
pub(super) const UNCACHED: u64 = 1 << 3 | 1 << 4;
const PAGE: u64 = 1 << 7;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12 of an entry (Intel SDM volume 3, tables 4-15 to 4-20).
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Levels whose entries may map a page: 4 KiB, 2 MiB and 1 GiB.
const LARGEST_LEAF: u32 = 3;

/// Size in bytes of what one entry of a table of `level` covers.
pub(super) const fn coverage(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

/// Size in bytes of the page that an entry of a table of `level` can map; `None` where entries map none.
pub(crate) fn page_size(level: u32) -> Option<u64> {
    (1..=LARGEST_LEAF).contains(&level).then(|| coverage(level))
}

/// What a present entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeadsTo {
    /// A table of the next level.
    Table(PhysAddr),
    /// A page as large as the level's entries cover.
    Page(PhysAddr),
    /// Nothing: a processor faults.
    Malformed,
}

impl LeadsTo {
    /// Decodes an entry of a table of `level`.
    pub(super) fn of(level: u32, entry: u64, encryption_mask: u64) -> Self {
        let frame = entry & ADDRESS & !encryption_mask;
        if level > 1 && entry & PAGE == 0 {
            return Self::Table(PhysAddr::new(frame));
        }
        // Bit 12 of a large page's entry is its PAT bit; the others below its size are reserved.
        let below = frame & (coverage(level) - 1);
        let pat = if level > 1 { PAGE_SIZE } else { 0 };
        if level > LARGEST_LEAF || below & !pat != 0 {
            return Self::Malformed;
        }
        Self::Page(PhysAddr::new(frame - below))
    }
}

/// Batches of more pages are not guessed at: they are bulk data, or new.
const MAX_GUESSED: usize = 256;

/// Page tables over physical memory.
pub struct AddressSpace {
    mem: Arc<dyn PhysMem>,
    root: PhysAddr,
    levels: Levels,
    encryption_mask: u64,
    paths: Paths,
}

/// A walk under way: the page asked for, and what is known of it.
struct Walk {
    page: VirtAddr,
    table: PhysAddr,
    path: Path,
    flags: u64,
    outcome: Option<Result<Translation, VirtFault>>,
}

impl Walk {
    fn entry_addr(&self, level: u32) -> PhysAddr {
        self.table.wrapping_add((self.page.raw() / coverage(level) % 512) * 8)
    }
}

impl AddressSpace {
    /// The space whose top-level table is at `root`. `encryption_mask` is the bit that memory encryption sets in
    /// entries (`sme_me_mask`), 0 without.
    #[must_use]
    pub fn new(mem: Arc<dyn PhysMem>, root: PhysAddr, levels: Levels, encryption_mask: u64) -> Self {
        let mut space = Self { mem, root, levels, encryption_mask, paths: Paths::default() };
        space.root = space.table(root);
        space
    }

    /// Whether every bit above the translated ones equals the highest of them.
    fn is_canonical(&self, addr: VirtAddr) -> bool {
        let unused = 64 - self.levels.address_bits();
        ((addr.raw() << unused).cast_signed() >> unused).cast_unsigned() == addr.raw()
    }

    /// An address of a top-level table as it stands in a register or an entry, without what else is written there.
    fn table(&self, root: PhysAddr) -> PhysAddr {
        PhysAddr::new(root.raw() & ADDRESS & !self.encryption_mask)
    }

    /// Translates `pages` (page-aligned), each through a top-level table, all walks level by level: as many batches as
    /// levels.
    fn walk(&self, pages: &[(PhysAddr, VirtAddr)]) -> Vec<Result<Translation, VirtFault>> {
        let mut walks: Vec<Walk> = pages
            .iter()
            .map(|&(table, page)| Walk {
                page,
                table,
                path: Path::default(),
                flags: PRESENT | WRITABLE | USER,
                outcome: (!self.is_canonical(page)).then_some(Err(VirtFault::NonCanonical)),
            })
            .collect();
        for level in (1..=self.levels.count()).rev() {
            self.descend(&mut walks, level);
        }
        for (walk, (root, page)) in walks.iter().zip(pages) {
            if let Some(Ok(found)) = &walk.outcome {
                self.paths.note(*root, *page, walk.path, found.phys);
            }
        }
        let unfinished = || Err(VirtFault::NotAttempted);
        walks.into_iter().map(|walk| walk.outcome.unwrap_or_else(unfinished)).collect()
    }

    /// Reads the entries of `level` that unfinished walks stand before and takes each walk through its own.
    fn descend(&self, walks: &mut [Walk], level: u32) {
        let mut addrs: Vec<PhysAddr> =
            walks.iter().filter(|walk| walk.outcome.is_none()).map(|walk| walk.entry_addr(level)).collect();
        addrs.sort_unstable();
        addrs.dedup();
        let mut entries = vec![[0_u8; 8]; addrs.len()];
        let mut ops: Vec<ReadOp<'_>> =
            addrs.iter().zip(&mut entries).map(|(addr, entry)| ReadOp::new(*addr, entry)).collect();
        self.mem.read_batch(&mut ops);
        let results: Vec<_> = ops.into_iter().map(|op| op.result).collect();
        for walk in walks.iter_mut().filter(|walk| walk.outcome.is_none()) {
            let addr = walk.entry_addr(level);
            let read = addrs.binary_search(&addr).ok().and_then(|at| entries.get(at).zip(results.get(at)));
            match read {
                Some((entry, Ok(()))) => self.step(walk, level, addr, u64::from_le_bytes(*entry)),
                Some((_, Err(source))) => {
                    walk.outcome = Some(Err(VirtFault::Table { level, source: source.clone() }));
                }
                None => {}
            }
        }
    }

    fn step(&self, walk: &mut Walk, level: u32, entry_addr: PhysAddr, entry: u64) {
        walk.path.pass(level, entry_addr);
        if entry & PRESENT == 0 {
            walk.outcome = Some(Err(VirtFault::NotPresent { level, entry_addr, entry }));
            return;
        }
        // With page-table isolation the kernel may not execute what is the process': the top-level entries of its half
        // of the pair say so, the processor's other half does not (`arch/x86/mm/pti.c`, `__pti_set_user_pgtbl`).
        let is_isolation = level == self.levels.count() && !walk.page.is_upper_half();
        let no_execute = if is_isolation { 0 } else { entry & NO_EXECUTE };
        walk.flags = (walk.flags & entry & (WRITABLE | USER)) | (walk.flags & NO_EXECUTE) | no_execute;
        let phys = match LeadsTo::of(level, entry, self.encryption_mask) {
            LeadsTo::Table(table) => {
                walk.table = table;
                return;
            }
            LeadsTo::Malformed => {
                walk.outcome = Some(Err(VirtFault::Malformed { level, entry_addr, entry }));
                return;
            }
            LeadsTo::Page(phys) => phys,
        };
        let size = coverage(level);
        walk.outcome = Some(Ok(Translation {
            phys: phys.wrapping_add(walk.page.offset_in(size)),
            page_size: size,
            writable: walk.flags & WRITABLE != 0,
            user: walk.flags & USER != 0,
            executable: walk.flags & NO_EXECUTE == 0,
        }));
    }
}

/// The pieces of `len` bytes from `addr` that lie in one page each; `None` where the space ends.
fn pieces(addr: VirtAddr, len: usize) -> impl Iterator<Item = (VirtAddr, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = addr.checked_add(done as u64)?;
        let piece = (len - done).min((PAGE_SIZE - at.offset_in(PAGE_SIZE)) as usize);
        done += piece;
        (piece > 0).then_some((at, piece))
    })
}

/// A read that ends past the last address has no translation for its tail.
fn wraps(op: &VirtOp<'_>) -> bool {
    !op.buf.is_empty() && op.addr.checked_add(op.buf.len() as u64 - 1).is_none()
}

/// Cuts the operation into physically contiguous reads, or says at which address it cannot be.
fn plan(
    op: &VirtOp<'_>,
    translate: impl Fn(VirtAddr) -> Result<Translation, VirtFault>,
) -> Result<Vec<(PhysAddr, usize)>, VirtError> {
    let mut reads: Vec<(PhysAddr, usize)> = Vec::new();
    let mut done = 0;
    for (at, len) in pieces(op.addr, op.buf.len()) {
        let fail = |fault| VirtError { addr: at, len: op.buf.len() - done, fault };
        let page = translate(at.align_down(PAGE_SIZE)).map_err(fail)?;
        let phys = page.phys.wrapping_add(at.offset_in(PAGE_SIZE));
        match reads.last_mut() {
            Some((start, total)) if start.wrapping_add(*total as u64) == phys => *total += len,
            _ => reads.push((phys, len)),
        }
        done += len;
    }
    Ok(reads)
}

impl AddressSpace {
    /// Attempts every operation, through the top-level table that `root` names for its index.
    fn read_through(&self, root: impl Fn(usize) -> PhysAddr, ops: &mut [VirtOp<'_>]) {
        let mut pages: Vec<(PhysAddr, VirtAddr)> = ops
            .iter()
            .enumerate()
            .filter(|(_, op)| !wraps(op))
            .flat_map(|(index, op)| {
                let root = root(index);
                pieces(op.addr, op.buf.len()).map(move |(at, _)| (root, at.align_down(PAGE_SIZE)))
            })
            .collect();
        if ops.iter().all(|op| op.buf.len() as u64 <= PAGE_SIZE) && pages.len() <= MAX_GUESSED {
            let mut ranges = Vec::new();
            for (index, op) in ops.iter().enumerate().filter(|(_, op)| !wraps(op)) {
                pieces(op.addr, op.buf.len())
                    .for_each(|(at, len)| self.paths.guess(root(index), at, len, &mut ranges));
            }
            if !ranges.is_empty() {
                self.mem.prefetch(&ranges);
            }
        }
        pages.sort_unstable();
        pages.dedup();
        let translations = self.walk(&pages);
        let translate = |root, page| match pages.binary_search(&(root, page)).map(|at| translations.get(at)) {
            Ok(Some(translation)) => translation.clone(),
            _ => Err(VirtFault::NotAttempted),
        };

        let mut reads: Vec<(usize, VirtAddr, ReadOp<'_>)> = Vec::with_capacity(ops.len());
        let mut outcomes: Vec<Result<(), VirtError>> = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter_mut().enumerate() {
            if wraps(op) {
                let (addr, len) = (op.addr, op.buf.len());
                outcomes.push(Err(VirtError { addr, len, fault: VirtFault::NonCanonical }));
                continue;
            }
            match plan(op, |page| translate(root(index), page)) {
                Err(error) => outcomes.push(Err(error)),
                Ok(planned) => {
                    outcomes.push(Ok(()));
                    let (mut at, mut rest) = (op.addr, &mut *op.buf);
                    for (phys, len) in planned {
                        let (piece, after) = rest.split_at_mut(len);
                        reads.push((index, at, ReadOp::new(phys, piece)));
                        at = at.wrapping_add(len as u64);
                        rest = after;
                    }
                }
            }
        }
        let (places, mut physical): (Vec<_>, Vec<_>) =
            reads.into_iter().map(|(index, at, op)| ((index, at), op)).unzip();
        self.mem.read_batch(&mut physical);
        for ((index, addr), read) in places.into_iter().zip(&physical) {
            if let (Err(source), Some(outcome @ Ok(()))) = (&read.result, outcomes.get_mut(index)) {
                let fault = VirtFault::Data(source.clone());
                *outcome = Err(VirtError { addr, len: read.buf.len(), fault });
            }
        }
        drop(physical);
        for (op, outcome) in ops.iter_mut().zip(outcomes) {
            op.result = outcome;
        }
    }
}

impl VirtMem for AddressSpace {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        self.read_through(|_| self.root, ops);
    }

    fn read_batch_from(&self, roots: &[PhysAddr], ops: &mut [VirtOp<'_>]) {
        let (ops, _) = ops.split_at_mut(roots.len().min(ops.len()));
        self.read_through(|index| roots.get(index).map_or(self.root, |root| self.table(*root)), ops);
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        self.translate_from(self.root, addr)
    }

    fn translate_from(&self, root: PhysAddr, addr: VirtAddr) -> Result<Translation, VirtError> {
        let outcome = self
            .walk(&[(self.table(root), addr.align_down(PAGE_SIZE))])
            .pop()
            .unwrap_or(Err(VirtFault::NotAttempted));
        let page = outcome.map_err(|fault| VirtError { addr, len: 0, fault })?;
        Ok(Translation { phys: page.phys.wrapping_add(addr.offset_in(PAGE_SIZE)), ..page })
    }
}

#[cfg(test)]
#[path = "space/tests.rs"]
mod tests;
