//! Arguments and environment of a process, which lie in its own memory (`fs/proc/base.c`, `get_mm_cmdline`,
//! `environ_read`).

use super::{Kernel, KernelError, mm::Mm, user};
use crate::addr::{PAGE_SIZE, VirtAddr};

const STEP: &str = "reading the arguments of a process";

/// More than the kernel ever puts there: a quarter of the stack's limit, of which 8 MiB are usual
/// (`fs/exec.c`, `prepare_arg_pages`).
const MAX_BYTES: u64 = 8 << 20;

/// The bytes of `/proc/PID/cmdline`: arguments, each ended by a NUL, or what the process wrote over them.
///
/// # Errors
/// [`KernelError::KernelOnly`]; [`KernelError::Absent`] when a page is not there.
pub fn cmdline(kernel: &Kernel, mm: &Mm) -> Result<Vec<u8>, KernelError> {
    let bytes = range(kernel, mm, mm.arguments)?;
    if !is_title(&bytes) {
        return Ok(bytes);
    }
    Ok(title(range(kernel, mm, title_range(mm.arguments, mm.environment))?))
}

/// Whether the arguments were overwritten by one string (setproctitle): no NUL is at their end.
pub(super) fn is_title(arguments: &[u8]) -> bool {
    arguments.last().is_some_and(|last| *last != 0)
}

/// Where such a string is: it may go on into the environment, if that follows, and the kernel shows a page of it.
pub(super) fn title_range([start, end]: [VirtAddr; 2], environment: [VirtAddr; 2]) -> [VirtAddr; 2] {
    let [follows, last] = environment;
    let limit = if follows == end { last.max(end) } else { end };
    [start, start.wrapping_add(limit.raw().wrapping_sub(start.raw()).min(PAGE_SIZE))]
}

/// The string in these bytes, with its NUL.
pub(super) fn title(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.iter().position(|byte| *byte == 0).map_or(bytes.len(), |nul| nul + 1);
    bytes.truncate(len);
    bytes
}

/// The bytes of `/proc/PID/environ`: `NAME=VALUE`, each ended by a NUL, as they were when the process began.
///
/// # Errors
/// As [`cmdline`].
pub fn environ(kernel: &Kernel, mm: &Mm) -> Result<Vec<u8>, KernelError> {
    range(kernel, mm, mm.environment)
}

fn range(kernel: &Kernel, mm: &Mm, [start, end]: [VirtAddr; 2]) -> Result<Vec<u8>, KernelError> {
    let len = end
        .raw()
        .checked_sub(start.raw())
        .filter(|len| *len <= MAX_BYTES)
        .and_then(|len| usize::try_from(len).ok());
    let Some(len) = len else {
        let reason = format!("they end at {end}, more than {MAX_BYTES} bytes away or before they begin");
        return Err(KernelError::Inconsistent { step: STEP, addr: start, reason });
    };
    kernel.user_memory("the arguments and environment of a process")?;
    if len == 0 {
        return Ok(Vec::new());
    }
    user::read_vec(kernel, mm, start, len)
}

/// Cut at its NULs, bytes that are not UTF-8 replaced.
#[must_use]
pub fn strings(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}
