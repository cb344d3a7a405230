//! A [`Session`] as the [`Host`] GDB looks at: CPUs as threads, kernel memory, what is sure of the registers.

use std::fmt;

use super::{Host, MonitorError, PercpuRebase, Register, Registers, Thread, commands, tid};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    kernel::{
        KernelError,
        percpu::{self, Cpu},
        task::{Task, Tasks},
    },
    paging::{Levels, VirtError, VirtOp},
    session::Session,
    synth::SymbolFile,
};

/// Protected mode, write protection in kernel mode, paging: without these bits no kernel of 64 bits runs.
const CR0: u64 = 1 << 0 | 1 << 16 | 1 << 31;
/// Physical-address extension, likewise.
const CR4_PAE: u64 = 1 << 5;
/// 57-bit linear addresses.
const CR4_LA57: u64 = 1 << 12;
/// Long mode enabled and active.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// `NR_CPUS` is at most this on x86-64 (`arch/x86/Kconfig`).
const MOST_CPUS: u64 = 8192;

impl Session {
    /// CR4 bits that the page tables being walked prove.
    fn proved_cr4(&self) -> u64 {
        match self.kernel.map.levels {
            Levels::Four => CR4_PAE,
            Levels::Five => CR4_PAE | CR4_LA57,
        }
    }

    /// Registers that every CPU has as long as this kernel runs. Of CR0, CR4 and EFER these are the bits that are
    /// sure; CR3 is the kernel's own table, whose upper half every process' table shares.
    fn control_registers(&self) -> Registers {
        let mut registers = Registers::default();
        registers.set(Register::Cr0, CR0);
        registers.set(Register::Cr3, self.kernel.map.root.raw());
        registers.set(Register::Cr4, self.proved_cr4());
        registers.set(Register::Efer, EFER_LONG_MODE);
        registers
    }

    fn cpu_threads(&self) -> Result<Vec<Thread>, KernelError> {
        let cpus = percpu::cpus(&self.kernel)?;
        let currents: Vec<VirtAddr> = cpus.iter().map(|cpu| cpu.current).collect();
        let tasks = Tasks::resolve(&self.kernel)?.at(&self.kernel, &currents);
        let cr4 = self.cr4(&cpus);
        let threads = cpus.iter().zip(tasks).zip(cr4);
        Ok(threads.map(|((cpu, task), cr4)| self.cpu_thread(cpu, task, cr4)).collect())
    }

    fn cpu_thread(&self, cpu: &Cpu, task: Result<Task, KernelError>, cr4: Option<u64>) -> Thread {
        let mut registers = self.control_registers();
        if let Some(cr4) = cr4 {
            registers.set(Register::Cr4, cr4);
        }
        // While a CPU is in the kernel, GS points at its per-CPU area.
        registers.set(Register::GsBase, cpu.offset);
        let online = if cpu.online { "" } else { ", offline" };
        let (name, detail) = match task {
            Ok(Task { comm, pid, state, .. }) => {
                (comm, format!("CPU {}{online}, pid {pid}, {state}", cpu.number))
            }
            Err(error) => (format!("CPU {}", cpu.number), format!("its task is not known: {error}")),
        };
        Thread { tid: tid::of_cpu(cpu.number), name, detail, cpu: Some(cpu.number), registers }
    }

    /// CR4 as the kernel last wrote it on each CPU: `cpu_tlbstate.cr4` (`arch/x86/include/asm/tlbflush.h`), where
    /// it does not contradict the tables.
    fn cr4(&self, cpus: &[Cpu]) -> Vec<Option<u64>> {
        let kernel = &self.kernel;
        let shadow = || {
            let symbol = kernel.symbols.as_ref()?.find("cpu_tlbstate")?;
            Some(symbol.wrapping_add(kernel.types.as_deref()?.field("tlb_state", "cr4").ok()?.offset))
        };
        let Some(shadow) = shadow() else { return vec![None; cpus.len()] };
        let mut words = vec![[0; 8]; cpus.len()];
        let places = cpus.iter().map(|cpu| shadow.wrapping_add(cpu.offset));
        let mut ops: Vec<VirtOp<'_>> =
            places.zip(&mut words).map(|(addr, word)| VirtOp::new(addr, word)).collect();
        kernel.memory.read_batch(&mut ops);
        let read: Vec<bool> = ops.into_iter().map(|op| op.result.is_ok()).collect();
        let values = words.into_iter().map(u64::from_le_bytes).zip(read);
        let plausible = |cr4: u64| cr4 & (CR4_PAE | CR4_LA57) == self.proved_cr4();
        values.map(|(cr4, read)| (read && plausible(cr4)).then_some(cr4)).collect()
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
        let threads = self.cpu_threads().unwrap_or_else(|error| {
            log::warn!("the CPUs cannot be shown as threads: {error}");
            Vec::new()
        });
        if threads.is_empty() {
            let (name, detail) = ("kernel".to_owned(), "CPUs unknown".to_owned());
            return vec![Thread {
                tid: tid::of_cpu(0),
                name,
                detail,
                cpu: None,
                registers: self.control_registers(),
            }];
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
        let cpus = (array.size / 8).min(MOST_CPUS);
        Some(PercpuRebase { array: symbols.relocate(array.addr), cpus, slide: symbols.slide() })
    }

    fn symbol_file(&self) -> Option<SymbolFile> {
        self.symbol_file.clone()
    }

    fn module_symbols(&self) -> Result<Vec<u8>, MonitorError> {
        let made = self.synthesize_modules().map_err(|error| MonitorError::Failed(error.to_string()))?;
        Ok(made.bytes)
    }

    fn refresh(&self) {
        Self::refresh(self);
    }

    fn monitor(&self, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
        commands::run(self, line, out)
    }

    fn monitor_help(&self) -> Vec<(&'static str, &'static str)> {
        commands::help()
    }
}
