//! Registers as far as memory tells them, under GDB's names.

use std::sync::PoisonError;

use crate::{
    addr::{PhysAddr, VirtAddr},
    gdb::{Gone, Register, Registers, TaskId},
    kernel::{
        Kernel,
        halted::Halted,
        percpu::Cpu,
        registers::{Registers as Known, SavedRegisters},
        task::{Task, Tasks},
        unwind::Unwinder,
        user,
    },
    paging::Levels,
    session::{OnStacks, Session},
};

/// Protected mode, write protection in kernel mode, paging: without these bits no kernel of 64 bits runs.
const CR0: u64 = 1 << 0 | 1 << 16 | 1 << 31;
/// Physical-address extension, likewise.
const CR4_PAE: u64 = 1 << 5;
/// 57-bit linear addresses.
const CR4_LA57: u64 = 1 << 12;
/// Long mode enabled and active.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// CR4 bits that the page tables being walked prove.
fn proved_cr4(kernel: &Kernel) -> u64 {
    match kernel.map.levels {
        Levels::Four => CR4_PAE,
        Levels::Five => CR4_PAE | CR4_LA57,
    }
}

/// Registers that every CPU has as long as this kernel runs: the bits of CR0, CR4 and EFER that are sure.
pub(super) fn of_any_cpu(kernel: &Kernel) -> Registers {
    let mut registers = Registers::default();
    registers.set(Register::Cr0, CR0);
    registers.set(Register::Cr4, proved_cr4(kernel));
    registers.set(Register::Efer, EFER_LONG_MODE);
    registers
}

/// CR3 of a CPU that runs the process whose table is `own`. One that runs a kernel thread has the table of some process
/// before it; which, does not matter to whoever translates with it, and the kernel's own is shown: their upper halves are
/// the same. Without the process-context identifier (PCID).
pub(super) fn cr3(kernel: &Kernel, own: Option<PhysAddr>) -> u64 {
    own.unwrap_or(kernel.map.root).raw()
}

/// CR4 as the kernel last wrote it on each CPU: `cpu_tlbstate.cr4` (`arch/x86/include/asm/tlbflush.h`), where
/// it does not contradict the tables.
pub(super) fn cr4(kernel: &Kernel, cpus: &[Cpu]) -> Vec<Option<u64>> {
    let shadow = || {
        let symbol = kernel.symbols.as_ref()?.find("cpu_tlbstate")?;
        Some(symbol.wrapping_add(kernel.types.as_deref()?.field("tlb_state", "cr4").ok()?.offset))
    };
    let Some(shadow) = shadow() else { return vec![None; cpus.len()] };
    let places: Vec<VirtAddr> = cpus.iter().map(|cpu| shadow.wrapping_add(cpu.offset)).collect();
    let words = kernel.memory.read_each::<8>(&places).into_iter();
    let plausible = |cr4: &u64| cr4 & (CR4_PAE | CR4_LA57) == proved_cr4(kernel);
    words.map(|word| word.ok().map(u64::from_le_bytes).filter(plausible)).collect()
}

/// The registers of tasks that were on no CPU: what they left on their stacks, and the page table they use. Of one that
/// runs by now nothing but that is known, and of a kernel thread no page table: it has none until it runs.
pub(super) fn of_tasks(session: &Session, tasks: &[TaskId]) -> Vec<Result<Registers, Gone>> {
    let kernel = &*session.kernel;
    let addrs: Vec<VirtAddr> = tasks.iter().map(|task| task.addr).collect();
    let roots = user::roots(kernel, &addrs);
    let saved = match SavedRegisters::resolve(kernel) {
        Ok(registers) => registers.of(kernel, &addrs),
        Err(error) => {
            log::warn!("the registers of tasks that sleep are not known: {error}");
            Vec::new()
        }
    };
    // Afterwards, so that what is given out belongs to a task that was there all the time.
    let known: Vec<(VirtAddr, i32)> = tasks.iter().map(|task| (task.addr, task.pid)).collect();
    let there = match Tasks::resolve(kernel) {
        Ok(tasks) => tasks.are_there(kernel, &known),
        Err(_) => vec![true; tasks.len()],
    };
    let saved = saved.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let each = tasks.iter().zip(saved).zip(there).zip(roots);
    each.map(|(((task, saved), there), root)| {
        if !there {
            return Err(Gone);
        }
        let mut registers = of_any_cpu(kernel);
        if let Some(root) = root {
            registers.set(Register::Cr3, root.raw());
        }
        match saved {
            Some(Ok(Some(asleep))) => take(&mut registers, &asleep.registers),
            Some(Ok(None)) | None => {}
            Some(Err(error)) => log::debug!("pid {}: {error}", task.pid),
        }
        Ok(registers)
    })
    .collect()
}

/// What the stacks of the CPUs of a dead machine tell of their registers, and whether exactly; of a CPU of which they
/// tell nothing, the reason is in the log. The search takes long and finds the same each time: it is made once.
pub(super) fn of_halted(
    session: &Session,
    halted: &Halted<'_>,
    cpus: &[Cpu],
    tasks: &[Result<Task, String>],
) -> Vec<Option<(Known, bool)>> {
    let currents: Vec<Option<VirtAddr>> = cpus.iter().map(|cpu| cpu.current).collect();
    let mut known = session.on_stacks.lock().unwrap_or_else(PoisonError::into_inner);
    match &*known {
        Some(found) if found.tasks == currents => found.registers.clone(),
        _ => {
            let registers = search(&session.kernel, halted, cpus, tasks);
            *known = Some(OnStacks { tasks: currents, registers: registers.clone() });
            registers
        }
    }
}

fn search(
    kernel: &Kernel,
    halted: &Halted<'_>,
    cpus: &[Cpu],
    tasks: &[Result<Task, String>],
) -> Vec<Option<(Known, bool)>> {
    let readers = Unwinder::new(kernel).and_then(|unwinder| Ok((unwinder, SavedRegisters::resolve(kernel)?)));
    let (unwinder, saved) = match readers {
        Ok(readers) => readers,
        Err(error) => {
            log::warn!("the stacks of the CPUs cannot be searched: {error}");
            return vec![None; cpus.len()];
        }
    };
    let of = |(cpu, task): (&Cpu, &Result<Task, String>)| {
        let found = halted.registers(&unwinder, cpu, task.as_ref().ok()?, saved.stack_len());
        found.inspect_err(|reason| log::info!("{reason}")).ok()
    };
    cpus.iter().zip(tasks).map(of).collect()
}

/// Makes known what `known` knows.
pub(super) fn take(registers: &mut Registers, known: &Known) {
    let values = [
        (Register::Rax, known.rax),
        (Register::Rbx, known.rbx),
        (Register::Rcx, known.rcx),
        (Register::Rdx, known.rdx),
        (Register::Rsi, known.rsi),
        (Register::Rdi, known.rdi),
        (Register::Rbp, known.rbp),
        (Register::Rsp, known.rsp),
        (Register::R8, known.r8),
        (Register::R9, known.r9),
        (Register::R10, known.r10),
        (Register::R11, known.r11),
        (Register::R12, known.r12),
        (Register::R13, known.r13),
        (Register::R14, known.r14),
        (Register::R15, known.r15),
        (Register::Rip, known.rip),
        (Register::Eflags, known.eflags),
        (Register::Cs, known.cs),
        (Register::Ss, known.ss),
    ];
    for (register, value) in values {
        if let Some(value) = value {
            registers.set(register, value);
        }
    }
}
