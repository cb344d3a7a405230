//! The stacks a CPU may be on: its task's, the one for interrupts, one for each kind of exception.

use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    kernel::{
        Kernel,
        percpu::Cpu,
        task::Task,
        unwind::{Stack, StackKind, Stacks},
    },
    paging::VirtError,
};

/// `IRQ_STACK_SIZE` (`arch/x86/include/asm/page_64_types.h`) where the types do not say.
const USUAL_IRQ_STACK: u64 = 16 << 10;
/// Bounds what damaged types ask for.
const MAX_STACK: u64 = 128 << 10;

/// Members of `struct cea_exception_stacks` (`arch/x86/include/asm/cpu_entry_area.h`).
const EXCEPTION_STACKS: &[&str] =
    &["NMI_stack", "DF_stack", "DB_stack", "DB1_stack", "DB2_stack", "MCE_stack", "VC_stack", "VC2_stack"];

/// What a stack is for, its first address and its bytes.
type Place = (StackKind, VirtAddr, u64);

/// The stacks of `cpu` and of the task it runs, those it would have entered last first; and, if not all could be read, the
/// first read that failed.
pub(super) fn of(kernel: &Kernel, cpu: &Cpu, task: &Task, stack_len: u64) -> (Stacks, Option<VirtError>) {
    let (mut places, mut unread) = (Vec::new(), None);
    for found in [exception_stacks(kernel, cpu), irq_stack(kernel, cpu), task_stack(kernel, task, stack_len)]
    {
        match found {
            Ok(found) => places.extend(found),
            Err(error) => _ = unread.get_or_insert(error),
        }
    }
    let ranges: Vec<(VirtAddr, usize)> =
        places.iter().map(|(_, start, len)| (*start, *len as usize)).collect();
    let mut stacks = Vec::new();
    for ((kind, start, _), bytes) in places.into_iter().zip(kernel.memory.read_ranges(&ranges)) {
        match bytes {
            Ok(bytes) => stacks.push(Stack { kind, start, bytes }),
            Err(error) => _ = unread.get_or_insert(error),
        }
    }
    (Stacks::new(stacks), unread)
}

fn task_stack(kernel: &Kernel, task: &Task, len: u64) -> Result<Vec<Place>, VirtError> {
    let member = kernel.types.as_deref().and_then(|types| types.field("task_struct", "stack").ok());
    let Some(member) = member else { return Ok(Vec::new()) };
    let start = kernel.memory.read_ptr(task.addr.wrapping_add(member.offset))?;
    Ok(vec![(StackKind::Task, start, len)])
}

/// The per-CPU pointer to the end of the interrupt stack, or to its last word (since 951c2a51ae75, 5.12).
fn irq_stack(kernel: &Kernel, cpu: &Cpu) -> Result<Vec<Place>, VirtError> {
    let (Some(symbols), Some(types)) = (&kernel.symbols, kernel.types.as_deref()) else {
        return Ok(Vec::new());
    };
    let in_hot = || {
        let member = types.field("pcpu_hot", "hardirq_stack_ptr").ok()?;
        Some(symbols.find("pcpu_hot")?.wrapping_add(member.offset))
    };
    let pointer = symbols.find("hardirq_stack_ptr").or_else(|| symbols.find("irq_stack_ptr")).or_else(in_hot);
    let Some(pointer) = pointer else { return Ok(Vec::new()) };
    let end = kernel.memory.read_ptr(pointer.wrapping_add(cpu.offset))?;
    let end = end.wrapping_add(PAGE_SIZE - 1).align_down(PAGE_SIZE);
    let len = types.struct_size("irq_stack").ok().filter(|len| *len <= MAX_STACK).unwrap_or(USUAL_IRQ_STACK);
    Ok(vec![(StackKind::Irq, end.wrapping_sub(len), len)])
}

fn exception_stacks(kernel: &Kernel, cpu: &Cpu) -> Result<Vec<Place>, VirtError> {
    let pointer = kernel.symbols.as_ref().and_then(|symbols| symbols.find("cea_exception_stacks"));
    let (Some(pointer), Some(types)) = (pointer, kernel.types.as_deref()) else { return Ok(Vec::new()) };
    let area = kernel.memory.read_ptr(pointer.wrapping_add(cpu.offset))?;
    let member = |name: &&str| types.field("cea_exception_stacks", name).ok();
    let members =
        EXCEPTION_STACKS.iter().filter_map(member).filter(|info| (1..=MAX_STACK).contains(&info.size));
    Ok(members.map(|info| (StackKind::Exception, area.wrapping_add(info.offset), info.size)).collect())
}
