//! Memory of user space, through each process' own page tables.
//!
//! Input: where a process' top-level table is (`mm_struct.pgd`) and ranges below the canonical hole. Output: bytes, or
//! what stood in the way: a page that is not present (swapped out, never touched) is an error, never zeros. This is the
//! only place that reads user memory, so that what may be read of it is decided in one.

use std::collections::HashMap;

use super::{Kernel, KernelError};
use crate::{
    addr::{PhysAddr, VirtAddr},
    paging::VirtOp,
};

const STEP: &str = "reading user memory";

/// Ranges read with one batch: bounds what is held at once.
const BATCH: usize = 1024;

/// A range of a process' memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserRange {
    /// Its `mm_struct.pgd`.
    pub pgd: VirtAddr,
    /// First address.
    pub start: VirtAddr,
    /// Bytes; the caller bounds them.
    pub len: usize,
}

/// Reads `ranges`, all of them level by level and page by page side by side.
#[must_use]
pub fn read(kernel: &Kernel, ranges: &[UserRange]) -> Vec<Result<Vec<u8>, KernelError>> {
    let mut roots = HashMap::new();
    let mut outcomes = Vec::with_capacity(ranges.len());
    for ranges in ranges.chunks(BATCH) {
        outcomes.extend(read_batch(kernel, ranges, &mut roots));
    }
    outcomes
}

fn read_batch(
    kernel: &Kernel,
    ranges: &[UserRange],
    roots: &mut HashMap<VirtAddr, PhysAddr>,
) -> Vec<Result<Vec<u8>, KernelError>> {
    let planned: Vec<Result<PhysAddr, KernelError>> = ranges
        .iter()
        .map(|range| {
            is_user(kernel, range)?;
            root(kernel, range.pgd, roots)
        })
        .collect();
    let mut buffers: Vec<Vec<u8>> = ranges
        .iter()
        .zip(&planned)
        .map(|(range, root)| vec![0; root.as_ref().map_or(0, |_| range.len)])
        .collect();
    let (tables, mut ops): (Vec<PhysAddr>, Vec<VirtOp<'_>>) = ranges
        .iter()
        .zip(&planned)
        .zip(&mut buffers)
        .filter_map(|((range, root), buffer)| Some((*root.as_ref().ok()?, VirtOp::new(range.start, buffer))))
        .unzip();
    kernel.memory.read_batch_from(&tables, &mut ops);
    let mut results = ops.into_iter().map(|op| op.result).collect::<Vec<_>>().into_iter();
    planned
        .into_iter()
        .zip(buffers)
        .map(|(root, buffer)| {
            root?;
            match results.next() {
                Some(Ok(())) => Ok(buffer),
                Some(Err(source)) => Err(KernelError::Read { step: STEP, source }),
                None => Ok(buffer),
            }
        })
        .collect()
}

/// The lower half of the addresses that the tables translate is user space's.
fn is_user(kernel: &Kernel, range: &UserRange) -> Result<(), KernelError> {
    let end = range.start.raw().checked_add(range.len as u64);
    if end.is_some_and(|end| end <= 1 << (kernel.map.levels.address_bits() - 1)) {
        return Ok(());
    }
    let reason = format!("{} bytes from there are not user space", range.len);
    Err(KernelError::Inconsistent { step: STEP, addr: range.start, reason })
}

/// Physical address of a top-level table. It lies in the direct map, which is linear.
fn root(
    kernel: &Kernel,
    pgd: VirtAddr,
    known: &mut HashMap<VirtAddr, PhysAddr>,
) -> Result<PhysAddr, KernelError> {
    if let Some(root) = known.get(&pgd) {
        return Ok(*root);
    }
    let ram = |phys: &PhysAddr| kernel.map.ram.iter().any(|range| range.contains(*phys, 4096));
    let linear = kernel.map.page_offset.and_then(|base| pgd.raw().checked_sub(base.raw())).map(PhysAddr::new);
    let root = match linear.filter(ram) {
        Some(root) => root,
        None => kernel.memory.translate(pgd).map_err(|source| KernelError::Read { step: STEP, source })?.phys,
    };
    known.insert(pgd, root);
    Ok(root)
}
