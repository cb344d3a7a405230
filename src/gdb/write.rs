//! Memory writes: the packets `M` (hexadecimal) and `X` (binary).
//!
//! Pure: bytes in, address and data out. Source: GDB manual, "Packets" and "Binary Data".

use super::packet::{hex_pair, unhex};

/// A write that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) addr: u64,
    pub(super) data: Vec<u8>,
}

impl Write {
    /// Reads `M ADDR,LEN:HEX` or `X ADDR,LEN:BINARY`; `None` when it is neither, or when its length is not that of its
    /// data.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let (place, data) = (rest.get(..colon)?, rest.get(colon + 1..)?);
        let (addr, len) = hex_pair(place)?;
        let data = match kind {
            b'M' => unhex(data)?,
            b'X' => unescape(data)?,
            _ => return None,
        };
        (data.len() as u64 == len).then_some(Self { addr, data })
    }
}

/// Takes the escapes out of binary data; `None` when the last one has nothing after it.
fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        data.push(if byte == b'}' { bytes.next()? ^ 0x20 } else { byte });
    }
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gdb::packet::escape;

    #[test]
    fn both_packets() {
        let check = |body: &[u8]| Write::parse(body).map(|write| (write.addr, write.data));
        assert_eq!(check(b"M1000,2:00ff"), Some((0x1000, vec![0, 0xff])));
        assert_eq!(check(b"Xffffffff81000000,0:"), Some((0xffff_ffff_8100_0000, vec![])));
        let all: Vec<u8> = (0..=255).collect();
        let body = [b"X10,100:".as_slice(), &escape(&all)].concat();
        assert_eq!(check(&body), Some((0x10, all)));
        for bad in
            [&b"M1000,2:00"[..], b"M1000,1:0g", b"M1000:00", b"X1,1:}", b"X1,1:", b"Mx,1:00", b"m0,1:00", b""]
        {
            assert_eq!(check(bad), None, "{}", bad.escape_ascii());
        }
    }
}
