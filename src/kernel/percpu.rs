//! Per-CPU variables and the task each CPU runs.
//!
//! A per-CPU variable of CPU n is at `symbol + __per_cpu_offset[n]` (`include/asm-generic/percpu.h`), whether the
//! symbol is an offset in a zero-based area (x86-64 before 6.15) or an ordinary address.

use super::{Kernel, KernelError};
use crate::addr::VirtAddr;

/// Most CPUs: `CONFIG_NR_CPUS` is 8192 at most on x86-64 (`arch/x86/Kconfig`).
pub const MAX_CPUS: usize = 8192;

/// A CPU and what memory says it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub number: u32,
    /// `__per_cpu_offset[number]`: what is added to a per-CPU symbol's address.
    pub offset: u64,
    /// The `task_struct` it runs; `None` of a CPU that was never started.
    pub current: Option<VirtAddr>,
    /// Whether it is in `__cpu_online_mask`; a panic takes the others out.
    pub online: bool,
}

/// The CPUs present, in order.
///
/// # Errors
/// [`KernelError`] when a symbol is missing or a read fails.
pub fn cpus(kernel: &Kernel) -> Result<Vec<Cpu>, KernelError> {
    kernel.types("the list of CPUs")?;
    let symbols = kernel.symbols("the list of CPUs")?;
    let present = mask(kernel, "__cpu_present_mask")?;
    let online = mask(kernel, "__cpu_online_mask")?;
    let (hot, member) = match (symbols.find("current_task"), symbols.find("pcpu_hot")) {
        (Some(symbol), _) => (symbol, 0),
        (None, Some(symbol)) => {
            (symbol, kernel.types("the running tasks")?.field("pcpu_hot", "current_task")?.offset)
        }
        (None, None) => (symbols.addr("current_task")?, 0),
    };
    let numbers: Vec<u32> = ones(&present).collect();
    let offsets = match symbols.find("__per_cpu_offset") {
        Some(array) => {
            let addrs = numbers.iter().map(|cpu| array.wrapping_add(u64::from(*cpu) * 8));
            read_ptrs(kernel, "reading __per_cpu_offset", addrs)?.into_iter().map(VirtAddr::raw).collect()
        }
        None => vec![0; numbers.len()],
    };
    let hot = hot.wrapping_add(member);
    let currents =
        read_ptrs(kernel, "reading current_task", offsets.iter().map(|offset| hot.wrapping_add(*offset)))?;
    let online: Vec<u32> = ones(&online).collect();
    let cpus = numbers.into_iter().zip(offsets).zip(currents);
    let cpu = |((number, offset), current)| Cpu {
        number,
        offset,
        current: Some(current),
        online: online.contains(&number),
    };
    let mut cpus: Vec<Cpu> = cpus.map(cpu).collect();
    forget_templates(kernel, &mut cpus);
    Ok(cpus)
}

/// What every per-CPU area begins with is no task that runs: `current_task` is `init_task` (`arch/x86/kernel/cpu/common.c`)
/// until `common_cpu_up()` starts the CPU with an idle task of its own.
fn forget_templates(kernel: &Kernel, cpus: &mut [Cpu]) {
    let Ok(init_task) = kernel.init_task("the running tasks") else { return };
    let is_template = |cpu: &Cpu| !cpu.online && cpu.current == Some(init_task);
    if !cpus.iter().any(is_template) {
        return;
    }
    let Ok(idle) = idle_tasks(kernel, cpus) else { return };
    for (cpu, idle) in cpus.iter_mut().zip(idle) {
        if is_template(cpu) && idle != init_task {
            cpu.current = None;
        }
    }
}

/// The idle task of each of `cpus`, whatever that runs now: `rq.idle` (`kernel/sched/sched.h`).
///
/// # Errors
/// [`KernelError`] when a symbol or type is missing or a read fails.
pub fn idle_tasks(kernel: &Kernel, cpus: &[Cpu]) -> Result<Vec<VirtAddr>, KernelError> {
    let what = "the idle tasks";
    let idle = kernel.types(what)?.field("rq", "idle")?.offset;
    let place = kernel.symbols(what)?.addr("runqueues")?.wrapping_add(idle);
    read_ptrs(kernel, "reading rq.idle", cpus.iter().map(|cpu| place.wrapping_add(cpu.offset)))
}

fn mask(kernel: &Kernel, name: &str) -> Result<Vec<u8>, KernelError> {
    let symbols = kernel.symbols("the list of CPUs")?;
    let addr = symbols.addr(name)?;
    let bytes = kernel.types("the size of a cpumask")?.struct_size("cpumask")?;
    let len = usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_CPUS / 8);
    kernel
        .memory
        .read_vec(addr, len)
        .map_err(|source| KernelError::Read { step: "reading a CPU mask", source })
}

/// Numbers of the bits set, ascending.
fn ones(mask: &[u8]) -> impl Iterator<Item = u32> + '_ {
    mask.iter().zip(0_u32..).flat_map(|(byte, index)| {
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| index * 8 + bit)
    })
}

fn read_ptrs(
    kernel: &Kernel,
    step: &'static str,
    addrs: impl Iterator<Item = VirtAddr>,
) -> Result<Vec<VirtAddr>, KernelError> {
    let read = kernel.memory.read_ptrs(&addrs.collect::<Vec<_>>()).into_iter();
    read.map(|word| word.map_err(|source| KernelError::Read { step, source })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_mask() {
        assert_eq!(ones(&[0b0000_0101, 0, 0x80]).collect::<Vec<_>>(), [0, 2, 23]);
    }
}
