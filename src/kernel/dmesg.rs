//! The kernel log, in both of printk's formats: [`records`] (before 5.10) and [`ring`] (the lockless ring).
//!
//! Which one a kernel has is told by its symbols: `prb` or `log_first_idx`. The buffers are fetched in a few bulk
//! reads, only the part in use; the parsers are pure functions over the bytes.

pub mod records;
pub mod ring;
mod unlogged;

pub use unlogged::Unlogged;

use super::{Kernel, KernelError};
use crate::{addr::VirtAddr, paging::VirtMem};

/// `CONFIG_LOG_BUF_SHIFT` is 25 at most; `log_buf_len=64M` is asked for, and a machine with thousands of CPUs gives
/// itself as much (`LOG_CPU_MAX_BUF_SHIFT`). Only what is in use is read.
const MAX_TEXT: u64 = 64 << 20;
/// A ring has a descriptor for each 32 bytes of text (`PRB_AVGBITS`).
const MAX_RECORDS: u64 = 2 << 20;
/// Bytes of so many `struct printk_info`, of which each has 88.
const MAX_BUFFER: u64 = 192 << 20;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Record {
    /// Sequence number since boot.
    pub seq: u64,
    /// Nanoseconds since boot.
    pub ts_nsec: u64,
    /// syslog level, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// syslog facility, 0 for the kernel.
    pub facility: u8,
    /// Thread or CPU that wrote it, where the kernel records one: the number, bit 31 set for a CPU.
    pub caller_id: Option<u32>,
    /// The text, bytes that are not UTF-8 replaced; may hold several lines.
    pub text: String,
}

impl Record {
    /// The lines `dmesg` prints: `[    0.000000] text`, every line of a record with the stamp.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let (seconds, micros) = (self.ts_nsec / 1_000_000_000, self.ts_nsec % 1_000_000_000 / 1000);
        self.text.split('\n').map(move |line| format!("[{seconds:5}.{micros:06}] {line}"))
    }
}

/// What could be read of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The messages, oldest first.
    pub records: Vec<Record>,
    /// How many more there are, at least: damaged, or replaced by newer ones while they were read. One that was being
    /// written is not among them.
    pub lost: u64,
    /// Lines that were printed later and have not come to the log.
    pub unlogged: Vec<Unlogged>,
}

/// A message of the log, or a line that is not there yet.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
pub enum Message<'l> {
    /// In the log.
    Logged(&'l Record),
    /// Not yet.
    Unlogged(&'l Unlogged),
}

impl Log {
    /// All there is, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        self.records.iter().map(Message::Logged).chain(self.unlogged.iter().map(Message::Unlogged))
    }

    /// What to say of the messages that are lost, if any are.
    #[must_use]
    pub fn loss(&self) -> Option<String> {
        let lost = match self.lost {
            0 => return None,
            1 => "1 message of the kernel log is damaged or was".to_owned(),
            lost => format!("{lost} messages of the kernel log are damaged or were"),
        };
        Some(format!("{lost} replaced while the log was read"))
    }
}

/// Reads the log.
///
/// # Errors
/// [`KernelError`] when a symbol, type or read is missing or the buffer contradicts itself.
pub fn read(kernel: &Kernel) -> Result<Log, KernelError> {
    let has = |name| kernel.variable("the kernel log", name).is_ok();
    let log = if !has("prb") && has("log_first_idx") { records::read(kernel)? } else { ring::read(kernel)? };
    let unlogged = unlogged::read(kernel).unwrap_or_else(|error| {
        log::warn!("what was printed and is not in the log yet is not shown: {error}");
        Vec::new()
    });
    Ok(Log { unlogged, ..log })
}

/// Reads several stretches in one batch.
fn read_all(
    memory: &dyn VirtMem,
    step: &'static str,
    stretches: &[(VirtAddr, u64)],
) -> Result<Vec<Vec<u8>>, KernelError> {
    for (addr, len) in stretches {
        if *len > MAX_BUFFER {
            let reason = format!("{len} bytes is no size of a log buffer");
            return Err(KernelError::Inconsistent { step, addr: *addr, reason });
        }
    }
    let ranges: Vec<(VirtAddr, usize)> = stretches.iter().map(|(addr, len)| (*addr, *len as usize)).collect();
    let read = memory.read_ranges(&ranges).into_iter();
    read.map(|bytes| bytes.map_err(|source| KernelError::Read { step, source })).collect()
}

/// The stretches of a ring of `capacity` elements of `size` bytes that hold `count` elements from `first`:
/// one, or two when they go over the end.
fn ring_stretches(base: VirtAddr, size: u64, capacity: u64, first: u64, count: u64) -> [(VirtAddr, u64); 2] {
    let head = count.min(capacity.saturating_sub(first));
    [(base.wrapping_add(first.wrapping_mul(size)), head * size), (base, (count - head) * size)]
}
