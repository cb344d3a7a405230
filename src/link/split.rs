//! Cuts a transfer of any length into requests a PCI Express link accepts.
//!
//! A read asks for whole double words and trims locally, so that byte enables are always all ones: reading the
//! rest of a double word is harmless in RAM, and nothing but RAM is read. Requests are at most the maximum read
//! request size (or payload size) long and never cross 4 KiB (PCI Express Base Specification, section 2.2.7);
//! thereby none crosses the 4 GiB line where the header format changes.

use super::tlp::{BOUNDARY, DW};

/// One request of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte wanted.
    pub addr: u64,
    /// Bytes wanted.
    pub len: usize,
    /// Where they belong in the transfer's buffer.
    pub offset: usize,
}

impl Piece {
    /// Address of the double word that holds the first byte wanted.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.addr & !(DW as u64 - 1)
    }

    /// Bytes before the first one wanted in its double word.
    #[must_use]
    pub fn skip(&self) -> usize {
        (self.addr % DW as u64) as usize
    }

    /// Double words that cover the piece.
    #[must_use]
    pub fn dwords(&self) -> u16 {
        (self.skip() + self.len).div_ceil(DW) as u16
    }
}

/// The pieces of one transfer, in address order.
#[derive(Debug, Clone)]
pub struct Split {
    next: u64,
    left: usize,
    offset: usize,
    limit: u64,
}

impl Split {
    /// Cuts `len` bytes from `addr` into pieces of at most `limit` bytes, a power of two from 4 up.
    /// The caller has checked that the last byte exists.
    #[must_use]
    pub fn new(addr: u64, len: usize, limit: u32) -> Self {
        Self { next: addr, left: len, offset: 0, limit: u64::from(limit).clamp(DW as u64, BOUNDARY) }
    }
}

impl Iterator for Split {
    type Item = Piece;

    /// What is left of the 4 KiB block goes into one piece if it fits; else the cut is at a multiple of the
    /// limit, so that the pieces after it are aligned to it.
    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let in_block = BOUNDARY - self.next % BOUNDARY;
        let wanted = in_block.min(self.left as u64);
        let fits = self.next % DW as u64 + wanted <= self.limit;
        let len = if fits { wanted } else { self.limit - self.next % self.limit } as usize;
        let piece = Piece { addr: self.next, len, offset: self.offset };
        self.next = self.next.wrapping_add(len as u64);
        self.left -= len;
        self.offset += len;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(addr: u64, len: usize, limit: u32) -> Vec<(u64, usize)> {
        Split::new(addr, len, limit).map(|piece| (piece.addr, piece.len)).collect()
    }

    #[test]
    fn cuts() {
        assert_eq!(pieces(0x1000, 0, 512), []);
        assert_eq!(pieces(0x1003, 1, 512), [(0x1003, 1)]);
        assert_eq!(pieces(0x1100, 512, 512), [(0x1100, 512)]);
        assert_eq!(pieces(0x1001, 512, 512), [(0x1001, 511), (0x1200, 1)]);
        assert_eq!(pieces(0x1ffe, 4, 512), [(0x1ffe, 2), (0x2000, 2)]);
        assert_eq!(pieces(0x1000, 4096, 8192), [(0x1000, 4096)]);
        assert_eq!(pieces(0xffff_fffe, 4, 512), [(0xffff_fffe, 2), (0x1_0000_0000, 2)]);
        assert_eq!(pieces(u64::MAX - 1, 2, 512), [(u64::MAX - 1, 2)]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_transfer_and_obey_the_link(
            addr in any::<u64>(), len in 0usize..20_000, limit in 2u32..13,
        ) {
            let limit = 1 << limit;
            let len = len.min((u64::MAX - addr).min(1 << 20) as usize);
            let (mut next, mut offset) = (addr, 0);
            for piece in Split::new(addr, len, limit) {
                prop_assert_eq!((piece.addr, piece.offset), (next, offset));
                let bytes = usize::from(piece.dwords()) * DW;
                prop_assert!(piece.len > 0 && bytes <= limit as usize);
                prop_assert_eq!(piece.start() / BOUNDARY, (piece.start() + (bytes as u64 - 1)) / BOUNDARY);
                prop_assert!(piece.skip() + piece.len <= bytes && bytes < piece.skip() + piece.len + DW);
                next = next.wrapping_add(piece.len as u64);
                offset += piece.len;
            }
            prop_assert_eq!(offset, len);
        }
    }
}
