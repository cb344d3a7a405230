//! Pages with memory errors: the kernel takes them out of use and marks them, and nobody is to read them any more.
//!
//! They stay in the kernel's map of RAM. A read of one, over PCIe too, can end in a machine check that the host does not
//! survive, so whoever reads physical memory as it comes reads it through [`Unpoisoned`]. Input: the count of such pages,
//! and where it is not zero the flags of `struct page`; a host without memory errors pays for the count alone. A page
//! that fails after its stretch was looked at is not known to have failed.
//! Source: `mm/memory-failure.c`, `include/linux/page-flags.h`; the kernel itself asks `is_page_hwpoison()`
//! (`fs/proc/kcore.c`).

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::{Kernel, page_array::PageArray};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr},
    mem::{Fault, PhysMem, ReadOp, guard},
};

/// Page frames whose structs are read together: 256 KiB that tell of 16 MiB.
const STRETCH: u64 = 4096;

/// Stretches that are read in one batch.
const AT_ONCE: usize = 16;

/// How many pages the kernel has taken out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// So many.
    pub pages: u64,
    /// What says so.
    pub method: &'static str,
    /// Details for a person.
    pub detail: &'static str,
}

/// How many pages the kernel has taken out of use; `None` where that cannot be told.
#[must_use]
pub fn count(kernel: &Kernel) -> Option<Count> {
    let has = |name| kernel.map.vmcoreinfo.as_ref().is_some_and(|info| info.number(name).is_some());
    // VMCOREINFO has the one exactly where the kernel can do such a thing, and has the other always.
    if has("PG_lru") && !has("PG_hwpoison") {
        return Some(Count {
            pages: 0,
            method: "VMCOREINFO",
            detail: "no PG_hwpoison: this kernel marks no page",
        });
    }
    let symbols = kernel.symbols("the count of pages with memory errors").ok()?;
    match symbols.find("num_poisoned_pages") {
        Some(count) => {
            let pages = kernel.memory.read_u64(count).inspect_err(|error| log::debug!("{error}")).ok()?;
            let detail = "pages out of use after memory errors, by the kernel's count";
            (pages.cast_signed() >= 0).then_some(Count { pages, method: "num_poisoned_pages", detail })
        }
        // Kernels without CONFIG_KALLSYMS_ALL have symbols of functions alone.
        None if symbols.find("memory_failure").is_some() => None,
        None => {
            let detail = "no memory_failure: this kernel marks no page";
            Some(Count { pages: 0, method: "symbols", detail })
        }
    }
}

/// The flag of a page with a memory error.
fn flag(kernel: &Kernel) -> Option<u64> {
    let noted = kernel.map.vmcoreinfo.as_ref().and_then(|info| info.number("PG_hwpoison"));
    let bit = noted.or_else(|| {
        let bit = kernel.types.as_deref()?.enumerator("pageflags", "PG_hwpoison").ok()?;
        u64::try_from(bit).ok()
    })?;
    1_u64.checked_shl(u32::try_from(bit).ok()?)
}

/// Physical memory without the pages that have memory errors.
pub struct Unpoisoned<'k> {
    phys: &'k dyn PhysMem,
    marks: Option<Marks<'k>>,
}

impl<'k> Unpoisoned<'k> {
    /// `phys` as it is where `kernel` has no such page. Warns where it has some that cannot be told from the others.
    #[must_use]
    pub fn new(kernel: &'k Kernel, phys: &'k dyn PhysMem) -> Self {
        let count = count(kernel).map(|count| count.pages);
        let marks = if count == Some(0) { None } else { Marks::of(kernel, count.is_some()) };
        if let (Some(count @ 1..), None) = (count, &marks) {
            log::warn!(
                "the host has pages with memory errors ({count}), and where the kernel marks them is not known: they \
                 will be read like the others"
            );
        }
        Self { phys, marks }
    }
}

impl PhysMem for Unpoisoned<'_> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let Some(marks) = &self.marks else { return self.phys.read_batch(ops) };
        let mut known = marks.known.lock().unwrap_or_else(PoisonError::into_inner);
        marks.learn(&mut known, ops);
        guard::pass(self.phys, ops, |addr, len| marks.refusal(&known, addr, len));
    }
}

/// Page frames that are not to be read.
struct Bad {
    frames: Range<u64>,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Marked,
    /// Whether they are marked could not be read.
    Untold,
}

/// What is bad in each stretch that was looked at.
type Known = HashMap<u64, Vec<Bad>>;

/// Where the kernel marks pages, and what was seen of that.
struct Marks<'k> {
    pages: PageArray<'k>,
    flag: u64,
    ram: &'k [PhysRange],
    /// There are such pages, so that one whose mark cannot be read may be one.
    certain: bool,
    known: Mutex<Known>,
}

const UNTOLD: &str = "the host has pages with memory errors, and whether this is one could not be read";

impl<'k> Marks<'k> {
    fn of(kernel: &'k Kernel, certain: bool) -> Option<Self> {
        let (pages, flag) = (PageArray::of(kernel)?, flag(kernel)?);
        Some(Self { pages, flag, ram: &kernel.map.ram, certain, known: Mutex::default() })
    }

    /// The frames of RAM among those that `len` bytes from `addr` lie in.
    fn frames(&self, addr: PhysAddr, len: u64) -> impl Iterator<Item = Range<u64>> {
        let (start, end) = (addr.raw(), addr.raw().saturating_add(len));
        self.ram.iter().filter_map(move |range| {
            let (start, end) = (range.start.raw().max(start), range.end.raw().min(end));
            (start < end).then(|| start / PAGE_SIZE..end.div_ceil(PAGE_SIZE))
        })
    }

    /// Looks at the stretches that `ops` touch first.
    fn learn(&self, known: &mut Known, ops: &[ReadOp<'_>]) {
        let mut new = BTreeSet::new();
        for op in ops {
            for frames in self.frames(op.addr, op.buf.len() as u64) {
                new.extend(
                    (frames.start / STRETCH..frames.end.div_ceil(STRETCH))
                        .filter(|at| !known.contains_key(at)),
                );
            }
        }
        for stretches in new.into_iter().collect::<Vec<_>>().chunks(AT_ONCE) {
            self.look(known, stretches);
        }
    }

    fn look(&self, known: &mut Known, stretches: &[u64]) {
        let mut runs = Vec::new();
        for stretch in stretches {
            known.insert(*stretch, Vec::new());
            let start = PhysAddr::new(stretch * STRETCH * PAGE_SIZE);
            runs.extend(self.frames(start, STRETCH * PAGE_SIZE));
        }
        let mut distant = Vec::new();
        for (run, structs) in runs.iter().zip(self.pages.read_runs(&runs)) {
            match structs {
                Ok(structs) => self.look_at(known, run, &structs, &mut distant),
                Err(error) => {
                    log::debug!("whether pages have memory errors: {error}");
                    self.note_untold(known, run.clone());
                }
            }
        }
        self.look_at_heads(known, &distant);
    }

    /// Looks at the structs of `run`; those whose compound page begins elsewhere become `distant`, with the address of
    /// its first page's struct.
    fn look_at(
        &self,
        known: &mut Known,
        run: &Range<u64>,
        structs: &[u8],
        distant: &mut Vec<(VirtAddr, u64)>,
    ) {
        let structs: Vec<&[u8]> = structs.chunks_exact(self.pages.size()).collect();
        for (index, (frame, page)) in run.clone().zip(&structs).enumerate() {
            let is_marked = self.is_marked(page) || {
                match self.pages.head(self.pages.at(frame), page) {
                    None | Some((_, 0)) => false,
                    // Of a huge page (hugetlb) the first struct alone is marked, whichever page of it failed. Of
                    // another compound page the first page alone failed then, and the rest is left out with it.
                    Some((head, distance)) => {
                        let here = index.checked_sub(distance as usize).and_then(|head| structs.get(head));
                        if here.is_none() {
                            distant.push((head, frame));
                        }
                        here.is_some_and(|head| self.is_marked(head))
                    }
                }
            };
            if is_marked {
                note(known, frame..frame + 1, Why::Marked);
            }
        }
    }

    fn look_at_heads(&self, known: &mut Known, distant: &[(VirtAddr, u64)]) {
        let heads: Vec<VirtAddr> =
            distant.iter().map(|(head, _)| *head).collect::<BTreeSet<_>>().into_iter().collect();
        let structs = self.pages.read(&heads);
        for (head, frame) in distant {
            let page = heads.binary_search(head).ok().and_then(|at| structs.get(at)?.as_deref());
            match page {
                Some(page) if self.is_marked(page) => note(known, *frame..frame + 1, Why::Marked),
                Some(_) => {}
                None => self.note_untold(known, *frame..frame + 1),
            }
        }
    }

    fn is_marked(&self, page: &[u8]) -> bool {
        self.pages.flags(page).is_some_and(|flags| flags & self.flag != 0)
    }

    fn note_untold(&self, known: &mut Known, frames: Range<u64>) {
        if self.certain {
            note(known, frames, Why::Untold);
        }
    }

    fn refusal(&self, known: &Known, addr: PhysAddr, len: u64) -> Option<Fault> {
        self.frames(addr, len).find_map(|frames| {
            let stretches = frames.start / STRETCH..frames.end.div_ceil(STRETCH);
            let mut bad = stretches.filter_map(|stretch| known.get(&stretch)).flatten();
            let touched = bad.find(|bad| bad.frames.start < frames.end && bad.frames.end > frames.start)?;
            let first = touched.frames.start.max(frames.start);
            Some(match touched.why {
                Why::Marked => Fault::Poisoned(PhysAddr::new(first * PAGE_SIZE)),
                Why::Untold => Fault::Refused(UNTOLD),
            })
        })
    }
}

/// Notes frames of one stretch.
fn note(known: &mut Known, frames: Range<u64>, why: Why) {
    let list = known.entry(frames.start / STRETCH).or_default();
    match list.last_mut() {
        Some(last) if last.frames.end == frames.start && last.why == why => last.frames.end = frames.end,
        _ => list.push(Bad { frames, why }),
    }
}

#[cfg(test)]
mod tests;
