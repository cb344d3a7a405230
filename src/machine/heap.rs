//! The page allocator of the synthetic kernel: from the top of RAM downwards, as memblock does; nothing is
//! ever given back.

use super::MachineError;
use crate::addr::{PhysAddr, PhysRange};

/// Free memory.
pub(super) struct Heap {
    free: PhysRange,
    top: PhysAddr,
    /// What is promised to others.
    reserved: Vec<PhysRange>,
}

impl Heap {
    pub(super) fn new(free: PhysRange, reserved: Vec<PhysRange>) -> Self {
        Self { free, top: free.end, reserved }
    }

    /// `len` bytes at a multiple of `align`, a power of two.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Result<PhysAddr, MachineError> {
        loop {
            let start = self.top.raw().checked_sub(len).map(|start| PhysAddr::new(start).align_down(align));
            let start = start.filter(|start| *start >= self.free.start);
            self.top = start.ok_or(MachineError::OutOfMemory { free: self.free, len })?;
            let end = self.top.wrapping_add(len);
            let taken = |range: &&PhysRange| range.start < end && self.top < range.end;
            match self.reserved.iter().find(taken) {
                None => return Ok(self.top),
                Some(range) => self.top = range.start,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_from_the_top_around_what_is_reserved() {
        let range = |text: &str| text.parse::<PhysRange>().unwrap();
        let mut heap = Heap::new(range("0x10000-0x20000"), vec![range("0x1c000-0x1e800")]);
        let mut take = |len, align| heap.take(len, align).map(PhysAddr::raw);
        assert_eq!(take(0x10, 0x10).unwrap(), 0x1_fff0);
        assert_eq!(take(0x1700, 0x100).unwrap(), 0x1_e800);
        assert_eq!(take(0x1000, 0x1000).unwrap(), 0x1_b000);
        assert_eq!(take(0xb000, 0x1000).unwrap(), 0x1_0000);
        assert_eq!(take(1, 1).unwrap_err().to_string(), "1 bytes do not fit what is left of 0x10000-0x20000");
    }
}
