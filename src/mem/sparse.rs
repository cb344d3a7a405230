//! Memory of our own: RAM ranges of which only the written pages take space. What synthetic machines and tests
//! are built in.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use super::{Fault, MemError, PhysMem, PhysWrite, ReadOp};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};

type Page = [u8; PAGE_SIZE as usize];

/// RAM whose unwritten pages are zero, as a firmware leaves them; outside the ranges there is nothing.
#[derive(Debug)]
pub struct Sparse {
    ram: Vec<PhysRange>,
    pages: RwLock<HashMap<u64, Box<Page>>>,
}

impl Sparse {
    /// Empty RAM in `ram`.
    pub fn new(ram: impl IntoIterator<Item = PhysRange>) -> Self {
        Self { ram: ram.into_iter().collect(), pages: RwLock::default() }
    }

    /// The RAM ranges, as given.
    #[must_use]
    pub fn ram(&self) -> &[PhysRange] {
        &self.ram
    }

    fn holds(&self, addr: PhysAddr, len: usize) -> bool {
        self.ram.iter().any(|range| range.contains(addr, len as u64))
    }
}

/// The pieces of `len` bytes from `addr` that lie in one page each: page number, offset in it, length.
fn pieces(addr: PhysAddr, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0_usize;
    std::iter::from_fn(move || {
        let at = addr.wrapping_add(done as u64);
        let offset = at.offset_in(PAGE_SIZE) as usize;
        let piece = (PAGE_SIZE as usize - offset).min(len - done);
        done += piece;
        (piece > 0).then_some((at.raw() / PAGE_SIZE, offset, piece))
    })
}

impl PhysMem for Sparse {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            if !self.holds(op.addr, op.buf.len()) {
                op.fail(Fault::Hole);
                continue;
            }
            let mut rest = &mut *op.buf;
            for (page, offset, len) in pieces(op.addr, rest.len()) {
                let (piece, after) = rest.split_at_mut(len);
                match pages.get(&page).and_then(|page| page.get(offset..offset + len)) {
                    Some(bytes) => piece.copy_from_slice(bytes),
                    None => piece.fill(0),
                }
                rest = after;
            }
            op.result = Ok(());
        }
    }
}

impl PhysWrite for Sparse {
    fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError> {
        if !self.holds(addr, data.len()) {
            return Err(MemError { addr, len: data.len(), fault: Fault::Hole });
        }
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let mut rest = data;
        for (page, offset, len) in pieces(addr, data.len()) {
            let (piece, after) = rest.split_at(len);
            let page = pages.entry(page).or_insert_with(|| Box::new([0; PAGE_SIZE as usize]));
            if let Some(bytes) = page.get_mut(offset..offset + len) {
                bytes.copy_from_slice(piece);
            }
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_and_holes_are_errors() {
        let memory = Sparse::new(["0x1000-0x4000".parse().unwrap()]);
        memory.write(PhysAddr::new(0x1ffe), &[1, 2, 3, 4]).unwrap();
        let mut bytes = [0xff; 6];
        memory.read(PhysAddr::new(0x1ffd), &mut bytes).unwrap();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 0]);
        let error = memory.read(PhysAddr::new(0x3ffd), &mut bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read 6 bytes at physical address 0x3ffd: the image holds no such address"
        );
        assert!(memory.write(PhysAddr::new(0xfff), &[0; 2]).is_err());
    }
}
