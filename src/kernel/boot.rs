//! What tells one boot of a host from the next, at the cost of a few round trips.
//!
//! A [`KernelMap`](super::KernelMap) is of one boot: after a reset the same addresses lead anywhere, and memory that the
//! new kernel has not used yet still looks like the old one. So two things are compared with what they were: the
//! trampolines below 1 MiB, which a kernel leaves when it starts and names its own tables in, and bytes of the image and of
//! `page_offset_base` through the page tables. A boot that puts the same kernel at the same place under the same tables is
//! not told apart, and need not be: the map holds for it, and what was read outlives no stop.

use std::sync::Arc;

use super::{
    Kernel,
    locate::{Trampoline, trampolines},
};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    mem::{Fault, guard::Guard},
    paging::{VirtError, VirtFault, VirtMem, VirtOp},
};

/// Bytes compared of what is longer; the first differ between builds.
const MARK: usize = 256;

/// What was seen of one boot, to be compared.
#[derive(Debug, Clone)]
pub struct Marks {
    /// As far as low memory could be read.
    trampolines: Vec<Trampoline>,
    /// Of those that could be read.
    constant: Vec<(VirtAddr, Vec<u8>)>,
}

impl Marks {
    /// Looks at `kernel`, just located: at physical memory through `phys` and at virtual memory through `now`, both past
    /// every cache.
    #[must_use]
    pub fn take(kernel: &Kernel, phys: &Arc<Guard>, now: &dyn VirtMem) -> Self {
        let symbol = |name: &str, len: usize| Some((kernel.symbols.as_ref()?.find(name)?, len));
        // It often begins with the banner.
        let rodata = kernel.map.rodata.map(|range| {
            let offset = range.start.wrapping_offset_from(kernel.map.text_phys);
            (kernel.map.text.wrapping_add(offset), range.len().min(PAGE_SIZE) as usize)
        });
        let places = [
            Some((kernel.map.text, MARK)),
            rodata,
            symbol("linux_banner", kernel.map.banner.as_ref().map_or(0, String::len).min(MARK)),
            symbol("page_offset_base", size_of::<u64>()),
        ];
        let mut constant: Vec<_> =
            places.into_iter().flatten().map(|(addr, len)| (addr, vec![0; len])).collect();
        let read = read(now, &mut constant);
        let constant =
            constant.into_iter().zip(read).filter_map(|(place, read)| read.is_ok().then_some(place));
        Self { trampolines: trampolines(phys).unwrap_or_default(), constant: constant.collect() }
    }

    /// Whether memory shows another boot than it did. What the link does not bring proves nothing.
    #[must_use]
    pub fn differ(&self, phys: &Arc<Guard>, now: &dyn VirtMem) -> bool {
        let new = |trampoline: &Trampoline| !self.trampolines.contains(trampoline);
        // One where none was seen before may be of the same boot: it could not be read then.
        if !self.trampolines.is_empty() && trampolines(phys).is_ok_and(|found| found.iter().any(new)) {
            return true;
        }
        let mut seen: Vec<_> = self.constant.iter().map(|(addr, old)| (*addr, vec![0; old.len()])).collect();
        let read = read(now, &mut seen);
        seen.iter().zip(&self.constant).zip(read).any(|((seen, old), read)| match read {
            Ok(()) => seen != old,
            Err(error) => !is_of_the_link(&error),
        })
    }
}

fn read(now: &dyn VirtMem, places: &mut [(VirtAddr, Vec<u8>)]) -> Vec<Result<(), VirtError>> {
    let mut ops: Vec<_> = places.iter_mut().map(|(addr, bytes)| VirtOp::new(*addr, bytes)).collect();
    now.read_batch(&mut ops);
    ops.into_iter().map(|op| op.result).collect()
}

/// Whether a read failed on the way, so that nothing follows for what is there.
fn is_of_the_link(error: &VirtError) -> bool {
    match &error.fault {
        VirtFault::NotAttempted => true,
        VirtFault::Table { source, .. } | VirtFault::Data(source) => {
            matches!(source.fault, Fault::NotAttempted | Fault::Link(_) | Fault::Io(_))
        }
        VirtFault::NonCanonical | VirtFault::NotPresent { .. } | VirtFault::Malformed { .. } => false,
    }
}
