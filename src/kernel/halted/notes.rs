//! `crash_notes`: the registers that kdump saves of each CPU, as an ELF note in per-CPU memory.

use crate::{
    addr::VirtAddr,
    kernel::{
        Kernel,
        percpu::Cpu,
        registers::Registers,
        structure::{Structure, present},
        task::Task,
    },
    types::{Field, FieldInfo, TypeError, field::member_bytes},
};

/// `NT_PRSTATUS` (`include/uapi/linux/elf.h`).
const PRSTATUS: u32 = 1;
/// `struct elf_note` and the name `CORE`, padded.
const HEADER: usize = 20;
/// No `struct elf_prstatus` is longer.
const MAX_STATUS: usize = 4096;

/// Where the notes are, and how one is laid out.
pub(super) struct CrashNotes {
    /// The variable that points to the per-CPU notes.
    pointer: VirtAddr,
    len: usize,
    pid: Field<i32>,
    registers: FieldInfo,
}

impl CrashNotes {
    /// `None` for a kernel without kdump, or whose types do not know of it.
    pub(super) fn resolve(kernel: &Kernel) -> Result<Option<Self>, TypeError> {
        let pointer = kernel.symbols.as_ref().and_then(|symbols| symbols.find("crash_notes"));
        let Some((pointer, types)) = pointer.zip(kernel.types.as_deref()) else { return Ok(None) };
        let mut status = Structure::new(types, "elf_prstatus");
        let mut resolve = || {
            Ok(Self {
                pointer,
                len: usize::try_from(types.struct_size("elf_prstatus")?).unwrap_or(usize::MAX),
                // Moved into `common` by f2485a2dc9f0 (5.11).
                pid: status.field(&["common.pr_pid", "pr_pid"])?,
                registers: status.member(&["pr_reg"])?,
            })
        };
        Ok(present(resolve())?.filter(|notes| notes.len <= MAX_STATUS))
    }

    /// What was saved of `cpu` while it ran `task`; `None` when nothing was, or of another task.
    pub(super) fn read(&self, kernel: &Kernel, cpu: &Cpu, task: &Task) -> Option<Registers> {
        let notes = kernel.memory.read_ptr(self.pointer).ok()?.non_null()?;
        let note = kernel.memory.read_vec(notes.wrapping_add(cpu.offset), HEADER + self.len).ok()?;
        let (header, status) = note.split_at_checked(HEADER)?;
        let words: Vec<u32> =
            header.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let [5, len, PRSTATUS, ..] = words.as_slice() else { return None };
        if *len as usize != self.len
            || !header.ends_with(b"CORE\0\0\0\0")
            || self.pid.get(status)? != task.pid
        {
            return None;
        }
        registers(member_bytes(status, &self.registers)?)
    }
}

/// `elf_gregset_t`: `struct user_regs_struct`, whose order is that of `pt_regs` (`arch/x86/include/asm/user_64.h`).
fn registers(bytes: &[u8]) -> Option<Registers> {
    let words: Vec<Option<u64>> =
        bytes.as_chunks::<8>().0.iter().map(|word| Some(u64::from_le_bytes(*word))).collect();
    let [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        orig_rax,
        rip,
        cs,
        eflags,
        rsp,
        ss,
        ..,
    ] = *words.as_slice()
    else {
        return None;
    };
    Some(Registers {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        orig_rax,
        eflags,
        cs,
        ss,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        kernel::testing::{Flat, Structs, kernel},
        types::TypeSource,
    };

    const BASE: u64 = 0xffff_8880_0000_0000;
    const NOTES: u64 = 0x100;
    const OFFSET: u64 = 0x40;
    const LEN: usize = 336;

    fn types() -> Structs {
        Structs::new().add("elf_prstatus", LEN as u64, &[("common.pr_pid", 32, 4), ("pr_reg", 112, 216)])
    }

    /// What `crash_save_cpu` leaves of a CPU that ran thread 7: register number N of `user_regs_struct` is N + 1.
    fn saved() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..8].copy_from_slice(&(BASE + NOTES).to_le_bytes());
        let note = &mut bytes[(NOTES + OFFSET) as usize..];
        for (word, value) in note.chunks_mut(4).zip([5, LEN as u32, PRSTATUS]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        note[12..20].copy_from_slice(b"CORE\0\0\0\0");
        let status = &mut note[HEADER..];
        status[32..36].copy_from_slice(&7_i32.to_le_bytes());
        for (register, value) in status[112..].chunks_mut(8).zip(1..=27_u64) {
            register.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn read(bytes: Vec<u8>, pid: i32) -> Option<Registers> {
        let own = types();
        let types: &dyn TypeSource = &own;
        let notes = CrashNotes {
            pointer: VirtAddr::new(BASE),
            len: LEN,
            pid: Field::resolve(types, "elf_prstatus", "common.pr_pid").unwrap(),
            registers: types.field("elf_prstatus", "pr_reg").unwrap(),
        };
        let task = Task {
            addr: VirtAddr::NULL,
            pid,
            tgid: None,
            ppid: None,
            comm: String::new(),
            state: 'R',
            cpu: Some(0),
            parent: VirtAddr::NULL,
            kernel_thread: None,
        };
        let cpu = Cpu { number: 0, offset: OFFSET, current: Some(task.addr), online: true };
        let memory = Arc::new(Flat { start: VirtAddr::new(BASE), bytes });
        notes.read(&kernel(memory, Arc::new(own), VirtAddr::NULL), &cpu, &task)
    }

    #[test]
    fn what_kdump_saved_of_the_task() {
        let registers = read(saved(), 7).unwrap();
        let some = [registers.r15, registers.rbp, registers.rbx, registers.rip, registers.rsp, registers.ss];
        assert_eq!(some, [1, 5, 6, 17, 20, 21].map(Some));
    }

    #[test]
    fn a_note_of_another_task_or_kind_is_none() {
        assert!(read(saved(), 8).is_none());
        for (at, byte) in [(0, 6), (4, 1), (8, 2), (12, b'X')] {
            let mut bytes = saved();
            bytes[(NOTES + OFFSET) as usize + at] = byte;
            assert!(read(bytes, 7).is_none(), "byte {at}");
        }
        let mut none = saved();
        none[..8].fill(0);
        assert!(read(none, 7).is_none());
    }
}
