//! What a task does, as one letter, and for whom.

/// The letter `/proc/PID/stat` gives (`fs/proc/array.c`, `task_state_array`; `include/linux/sched.h`,
/// `__task_state_index`). `exit_state` tells a zombie from a task that is gone; when it is not known, a task that will
/// never run again is X.
#[must_use]
pub fn state_letter(state: u64, exit_state: Option<u32>) -> char {
    const UNINTERRUPTIBLE: u64 = 0x2;
    const IDLE: u64 = 0x402;
    const RTLOCK_WAIT: u64 = 0x1000;
    /// Since f5d39b020809 (6.1).
    const FROZEN: u64 = 0x8000;
    const REPORTED: u64 = 0x7f;
    const DEAD: u64 = 0x80;
    let report = if state & IDLE == IDLE {
        return 'I';
    } else if exit_state.is_none() && state & DEAD != 0 {
        return 'X';
    } else if state & (RTLOCK_WAIT | FROZEN) != 0 {
        UNINTERRUPTIBLE
    } else {
        (state | u64::from(exit_state.unwrap_or(0))) & REPORTED
    };
    match 64 - report.leading_zeros() {
        0 => 'R',
        1 => 'S',
        2 => 'D',
        3 => 'T',
        4 => 't',
        5 => 'X',
        6 => 'Z',
        _ => 'P',
    }
}

/// Whether the `flags` of a task say that it runs in the kernel alone (`PF_KTHREAD`, `include/linux/sched.h`).
#[must_use]
pub fn is_kernel_thread(flags: u32) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    flags & PF_KTHREAD != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_as_the_kernel_gives_them() {
        let letters: String = [(0, 0), (1, 0), (2, 0), (0x402, 0), (4, 0), (8, 0), (0x40, 0), (0x80, 0x20)]
            .iter()
            .chain(&[(0, 0x10), (0x1000, 0), (0x4001, 0), (0x2002, 0), (0x8000, 0)])
            .map(|(state, exit)| state_letter(*state, Some(*exit)))
            .collect();
        assert_eq!(letters, "RSDITtPZXDSDD");
        let letters: String =
            [0, 1, 0x402, 8, 0x40, 0x80].into_iter().map(|state| state_letter(state, None)).collect();
        assert_eq!(letters, "RSItPX");
    }
}
