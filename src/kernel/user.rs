//! Memory of user space, through each process' own page tables.
//!
//! Input: where a process' top-level table is (`mm_struct.pgd`) and ranges below the canonical hole. Output: bytes, or
//! what stood in the way: a page that is not present (swapped out, never touched) is an error, never zeros. This is the
//! only place that reads user memory, so that what may be read of it is decided in one.

mod absence;

use std::collections::HashMap;

pub use absence::{Absence, Absent, Entry};

use super::{Kernel, KernelError, mm::Mm, vma};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    paging::{Translation, VirtError, VirtOp},
};
use absence::SwapNumbers;

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

/// The lowest address that is not user space's, with tables of this kernel's depth.
#[must_use]
pub fn end(kernel: &Kernel) -> VirtAddr {
    VirtAddr::new(1 << (kernel.map.levels.address_bits() - 1))
}

/// Reads `len` bytes of a process from `addr`.
///
/// # Errors
/// [`KernelError::Absent`] saying what became of the first page that is not there; [`KernelError::KernelOnly`].
pub fn read_vec(kernel: &Kernel, mm: &Mm, addr: VirtAddr, len: usize) -> Result<Vec<u8>, KernelError> {
    let outcome = read(kernel, &[UserRange { pgd: mm.pgd, start: addr, len }]).pop();
    match outcome {
        Some(Err(KernelError::Read { source, .. })) => Err(explained(kernel, mm, source)),
        Some(outcome) => outcome,
        None => Ok(Vec::new()),
    }
}

/// Reads from `addr` as much of `buf` as can be read without a gap, and returns how many bytes that is. Why the rest is
/// not there is not looked into.
///
/// # Errors
/// [`KernelError`] when the first byte cannot be read.
pub fn read_prefix(kernel: &Kernel, mm: &Mm, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, KernelError> {
    let mut ranges = Vec::new();
    let mut done = 0;
    while done < buf.len() {
        let start = addr.wrapping_add(done as u64);
        let len = (buf.len() - done).min((PAGE_SIZE - start.offset_in(PAGE_SIZE)) as usize);
        ranges.push(UserRange { pgd: mm.pgd, start, len });
        done += len;
    }
    let mut read_so_far = 0;
    for bytes in read(kernel, &ranges) {
        match bytes {
            Ok(bytes) => {
                let rest = buf.get_mut(read_so_far..).unwrap_or_default();
                rest.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
                read_so_far += bytes.len();
            }
            Err(error) if read_so_far == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(read_so_far)
}

/// Where an address of a process lies in physical memory.
///
/// # Errors
/// As [`read_vec`].
pub fn translate(kernel: &Kernel, mm: &Mm, addr: VirtAddr) -> Result<Translation, KernelError> {
    kernel.user_memory("the page tables of a process")?;
    is_user(kernel, &UserRange { pgd: mm.pgd, start: addr, len: 1 })?;
    let root = root(kernel, mm.pgd, &mut HashMap::new())?;
    kernel.memory.translate_from(root, addr).map_err(|error| explained(kernel, mm, error))
}

fn explained(kernel: &Kernel, mm: &Mm, error: VirtError) -> KernelError {
    match vma::list(kernel, mm) {
        Ok(list) => {
            let area = vma::containing(&list.areas, error.addr);
            // Of an incomplete list nothing follows from what it lacks.
            if let (None, Some(torn)) = (area, list.torn) {
                log::warn!("why {} is not there is not known: {torn}", error.addr);
                return KernelError::Read { step: STEP, source: error };
            }
            absence::explain(error, area, SwapNumbers::of(kernel))
        }
        Err(unlisted) => {
            log::warn!("why {} is not there is not known: {unlisted}", error.addr);
            KernelError::Read { step: STEP, source: error }
        }
    }
}

/// Reads `ranges`, all of them level by level and page by page side by side.
#[must_use]
pub fn read(kernel: &Kernel, ranges: &[UserRange]) -> Vec<Result<Vec<u8>, KernelError>> {
    if kernel.user_memory("user memory").is_err() {
        return ranges.iter().map(|_| Err(KernelError::KernelOnly { what: "user memory" })).collect();
    }
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
    if end.is_some_and(|last| last <= self::end(kernel).raw()) {
        return Ok(());
    }
    let reason = format!("{} bytes from there are not user space", range.len);
    Err(KernelError::Inconsistent { step: STEP, addr: range.start, reason })
}

/// Physical addresses of the top-level page tables of the tasks at `tasks` (addresses of `task_struct`): what `CR3`
/// points to while one executes in the kernel. `None` of a kernel thread, which borrows whatever was there before it, and
/// of one whose table cannot be found. Two batches, whatever the number of tasks.
pub fn roots(kernel: &Kernel, tasks: &[VirtAddr]) -> Vec<Option<PhysAddr>> {
    let members = || -> Result<(u64, u64), KernelError> {
        let types = kernel.types("page tables of processes")?;
        Ok((types.field("task_struct", "mm")?.offset, types.field("mm_struct", "pgd")?.offset))
    };
    let (mm, pgd) = match members() {
        Ok(members) => members,
        Err(error) => {
            log::warn!("the page tables of processes are not known: {error}");
            return vec![None; tasks.len()];
        }
    };
    let fetch =
        |places: &[VirtAddr]| kernel.memory.read_ptrs(places).into_iter().map(|word| word.ok()?.non_null());
    let places: Vec<VirtAddr> = tasks.iter().map(|task| task.wrapping_add(mm)).collect();
    let mms: Vec<Option<VirtAddr>> = fetch(&places).collect();
    let places: Vec<VirtAddr> = mms.iter().flatten().map(|mm| mm.wrapping_add(pgd)).collect();
    let mut known = HashMap::new();
    let mut found =
        fetch(&places).map(|pgd| root(kernel, pgd?, &mut known).ok()).collect::<Vec<_>>().into_iter();
    mms.iter().map(|mm| mm.and_then(|_| found.next()?)).collect()
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
