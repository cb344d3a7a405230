//! Virtual memory over physical memory: x86-64 page tables of 4 and 5 levels (Intel SDM volume 3, chapter 4).
//!
//! Input: a [`crate::mem::PhysMem`], the root and depth somebody else found. Output: translations and batched reads by
//! virtual address. This layer knows nothing of Linux but what the processor knows.

mod paths;
pub mod runs;
mod space;

pub use space::AddressSpace;
pub(crate) use space::page_size;

use crate::{
    addr::{PhysAddr, VirtAddr},
    mem::MemError,
};

/// Depth of the page tables (`CR4.LA57`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Levels {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses.
    Five,
}

impl Levels {
    /// 4 or 5.
    #[must_use]
    pub const fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// Bits of a linear address that the tables translate: 48 or 57.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        match self {
            Self::Four => 48,
            Self::Five => 57,
        }
    }
}

/// Why a virtual address could not be translated or read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VirtFault {
    /// The batch ended before this operation was tried.
    #[error("it was not attempted")]
    NotAttempted,
    /// Bits above the translated ones are not copies of the highest translated bit.
    #[error("the address is not canonical")]
    NonCanonical,
    /// An entry on the way has its present bit clear.
    #[error("not mapped: the level-{level} entry at physical {entry_addr} is {entry:#x}")]
    NotPresent {
        /// 1 (page table) to 5 (PML5).
        level: u32,
        /// Where the entry is.
        entry_addr: PhysAddr,
        /// The entry.
        entry: u64,
    },
    /// An entry is present but no processor would accept it (reserved bits, address beyond MAXPHYADDR).
    #[error("malformed: the level-{level} entry at physical {entry_addr} is {entry:#x}")]
    Malformed {
        /// 1 to 5.
        level: u32,
        /// Where the entry is.
        entry_addr: PhysAddr,
        /// The entry.
        entry: u64,
    },
    /// An entry could not be read.
    #[error("its level-{level} table entry: {source}")]
    Table {
        /// 1 to 5.
        level: u32,
        /// The failed read.
        source: MemError,
    },
    /// The address is mapped, its memory could not be read.
    #[error(transparent)]
    Data(#[from] MemError),
}

/// A read of virtual memory that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot read {len} bytes at virtual address {addr}: {fault}")]
pub struct VirtError {
    /// First address asked for (for a read over several pages, of the piece that failed).
    pub addr: VirtAddr,
    /// Bytes asked for from there.
    pub len: usize,
    /// What went wrong.
    #[source]
    pub fault: VirtFault,
}

/// Where a virtual address lies in physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte asked for.
    pub phys: PhysAddr,
    /// Size of the page that maps it: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
    /// All entries on the way allow writing.
    pub writable: bool,
    /// All entries on the way allow user mode.
    pub user: bool,
    /// No entry on the way forbids execution.
    pub executable: bool,
}

/// One read of a batch. `buf` is unspecified unless `result` is `Ok`.
#[derive(Debug)]
pub struct VirtOp<'b> {
    /// First address.
    pub addr: VirtAddr,
    /// Where the bytes go.
    pub buf: &'b mut [u8],
    /// Set by [`VirtMem::read_batch`]; [`VirtFault::NotAttempted`] before.
    pub result: Result<(), VirtError>,
}

impl<'b> VirtOp<'b> {
    /// A read of `buf.len()` bytes from `addr`, not attempted yet.
    pub fn new(addr: VirtAddr, buf: &'b mut [u8]) -> Self {
        let result = Err(VirtError { addr, len: buf.len(), fault: VirtFault::NotAttempted });
        Self { addr, buf, result }
    }
}

/// Readable virtual memory.
pub trait VirtMem: Send + Sync {
    /// Attempts every operation and sets each `result`; one failure does not stop the others.
    fn read_batch(&self, ops: &mut [VirtOp<'_>]);

    /// As [`VirtMem::read_batch`], the n-th operation through the top-level table at `roots[n]` instead of this space's
    /// own. Operations without a root are not attempted, nor is any by memory that has no page tables.
    fn read_batch_from(&self, roots: &[PhysAddr], ops: &mut [VirtOp<'_>]) {
        let _ = (roots, ops);
    }

    /// Where `addr` lies in physical memory.
    ///
    /// # Errors
    /// [`VirtError`] naming the address and the table entry that ended the walk.
    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError>;

    /// As [`VirtMem::translate`], through the top-level table at `root` instead of this space's own.
    ///
    /// # Errors
    /// As [`VirtMem::translate`]; [`VirtFault::NotAttempted`] by memory that has no page tables.
    fn translate_from(&self, root: PhysAddr, addr: VirtAddr) -> Result<Translation, VirtError> {
        let _ = root;
        Err(VirtError { addr, len: 1, fault: VirtFault::NotAttempted })
    }

    /// Reads `buf.len()` bytes from `addr`.
    ///
    /// # Errors
    /// The operation's [`VirtError`]; `buf` is unspecified then.
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<(), VirtError> {
        let mut op = [VirtOp::new(addr, buf)];
        self.read_batch(&mut op);
        let [op] = op;
        op.result
    }

    /// Reads `len` bytes from `addr`. The caller bounds `len`.
    ///
    /// # Errors
    /// As [`VirtMem::read`].
    fn read_vec(&self, addr: VirtAddr, len: usize) -> Result<Vec<u8>, VirtError> {
        let mut bytes = vec![0; len];
        self.read(addr, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// As [`VirtMem::read`].
    fn read_u32(&self, addr: VirtAddr) -> Result<u32, VirtError> {
        let mut bytes = [0; 4];
        self.read(addr, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// As [`VirtMem::read`].
    fn read_u64(&self, addr: VirtAddr) -> Result<u64, VirtError> {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a pointer.
    ///
    /// # Errors
    /// As [`VirtMem::read`].
    fn read_ptr(&self, addr: VirtAddr) -> Result<VirtAddr, VirtError> {
        self.read_u64(addr).map(VirtAddr::new)
    }
}

/// Reads of one batch: bounds what is held beside the results.
const BATCH: usize = 4096;

/// Many reads side by side, each with its own outcome, in the order asked for.
impl dyn VirtMem + '_ {
    /// Reads the `len` bytes of each of `ranges` (`(addr, len)`). The caller bounds the lengths.
    #[must_use]
    pub fn read_ranges(&self, ranges: &[(VirtAddr, usize)]) -> Vec<Result<Vec<u8>, VirtError>> {
        let mut read = Vec::with_capacity(ranges.len());
        for ranges in ranges.chunks(BATCH) {
            let mut buffers: Vec<Vec<u8>> = ranges.iter().map(|(_, len)| vec![0; *len]).collect();
            let results = self.fill(ranges.iter().map(|(addr, _)| *addr), &mut buffers);
            read.extend(results.into_iter().zip(buffers).map(|(result, buffer)| result.map(|()| buffer)));
        }
        read
    }

    /// Reads `len` bytes from each of `addrs`. The caller bounds `len`.
    #[must_use]
    pub fn read_vecs(&self, addrs: &[VirtAddr], len: usize) -> Vec<Result<Vec<u8>, VirtError>> {
        let ranges: Vec<(VirtAddr, usize)> = addrs.iter().map(|addr| (*addr, len)).collect();
        self.read_ranges(&ranges)
    }

    /// Reads `N` bytes from each of `addrs`.
    #[must_use]
    pub fn read_each<const N: usize>(&self, addrs: &[VirtAddr]) -> Vec<Result<[u8; N], VirtError>> {
        let mut read = Vec::with_capacity(addrs.len());
        for addrs in addrs.chunks(BATCH) {
            let mut buffers = vec![[0; N]; addrs.len()];
            let results = self.fill(addrs.iter().copied(), &mut buffers);
            read.extend(results.into_iter().zip(buffers).map(|(result, buffer)| result.map(|()| buffer)));
        }
        read
    }

    /// Reads the pointer at each of `addrs`.
    #[must_use]
    pub fn read_ptrs(&self, addrs: &[VirtAddr]) -> Vec<Result<VirtAddr, VirtError>> {
        let words = self.read_each::<8>(addrs).into_iter();
        words.map(|word| word.map(u64::from_le_bytes).map(VirtAddr::new)).collect()
    }

    fn fill<B: AsMut<[u8]>>(
        &self,
        addrs: impl Iterator<Item = VirtAddr>,
        buffers: &mut [B],
    ) -> Vec<Result<(), VirtError>> {
        let mut ops: Vec<VirtOp<'_>> =
            addrs.zip(buffers).map(|(addr, buffer)| VirtOp::new(addr, buffer.as_mut())).collect();
        self.read_batch(&mut ops);
        ops.into_iter().map(|op| op.result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte's value is its address' lowest one; odd addresses cannot be read.
    struct Even;

    impl VirtMem for Even {
        fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
            assert!(ops.len() <= BATCH);
            for op in ops.iter_mut().filter(|op| op.addr.offset_in(2) == 0) {
                op.buf.fill(op.addr.raw() as u8);
                op.result = Ok(());
            }
        }

        fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
            Err(VirtError { addr, len: 1, fault: VirtFault::NotAttempted })
        }
    }

    #[test]
    fn of_many_reads_each_has_its_own_outcome() {
        let memory: &dyn VirtMem = &Even;
        let addrs: Vec<VirtAddr> = (0..2 * BATCH as u64 + 3).map(VirtAddr::new).collect();
        let ranges: Vec<(VirtAddr, usize)> =
            addrs.iter().map(|addr| (*addr, addr.offset_in(8) as usize)).collect();
        let (read, words) = (memory.read_ranges(&ranges), memory.read_each::<2>(&addrs));
        assert_eq!((read.len(), words.len()), (addrs.len(), addrs.len()));
        for (addr, (bytes, word)) in addrs.iter().zip(read.into_iter().zip(words)) {
            if addr.offset_in(2) == 1 {
                assert_eq!((bytes.unwrap_err().addr, word.unwrap_err().addr), (*addr, *addr));
            } else {
                let byte = addr.raw() as u8;
                assert_eq!(
                    (bytes.unwrap(), word.unwrap()),
                    (vec![byte; addr.offset_in(8) as usize], [byte; 2])
                );
            }
        }
    }
}
