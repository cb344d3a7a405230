//! A [`Session`] as the [`Host`] GDB looks at: its tasks as threads, kernel memory, what is sure of the registers.

mod registers;
mod threads;

use std::fmt;

use super::{Gone, Host, MonitorError, PercpuRebase, Registers, TaskId, Thread, ThreadFilter, commands};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    kernel::{KernelError, mm, percpu, user},
    paging::{VirtError, VirtOp},
    session::{Session, writing::WriteError},
    synth::SymbolFile,
};

impl Host for Session {
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, VirtError> {
        let wanted = buf.len();
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
        self.was_read(addr, wanted);
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

    fn read_user(&self, task: TaskId, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, KernelError> {
        let mm = mm::of(&self.kernel, task.addr, task.pid)?;
        user::read_prefix(&self.kernel, &mm, addr, buf)
    }

    fn read_now(&self, ops: &mut [VirtOp<'_>]) {
        self.now.read_batch(ops);
    }

    fn write(&self, addr: VirtAddr, data: &[u8]) -> Result<(), WriteError> {
        Self::write(self, addr, data)
    }

    fn may_write(&self, addr: VirtAddr, len: usize) -> bool {
        Self::may_write(self, addr, len)
    }

    fn threads(&self, filter: &ThreadFilter) -> Vec<Thread> {
        threads::threads(self, filter)
    }

    fn registers(&self, tasks: &[TaskId]) -> Vec<Result<Registers, Gone>> {
        registers::of_tasks(self, tasks)
    }

    fn text(&self) -> Option<VirtAddr> {
        self.kernel.map.slide.map(|_| self.kernel.map.text)
    }

    fn percpu_rebase(&self) -> Option<PercpuRebase> {
        let symbols = self.kernel.symbols.as_ref()?;
        symbols.table().zero_based_percpu()?;
        let array = symbols.table().lookup("__per_cpu_offset")?;
        let cpus = (array.size / 8).min(percpu::MAX_CPUS as u64);
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

    fn booted_anew(&self) -> bool {
        Self::booted_anew(self)
    }

    fn monitor(&self, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
        commands::run(self, line, out)
    }

    fn monitor_help(&self) -> Vec<(&'static str, &'static str)> {
        commands::help()
    }
}
