//! CPUs that were running when the machine died: where they were, without a register of theirs.
//!
//! After a panic every CPU stands still: the one that panicked waits in `panic`, the others in `stop_this_cpu`, which an
//! interrupt brought them to. Their stacks do not change any more. In this order: what kdump saved (`crash_notes`); a
//! return address into one of the functions a CPU ends in, on one of its stacks; any return address. The latter two
//! count only where everything outside of them is proved: every frame follows from the one before by a rule, every
//! return address stands behind a call instruction, and the last is where the task's stack ends.
//!
//! Source: `kernel/panic.c`, `arch/x86/kernel/smp.c` (`native_stop_other_cpus`), `arch/x86/kernel/reboot.c`
//! (`nmi_shootdown_cpus`), `kernel/crash_core.c` (`crash_save_cpu`).

mod call;
mod notes;
mod stacks;

use std::sync::Arc;

use self::notes::CrashNotes;
use super::{
    Kernel, KernelError,
    bt::Begin,
    percpu::Cpu,
    registers::Registers,
    task::Task,
    unwind::{End, FoundBy, Stack, StackKind, Stacks, Start, Trace, Unwinder},
};
use crate::addr::VirtAddr;

/// Where the CPU that panics stays, the innermost first. `vpanic` was split off `panic` in 6.16.
const PANICKING: &[&str] = &["vpanic", "panic"];
/// Where the others are sent to: by an interrupt, or by an NMI if they do not follow.
const STOPPED: &[&str] = &[
    "stop_this_cpu",
    "smp_stop_nmi_callback",
    "crash_nmi_callback",
    "sysvec_reboot",
    "__sysvec_reboot",
    "smp_reboot_interrupt",
    "nmi_panic_self_stop",
    "panic_smp_self_stop",
];
/// Bytes at the end of a stack in which its outermost frame is: the `pt_regs` of user mode, or what start-up code used.
const OUTERMOST: u64 = 512;
/// `TOP_OF_KERNEL_STACK_PADDING` (`arch/x86/include/asm/thread_info.h`) is 0, or 16 with FRED.
const MAX_PADDING: u64 = 16;
/// Places on a CPU's stacks that are tried as a start: a return address takes eight bytes of them.
const MAX_CANDIDATES: usize = 4096;
/// Walks held in memory at once.
const AT_ONCE: usize = 64;

/// What is known of the CPUs of a machine that died.
pub struct Halted<'k> {
    kernel: &'k Kernel,
    panicked: Option<u32>,
    notes: Option<CrashNotes>,
}

impl<'k> Halted<'k> {
    /// Whether the machine died, and where.
    ///
    /// # Errors
    /// [`KernelError`] when symbols or types are missing, or a read fails.
    pub fn find(kernel: &'k Kernel) -> Result<Self, KernelError> {
        let symbols = kernel.symbols("the CPU that panicked")?;
        let step = "reading panic_cpu";
        let word = symbols.find("panic_cpu").map(|addr| kernel.memory.read_u32(addr)).transpose();
        let word = word.map_err(|source| KernelError::Read { step, source })?;
        // `PANIC_CPU_INVALID` is -1.
        let panicked = word.filter(|cpu| (*cpu as i32) >= 0);
        Ok(Self { kernel, panicked, notes: CrashNotes::resolve(kernel)? })
    }

    /// The CPU that panicked.
    #[must_use]
    pub fn panicked(&self) -> Option<u32> {
        self.panicked
    }

    /// The registers that `cpu` of a dead machine had somewhere in `task`, which it runs, and whether it stood there: a
    /// return address on its stack is where it would have come back to.
    ///
    /// # Errors
    /// The reason why nothing can be said.
    pub fn registers(
        &self,
        unwinder: &Unwinder<'_>,
        cpu: &Cpu,
        task: &Task,
        stack_len: u64,
    ) -> Result<(Registers, bool), String> {
        let (start, _) = self.start(unwinder, cpu, task, stack_len)?;
        Ok((start.registers, start.found_by == FoundBy::Registers))
    }

    /// Where to begin unwinding the task that `cpu` runs, and how that was found.
    ///
    /// # Errors
    /// The reason why nothing can be said.
    pub(super) fn start(
        &self,
        unwinder: &Unwinder<'_>,
        cpu: &Cpu,
        task: &Task,
        stack_len: u64,
    ) -> Result<Begin, String> {
        let number = cpu.number;
        let Some(panicked) = self.panicked else {
            return Err(match cpu.online {
                true => format!(
                    "CPU {number} is running it: its registers are in the CPU, and its stack changes while it is read"
                ),
                false => {
                    format!("CPU {number}, which is offline, stopped in it: its registers were not saved")
                }
            });
        };
        let (stacks, unread) = stacks::of(self.kernel, cpu, task, stack_len);
        let stacks = Arc::new(stacks);
        if let Some(registers) = self.notes.as_ref().and_then(|notes| notes.read(self.kernel, cpu, task)) {
            let on_stack = registers.rsp.is_some_and(|rsp| stacks.holding(VirtAddr::new(rsp)).is_some());
            if on_stack {
                let start = Start { registers, exact: true, found_by: FoundBy::Registers, stacks };
                return Ok((start, Some("its registers were saved by kdump, in crash_notes".to_owned())));
            }
        }
        let scan = Scan { kernel: self.kernel, unwinder, stacks: &stacks };
        let anchors = if number == panicked { PANICKING } else { STOPPED };
        for anchor in anchors {
            if let Some(found) = scan.anchored(anchor) {
                return Ok(found.begin(&stacks, anchor));
            }
        }
        let found = scan.any().ok_or_else(|| {
            let but = unread.map_or_else(String::new, |error| format!("; not all were read: {error}"));
            format!(
                "nothing on the stacks of CPU {number} proves where it was: no return address leads to the end{but}"
            )
        })?;
        let slot = found.slot;
        let (start, _) = found.begin(&stacks, "");
        let reason = format!(
            "found by scan: the innermost return address from which the way out is proved, at {slot}; the first \
             frames may be left over from calls that had returned"
        );
        Ok((start, Some(reason)))
    }
}

/// A return address on a stack.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    slot: VirtAddr,
    value: u64,
    rbp: Option<u64>,
    stack: StackKind,
}

impl Candidate {
    fn registers(&self) -> Registers {
        let rsp = Some(self.slot.raw().wrapping_add(8));
        Registers { rip: Some(self.value), rsp, rbp: self.rbp, ..Registers::default() }
    }

    fn start(&self, stacks: &Arc<Stacks>) -> Start {
        let stacks = Arc::clone(stacks);
        Start { registers: self.registers(), exact: false, found_by: FoundBy::Scan, stacks }
    }

    fn begin(&self, stacks: &Arc<Stacks>, anchor: &str) -> Begin {
        let Self { slot, stack, .. } = self;
        let stack = match stack {
            StackKind::Task => "the task's stack",
            StackKind::Irq => "the CPU's interrupt stack",
            StackKind::Exception => "an exception stack of the CPU",
        };
        let reason = format!(
            "found by scan: a return address into {anchor} at {slot} on {stack}, from which every frame is proved to the \
             stack's end"
        );
        (self.start(stacks), Some(reason))
    }
}

/// The search of one CPU's stacks.
struct Scan<'s> {
    kernel: &'s Kernel,
    unwinder: &'s Unwinder<'s>,
    stacks: &'s Arc<Stacks>,
}

impl Scan<'_> {
    /// The innermost return address into `function` that is proved.
    fn anchored(&self, function: &str) -> Option<Candidate> {
        let candidates = self.candidates(|value| self.function(value).is_some_and(|name| name == function));
        if let Some(found) = self.first_proved(&candidates) {
            return Some(found);
        }
        // On the way something is computed from the frame pointer, and what it was in `function` is not known: it is the
        // one that leads to the end, and, where several do, through most of the functions that a CPU stops in.
        let guesses = candidates.iter().flat_map(|candidate| self.frame_pointers(*candidate));
        let guesses: Vec<Candidate> = guesses.take(MAX_CANDIDATES).collect();
        let mut best: Option<(usize, Candidate)> = None;
        for some in guesses.chunks(AT_ONCE) {
            for (candidate, trace) in self.proved(some) {
                let passed = self.stops_passed(&trace);
                if best.is_none_or(|(most, _)| passed > most) {
                    best = Some((passed, candidate));
                }
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// The innermost return address that is proved, into whatever function.
    fn any(&self) -> Option<Candidate> {
        self.first_proved(&self.candidates(|_| true))
    }

    fn first_proved(&self, candidates: &[Candidate]) -> Option<Candidate> {
        let mut found = candidates.chunks(AT_ONCE).filter_map(|some| self.proved(some).into_iter().next());
        found.next().map(|(candidate, _)| candidate)
    }

    /// How many frames of a walk are in functions that a CPU stops in.
    fn stops_passed(&self, trace: &Trace) -> usize {
        let names =
            trace.frames.iter().filter_map(|frame| self.function(frame.lookup().raw().wrapping_add(1)));
        names.filter(|name| STOPPED.contains(&name.as_str())).count()
    }

    /// The function that a return address leads into.
    fn function(&self, value: u64) -> Option<String> {
        let (symbol, _) = self.kernel.symbols.as_ref()?.containing(VirtAddr::new(value.wrapping_sub(1)))?;
        Some(symbol.name)
    }

    /// Words that may be return addresses into the kernel's image, of each stack the innermost first.
    fn candidates(&self, wanted: impl Fn(u64) -> bool) -> Vec<Candidate> {
        let map = &self.kernel.map;
        let of_stack = |stack: &Stack| -> Vec<Candidate> {
            let kind = stack.kind;
            let in_image = |value: u64| value.wrapping_sub(map.text.raw()) < map.image.len();
            let words = stack.words().filter(|(_, value)| in_image(*value) && wanted(*value));
            words.map(|(slot, value)| Candidate { slot, value, rbp: None, stack: kind }).collect()
        };
        let all: Vec<Candidate> = self.stacks.iter().flat_map(of_stack).take(MAX_CANDIDATES).collect();
        let values: Vec<VirtAddr> = all.iter().map(|candidate| VirtAddr::new(candidate.value)).collect();
        let called = call::precedes(self.kernel, &values);
        all.into_iter().zip(called).filter(|(_, called)| *called).map(|(candidate, _)| candidate).collect()
    }

    /// `candidate` with each frame pointer it may have had: places above it, and those on the task's stack that a return
    /// address follows, because a call that changes the stack leaves the old one's place there.
    fn frame_pointers(&self, candidate: Candidate) -> impl Iterator<Item = Candidate> + use<'_> {
        let map = &self.kernel.map;
        let in_image = |value: u64| value.wrapping_sub(map.text.raw()) < map.image.len();
        let from = candidate.slot.raw().wrapping_add(8);
        let above = (0..64).map(move |at| from.wrapping_add(at * 8));
        let tasks = self.stacks.iter().filter(move |stack| stack.kind == StackKind::Task);
        let words = tasks.flat_map(Stack::words).filter(move |(_, value)| in_image(*value));
        let others = words.map(|(place, _)| place.raw().wrapping_sub(8));
        above.chain(others).map(move |rbp| Candidate { rbp: Some(rbp), ..candidate })
    }

    /// Those whose walk ends where it must, in their order.
    fn proved(&self, candidates: &[Candidate]) -> Vec<(Candidate, Trace)> {
        let starts = candidates.iter().map(|candidate| candidate.start(self.stacks)).collect();
        let walked = candidates.iter().copied().zip(self.unwinder.walk(starts));
        walked.filter(|(_, trace)| self.ends(trace) && self.all_called(trace)).collect()
    }

    /// Whether a walk came out at the very end of the task's stack.
    fn ends(&self, trace: &Trace) -> bool {
        let Some(task) = self.stacks.iter().find(|stack| stack.kind == StackKind::Task) else { return false };
        match &trace.end {
            End::User { at, .. } => {
                let end = at.wrapping_add(self.unwinder.frame_regs().len() as u64);
                task.end().wrapping_offset_from(end) <= MAX_PADDING
            }
            End::Outermost => trace.frames.last().is_some_and(|frame| {
                let rsp = VirtAddr::new(frame.registers.rsp.unwrap_or_default());
                frame.stack == StackKind::Task && task.end().wrapping_offset_from(rsp) <= OUTERMOST
            }),
            End::Broken(_) => false,
        }
    }

    /// Whether every return address of a walk stands behind a call, as far as its code is still there: that of start-up
    /// code is not.
    fn all_called(&self, trace: &Trace) -> bool {
        let symbols = self.kernel.symbols.as_ref();
        let init =
            symbols.and_then(|symbols| Some((symbols.find("_sinittext")?, symbols.find("_einittext")?)));
        let kept = |addr: &VirtAddr| init.is_none_or(|(start, end)| !(start..end).contains(addr));
        let returns =
            trace.frames.iter().filter(|frame| !frame.exact).map(|frame| frame.address).filter(kept);
        // The outermost function of a stack is jumped to, and a thread begins in `ret_from_fork`.
        let mut inner: Vec<VirtAddr> = returns.collect();
        if matches!(trace.end, End::Outermost) {
            inner.pop();
        }
        call::precedes(self.kernel, &inner).into_iter().all(|called| called)
    }
}

#[cfg(test)]
pub(crate) mod tests;
