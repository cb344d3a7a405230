//! What was printed and is not in the log yet, on kernels up to 5.14.
//!
//! In an NMI, and inside of printk itself, text went to a buffer of the CPU (`kernel/printk/printk_safe.c`, removed by
//! 93d102f094be) until an interrupt on that CPU moved it to the log. On one that is locked up hard none comes: what the
//! watchdog said of the lockup is there and nowhere else.

use crate::{
    addr::{VirtAddr, little_endian},
    kernel::{Kernel, KernelError, percpu},
};

const STEP: &str = "reading what is not in the log yet";

/// `nmi_print_seq` and `safe_print_seq`: per-CPU variables.
const BUFFERS: [&str; 2] = ["nmi_print_seq", "safe_print_seq"];

/// `CONFIG_PRINTK_SAFE_LOG_BUF_SHIFT` is 17 at most.
const MAX_BUFFER: usize = 1 << 17;

/// Text of all CPUs together.
const MAX_UNLOGGED: usize = 16 << 20;

/// `KERN_SOH`, which a level follows (`include/linux/kern_levels.h`).
const START_OF_HEADER: char = '\u{1}';

/// A line that a CPU printed and the log does not have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unlogged {
    /// The CPU.
    #[serde(rename = "unlogged_on_cpu")]
    pub cpu: u32,
    /// syslog level; `None` for what goes on with the line before, or has the default.
    pub level: Option<u8>,
    /// The line, bytes that are not UTF-8 replaced.
    pub text: String,
}

/// The lines that are in no log yet, CPU by CPU; none of a kernel without such buffers.
///
/// # Errors
/// [`KernelError`] when their layout is not known, or a read fails.
pub(super) fn read(kernel: &Kernel) -> Result<Vec<Unlogged>, KernelError> {
    let Some(symbols) = &kernel.symbols else { return Ok(Vec::new()) };
    let found: Vec<VirtAddr> = BUFFERS.iter().filter_map(|name| symbols.find(name)).collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let types = kernel.types("what is not in the log yet")?;
    let len = types.field("printk_safe_seq_buf", "len")?;
    let buffer = types.field("printk_safe_seq_buf", "buffer")?;
    let cpus = percpu::cpus(kernel)?;
    let places: Vec<(u32, VirtAddr)> = cpus
        .iter()
        .flat_map(|cpu| found.iter().map(|buffer| (cpu.number, buffer.wrapping_add(cpu.offset))))
        .collect();
    let lengths: Vec<(VirtAddr, usize)> =
        places.iter().map(|(_, at)| (at.wrapping_add(len.offset), len.size.min(8) as usize)).collect();
    let most = usize::try_from(buffer.size).unwrap_or(MAX_BUFFER).min(MAX_BUFFER);
    let (mut left, mut texts) = (MAX_UNLOGGED, Vec::new());
    for ((cpu, at), used) in places.iter().zip(kernel.memory.read_ranges(&lengths)) {
        let used = little_endian(&used.map_err(|source| KernelError::Read { step: STEP, source })?);
        let used = usize::try_from(used).unwrap_or(most).min(most);
        if used > left {
            log::warn!(
                "what CPU {cpu} and later ones printed and is not in the log yet is not shown: it is too much"
            );
            break;
        }
        left -= used;
        if used > 0 {
            texts.push((*cpu, (at.wrapping_add(buffer.offset), used)));
        }
    }
    let ranges: Vec<(VirtAddr, usize)> = texts.iter().map(|(_, range)| *range).collect();
    let mut unlogged = Vec::new();
    for ((cpu, _), text) in texts.iter().zip(kernel.memory.read_ranges(&ranges)) {
        let text = text.map_err(|source| KernelError::Read { step: STEP, source })?;
        unlogged.extend(lines(*cpu, &String::from_utf8_lossy(&text)));
    }
    Ok(unlogged)
}

/// A header begins a line, unless it says that the line goes on (`KERN_CONT`).
fn lines(cpu: u32, text: &str) -> Vec<Unlogged> {
    let mut lines: Vec<Unlogged> = Vec::new();
    for line in text.split('\n') {
        for (part, text) in line.split(START_OF_HEADER).enumerate() {
            let header = if part > 0 { text.chars().next() } else { None };
            let text = text.get(header.map_or(0, char::len_utf8)..).unwrap_or_default();
            let level = header.and_then(|level| level.to_digit(8)).map(|level| level as u8);
            match lines.last_mut() {
                Some(last) if part > 0 && header == Some('c') => last.text.push_str(text),
                _ if text.is_empty() => {}
                _ => lines.push(Unlogged { cpu, level, text: text.to_owned() }),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_a_header_or_behind_a_line() {
        let told = |text| -> Vec<(Option<u8>, String)> {
            lines(3, text).into_iter().map(|line| (line.level, line.text)).collect()
        };
        let line = |level, text: &str| (level, text.to_owned());
        assert_eq!(
            told("\u{1}0Watchdog\n\u{1}4CPU: 3\nRIP\n"),
            [line(Some(0), "Watchdog"), line(Some(4), "CPU: 3"), line(None, "RIP")]
        );
        assert_eq!(told("\u{1}6a\u{1}cb\u{1}4c\n\u{1}"), [line(Some(6), "ab"), line(Some(4), "c")]);
        assert_eq!(told(""), []);
    }
}
