//! Whose a physical page is: which file's page cache it belongs to, and which page of the file it is.
//!
//! Input: the array of `struct page`. Output: `mapping` and `index` of some of them. This is the kernel's own word for
//! the order of pages that lie anywhere in memory; what is made of it is checked against the text.
//! Source: `include/linux/mm_types.h`, `include/linux/page-flags.h` (`PAGE_MAPPING_ANON`, `compound_head`).

use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    kernel::Kernel,
    paging::VirtMem,
    types::TypeSource,
};

/// A place in a file (or in an anonymous mapping, whose pages have an order too).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// `page->mapping`: tells one file from another, nothing else.
    pub mapping: u64,
    /// `page->index`: the offset in pages.
    pub index: u64,
}

/// Says whose some pages are.
pub trait Owners {
    /// One answer for each of `pages`; `None` when it is nobody's or cannot be read.
    fn owners(&self, pages: &[PhysAddr]) -> Vec<Option<Owner>>;
}

/// No page is anybody's: for memory whose array of `struct page` is not known.
pub struct Unknown;

impl Owners for Unknown {
    fn owners(&self, pages: &[PhysAddr]) -> Vec<Option<Owner>> {
        vec![None; pages.len()]
    }
}

/// No file or mapping is longer: 2^57 bytes of pages.
const MAX_INDEX: u64 = 1 << 45;

/// A huge page of 1 GiB.
const MAX_COMPOUND: u64 = 1 << 18;

/// Structs read in one batch.
const BATCH: usize = 1024;

/// The kernel's array of `struct page`.
pub struct PageArray<'k> {
    memory: &'k dyn VirtMem,
    base: VirtAddr,
    layout: Layout,
}

/// Where the members of `struct page` are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    size: u64,
    compound_head: usize,
    mapping: usize,
    index: usize,
}

/// A tail page's word that begins like this is no address but the mask that makes its own address the head's: in
/// `compound_info`, where the size of `struct page` is a power of two (`include/linux/page-flags.h`, 7.x).
const MASK: u64 = 0xffff_ffff << 32;

impl Layout {
    /// x86-64 since 4.4: flags, then five words of the union that begins with `lru` or `compound_head`.
    const USUAL: Self = Self { size: 64, compound_head: 8, mapping: 24, index: 32 };

    fn of(types: &dyn TypeSource) -> Option<Self> {
        let offset = |name: &str| types.field("page", name).ok().map(|field| field.offset as usize);
        let size = types.struct_size("page").ok().filter(|size| (40..=256).contains(size))?;
        Some(Self {
            size,
            compound_head: offset("compound_head").or_else(|| offset("compound_info"))?,
            mapping: offset("mapping")?,
            index: offset("index").or_else(|| offset("__folio_index"))?,
        })
    }
}

impl<'k> PageArray<'k> {
    /// The array of `kernel`, if it is known where it is. Without types the usual layout is taken.
    #[must_use]
    pub fn of(kernel: &'k Kernel) -> Option<Self> {
        let base = kernel.map.vmemmap_base?;
        let layout = kernel.types.as_deref().and_then(Layout::of).unwrap_or(Layout::USUAL);
        Some(Self { memory: &*kernel.memory, base, layout })
    }

    fn at(&self, frame: u64) -> VirtAddr {
        self.base.wrapping_add(frame.wrapping_mul(self.layout.size))
    }

    fn read(&self, addrs: &[VirtAddr]) -> Vec<Option<Vec<u8>>> {
        let read = self.memory.read_vecs(addrs, self.layout.size as usize).into_iter();
        read.map(Result::ok).collect()
    }

    /// Distance in pages from the first page of the compound page that `page` is in, and that page's address.
    fn head(&self, addr: VirtAddr, page: &[u8]) -> Option<(VirtAddr, u64)> {
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

    fn owner(&self, page: &[u8], distance: u64) -> Option<Owner> {
        let mapping = word(page, self.layout.mapping)?;
        let index = word(page, self.layout.index)?;
        // Bit 0 says anonymous, bit 1 that it is no mapping at all.
        let is_pointer = mapping >> 56 == 0xff && mapping & 0b110 == 0;
        (is_pointer && index < MAX_INDEX).then_some(Owner { mapping, index: index + distance })
    }
}

impl Owners for PageArray<'_> {
    fn owners(&self, pages: &[PhysAddr]) -> Vec<Option<Owner>> {
        let mut owners = Vec::with_capacity(pages.len());
        for pages in pages.chunks(BATCH) {
            let addrs: Vec<VirtAddr> = pages.iter().map(|page| self.at(page.raw() / PAGE_SIZE)).collect();
            let structs = self.read(&addrs);
            let heads: Vec<Option<(VirtAddr, u64)>> =
                addrs.iter().zip(&structs).map(|(addr, page)| self.head(*addr, page.as_deref()?)).collect();
            // Page 0 of the array stands for those without a head; its answer is not used.
            let wanted: Vec<VirtAddr> =
                heads.iter().map(|head| head.map_or(self.base, |head| head.0)).collect();
            let read = self.read(&wanted);
            owners.extend(heads.iter().zip(read).map(|(head, page)| self.owner(&page?, head.as_ref()?.1)));
        }
        owners
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::{Translation, VirtError, VirtFault, VirtOp};

    const BASE: VirtAddr = VirtAddr::new(0xfff7_48be_0000_0000);

    /// `struct page` by frame; frames past the end are not mapped.
    struct Structs(Vec<[u64; 8]>);

    impl VirtMem for Structs {
        fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
            for op in ops {
                let frame = op.addr.wrapping_offset_from(BASE) / 64;
                op.result = match self.0.get(usize::try_from(frame).unwrap()) {
                    Some(words) => {
                        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                        op.buf.copy_from_slice(&bytes);
                        Ok(())
                    }
                    None => Err(VirtError { addr: op.addr, len: 64, fault: VirtFault::NonCanonical }),
                };
            }
        }

        fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
            Err(VirtError { addr, len: 0, fault: VirtFault::NonCanonical })
        }
    }

    #[test]
    fn a_page_knows_its_file() {
        let page = |head: u64, mapping: u64, index: u64| [0, head, 0, mapping, index, 0, 0, 0];
        let (file, other) = (0xff39_4077_0012_3400, 0xffff_8880_0012_3400);
        let at = |frame: u64| BASE.raw() + frame * 64;
        let structs = Structs(vec![
            page(0, file, 7),
            // A folio of two pages: the second one only leads to the first.
            page(0xff39_4077_0000_0000, other, 20),
            page(at(1) + 1, 0xdead_0000_0000_0400, 0),
            page(0, 0, 3),
            page(0, file | 2, 3),
            page(0, 0x1234, 3),
            page(0, file, u64::MAX),
            page(1, file, 3),
            page(at(99) + 1, file, 3),
            page(0, 0, 3),
            // The same, led to by a mask.
            page(0, file, 30),
            page(0xffff_ffff_ffff_ff81, 0, 0),
        ]);
        let array = PageArray { memory: &structs, base: BASE, layout: Layout::USUAL };
        let pages: Vec<PhysAddr> = (0..13).map(|frame| PhysAddr::new(frame * PAGE_SIZE)).collect();
        let owner = |mapping, index| Some(Owner { mapping, index });
        let mut expected = vec![owner(file, 7), owner(other, 20), owner(other, 21)];
        expected.resize(10, None);
        expected.extend([owner(file, 30), owner(file, 31), None]);
        assert_eq!(array.owners(&pages), expected);
    }
}
