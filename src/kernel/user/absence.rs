//! Why a page of user space is not there: what its page-table entry and the mapping around it say together.
//!
//! An entry that is not present is the kernel's to use (`arch/x86/include/asm/pgtable_64.h`, "Encode and de-code a swap
//! entry"; `pgtable_types.h`, `_PAGE_BIT_PROTNONE`): 0 where nothing was ever put; with bit 8, a page that is in memory
//! and whose access is taken away; else a number of 5 bits that says which swap area, and where in it.

use std::fmt;

use crate::addr::VirtAddr;
use crate::{
    addr::{PAGE_SIZE, PhysAddr},
    kernel::{
        Kernel, KernelError,
        vma::{Area, flags},
    },
    paging::{VirtError, VirtFault, page_size},
};

/// A page that is not to be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no memory of the process at {addr}: {absence}{}", shown(self.entry.as_ref()))]
pub struct Absent {
    /// The address.
    pub addr: VirtAddr,
    /// Why.
    pub absence: Absence,
    /// The entry that ended the walk.
    pub entry: Option<Entry>,
}

/// A page-table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// 1 (page table) to 5 (PML5).
    pub level: u32,
    /// Where it is.
    pub addr: PhysAddr,
    /// The entry.
    pub value: u64,
}

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Absence {
    /// No mapping of the process holds the address.
    NotMapped,
    /// Anonymous memory that nobody has touched yet, or that was given back (`MADV_DONTNEED`): it would read as zeros.
    Untouched,
    /// Of a mapping that the kernel fills, such as `[vdso]` and `[vvar]`.
    NotPutThere,
    /// Of a mapped file (with its page offset there), and not mapped in: never read, or dropped; the page cache may
    /// have it.
    NotReadIn {
        /// Page of the file.
        page: u64,
    },
    /// A device's memory.
    Device,
    /// In a swap area.
    SwappedOut {
        /// Number of the area, as in `/proc/swaps`.
        area: u64,
        /// Page of the area.
        page: u64,
    },
    /// In memory, and being moved to another page.
    Migrating,
    /// Was in memory that failed: the kernel took the page away (`make_hwpoison_entry`, `include/linux/swapops.h`).
    Poisoned {
        /// Where it was.
        phys: PhysAddr,
    },
    /// A device's private memory, a marker, and what else the kernel keeps swap numbers for.
    Special {
        /// The number.
        kind: u64,
    },
    /// In memory, and access was taken away by `mprotect(PROT_NONE)`.
    NoAccess {
        /// Where.
        phys: PhysAddr,
    },
    /// In memory, and access was taken away to see which node uses it (NUMA balancing).
    NumaHint {
        /// Where.
        phys: PhysAddr,
    },
    /// A huge page that is being split.
    Splitting,
    /// The entry means nothing this program knows.
    Unknown,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMapped => f.write_str("no mapping of the process holds it (`maps` lists them)"),
            Self::Untouched => f.write_str("anonymous memory that was never touched, or given back"),
            Self::NotPutThere => {
                f.write_str("a page that the kernel puts there when it is used, and has not yet")
            }
            Self::NotReadIn { page } => write!(f, "page {page} of a mapped file, which is not read in"),
            Self::Device => f.write_str("a device's memory"),
            Self::SwappedOut { area, page } => write!(f, "swapped out, to page {page} of swap area {area}"),
            Self::Migrating => f.write_str("being moved to another page (a migration entry): try again"),
            Self::Poisoned { phys } => {
                write!(f, "taken away after a memory error; it was at physical {phys}")
            }
            Self::Special { kind } => {
                write!(f, "in a device, or marked by the kernel (special swap entry of type {kind})")
            }
            Self::NoAccess { phys } => {
                write!(f, "mapped without access (PROT_NONE), in memory at physical {phys}")
            }
            Self::NumaHint { phys } => {
                write!(f, "access is taken away for NUMA balancing, in memory at physical {phys}: try again")
            }
            Self::Splitting => f.write_str("a huge page that is being split: try again"),
            Self::Unknown => f.write_str("the kernel uses the entry in an unknown way"),
        }
    }
}

fn shown(entry: Option<&Entry>) -> String {
    entry.map_or_else(String::new, |Entry { level, addr, value }| {
        format!(" (the level-{level} entry at physical {addr} is {value:#x})")
    })
}

/// `_PAGE_BIT_PROTNONE` and `_PAGE_PSE`
const NO_ACCESS: u64 = 1 << 8;
const HUGE: u64 = 1 << 7;
/// Bits 51:12 of an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// `SWP_TYPE_BITS`; the type is the highest bits.
const TYPE_BITS: u32 = 5;
/// `SWP_OFFSET_SHIFT`
const OFFSET_SHIFT: u32 = 14;

/// How many of the numbers are swap areas (`MAX_SWAPFILES`), and what the first behind them mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct SwapNumbers {
    areas: Option<u64>,
    has_poison: bool,
    /// Numbers of migration entries: to be read or written, and since 6c287605fd56 (5.19) to be read by its only owner.
    migrations: u64,
    encryption_mask: u64,
}

impl SwapNumbers {
    /// By the length of the array of swap areas, and by what this kernel was built with.
    pub(super) fn of(kernel: &Kernel) -> Self {
        let symbols = kernel.symbols.as_ref();
        let array = symbols.and_then(|symbols| symbols.table().lookup("swap_info"));
        let areas = array.map(|array| array.size / 8).filter(|areas| (16..1 << TYPE_BITS).contains(areas));
        let has_poison = symbols.is_some_and(|symbols| symbols.find("memory_failure").is_some());
        let types = kernel.types.as_deref();
        let exclusive = types.is_some_and(|types| types.enumerator("pageflags", "PG_anon_exclusive").is_ok());
        let migrations = if exclusive { 3 } else { 2 };
        Self { areas, has_poison, migrations, encryption_mask: kernel.map.sme_mask }
    }

    fn meaning(self, value: u64) -> Absence {
        let kind = value >> (64 - TYPE_BITS);
        // The offset is kept inverted, so that the processor cannot speculate on it (L1TF).
        let page = (!value << TYPE_BITS) >> OFFSET_SHIFT;
        let Some(areas) = self.areas else { return Absence::SwappedOut { area: kind, page } };
        let migrating = areas + u64::from(self.has_poison);
        match kind {
            area if area < areas => Absence::SwappedOut { area, page },
            kind if self.has_poison && kind == areas => {
                Absence::Poisoned { phys: PhysAddr::new(page.saturating_mul(PAGE_SIZE)) }
            }
            kind if (migrating..migrating + self.migrations).contains(&kind) => Absence::Migrating,
            kind => Absence::Special { kind },
        }
    }
}

/// Where `addr` lies in the page of an entry without access: its frame is kept inverted (L1TF), of a huge page as of a
/// small one (`pfn_pmd`, `arch/x86/include/asm/pgtable.h`). `None` for a level that maps no pages.
fn hidden(entry: &Entry, addr: VirtAddr, encryption_mask: u64) -> Option<PhysAddr> {
    let size = page_size(entry.level)?;
    let page = !entry.value & FRAME & !encryption_mask & !(size - 1);
    Some(PhysAddr::new(page | addr.offset_in(size)))
}

/// What `entry` says, in the mapping `area`.
fn of_entry(entry: &Entry, addr: VirtAddr, area: &Area, swap: SwapNumbers) -> Absence {
    let value = entry.value;
    if value == 0 {
        return nothing_there(addr, area);
    }
    if value & NO_ACCESS != 0 {
        let Some(phys) = hidden(entry, addr, swap.encryption_mask) else { return Absence::Unknown };
        let may = flags::READ | flags::WRITE | flags::EXEC;
        return if area.flags & may == 0 { Absence::NoAccess { phys } } else { Absence::NumaHint { phys } };
    }
    match entry.level {
        1 => swap.meaning(value),
        2 if value & HUGE != 0 => Absence::Splitting,
        2 => swap.meaning(value),
        _ => Absence::Unknown,
    }
}

fn nothing_there(addr: VirtAddr, area: &Area) -> Absence {
    if area.file.is_null() {
        return if area.ops.is_null() { Absence::Untouched } else { Absence::NotPutThere };
    }
    if area.flags & (flags::PFN_MAP | flags::MIXED_MAP) != 0 {
        return Absence::Device;
    }
    let page = addr.wrapping_offset_from(area.start) / 4096;
    Absence::NotReadIn { page: page.wrapping_add(area.page_offset) }
}

/// The reason why a read of user space failed, `error` where it lies deeper. `area` is the mapping that holds the
/// address, if there is one.
pub(super) fn explain(error: VirtError, area: Option<&Area>, swap: SwapNumbers) -> KernelError {
    let addr = error.addr;
    let (entry, area) = match (&error.fault, area) {
        (VirtFault::NotPresent { level, entry_addr, entry }, area) => {
            (Entry { level: *level, addr: *entry_addr, value: *entry }, area)
        }
        _ => return KernelError::Read { step: super::STEP, source: error },
    };
    let absence = area.map_or(Absence::NotMapped, |area| of_entry(&entry, addr, area, swap));
    KernelError::Absent(Absent { addr, absence, entry: Some(entry) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x7f00_0000_0000;

    fn area(flags: u64, file: u64) -> Area {
        Area {
            addr: VirtAddr::new(0),
            start: VirtAddr::new(START),
            end: VirtAddr::new(START + (1 << 21)),
            flags,
            page_offset: 7,
            file: VirtAddr::new(file),
            ops: VirtAddr::new(0),
            private: VirtAddr::new(0),
            anon_name: VirtAddr::new(0),
        }
    }

    /// What is said of an address in the third page, whose entry of `level` is `value`.
    fn said(level: u32, value: u64, area: Option<Area>) -> String {
        let fault = VirtFault::NotPresent { level, entry_addr: PhysAddr::new(0x1000), entry: value };
        let error = VirtError { addr: VirtAddr::new(START + 0x2010), len: 8, fault };
        let swap = SwapNumbers { areas: Some(23), has_poison: true, migrations: 3, encryption_mask: 1 << 47 };
        explain(error, area.as_ref(), swap).to_string()
    }

    #[track_caller]
    fn check(level: u32, value: u64, area: Option<Area>, reason: &str) {
        let expected = format!(
            "no memory of the process at 0x7f0000002010: {reason} (the level-{level} entry at physical 0x1000 is \
             {value:#x})"
        );
        assert_eq!(said(level, value, area), expected);
    }

    #[test]
    fn every_reason_is_told_from_the_others() {
        let (anonymous, file) = (Some(area(3, 0)), Some(area(1, 0xffff_8880_0000_1000)));
        check(4, 0, None, "no mapping of the process holds it (`maps` lists them)");
        check(1, 0, anonymous, "anonymous memory that was never touched, or given back");
        check(2, 0, file, "page 9 of a mapped file, which is not read in");
        check(1, 0, Some(area(3 | flags::PFN_MAP, 1)), "a device's memory");
        let vdso = Area { ops: VirtAddr::new(1), ..area(5, 0) };
        check(1, 0, Some(vdso), "a page that the kernel puts there when it is used, and has not yet");
        let swapped = |kind: u64, page: u64| kind << 59 | (!page << OFFSET_SHIFT) >> TYPE_BITS;
        check(1, swapped(2, 0x1234), anonymous, "swapped out, to page 4660 of swap area 2");
        for kind in 24..27 {
            let moved = "being moved to another page (a migration entry): try again";
            check(1, swapped(kind, 5), anonymous, moved);
        }
        check(1, swapped(23, 5), anonymous, "taken away after a memory error; it was at physical 0x5000");
        let special = "in a device, or marked by the kernel (special swap entry of type 27)";
        check(1, swapped(27, 5), anonymous, special);
        // Inverted, and then cut to the bits of a frame, which the encryption bit is none of.
        let hidden = |phys: u64, size: u64| !phys & FRAME & !(1 << 47) & !(size - 1) | NO_ACCESS;
        let sizes = [(1, 0x1234_5000, 0x1000), (2, 0x1220_0000, 1 << 21), (3, 0x4000_0000, 1 << 30)];
        for (level, page, size) in sizes {
            let (value, phys) = (hidden(page, size), page + 0x2010 % size);
            let closed = format!("mapped without access (PROT_NONE), in memory at physical {phys:#x}");
            check(level, value, Some(area(0, 0)), &closed);
            let hint = format!(
                "access is taken away for NUMA balancing, in memory at physical {phys:#x}: try again"
            );
            check(level, value, anonymous, &hint);
        }
        check(4, hidden(0x1000, 0x1000), anonymous, "the kernel uses the entry in an unknown way");
        check(2, 0x20_0000 | HUGE, anonymous, "a huge page that is being split: try again");
        check(3, 0x20_0000, anonymous, "the kernel uses the entry in an unknown way");
    }
}
