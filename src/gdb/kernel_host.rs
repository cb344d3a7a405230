//! A located [`Kernel`] as a [`Host`]: CPUs as threads, virtual memory, and the commands of `monitor`.

use std::{fmt, sync::Arc};

use super::{
    host::{Host, MonitorError, Thread},
    target::{PercpuRebase, Register, Registers},
    tid,
};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    kernel::{
        Kernel, KernelError, dmesg,
        info::Info,
        percpu::{self, Cpu},
        task::{Scope, Task, Tasks},
    },
    paging::{Levels, VirtError, VirtOp},
    render,
    session::Session,
};

/// `NR_CPUS` is 8192 at most on x86-64 (`arch/x86/Kconfig`).
const MOST_CPUS: u64 = 8192;

/// Bits of CR4 (Intel SDM volume 3, section 2.5) that a located kernel proves.
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;

/// A kernel, served to GDB.
pub struct KernelHost {
    kernel: Arc<Kernel>,
    stats: Box<dyn Fn() -> String + Send + Sync>,
    refresh: Box<dyn Fn() + Send + Sync>,
}

impl KernelHost {
    /// Serves the kernel of `session`.
    #[must_use]
    pub fn of(session: Session) -> Self {
        let session = Arc::new(session);
        let (stats, refresh) = (Arc::clone(&session), Arc::clone(&session));
        Self::new(Arc::clone(&session.kernel), move || stats.stats(), move || refresh.refresh())
    }

    /// Serves `kernel`. `stats` says what reading it has cost so far; `refresh` forgets what is cached of it.
    pub fn new(
        kernel: Arc<Kernel>,
        stats: impl Fn() -> String + Send + Sync + 'static,
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { kernel, stats: Box::new(stats), refresh: Box::new(refresh) }
    }

    fn cpu_threads(&self) -> Result<Vec<Thread>, KernelError> {
        let cpus = percpu::cpus(&self.kernel)?;
        let currents: Vec<VirtAddr> = cpus.iter().map(|cpu| cpu.current).collect();
        let tasks = Tasks::resolve(&self.kernel)?.at(&self.kernel, &currents);
        let cr4 = self.cr4(&cpus);
        let threads = cpus.iter().zip(tasks).zip(cr4);
        Ok(threads.map(|((cpu, task), cr4)| self.cpu_thread(cpu, task, cr4)).collect())
    }

    fn cpu_thread(&self, cpu: &Cpu, task: Result<Task, KernelError>, cr4: u64) -> Thread {
        let mut registers = Registers::default();
        // The tables every process' own share their kernel half with; which process' were loaded is not asked.
        registers.set(Register::Cr3, self.kernel.map.root.raw());
        registers.set(Register::Cr4, cr4);
        // In the kernel GS points at the per-CPU area (arch/x86/kernel/cpu/common.c, `switch_gdt_and_percpu_base`).
        registers.set(Register::GsBase, cpu.offset);
        let online = if cpu.online { "" } else { ", not online" };
        let (name, detail) = match task {
            Ok(Task { comm, pid, state, .. }) => {
                (comm, format!("CPU {}, pid {pid}, {}{online}", cpu.number, state_word(state)))
            }
            Err(error) => (String::new(), format!("CPU {}{online}, its task: {error}", cpu.number)),
        };
        Thread { tid: tid::of_cpu(cpu.number), name, detail, cpu: Some(cpu.number), registers }
    }

    /// CR4 of each CPU: the kernel's own copy (`cpu_tlbstate.cr4`, `cr4_init_shadow`), else the bits that the
    /// tables being walked prove.
    fn cr4(&self, cpus: &[Cpu]) -> Vec<u64> {
        let proved = match self.kernel.map.levels {
            Levels::Four => CR4_PAE,
            Levels::Five => CR4_PAE | CR4_LA57,
        };
        let shadow = || {
            let symbol = self.kernel.symbols.as_ref()?.find("cpu_tlbstate")?;
            Some(symbol.wrapping_add(self.kernel.types.as_deref()?.field("tlb_state", "cr4").ok()?.offset))
        };
        let Some(shadow) = shadow() else { return vec![proved; cpus.len()] };
        let mut words = vec![[0; 8]; cpus.len()];
        let places = cpus.iter().map(|cpu| shadow.wrapping_add(cpu.offset));
        let mut ops: Vec<VirtOp<'_>> =
            places.zip(&mut words).map(|(addr, word)| VirtOp::new(addr, word)).collect();
        self.kernel.memory.read_batch(&mut ops);
        let read: Vec<bool> = ops.into_iter().map(|op| op.result.is_ok()).collect();
        let value = |(word, read): (&[u8; 8], bool)| {
            let value = u64::from_le_bytes(*word);
            if read && value & (CR4_PAE | CR4_LA57) == proved { value } else { proved }
        };
        words.iter().zip(read).map(value).collect()
    }
}

impl Host for KernelHost {
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, VirtError> {
        let mut ops = Vec::new();
        let (mut rest, mut at) = (buf, addr);
        while !rest.is_empty() {
            let room = usize::try_from(PAGE_SIZE - at.offset_in(PAGE_SIZE)).unwrap_or(usize::MAX);
            let (page, next) = rest.split_at_mut(room.min(rest.len()));
            let len = page.len() as u64;
            ops.push(VirtOp::new(at, page));
            (rest, at) = (next, at.wrapping_add(len));
        }
        self.kernel.memory.read_batch(&mut ops);
        let mut read = 0;
        for op in ops {
            match op.result {
                Ok(()) => read += op.buf.len(),
                Err(error) if read == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(read)
    }

    fn threads(&self) -> Vec<Thread> {
        self.cpu_threads().unwrap_or_else(|error| {
            log::warn!("the CPUs cannot be shown as threads: {error}");
            Vec::new()
        })
    }

    fn text(&self) -> Option<VirtAddr> {
        self.kernel.map.slide.map(|_| self.kernel.map.text)
    }

    fn percpu_rebase(&self) -> Option<PercpuRebase> {
        let symbols = self.kernel.symbols.as_ref()?;
        symbols.table().zero_based_percpu()?;
        let cpus = (symbols.table().lookup("__per_cpu_offset")?.size / 8).min(MOST_CPUS);
        Some(PercpuRebase { array: symbols.find("__per_cpu_offset")?, cpus, slide: symbols.slide() })
    }

    fn refresh(&self) {
        (self.refresh)();
    }

    fn monitor(&self, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
        let (name, args) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let command = COMMANDS.iter().find(|command| command.name == name);
        let command = command.ok_or_else(|| MonitorError::Unknown(line.to_owned()))?;
        if command.args.is_empty() && !args.trim().is_empty() {
            return Err(MonitorError::Usage(command.usage().to_owned()));
        }
        (command.run)(self, args.trim(), out)
    }

    fn monitor_help(&self) -> Vec<(String, &'static str)> {
        COMMANDS.iter().map(|command| (command.usage(), command.about)).collect()
    }
}

/// A command of `monitor`.
struct Command {
    name: &'static str,
    args: &'static str,
    about: &'static str,
    run: fn(&KernelHost, &str, &mut dyn fmt::Write) -> Result<(), MonitorError>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "info",
        args: "",
        about: "what kernel this is, where it is, how it was found",
        run: info,
    },
    Command { name: "ps", args: "[threads]", about: "the processes, or all threads", run: ps },
    Command { name: "dmesg", args: "[LINES]", about: "the kernel log, or its last lines", run: dmesg },
    Command {
        name: "translate",
        args: "ADDR",
        about: "where a virtual address is in memory",
        run: translate,
    },
    Command { name: "stats", args: "", about: "what reading the target has cost so far", run: stats },
];

impl Command {
    fn usage(&self) -> String {
        format!("{} {}", self.name, self.args).trim_end().to_owned()
    }
}

fn info(host: &KernelHost, _: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    Ok(render::info(out, &Info::of(&host.kernel))?)
}

fn ps(host: &KernelHost, args: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let scope = match args {
        "" => Scope::Processes,
        "threads" => Scope::Threads,
        _ => return Err(MonitorError::Usage("ps [threads]".to_owned())),
    };
    let list = Tasks::resolve(&host.kernel)?.list(&host.kernel, scope)?;
    render::tasks(out, &list.tasks)?;
    match list.torn {
        Some(error) => Err(MonitorError::Failed(format!("the list is not complete: {error}"))),
        None => Ok(()),
    }
}

fn dmesg(host: &KernelHost, args: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let records = dmesg::read(&host.kernel)?;
    let wanted = match args {
        "" => records.len(),
        lines => lines.parse().map_err(|_| MonitorError::Usage("dmesg [LINES]".to_owned()))?,
    };
    let skipped = records.len().saturating_sub(wanted);
    Ok(render::dmesg(out, records.get(skipped..).unwrap_or_default())?)
}

fn translate(host: &KernelHost, args: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let addr: VirtAddr = args.parse().map_err(|_| MonitorError::Usage("translate ADDR".to_owned()))?;
    let found =
        host.kernel.memory.translate(addr).map_err(|error| MonitorError::Failed(error.to_string()))?;
    Ok(render::translation(out, addr, &found)?)
}

fn stats(host: &KernelHost, _: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    Ok(writeln!(out, "{}", (host.stats)())?)
}

/// The state that [`Task::state`]'s letter stands for.
fn state_word(letter: char) -> &'static str {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "uninterruptible",
        'T' => "stopped",
        't' => "traced",
        'X' => "dead",
        'Z' => "zombie",
        'P' => "parked",
        'I' => "idle",
        _ => "state unknown",
    }
}
