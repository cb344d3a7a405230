//! Whether a return address stands behind a call.

use crate::{addr::VirtAddr, kernel::Kernel};

/// The longest form of a call through memory that compilers emit: opcode, ModRM, SIB and 32 bits, with a prefix.
const LONGEST: usize = 8;

/// For each of `addrs`, whether the instruction before it may be a call; `false` where it cannot be read.
pub(super) fn precedes(kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<bool> {
    let starts: Vec<VirtAddr> = addrs.iter().map(|addr| addr.wrapping_sub(LONGEST as u64)).collect();
    let read = kernel.memory.read_vecs(&starts, LONGEST);
    read.into_iter().map(|bytes| bytes.is_ok_and(|bytes| ends_with_call(&bytes))).collect()
}

/// `E8` with a 32-bit distance, or `FF /2` in the forms of each length (Intel SDM volume 2, CALL).
fn ends_with_call(bytes: &[u8]) -> bool {
    let before = |len: usize| bytes.len().checked_sub(len).and_then(|at| bytes.get(at..));
    let relative = matches!(before(5), Some([0xe8, ..]));
    let indirect = [2, 3, 4, 6, 7].into_iter().any(|len| match before(len) {
        Some([0xff, modrm, ..]) if modrm >> 3 & 7 == 2 => length(*modrm) == Some(len) || has_sib(*modrm, len),
        _ => false,
    });
    relative || indirect
}

/// Bytes of `FF` with this ModRM byte, where no SIB byte follows.
fn length(modrm: u8) -> Option<usize> {
    match (modrm >> 6, modrm & 7) {
        (3, _) => Some(2),
        (_, 4) => None,
        (0, 5) | (2, _) => Some(6),
        (0, _) => Some(2),
        _ => Some(3),
    }
}

fn has_sib(modrm: u8, len: usize) -> bool {
    modrm & 7 == 4 && matches!((modrm >> 6, len), (0, 3 | 7) | (1, 4) | (2, 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_by_their_encodings() {
        for (code, is_call) in [
            (&[0, 0, 0, 0xe8, 1, 2, 3, 4][..], true),
            (&[0, 0, 0, 0xe9, 1, 2, 3, 4], false),
            (&[0, 0, 0, 0, 0, 0, 0xff, 0xd0], true),
            (&[0, 0, 0, 0, 0, 0x41, 0xff, 0xd5], true),
            (&[0, 0, 0, 0, 0, 0, 0xff, 0xe0], false),
            (&[0, 0, 0, 0, 0, 0xff, 0x50, 0x18], true),
            (&[0, 0, 0xff, 0x15, 1, 2, 3, 4], true),
            (&[0, 0xff, 0x14, 0xc5, 1, 2, 3, 4], true),
            (&[0, 0, 0, 0, 0xff, 0x54, 0x24, 8], true),
            (&[0x90; 8], false),
            (&[], false),
        ] {
            assert_eq!(ends_with_call(code), is_call, "{code:x?}");
        }
    }
}
