//! Whether tasks that were listed are still there.

use super::Tasks;
use crate::{addr::VirtAddr, kernel::Kernel};

/// `EXIT_DEAD` (`include/linux/sched.h`): nobody waits for the task any more.
const EXIT_DEAD: u32 = 0x10;

impl Tasks {
    /// Which of `tasks`, each the address of a `task_struct` and the pid that was there, are still what they were: the
    /// memory may have become another task's, or nobody's. One batch, of the members that say so only.
    #[must_use]
    pub fn are_there(&self, kernel: &Kernel, tasks: &[(VirtAddr, i32)]) -> Vec<bool> {
        let layout = &self.layout;
        let pid = layout.pid.offset();
        let exit_state = layout.exit_state.as_ref().map_or(pid, |field| field.offset());
        let (first, last) = (pid.min(exit_state), pid.max(exit_state));
        // They are neighbours in every kernel; a layout that says otherwise is read as far as the task goes.
        let end = usize::try_from(last).unwrap_or(usize::MAX).saturating_add(4).min(layout.bytes);
        let len = end.saturating_sub(usize::try_from(first).unwrap_or(usize::MAX));
        let addrs: Vec<VirtAddr> = tasks.iter().map(|(addr, _)| addr.wrapping_add(first)).collect();
        let word = |bytes: &[u8], offset: u64| {
            let start = usize::try_from(offset - first).ok()?;
            Some(u32::from_le_bytes(*bytes.get(start..)?.first_chunk()?))
        };
        let is_there = |known: i32, bytes: &[u8]| {
            let same = word(bytes, pid) == Some(known.cast_unsigned());
            let dead = layout.exit_state.is_some()
                && word(bytes, exit_state).is_none_or(|exit_state| exit_state & EXIT_DEAD != 0);
            same && !dead
        };
        let read = tasks.iter().zip(kernel.memory.read_vecs(&addrs, len));
        read.map(|((_, known), bytes)| bytes.is_ok_and(|bytes| is_there(*known, &bytes))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernel::testing::{Flat, Structs, kernel};

    #[test]
    fn a_task_is_there_as_long_as_its_pid_is_and_nobody_has_let_go_of_it() {
        let start = VirtAddr::new(0xffff_8880_0000_0000);
        let task = |pid: u32, exit_state: u32| {
            let mut bytes = vec![0; 64];
            bytes[8..12].copy_from_slice(&exit_state.to_le_bytes());
            bytes[16..20].copy_from_slice(&pid.to_le_bytes());
            bytes
        };
        // Asleep, another's by now, a zombie that is waited for, one that is not.
        let bytes = [task(7, 0), task(9, 0), task(8, 0x20), task(6, 0x30)].concat();
        let members = [
            ("exit_state", 8, 4),
            ("pid", 16, 4),
            ("state", 24, 8),
            ("real_parent", 32, 8),
            ("comm", 48, 16),
        ];
        let types = Structs::new().add("task_struct", 64, &members);
        let kernel = kernel(Arc::new(Flat { start, bytes }), Arc::new(types), start);
        let tasks = [7, 7, 8, 6, 5].into_iter().zip(0..).map(|(pid, at)| (start.wrapping_add(at * 64), pid));
        let tasks: Vec<(VirtAddr, i32)> = tasks.collect();
        let there = Tasks::resolve(&kernel).unwrap().are_there(&kernel, &tasks);
        assert_eq!(there, [true, false, true, false, false], "the last cannot be read");
    }
}
