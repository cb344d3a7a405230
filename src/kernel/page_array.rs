//! The kernel's array of `struct page`: what it writes down of each page of physical memory.
//!
//! Input: virtual memory, and where the array begins. Output: the structs' bytes, and the words that are wanted of them;
//! what they mean is the caller's. Source: `include/linux/mm_types.h`, `include/linux/page-flags.h` (`compound_head`).

use std::ops::Range;

use crate::{
    addr::VirtAddr,
    kernel::Kernel,
    paging::{VirtError, VirtMem},
    types::TypeSource,
};

/// A huge page of 1 GiB.
const MAX_COMPOUND: u64 = 1 << 18;

/// The kernel's array of `struct page`.
pub(crate) struct PageArray<'k> {
    memory: &'k dyn VirtMem,
    base: VirtAddr,
    layout: Layout,
}

/// Where the members of `struct page` are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    size: u64,
    flags: usize,
    compound_head: usize,
    mapping: usize,
    index: usize,
}

/// A tail page's word that begins like this is no address but the mask that makes its own address the head's: in
/// `compound_info`, where the size of `struct page` is a power of two (`include/linux/page-flags.h`, 7.x).
const MASK: u64 = 0xffff_ffff << 32;

impl Layout {
    /// x86-64 since 4.4: flags, then five words of the union that begins with `lru` or `compound_head`.
    const USUAL: Self = Self { size: 64, flags: 0, compound_head: 8, mapping: 24, index: 32 };

    fn of(types: &dyn TypeSource) -> Option<Self> {
        let offset = |name: &str| types.field("page", name).ok().map(|field| field.offset as usize);
        let size = types.struct_size("page").ok().filter(|size| (40..=256).contains(size))?;
        Some(Self {
            size,
            flags: offset("flags").unwrap_or(0),
            compound_head: offset("compound_head").or_else(|| offset("compound_info"))?,
            mapping: offset("mapping")?,
            index: offset("index").or_else(|| offset("__folio_index"))?,
        })
    }
}

impl<'k> PageArray<'k> {
    /// The array of `kernel`, if it is known where it is. Without types the usual layout is taken.
    pub(crate) fn of(kernel: &'k Kernel) -> Option<Self> {
        let base = kernel.map.vmemmap_base?;
        let layout = kernel.types.as_deref().and_then(Layout::of).unwrap_or(Layout::USUAL);
        Some(Self { memory: &*kernel.memory, base, layout })
    }

    /// The array at `base`, of the usual layout.
    #[cfg(test)]
    pub(crate) fn usual(memory: &'k dyn VirtMem, base: VirtAddr) -> Self {
        Self { memory, base, layout: Layout::USUAL }
    }

    /// Bytes of a struct.
    pub(crate) fn size(&self) -> usize {
        self.layout.size as usize
    }

    /// Where the struct of a page frame is.
    pub(crate) fn at(&self, frame: u64) -> VirtAddr {
        self.base.wrapping_add(frame.wrapping_mul(self.layout.size))
    }

    /// The structs at `addrs`, in one batch.
    pub(crate) fn read(&self, addrs: &[VirtAddr]) -> Vec<Option<Vec<u8>>> {
        self.memory.read_vecs(addrs, self.size()).into_iter().map(Result::ok).collect()
    }

    /// The structs of each run of page frames, in one batch. The caller bounds their number.
    pub(crate) fn read_runs(&self, runs: &[Range<u64>]) -> Vec<Result<Vec<u8>, VirtError>> {
        let place = |run: &Range<u64>| (self.at(run.start), (run.end - run.start) as usize * self.size());
        self.memory.read_ranges(&runs.iter().map(place).collect::<Vec<_>>())
    }

    /// Distance in pages from the first page of the compound page that `page` is in, and the address of that page's
    /// struct; its own where it is in none. `None` where no compound page is like that.
    pub(crate) fn head(&self, addr: VirtAddr, page: &[u8]) -> Option<(VirtAddr, u64)> {
        let word = word(page, self.layout.compound_head)?;
        if word & 1 == 0 {
            return Some((addr, 0));
        }
        let word = word - 1;
        let head = VirtAddr::new(if word & MASK == MASK { addr.raw() & word } else { word });
        let distance = addr.wrapping_offset_from(head);
        let pages = distance / self.layout.size;
        (distance.is_multiple_of(self.layout.size) && pages < MAX_COMPOUND).then_some((head, pages))
    }

    /// `page->flags`; a `memdesc_flags_t` in 7.x, which is the same word.
    pub(crate) fn flags(&self, page: &[u8]) -> Option<u64> {
        word(page, self.layout.flags)
    }

    /// `page->mapping`
    pub(crate) fn mapping(&self, page: &[u8]) -> Option<u64> {
        word(page, self.layout.mapping)
    }

    /// `page->index`
    pub(crate) fn index(&self, page: &[u8]) -> Option<u64> {
        word(page, self.layout.index)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
