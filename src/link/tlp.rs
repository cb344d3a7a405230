//! Transaction layer packets: memory requests and completions, to bytes and back.
//!
//! Input and output are the bytes after the NetTLP header. Only what a memory read or write needs is here:
//! `MRd` and `MWr` with 3 or 4 double words (DW) of header, `Cpl` and `CplD`. Whether a completion fits a
//! request is [`super::engine`]'s question. Source: PCI Express Base Specification, sections 2.2.1 (common
//! fields), 2.2.5 (byte enables), 2.2.7 (memory requests) and 2.2.9 (completions).

use super::Requester;

/// Bytes in a double word, the unit of the Length field.
pub const DW: usize = 4;
/// Most double words in one packet; the Length field writes it as 0.
pub const MAX_DWORDS: u16 = 1024;
/// Most bytes one request can ask for; the Byte Count field writes it as 0.
pub const MAX_BYTES: u16 = 4096;
/// No memory request may cross a multiple of this.
pub const BOUNDARY: u64 = 4096;

const WITH_DATA: u8 = 0x40;
const FOUR_DW: u8 = 0x20;
const TYPE_MEMORY: u8 = 0x00;
const TYPE_COMPLETION: u8 = 0x0a;
const TYPE_BITS: u8 = 0x1f;
const LENGTH_BITS: u16 = 0x3ff;
const BYTE_COUNT_BITS: u16 = 0xfff;
const LOWER_ADDRESS_BITS: u8 = 0x7f;
const DIGEST: u16 = 1 << 15;
const POISONED: u16 = 1 << 14;
const BYTE_COUNT_MODIFIED: u16 = 1 << 12;

/// What is wrong with a datagram that should have been a completion of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// Shorter than its own headers.
    #[error("it is shorter than its headers")]
    Short,
    /// A format and type that is neither a memory request nor a completion.
    #[error("its type {0:#04x} is unknown")]
    Type(u8),
    /// A request where a completion belongs.
    #[error("it is a request")]
    Request,
    /// The data do not have the length the header states.
    #[error("it carries {got} bytes of data where its header says {stated}")]
    DataLength {
        /// Bytes the Length field stands for.
        stated: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The digest bit is set: the last double word would not be data.
    #[error("it has a digest")]
    Digest,
    /// The requester ID of somebody else.
    #[error("it is for requester {0}")]
    Requester(Requester),
    /// The tag of another port.
    #[error("its tag is {0:#04x}, which belongs to another port")]
    Tag(u8),
    /// Status and presence of data contradict each other, or the status is reserved.
    #[error("its status {0} does not fit its type")]
    Status(u8),
    /// A byte count that does not continue what came before.
    #[error("its byte count is {got} where {wanted} bytes were left")]
    ByteCount {
        /// Bytes of the request still missing.
        wanted: u16,
        /// Bytes the packet says are missing.
        got: u16,
    },
    /// More data than the byte count allows.
    #[error("it carries more data than its byte count")]
    Overlong,
    /// A lower address that does not continue what came before.
    #[error("its lower address is {got:#04x} instead of {wanted:#04x}")]
    LowerAddress {
        /// The low 7 bits of the next missing byte's address.
        wanted: u8,
        /// Those of the packet.
        got: u8,
    },
}

/// The header of a memory read or write request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemRequest {
    /// Address of the first double word, a multiple of 4.
    pub addr: u64,
    /// Double words, 1 to [`MAX_DWORDS`].
    pub dwords: u16,
    /// Who asks.
    pub requester: Requester,
    /// Tells outstanding requests apart.
    pub tag: u8,
    /// Which bytes of the first double word are meant, bit 0 for the lowest address.
    pub first_be: u8,
    /// Which bytes of the last double word are meant; 0 when there is only one.
    pub last_be: u8,
}

impl MemRequest {
    /// A request for exactly the `len` bytes (1 to 4096) from `addr`, byte enables set accordingly.
    #[must_use]
    pub fn for_bytes(addr: u64, len: usize, requester: Requester, tag: u8) -> Self {
        let skip = (addr % DW as u64) as usize;
        let end = skip + len;
        let dwords = end.div_ceil(DW) as u16;
        let last = 0xf >> ((DW - end % DW) % DW);
        let first = 0xf << skip & 0xf;
        let (first_be, last_be) = if dwords == 1 { (first & last, 0) } else { (first, last) };
        Self { addr: addr - skip as u64, dwords, requester, tag, first_be, last_be }
    }

    /// Encodes a read request.
    #[must_use]
    pub fn encode_read(&self) -> Header {
        self.encode(TYPE_MEMORY)
    }

    /// Encodes the header of a write request; 4 × `dwords` bytes of data follow it.
    #[must_use]
    pub fn encode_write(&self) -> Header {
        self.encode(TYPE_MEMORY | WITH_DATA)
    }

    /// Section 2.2.4.1: an address below 4 GiB must use the 3 DW format.
    fn encode(&self, kind: u8) -> Header {
        let requester = u32::from(self.requester.raw()) << 16;
        let enables = u32::from(self.last_be & 0xf) << 4 | u32::from(self.first_be & 0xf);
        let identity = requester | u32::from(self.tag) << 8 | enables;
        let length = u32::from(self.dwords & LENGTH_BITS);
        let (high, low) = ((self.addr >> 32) as u32, self.addr as u32 & !3);
        if high == 0 {
            Header::of(u32::from(kind) << 24 | length, identity, [low, 0], 3)
        } else {
            Header::of(u32::from(kind | FOUR_DW) << 24 | length, identity, [high, low], 4)
        }
    }

    /// Address of the first enabled byte.
    #[must_use]
    pub fn first_byte(&self) -> u64 {
        let skipped = if self.first_be == 0 { 0 } else { self.first_be.trailing_zeros() };
        self.addr.wrapping_add(u64::from(skipped))
    }

    /// Bytes from the first to the last enabled one; a read with no byte enabled counts as 1.
    #[must_use]
    pub fn byte_count(&self) -> u16 {
        let first_skipped = (self.first_be.trailing_zeros() as u16).min(4);
        let last = if self.dwords == 1 { self.first_be } else { self.last_be };
        let last_skipped = ((last & 0xf) << 4).leading_zeros().min(4) as u16;
        let total = self.dwords * DW as u16;
        total.saturating_sub(first_skipped).saturating_sub(last_skipped).max(1)
    }

    /// Whether byte `index` of the data is enabled.
    #[must_use]
    pub fn enables(&self, index: usize) -> bool {
        let dword = index / DW;
        let mask = match dword {
            0 => self.first_be,
            _ if dword + 1 == usize::from(self.dwords) => self.last_be,
            _ => 0xf,
        };
        dword < usize::from(self.dwords) && mask >> (index % DW) & 1 == 1
    }

    fn decode(kind: u8, words: [u8; 8], rest: &[u8]) -> Result<(Self, &[u8]), Defect> {
        let [_, _, length_high, length_low, bus, devfn, tag, enables] = words;
        let (addr, rest) = if kind & FOUR_DW == 0 {
            let (bytes, rest) = rest.split_first_chunk::<4>().ok_or(Defect::Short)?;
            (u64::from(u32::from_be_bytes(*bytes)), rest)
        } else {
            let (bytes, rest) = rest.split_first_chunk::<8>().ok_or(Defect::Short)?;
            (u64::from_be_bytes(*bytes), rest)
        };
        let request = Self {
            addr: addr & !3,
            dwords: decode_length(u16::from_be_bytes([length_high, length_low])),
            requester: Requester::from_raw(u16::from_be_bytes([bus, devfn])),
            tag,
            first_be: enables & 0xf,
            last_be: enables >> 4,
        };
        Ok((request, rest))
    }
}

/// How a request was completed (section 2.2.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Successful Completion.
    Success,
    /// Unsupported Request: nothing answers at that address.
    Unsupported,
    /// Configuration Request Retry.
    ConfigRetry,
    /// Completer Abort.
    Abort,
    /// A reserved code.
    Reserved(u8),
}

impl Status {
    /// The 3-bit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Unsupported => 1,
            Self::ConfigRetry => 2,
            Self::Abort => 4,
            Self::Reserved(code) => code & 7,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::Unsupported,
            2 => Self::ConfigRetry,
            4 => Self::Abort,
            other => Self::Reserved(other),
        }
    }
}

/// A completion, with (`CplD`) or without (`Cpl`) data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion<'d> {
    /// Who asked.
    pub requester: Requester,
    /// The request's tag.
    pub tag: u8,
    /// Who answers; a root complex may say 0.
    pub completer: u16,
    /// How it went.
    pub status: Status,
    /// Bytes still to come, this packet's included; 1 to [`MAX_BYTES`].
    pub byte_count: u16,
    /// Low 7 bits of the address of this packet's first byte.
    pub lower_address: u8,
    /// Whether it is a `CplD`.
    pub has_data: bool,
    /// Length field in double words; of no meaning without data.
    pub dwords: u16,
    /// The completer says the data are bad.
    pub poisoned: bool,
    /// A digest follows the data.
    pub digest: bool,
    /// The byte count is of the first packet only; PCI-X bridges alone may set it.
    pub byte_count_modified: bool,
    /// Everything after the header: 4 × `dwords` bytes if all is well.
    pub data: &'d [u8],
}

impl<'d> Completion<'d> {
    /// A good completion with all of `data`, whose length is a multiple of 4.
    #[must_use]
    pub fn with_data(request: &MemRequest, byte_count: u16, lower_address: u8, data: &'d [u8]) -> Self {
        let dwords = (data.len() / DW) as u16;
        Self {
            has_data: true,
            dwords,
            data,
            ..Self::without_data(request, Status::Success, byte_count, lower_address)
        }
    }

    /// A completion that carries a status and nothing else.
    #[must_use]
    pub fn without_data(request: &MemRequest, status: Status, byte_count: u16, lower_address: u8) -> Self {
        Self {
            requester: request.requester,
            tag: request.tag,
            completer: 0,
            status,
            byte_count,
            lower_address: lower_address & LOWER_ADDRESS_BITS,
            has_data: false,
            dwords: 0,
            poisoned: false,
            digest: false,
            byte_count_modified: false,
            data: &[],
        }
    }

    /// Encodes the header; `data` follows it.
    #[must_use]
    pub fn encode(&self) -> Header {
        let kind = TYPE_COMPLETION | if self.has_data { WITH_DATA } else { 0 };
        let mut attributes = self.dwords & LENGTH_BITS;
        attributes |= if self.digest { DIGEST } else { 0 };
        attributes |= if self.poisoned { POISONED } else { 0 };
        let mut count = self.byte_count & BYTE_COUNT_BITS | u16::from(self.status.code()) << 13;
        count |= if self.byte_count_modified { BYTE_COUNT_MODIFIED } else { 0 };
        let tail = u32::from(self.requester.raw()) << 16
            | u32::from(self.tag) << 8
            | u32::from(self.lower_address & LOWER_ADDRESS_BITS);
        Header::of(
            u32::from(kind) << 24 | u32::from(attributes),
            u32::from(self.completer) << 16 | u32::from(count),
            [tail, 0],
            3,
        )
    }

    fn decode(kind: u8, words: [u8; 8], rest: &'d [u8]) -> Result<Self, Defect> {
        let [_, _, length_high, length_low, completer_high, completer_low, count_high, count_low] = words;
        let (&[bus, devfn, tag, lower], data) = rest.split_first_chunk::<4>().ok_or(Defect::Short)?;
        let attributes = u16::from_be_bytes([length_high, length_low]);
        let count = u16::from_be_bytes([count_high, count_low]);
        Ok(Self {
            requester: Requester::from_raw(u16::from_be_bytes([bus, devfn])),
            tag,
            completer: u16::from_be_bytes([completer_high, completer_low]),
            status: Status::from_code(count_high >> 5),
            byte_count: match count & BYTE_COUNT_BITS {
                0 => MAX_BYTES,
                bytes => bytes,
            },
            lower_address: lower & LOWER_ADDRESS_BITS,
            has_data: kind & WITH_DATA != 0,
            dwords: decode_length(attributes),
            poisoned: attributes & POISONED != 0,
            digest: attributes & DIGEST != 0,
            byte_count_modified: count & BYTE_COUNT_MODIFIED != 0,
            data,
        })
    }
}

/// A packet this program understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tlp<'d> {
    /// `MRd`.
    Read(MemRequest),
    /// `MWr` and everything after its header.
    Write(MemRequest, &'d [u8]),
    /// `Cpl` or `CplD`.
    Completion(Completion<'d>),
}

impl<'d> Tlp<'d> {
    /// Reads the packet in `bytes`, which hold nothing else.
    ///
    /// # Errors
    /// [`Defect::Short`] and [`Defect::Type`]; all other checks are the reader's.
    pub fn decode(bytes: &'d [u8]) -> Result<Self, Defect> {
        let (&words, rest) = bytes.split_first_chunk::<8>().ok_or(Defect::Short)?;
        let [kind, ..] = words;
        let reserved_format = kind & 0x80 != 0;
        match kind & TYPE_BITS {
            TYPE_MEMORY if !reserved_format => {
                let (request, data) = MemRequest::decode(kind, words, rest)?;
                Ok(if kind & WITH_DATA == 0 { Self::Read(request) } else { Self::Write(request, data) })
            }
            TYPE_COMPLETION if !reserved_format && kind & FOUR_DW == 0 => {
                Completion::decode(kind, words, rest).map(Self::Completion)
            }
            _ => Err(Defect::Type(kind)),
        }
    }
}

/// An encoded header of 3 or 4 double words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; 16],
    len: usize,
}

impl Header {
    fn of(first: u32, second: u32, rest: [u32; 2], dwords: usize) -> Self {
        let mut bytes = [0; 16];
        let [third, fourth] = rest;
        for (slot, word) in bytes.chunks_exact_mut(DW).zip([first, second, third, fourth]) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        Self { bytes, len: dwords * DW }
    }
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

const fn decode_length(attributes: u16) -> u16 {
    match attributes & LENGTH_BITS {
        0 => MAX_DWORDS,
        dwords => dwords,
    }
}

#[cfg(test)]
mod tests;
