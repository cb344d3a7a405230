//! The record-based log of kernels before 5.10 (`kernel/printk/printk.c`, `struct printk_log`).
//!
//! Records of variable length follow each other in `log_buf`; a length of 0 says that the next one is at the
//! start of the buffer.

use std::ops::Range;

use super::{Log, MAX_TEXT, Record, read_all};
use crate::{
    addr::{VirtAddr, little_endian},
    kernel::{Kernel, KernelError, structure::Structure},
    types::{Field, TypeError, TypeSource},
};

const STEP: &str = "reading the kernel log";

/// The variables that say where the messages are, and their sizes: `u32` or eight bytes.
const VARIABLES: [(&str, u64); 6] = [
    ("log_buf", 8),
    ("log_buf_len", 4),
    ("log_first_idx", 4),
    ("log_next_idx", 4),
    ("log_first_seq", 8),
    ("log_next_seq", 8),
];

/// The layout of a record's header in this kernel.
#[derive(Debug)]
pub struct Layout {
    header: u64,
    ts_nsec: Field<u64>,
    len: Field<u64>,
    text_len: Field<u64>,
    facility: Field<u8>,
    level: Field<u8>,
    caller_id: Option<Field<u32>>,
}

impl Layout {
    /// Resolves the members.
    ///
    /// # Errors
    /// [`TypeError`] naming the one that is missing.
    pub fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut log = Structure::new(types, "printk_log");
        Ok(Self {
            header: types.struct_size("printk_log")?,
            ts_nsec: log.field(&["ts_nsec"])?,
            len: log.field(&["len"])?,
            text_len: log.field(&["text_len"])?,
            facility: log.field(&["facility"])?,
            level: log.field(&["level"])?,
            caller_id: log.optional(&["caller_id"])?,
        })
    }
}

/// Reads the log of a kernel that has `log_first_idx`.
///
/// # Errors
/// [`KernelError`].
pub fn read(kernel: &Kernel) -> Result<Log, KernelError> {
    let layout = Layout::resolve(kernel.types("the kernel log")?)?;
    let place = |(name, len)| Ok((kernel.variable("the kernel log", name)?, len));
    let places = VARIABLES.into_iter().map(place).collect::<Result<Vec<_>, KernelError>>()?;
    let mut words = read_all(&*kernel.memory, STEP, &places)?.into_iter();
    let mut next_word = || words.next().map_or(0, |bytes| little_endian(&bytes));
    let (buffer, len) = (VirtAddr::new(next_word()), next_word());
    let (first, next) = (next_word(), next_word());
    let seqs = next_word()..next_word();
    if len > MAX_TEXT {
        let reason = format!("{len} bytes is no size of a log buffer");
        return Err(KernelError::Inconsistent { step: STEP, addr: buffer, reason });
    }
    let bytes = read_all(&*kernel.memory, STEP, &[(buffer, len)])?.concat();
    Ok(parse(&layout, &bytes, first, next, seqs))
}

/// The messages from index `first` up to index `next`, which have the sequence numbers `seqs`. Ends where a record
/// contradicts the buffer: those behind it are lost.
#[must_use]
pub fn parse(layout: &Layout, buffer: &[u8], first: u64, next: u64, seqs: Range<u64>) -> Log {
    let mut records = Vec::new();
    let (mut at, mut wrapped) = (first, false);
    while at != next || (records.is_empty() && first == next && !wrapped && !buffer.is_empty()) {
        let Some(header) = slice(buffer, at, layout.header) else { break };
        let Some(len) = layout.len.get(header) else { break };
        if len == 0 {
            if wrapped {
                break;
            }
            (at, wrapped) = (0, true);
            continue;
        }
        let Some(record) = record(layout, buffer, at, seqs.start.wrapping_add(records.len() as u64)) else {
            break;
        };
        records.push(record);
        at = match at.checked_add(len) {
            Some(after) if len >= layout.header => after,
            _ => break,
        };
        if wrapped && at > next {
            break;
        }
    }
    let lost = match at == next {
        true => 0,
        false => (seqs.end.saturating_sub(seqs.start)).saturating_sub(records.len() as u64).max(1),
    };
    Log { records, lost, ..Log::default() }
}

fn slice(buffer: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    buffer.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

fn record(layout: &Layout, buffer: &[u8], at: u64, seq: u64) -> Option<Record> {
    let header = slice(buffer, at, layout.header)?;
    let text_len = layout.text_len.get(header)?;
    // A text that reached into the next records would be read again with each of them.
    if layout.header.checked_add(text_len)? > layout.len.get(header)? {
        return None;
    }
    let text = slice(buffer, at.checked_add(layout.header)?, text_len)?;
    Some(Record {
        seq,
        ts_nsec: layout.ts_nsec.get(header)?,
        level: layout.level.get(header)?,
        facility: layout.facility.get(header)?,
        caller_id: layout.caller_id.as_ref().and_then(|field| field.get(header)),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::Structs;

    /// ts_nsec, len, text_len, dict_len, facility, flags:5, level:3, as in 4.15.
    fn layout() -> Layout {
        let types = Structs::new().add(
            "printk_log",
            16,
            &[("ts_nsec", 0, 8), ("len", 8, 2), ("text_len", 10, 2), ("facility", 14, 1), ("level", 15, 1)],
        );
        Layout::resolve(&types).unwrap()
    }

    fn push(buffer: &mut Vec<u8>, nsec: u64, text: &str) {
        let len = (16 + text.len()).next_multiple_of(8);
        let start = buffer.len();
        buffer.extend(nsec.to_le_bytes());
        buffer.extend((len as u16).to_le_bytes());
        buffer.extend((text.len() as u16).to_le_bytes());
        buffer.extend([0, 0, 1, 6]);
        buffer.extend(text.as_bytes());
        buffer.resize(start + len, 0);
    }

    fn texts(log: &Log) -> Vec<(u64, &str)> {
        log.records.iter().map(|record| (record.seq, record.text.as_str())).collect()
    }

    #[test]
    fn a_zero_length_leads_back_to_the_start() {
        let mut buffer = Vec::new();
        push(&mut buffer, 3, "third");
        let next = buffer.len();
        push(&mut buffer, 1, "first");
        push(&mut buffer, 2, "second");
        buffer.extend([0; 16]);
        let log = parse(&layout(), &buffer, next as u64, next as u64, 7..10);
        assert_eq!(texts(&log), [(7, "first"), (8, "second"), (9, "third")]);
        assert_eq!(log.lost, 0);
        assert_eq!((log.records[0].level, log.records[0].facility, log.records[0].ts_nsec), (6, 1, 1));
    }

    #[test]
    fn damage_ends_the_list() {
        let mut buffer = Vec::new();
        push(&mut buffer, 1, "first");
        push(&mut buffer, 2, "second");
        let end = buffer.len() as u64;
        let parse = |buffer: &[u8], first, next| super::parse(&layout(), buffer, first, next, 0..2);
        buffer[24 + 10] = 0xff;
        let log = parse(&buffer, 0, end);
        assert_eq!((texts(&log), log.lost), (vec![(0, "first")], 1));
        buffer[24 + 10] = 16;
        let log = parse(&buffer, 0, end);
        assert_eq!((texts(&log), log.lost), (vec![(0, "first")], 1), "more text than record");
        buffer[8] = 1;
        let nothing = Log { lost: 2, ..Log::default() };
        assert_eq!(parse(&buffer, 0, end), nothing);
        assert_eq!(parse(&[0; 64], 0, 8), nothing);
        assert_eq!(parse(&buffer, u64::MAX, 8), nothing);
    }
}
