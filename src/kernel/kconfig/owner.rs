//! Whose a physical page is: which file's page cache it belongs to, and which page of the file it is.
//!
//! Input: the array of `struct page`. Output: `mapping` and `index` of some of them. This is the kernel's own word for
//! the order of pages that lie anywhere in memory; what is made of it is checked against the text.
//! Source: `include/linux/mm_types.h`, `include/linux/page-flags.h` (`PAGE_MAPPING_ANON`).

use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    kernel::page_array::PageArray,
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

/// Structs read in one batch.
const BATCH: usize = 1024;

fn owner(array: &PageArray<'_>, page: &[u8], distance: u64) -> Option<Owner> {
    let (mapping, index) = (array.mapping(page)?, array.index(page)?);
    // Bit 0 says anonymous, bit 1 that it is no mapping at all.
    let is_pointer = mapping >> 56 == 0xff && mapping & 0b110 == 0;
    (is_pointer && index < MAX_INDEX).then_some(Owner { mapping, index: index + distance })
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
                heads.iter().map(|head| head.map_or(self.at(0), |head| head.0)).collect();
            let read = self.read(&wanted);
            owners.extend(heads.iter().zip(read).map(|(head, page)| owner(self, &page?, head.as_ref()?.1)));
        }
        owners
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::{Translation, VirtError, VirtFault, VirtMem, VirtOp};

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
        let array = PageArray::usual(&structs, BASE);
        let pages: Vec<PhysAddr> = (0..13).map(|frame| PhysAddr::new(frame * PAGE_SIZE)).collect();
        let owner = |mapping, index| Some(Owner { mapping, index });
        let mut expected = vec![owner(file, 7), owner(other, 20), owner(other, 21)];
        expected.resize(10, None);
        expected.extend([owner(file, 30), owner(file, 31), None]);
        assert_eq!(array.owners(&pages), expected);
    }
}
