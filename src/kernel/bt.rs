//! Backtraces of tasks: which functions they are in, and how that is known.
//!
//! A task that sleeps has its registers on its stack; one that a CPU was running when the machine died is recovered by
//! [`super::halted`]; of one that runs now nothing can be said, because its registers are in the CPU and its stack
//! changes while it is read. Any number of tasks is read side by side.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Kernel, KernelError,
    code::{Code, Place},
    halted::Halted,
    percpu::{self, Cpu},
    pid,
    registers::{Asleep, Registers, SavedRegisters},
    task::{Scope, Task, Tasks},
    unwind::{End, FoundBy, Frame, Stack, StackKind, Stacks, Start, Trace, Unwinder},
};
use crate::{
    addr::{LinkAddr, VirtAddr},
    symbols::lines::{SourceFrame, SourceLines},
};

/// Where a new task begins; in assembly since 3aec4ecb3d1f (6.5), where the second is a function that it calls.
const FORK: [&str; 2] = ["ret_from_fork_asm", "ret_from_fork"];

/// Tasks whose stacks are held at once: bounds memory, and with 12 us a read still hides the latency.
const AT_ONCE: usize = 128;

/// Whose backtraces are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The thread with this id; 0 for the idle tasks.
    Pid(i32),
    /// What this CPU runs.
    Cpu(u32),
    /// Every thread, those on a CPU first.
    All,
    /// What the CPUs run.
    Cpus,
}

/// A line of a backtrace: a function, or one that was inlined into the next.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Call {
    /// The function; `None` when no symbol says.
    pub function: Option<String>,
    /// Bytes from its start to `address`; `None` for an inlined one.
    pub offset: Option<u64>,
    /// Where execution goes on in it.
    pub address: VirtAddr,
    /// Its stack pointer; that of an inlined one is the next line's.
    pub sp: Option<VirtAddr>,
    /// Its module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// It was inlined into the next line's function.
    pub inlined: bool,
    /// Source file.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
    /// How it was found.
    pub found_by: FoundBy,
    /// The stack it is on.
    pub stack: StackKind,
    /// The registers saved there, where it was interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registers: Option<Registers>,
}

/// How user mode was left.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UserMode {
    /// `syscall`, `interrupt`, `exception`, `NMI`, or `entry` where the name of the entry code says nothing.
    pub left_by: &'static str,
    /// The registers there.
    pub registers: Registers,
}

/// One task's backtrace.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Backtrace {
    /// Thread id.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The CPU it is on, or was last on.
    pub cpu: Option<u32>,
    /// As `ps` letters it.
    pub state: char,
    /// Whether that CPU is running it.
    pub on_cpu: bool,
    /// Innermost first; empty where nothing is known.
    pub frames: Vec<Call>,
    /// User mode, when it was left from there.
    pub user: Option<UserMode>,
    /// How the first frame of a task on a CPU was found.
    pub recovered: Option<String>,
    /// Why there are no frames, or not all.
    pub incomplete: Option<String>,
}

/// Backtraces, and why the list of tasks ended early if it did.
#[derive(Debug)]
pub struct Backtraces {
    /// In the order of the list of tasks.
    pub tasks: Vec<Backtrace>,
    /// The list of tasks lacks some.
    pub torn: Option<KernelError>,
}

/// Reads the backtraces of `which`; source lines and inlined functions come from `lines`.
///
/// # Errors
/// [`KernelError`] when symbols or types are missing, or the list of tasks cannot be read at all.
pub fn read(
    kernel: &Kernel,
    which: Which,
    lines: Option<&dyn SourceLines>,
) -> Result<Backtraces, KernelError> {
    let unwinder = Unwinder::new(kernel)?;
    let saved = SavedRegisters::resolve(kernel)?;
    let cpus = percpu::cpus(kernel)?;
    let (tasks, torn) = chosen(kernel, which, &cpus)?;
    let reader = Reader {
        kernel,
        unwinder,
        saved,
        cpus,
        halted: Halted::find(kernel)?,
        fork: kernel.symbols.as_ref().and_then(|symbols| FORK.iter().find_map(|name| symbols.find(name))),
        code: Code::new(kernel),
        lines,
    };
    let tasks = tasks.chunks(AT_ONCE).flat_map(|some| reader.read(some)).collect();
    Ok(Backtraces { tasks, torn })
}

/// What backtraces are read with.
struct Reader<'k> {
    kernel: &'k Kernel,
    unwinder: Unwinder<'k>,
    saved: SavedRegisters,
    cpus: Vec<Cpu>,
    halted: Halted<'k>,
    /// Where a task that never ran begins.
    fork: Option<VirtAddr>,
    code: Code<'k>,
    lines: Option<&'k dyn SourceLines>,
}

impl Reader<'_> {
    /// The backtraces of `tasks`, side by side.
    fn read(&self, tasks: &[Task]) -> Vec<Backtrace> {
        let Self { kernel, unwinder, saved, halted, .. } = self;
        let addrs: Vec<VirtAddr> = tasks.iter().map(|task| task.addr).collect();
        let outcomes = saved.of(kernel, &addrs);
        let stacks = sleeping_stacks(kernel, &outcomes, saved.stack_len());
        let (mut starts, mut begun) = (Vec::new(), Vec::new());
        for ((task, outcome), stack) in tasks.iter().zip(outcomes).zip(stacks) {
            let cpu = self.cpus.iter().find(|cpu| cpu.current == Some(task.addr));
            let begin = match (outcome, stack, cpu) {
                (_, _, Some(cpu)) => halted.start(unwinder, cpu, task, saved.stack_len()),
                (Ok(Some(asleep)), Some(Ok(stack)), None) => Ok(self.asleep_start(&asleep, stack)),
                (Ok(Some(_)), Some(Err(error)), None) | (Err(error), _, None) => Err(error.to_string()),
                (Ok(_), _, None) => Err(self.on_no_cpu(task)),
            };
            let (recovered, failed) = match begin {
                Ok((start, recovered)) => {
                    starts.push(start);
                    (recovered, None)
                }
                Err(reason) => (None, Some(reason)),
            };
            begun.push(Begun { task, cpu, recovered, failed });
        }
        let traces = unwinder.walk(starts);
        let places: Vec<VirtAddr> =
            traces.iter().flat_map(|trace| trace.frames.iter().map(Frame::lookup)).collect();
        let names = Names { code: &self.code, sources: sources(kernel, &places, self.lines) };
        let mut traces = traces.into_iter();
        let finish = |begun: Begun<'_>| {
            let trace = if begun.failed.is_none() { traces.next() } else { None };
            names.backtrace(begun, trace)
        };
        begun.into_iter().map(finish).collect()
    }

    /// What to say of a task on a CPU that no CPU runs.
    fn on_no_cpu(&self, task: &Task) -> String {
        let unstarted = |cpu: &&Cpu| Some(cpu.number) == task.cpu && cpu.current.is_none();
        match self.cpus.iter().find(unstarted) {
            Some(cpu) => format!("it is to run on CPU {}, which was never started", cpu.number),
            None => "it is on a CPU, and no CPU says that it runs it".to_owned(),
        }
    }

    /// A task that ran left the scheduler by a call; one that never ran has not begun to execute what it returns to
    /// (`arch/x86/kernel/unwind_orc.c`, `__unwind_start`).
    fn asleep_start(&self, asleep: &Asleep, stack: Stack) -> Begin {
        let exact = asleep.registers.rip.is_some_and(|rip| self.fork == Some(VirtAddr::new(rip)));
        let stacks = Arc::new(Stacks::new(vec![stack]));
        (Start { registers: asleep.registers, exact, found_by: FoundBy::Registers, stacks }, None)
    }
}

/// A task whose walk has begun, or cannot.
struct Begun<'t> {
    task: &'t Task,
    cpu: Option<&'t Cpu>,
    recovered: Option<String>,
    failed: Option<String>,
}

/// Where a walk starts, and how that was found if it was not simply saved.
pub(super) type Begin = (Start, Option<String>);

/// From the stack pointer to the end of the stack, of every task that sleeps.
fn sleeping_stacks(
    kernel: &Kernel,
    outcomes: &[Result<Option<Asleep>, KernelError>],
    stack_len: u64,
) -> Vec<Option<Result<Stack, KernelError>>> {
    let range = |asleep: &Asleep| {
        let from = VirtAddr::new(asleep.registers.rsp.unwrap_or_default());
        let used = from.wrapping_offset_from(asleep.stack);
        (from, stack_len.saturating_sub(used) as usize)
    };
    let ranges: Vec<_> = outcomes.iter().filter_map(|one| one.as_ref().ok()?.as_ref()).map(range).collect();
    let mut read = ranges.iter().zip(kernel.memory.read_ranges(&ranges));
    let mut next = || {
        let ((start, _), bytes) = read.next()?;
        let step = "reading the stack of a sleeping task";
        let stack = bytes.map(|bytes| Stack { kind: StackKind::Task, start: *start, bytes });
        Some(stack.map_err(|source| KernelError::Read { step, source }))
    };
    outcomes.iter().map(|one| if matches!(one, Ok(Some(_))) { next() } else { None }).collect()
}

/// The tasks wanted: every thread that is listed, and the idle tasks, which are in no list.
fn chosen(
    kernel: &Kernel,
    which: Which,
    cpus: &[Cpu],
) -> Result<(Vec<Task>, Option<KernelError>), KernelError> {
    let reader = Tasks::resolve(kernel)?;
    let on_cpus: Vec<VirtAddr> = match which {
        Which::Cpu(number) => {
            cpus.iter().filter(|cpu| cpu.number == number).filter_map(|cpu| cpu.current).collect()
        }
        _ => cpus.iter().filter_map(|cpu| cpu.current).collect(),
    };
    let running = reader.at(kernel, &on_cpus).into_iter().collect::<Result<Vec<Task>, _>>()?;
    if matches!(which, Which::Cpu(_) | Which::Cpus) {
        return Ok((running, None));
    }
    if let Which::Pid(pid) = which
        && pid != 0
    {
        // What a CPU says that it runs goes before the list, which may lack it.
        let task = match running.into_iter().find(|task| task.pid == pid) {
            Some(task) => Ok(task),
            None => pid::find(kernel, pid),
        };
        return match task {
            Ok(task) => Ok((vec![task], None)),
            Err(KernelError::NoTask { .. }) => Ok((Vec::new(), None)),
            Err(error) => Err(error),
        };
    }
    let list = reader.list(kernel, Scope::Threads)?;
    let mut tasks = running;
    let mut known: HashSet<VirtAddr> = tasks.iter().map(|task| task.addr).collect();
    let idle = percpu::idle_tasks(kernel, cpus).unwrap_or_else(|error| {
        log::warn!("idle tasks of busy CPUs are left out: {error}");
        Vec::new()
    });
    let idle = reader.at(kernel, &idle);
    let others = idle.into_iter().filter_map(Result::ok).chain(list.tasks);
    tasks.extend(others.filter(|task| known.insert(task.addr)));
    if let Which::Pid(pid) = which {
        tasks.retain(|task| task.pid == pid);
    }
    Ok((tasks, list.torn))
}

/// Turns frames into names.
struct Names<'n> {
    code: &'n Code<'n>,
    /// By address looked up; those that have none are absent.
    sources: HashMap<VirtAddr, Vec<SourceFrame>>,
}

impl Names<'_> {
    fn backtrace(&self, begun: Begun<'_>, trace: Option<Trace>) -> Backtrace {
        let Begun { task, cpu, recovered, failed } = begun;
        let mut made = Backtrace {
            pid: task.pid,
            comm: task.comm.clone(),
            cpu: cpu.map(|cpu| cpu.number).or(task.cpu),
            state: task.state,
            on_cpu: cpu.is_some(),
            frames: Vec::new(),
            user: None,
            recovered,
            incomplete: failed,
        };
        let Some(Trace { frames, end }) = trace else { return made };
        made.frames = frames.iter().flat_map(|frame| self.calls(frame)).collect();
        match end {
            End::Outermost => {}
            End::Broken(reason) => made.incomplete = Some(reason),
            End::User { registers, event, .. } => {
                let entry = made.frames.last().and_then(|call| call.function.as_deref());
                let left_by = entered_by(entry.unwrap_or_default(), event);
                made.user = Some(UserMode { left_by, registers: *registers });
            }
        }
        made
    }

    /// A frame's function, after those inlined into it.
    fn calls(&self, frame: &Frame) -> Vec<Call> {
        let lookup = frame.lookup();
        let place = self.code.place(lookup);
        let behind = frame.address.wrapping_offset_from(lookup);
        // Without lines there is one function, nameless as far as they say.
        let sources = self.sources.get(&lookup).cloned().unwrap_or_else(|| vec![SourceFrame::default()]);
        let outermost = sources.len().saturating_sub(1);
        let call = |(depth, source): (usize, SourceFrame)| {
            let inlined = depth < outermost;
            let own = if inlined { None } else { place.as_ref() };
            Call {
                function: own.map(|place: &Place| place.function.clone()).or(source.function),
                offset: own.map(|place| place.offset.wrapping_add(behind)),
                address: frame.address,
                sp: frame.registers.rsp.map(VirtAddr::new),
                module: place.as_ref().and_then(|place| place.module.clone()),
                inlined,
                file: source.file,
                line: source.line,
                found_by: frame.found_by,
                stack: frame.stack,
                registers: (depth == 0 && frame.found_by == FoundBy::PtRegs).then_some(frame.registers),
            }
        };
        sources.into_iter().enumerate().map(call).collect()
    }
}

/// What `lines` say of code in the kernel's image.
fn sources(
    kernel: &Kernel,
    places: &[VirtAddr],
    lines: Option<&dyn SourceLines>,
) -> HashMap<VirtAddr, Vec<SourceFrame>> {
    let map = &kernel.map;
    let (Some(lines), Some(slide)) = (lines, map.slide) else { return HashMap::new() };
    let in_image = |addr: &&VirtAddr| addr.wrapping_offset_from(map.text) < map.image.len();
    let places: Vec<VirtAddr> = places.iter().filter(in_image).copied().collect();
    let linked: Vec<LinkAddr> =
        places.iter().map(|addr| LinkAddr::new(addr.raw().wrapping_sub(slide))).collect();
    let found = places.into_iter().zip(lines.frames(&linked));
    found.filter(|(_, frames)| !frames.is_empty()).collect()
}

/// How the entry code called `name` is entered (`arch/x86/entry/entry_64.S`, `arch/x86/include/asm/idtentry.h`), or was
/// by the `event` that FRED names (`fred_entry_from_user`).
fn entered_by(name: &str, event: Option<(u8, u8)>) -> &'static str {
    const KINDS: &[(&str, &str)] = &[
        ("entry_SYSCALL", "syscall"),
        ("entry_SYSENTER", "syscall"),
        ("entry_INT80", "syscall"),
        ("asm_int80", "syscall"),
        ("ret_from_fork", "syscall"),
        ("asm_exc_nmi", "NMI"),
        ("asm_exc_", "exception"),
        ("error_entry", "exception"),
        ("paranoid", "exception"),
        ("end_repeat_nmi", "NMI"),
        ("asm_sysvec_", "interrupt"),
        ("asm_common_interrupt", "interrupt"),
        ("asm_spurious", "interrupt"),
        ("common_interrupt", "interrupt"),
        ("ret_from_intr", "interrupt"),
        ("apic_timer_interrupt", "interrupt"),
    ];
    if name.starts_with("asm_fred") {
        return match event {
            Some((0, _)) => "interrupt",
            Some((2, _)) => "NMI",
            // `int 0x80`, `syscall` and `sysenter`; other `int` are as wrong as what faults.
            Some((4, 0x80) | (7, 1 | 2)) => "syscall",
            Some((3..=7, _)) => "exception",
            _ => "entry",
        };
    }
    KINDS.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("entry", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{testing::Structs, unwind::FrameRegs};

    #[test]
    fn one_entry_of_fred_is_entered_by_all_there_is() {
        let names = [
            "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
            "orig_ax", "ip", "cs", "flags", "sp",
        ];
        let mut members: Vec<(&str, u64, u64)> =
            names.into_iter().zip((0..).step_by(8)).map(|(name, at)| (name, at, 8)).collect();
        members.extend([("ss", 160, 2), ("ssx", 160, 8)]);
        let regs = FrameRegs::resolve(&Structs::new().add("pt_regs", 168, &members)).unwrap();
        let entered = |ssx: u64| {
            let bytes = [vec![0; 160], ssx.to_le_bytes().to_vec()].concat();
            entered_by("asm_fred_entrypoint_user", regs.event(&bytes))
        };
        for ((event, vector), name) in [
            ((0, 0xec), "interrupt"),
            ((2, 2), "NMI"),
            ((3, 14), "exception"),
            ((4, 0x80), "syscall"),
            ((4, 3), "exception"),
            ((7, 1), "syscall"),
            ((1, 0), "entry"),
        ] {
            assert_eq!(entered(1 << 57 | event << 48 | vector << 32 | 0x2b), name);
        }
        assert_eq!(entered_by("asm_fred_entrypoint_user", None), "entry");
        assert_eq!(entered_by("asm_exc_page_fault", Some((7, 1))), "exception");
    }
}
