//! `crash_notes`: the registers that kdump saves of each CPU, as an ELF note in per-CPU memory.

use crate::{
    addr::VirtAddr,
    kernel::{Kernel, percpu::Cpu, registers::Registers, task::Task},
    types::{Field, FieldInfo, TypeSource, field::member_bytes},
};

/// `NT_PRSTATUS` (`include/uapi/linux/elf.h`).
const PRSTATUS: u32 = 1;
/// `struct elf_note` and the name `CORE`, padded.
const HEADER: usize = 20;
/// No `struct elf_prstatus` is longer.
const MAX_STATUS: u64 = 4096;

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
    pub(super) fn resolve(kernel: &Kernel) -> Option<Self> {
        let pointer = kernel.symbols.as_ref()?.find("crash_notes")?;
        let types: &dyn TypeSource = kernel.types.as_deref()?;
        let len = types.struct_size("elf_prstatus").ok().filter(|len| *len <= MAX_STATUS)?;
        // Moved into `common` by f2485a2dc9f0 (5.11).
        let pid = ["common.pr_pid", "pr_pid"]
            .iter()
            .find_map(|name| Field::resolve(types, "elf_prstatus", name).ok())?;
        Some(Self { pointer, len: len as usize, pid, registers: types.field("elf_prstatus", "pr_reg").ok()? })
    }

    /// What was saved of `cpu` while it ran `task`; `None` when nothing was, or of another task.
    pub(super) fn read(&self, kernel: &Kernel, cpu: &Cpu, task: &Task) -> Option<Registers> {
        let notes =
            kernel.memory.read_ptr(self.pointer).ok().filter(|notes| *notes != VirtAddr::default())?;
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
