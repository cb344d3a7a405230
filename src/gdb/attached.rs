//! A located kernel as the [`Host`] GDB looks at.

use std::fmt;

use super::{
    Host, MonitorError, PercpuRebase, Register, Registers, Thread,
    tid::{self, Tid},
};
use crate::{
    addr::{PAGE_SIZE, VirtAddr, parse_number},
    kernel::{
        dmesg,
        info::Info,
        percpu::{self, Cpu},
        task::{Scope, Task, Tasks},
    },
    paging::{Levels, VirtError, VirtOp},
    render,
    session::Session,
};

/// Protected mode, write protection in kernel mode, paging: without these bits no kernel of 64 bits runs.
const CR0: u64 = 1 << 0 | 1 << 16 | 1 << 31;
/// Physical-address extension, likewise.
const CR4_PAE: u64 = 1 << 5;
/// 57-bit linear addresses.
const CR4_LA57: u64 = 1 << 12;
/// Long mode enabled and active.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

const HELP: &[(&str, &str)] = &[
    ("info", "which kernel runs there, where it is, and how that was found"),
    ("ps", "list processes"),
    ("dmesg", "print the kernel log"),
    ("translate ADDR", "from a virtual to a physical address"),
    ("stats", "what crossed the link so far, and for attaching"),
];

impl Session {
    /// Registers that every CPU has as long as this kernel runs.
    fn control_registers(&self) -> Registers {
        let map = &self.kernel.map;
        let mut registers = Registers::default();
        registers.set(Register::Cr0, CR0);
        registers.set(Register::Cr3, map.root.raw());
        let la57 = if map.levels == Levels::Five { CR4_LA57 } else { 0 };
        registers.set(Register::Cr4, CR4_PAE | la57);
        registers.set(Register::Efer, EFER_LONG_MODE);
        registers
    }

    fn thread(&self, cpu: &Cpu, task: Option<&Task>) -> Thread {
        let mut registers = self.control_registers();
        registers.set(Register::GsBase, cpu.offset);
        let online = if cpu.online { "" } else { ", offline" };
        let (name, detail) = match task {
            Some(task) => (
                render::printable(&task.comm),
                format!("CPU {}{online}, pid {}, {}", cpu.number, task.pid, task.state),
            ),
            None => (format!("CPU {}", cpu.number), format!("its task at {} is unreadable", cpu.current)),
        };
        Thread { tid: tid::of_cpu(cpu.number), name, detail, cpu: Some(cpu.number), registers }
    }
}

impl Host for Session {
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, VirtError> {
        let first = (PAGE_SIZE - addr.offset_in(PAGE_SIZE)) as usize;
        let (head, tail) = buf.split_at_mut(first.min(buf.len()));
        let pieces = std::iter::once(head).chain(tail.chunks_mut(PAGE_SIZE as usize));
        let mut at = addr;
        let mut ops: Vec<VirtOp<'_>> = pieces
            .map(|piece| {
                let op = VirtOp::new(at, piece);
                at = at.wrapping_add(op.buf.len() as u64);
                op
            })
            .collect();
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
        let kernel = &self.kernel;
        let cpus = percpu::cpus(kernel).unwrap_or_default();
        let currents: Vec<VirtAddr> = cpus.iter().map(|cpu| cpu.current).collect();
        let tasks = match Tasks::resolve(kernel) {
            Ok(tasks) => tasks.at(kernel, &currents),
            Err(_) => Vec::new(),
        };
        let mut tasks = tasks.into_iter().map(Result::ok);
        let threads: Vec<Thread> =
            cpus.iter().map(|cpu| self.thread(cpu, tasks.next().flatten().as_ref())).collect();
        if threads.is_empty() {
            let (name, detail) = ("kernel".to_owned(), "CPUs unknown".to_owned());
            let registers = self.control_registers();
            return vec![Thread { tid: Tid::MIN, name, detail, cpu: None, registers }];
        }
        threads
    }

    fn text(&self) -> Option<VirtAddr> {
        self.kernel.map.slide.map(|_| self.kernel.map.text)
    }

    fn percpu_rebase(&self) -> Option<PercpuRebase> {
        let symbols = self.kernel.symbols.as_ref()?;
        symbols.table().zero_based_percpu()?;
        let array = symbols.table().lookup("__per_cpu_offset")?;
        let cpus = array.size / 8;
        Some(PercpuRebase { array: symbols.relocate(array.addr), cpus, slide: symbols.slide() })
    }

    fn refresh(&self) {
        Self::refresh(self);
    }

    fn monitor(&self, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
        let failed = |error: &dyn std::error::Error| MonitorError::Failed(error.to_string());
        let kernel = &self.kernel;
        let mut words = line.split_whitespace();
        let written = match (words.next().unwrap_or_default(), words.next()) {
            ("info", None) => render::info(out, &Info::of(kernel)),
            ("ps", None) => {
                let tasks = Tasks::resolve(kernel).map_err(|error| failed(&error))?;
                let list = tasks.list(kernel, Scope::Processes).map_err(|error| failed(&error))?;
                render::tasks(out, &list.tasks).map_err(|error| failed(&error))?;
                match list.torn {
                    Some(error) => writeln!(out, "the list is incomplete: {error}"),
                    None => Ok(()),
                }
            }
            ("dmesg", None) => render::dmesg(out, &dmesg::read(kernel).map_err(|error| failed(&error))?),
            ("translate", Some(text)) => {
                let addr = VirtAddr::new(parse_number(text).map_err(|error| failed(&error))?);
                let found = kernel.memory.translate(addr).map_err(|error| failed(&error))?;
                render::translation(out, addr, &found)
            }
            ("translate", None) => return Err(MonitorError::Usage("translate ADDR")),
            ("stats", None) => writeln!(out, "{}", self.stats()),
            (command, _) => return Err(MonitorError::Unknown(command.to_owned())),
        };
        written.map_err(|error| failed(&error))
    }

    fn monitor_help(&self) -> Vec<(&'static str, &'static str)> {
        HELP.to_vec()
    }
}
