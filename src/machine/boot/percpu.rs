//! The processors: their per-CPU areas (arch/x86/kernel/setup_percpu.c), masks (kernel/cpu.c) and what runs.

use super::{Boot, Object};
use crate::{
    addr::VirtAddr,
    machine::{
        MachineError,
        link::{Kind, TEXT},
        truth::TrueCpu,
    },
};

const PAGE: u64 = 4096;
/// Five minutes before it wraps at 32 bits (`INITIAL_JIFFIES`, 250 ticks a second), and three seconds.
const INITIAL_JIFFIES: u64 = 0xffff_ffff - 5 * 60 * 250 + 3 * 250;

impl Boot<'_> {
    /// Address of a processor's own copy of a per-CPU variable.
    pub(super) fn this_cpu(&self, name: &str, cpu: usize) -> Result<VirtAddr, MachineError> {
        let offset = self.per_cpu_offsets.get(cpu).copied().unwrap_or_default();
        Ok(self.symbol(name)?.wrapping_add(offset))
    }

    pub(super) fn set_up_cpus(&mut self) -> Result<(), MachineError> {
        let count = self.description.cpus.len();
        let section = self.image.section(Kind::PerCpu).map_or((0, 0), |s| (s.size, s.offset));
        let (size, load_offset) = (section.0.next_multiple_of(PAGE), section.1);
        let units = self.alloc(size * count as u64, PAGE)?;
        let start = self.symbol("__per_cpu_start")?;
        let table = self.symbol("__per_cpu_offset")?;
        // Until a processor is set up its entry leads to the section as it was loaded.
        let unused = self.run_time(TEXT.wrapping_add(load_offset)).wrapping_offset_from(start);
        for slot in 0..self.image.symbol("__per_cpu_offset")?.size / 8 {
            self.write_word(table.wrapping_add(slot * 8), unused.into(), 8)?;
        }
        for (cpu, slot) in (0..count).zip(0_u64..) {
            let offset = units.wrapping_add(size * slot).wrapping_offset_from(start);
            self.per_cpu_offsets.push(offset);
            self.write_word(table.wrapping_add(slot * 8), offset.into(), 8)?;
            self.write_word(self.this_cpu("this_cpu_off", cpu)?, offset.into(), 8)?;
            self.write_word(self.this_cpu("cpu_number", cpu)?, cpu.into(), 4)?;
        }
        let all = (0..count).fold(0_u64, |mask, cpu| mask | 1 << cpu);
        let online = self.panicked().map_or(all, |cpu| 1 << cpu);
        for mask in ["__cpu_possible_mask", "__cpu_present_mask", "__cpu_active_mask"] {
            self.set(self.global("cpumask", mask)?, "bits", all)?;
        }
        self.set(self.global("cpumask", "__cpu_online_mask")?, "bits", online)?;
        self.set_global("nr_cpu_ids", count)?;
        self.set_global("panic_cpu", self.panicked().map_or(-1, |cpu| cpu as i64))?;
        self.set_global("hrtimer_resolution", 1)?;
        self.set_global("jiffies_64", INITIAL_JIFFIES)?;
        self.set_global("crashing_cpu", -1)
    }

    /// Sets running what the description says runs.
    pub(super) fn start_processors(&mut self) -> Result<(), MachineError> {
        for (cpu, (pid, idle)) in self.description.cpus.iter().zip(self.idle.clone()).enumerate() {
            let current = if *pid == 0 { Some(&idle) } else { self.truth.task(*pid) };
            let Some(current) = current.map(|task| task.addr) else {
                return Err(super::wrong(format!("processor {cpu} runs pid {pid}, which does not exist")));
            };
            self.write_word(self.this_cpu("current_task", cpu)?, current.into(), 8)?;
            let rq = Object { ty: "rq", addr: self.this_cpu("runqueues", cpu)? };
            self.set(rq, "nr_running", usize::from(*pid != 0))?;
            self.set(rq, "nr_switches", 1000 + cpu)?;
            self.set(rq, "curr", current)?;
            self.set(rq, "idle", idle.addr)?;
            let mut runnable = vec![self.at(rq, "cfs_tasks")?];
            if *pid != 0 {
                let task = Object { ty: "task_struct", addr: current };
                runnable.push(self.at(task, "se.group_node")?);
            }
            self.ring(&runnable)?;
            self.set(rq, "cpu", cpu)?;
            self.set(rq, "online", 1)?;
            let per_cpu_offset = self.per_cpu_offsets.get(cpu).copied().unwrap_or_default();
            let online = self.panicked().is_none_or(|panicked| panicked == cpu);
            self.truth.cpus.push(TrueCpu { per_cpu_offset, online, idle, current });
        }
        self.install_trampoline()
    }
}
