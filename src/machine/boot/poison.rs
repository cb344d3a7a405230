//! Memory errors (mm/memory-failure.c): pages that are marked and not used any more.

use super::{Boot, Object};
use crate::{
    addr::{PAGE_SIZE, PhysAddr},
    machine::{MachineError, description::Poisoned},
    types::TypeSource,
};

const HUGE_PAGE: u64 = 2 << 20;

impl Boot<'_> {
    pub(super) fn fail_memory(&mut self) -> Result<(), MachineError> {
        let poisoned = &self.description.poisoned;
        for failed in poisoned {
            match *failed {
                Poisoned::Page(page) => self.set_flags(self.page(page)?, &["PG_hwpoison"])?,
                Poisoned::Huge(page) => {
                    let head = self.page(page)?;
                    self.set_flags(head, &["PG_head", "PG_hwpoison"])?;
                    for offset in (PAGE_SIZE..HUGE_PAGE).step_by(PAGE_SIZE as usize) {
                        let tail = self.page(page.wrapping_add(offset))?;
                        self.set(tail, "compound_head", head.addr.wrapping_add(1))?;
                    }
                }
            }
        }
        self.set_global("num_poisoned_pages", poisoned.len())
    }

    /// The `struct page` of a physical page.
    fn page(&self, page: PhysAddr) -> Result<Object, MachineError> {
        let size = (&self.declarations.types as &dyn TypeSource).struct_size("page")?;
        let addr = self.bases.vmemmap.wrapping_add(page.raw() / PAGE_SIZE * size);
        Ok(Object { ty: "page", addr })
    }

    fn set_flags(&self, page: Object, names: &[&str]) -> Result<(), MachineError> {
        let types: &dyn TypeSource = &self.declarations.types;
        let mut flags = 0;
        for name in names {
            flags |= 1_u64 << types.enumerator("pageflags", name)?;
        }
        self.set(page, "flags", flags)
    }
}
