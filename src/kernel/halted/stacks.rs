//! The stacks a CPU may be on: its task's, the one for interrupts, one for each kind of exception.

use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    kernel::{
        Kernel,
        percpu::Cpu,
        task::Task,
        unwind::{Stack, StackKind, Stacks},
    },
};

/// `IRQ_STACK_SIZE` (`arch/x86/include/asm/page_64_types.h`) where the types do not say.
const USUAL_IRQ_STACK: u64 = 16 << 10;
/// Bounds what damaged types ask for.
const MAX_STACK: u64 = 128 << 10;

/// Members of `struct cea_exception_stacks` (`arch/x86/include/asm/cpu_entry_area.h`).
const EXCEPTION_STACKS: &[&str] =
    &["NMI_stack", "DF_stack", "DB_stack", "DB1_stack", "DB2_stack", "MCE_stack", "VC_stack", "VC2_stack"];

/// The stacks of `cpu` and of the task it runs, as far as they can be read; those it would have entered last first.
pub(super) fn of(kernel: &Kernel, cpu: &Cpu, task: &Task, stack_len: u64) -> Stacks {
    let mut places = exception_stacks(kernel, cpu).unwrap_or_default();
    places.extend(irq_stack(kernel, cpu));
    places.extend(task_stack(kernel, task, stack_len));
    let ranges: Vec<(VirtAddr, usize)> =
        places.iter().map(|(_, start, len)| (*start, *len as usize)).collect();
    let read = places.iter().zip(kernel.memory.read_ranges(&ranges));
    let stack = |((kind, start, _), bytes): (&(StackKind, VirtAddr, u64), Result<Vec<u8>, _>)| match bytes {
        Ok(bytes) => Some(Stack { kind: *kind, start: *start, bytes }),
        Err(error) => {
            log::debug!("a stack of CPU {}: {error}", cpu.number);
            None
        }
    };
    Stacks::new(read.filter_map(stack).collect())
}

fn task_stack(kernel: &Kernel, task: &Task, len: u64) -> Option<(StackKind, VirtAddr, u64)> {
    let offset = kernel.types.as_deref()?.field("task_struct", "stack").ok()?.offset;
    let start = kernel.memory.read_ptr(task.addr.wrapping_add(offset)).ok()?;
    Some((StackKind::Task, start, len))
}

/// The per-CPU pointer to the end of the interrupt stack, or to its last word (since 951c2a51ae75, 5.12).
fn irq_stack(kernel: &Kernel, cpu: &Cpu) -> Option<(StackKind, VirtAddr, u64)> {
    let symbols = kernel.symbols.as_ref()?;
    let types = kernel.types.as_deref()?;
    let in_hot = || {
        let member = types.field("pcpu_hot", "hardirq_stack_ptr").ok()?;
        Some(symbols.find("pcpu_hot")?.wrapping_add(member.offset))
    };
    let pointer =
        symbols.find("hardirq_stack_ptr").or_else(|| symbols.find("irq_stack_ptr")).or_else(in_hot)?;
    let end = kernel.memory.read_ptr(pointer.wrapping_add(cpu.offset)).ok()?;
    let end = end.wrapping_add(PAGE_SIZE - 1).align_down(PAGE_SIZE);
    let len = types.struct_size("irq_stack").ok().filter(|len| *len <= MAX_STACK).unwrap_or(USUAL_IRQ_STACK);
    Some((StackKind::Irq, end.wrapping_sub(len), len))
}

fn exception_stacks(kernel: &Kernel, cpu: &Cpu) -> Option<Vec<(StackKind, VirtAddr, u64)>> {
    let types = kernel.types.as_deref()?;
    let pointer = kernel.symbols.as_ref()?.find("cea_exception_stacks")?;
    let area = kernel.memory.read_ptr(pointer.wrapping_add(cpu.offset)).ok()?;
    let member = |name: &&str| types.field("cea_exception_stacks", name).ok();
    let members =
        EXCEPTION_STACKS.iter().filter_map(member).filter(|info| (1..=MAX_STACK).contains(&info.size));
    Some(members.map(|info| (StackKind::Exception, area.wrapping_add(info.offset), info.size)).collect())
}
