//! Tasks as threads: what each CPU runs, then everybody else.

use std::collections::HashSet;

use super::registers;
use crate::{
    addr::VirtAddr,
    gdb::{Register, TaskId, Thread, ThreadFilter, tid},
    kernel::{
        Kernel, KernelError,
        halted::Halted,
        percpu::{self, Cpu},
        task::{Scope, Task, TaskList, Tasks},
        user,
    },
    session::Session,
};

/// How often a list that changes under the walk is walked.
const ATTEMPTS: usize = 3;

/// What each CPU runs, in the order of CPUs, then the other tasks that pass `filter`; what is missing is in the log.
pub(super) fn threads(session: &Session, filter: &ThreadFilter) -> Vec<Thread> {
    let cpus = percpu::cpus(&session.kernel).unwrap_or_else(|error| {
        log::warn!("the CPUs cannot be shown as threads: {error}");
        Vec::new()
    });
    let mut threads = of_cpus(session, &cpus);
    if *filter != ThreadFilter::Cpus {
        match asleep(session, &cpus, filter) {
            Ok(others) => threads.extend(others),
            Err(error) => log::warn!("only what the CPUs run is shown as threads: {error}"),
        }
    }
    threads
}

fn of_cpus(session: &Session, cpus: &[Cpu]) -> Vec<Thread> {
    let kernel = &session.kernel;
    if cpus.is_empty() {
        let mut registers = registers::of_any_cpu(kernel);
        registers.set(Register::Cr3, registers::cr3(kernel, None));
        return vec![Thread {
            tid: tid::of_cpu(0),
            name: "kernel".to_owned(),
            detail: "CPUs unknown".to_owned(),
            cpu: None,
            registers,
            asleep: None,
            task: None,
        }];
    }
    let running: Vec<VirtAddr> = cpus.iter().filter_map(|cpu| cpu.current).collect();
    let found: Vec<Result<Task, String>> = match Tasks::resolve(kernel) {
        Ok(tasks) => {
            let found = tasks.at(kernel, &running).into_iter();
            found.map(|task| task.map_err(|error| error.to_string())).collect()
        }
        Err(error) => vec![Err(error.to_string()); running.len()],
    };
    let mut found = found.into_iter().zip(user::roots(kernel, &running));
    let unstarted = || (Err("it was never started".to_owned()), None);
    let (tasks, roots): (Vec<_>, Vec<_>) =
        cpus.iter().map(|cpu| cpu.current.and_then(|_| found.next()).unwrap_or_else(unstarted)).unzip();
    let halted = Halted::find(kernel).inspect_err(|error| {
        log::debug!("whether a CPU panicked is not known: {error}");
    });
    let panicked = halted.as_ref().ok().and_then(Halted::panicked);
    let on_stacks = match &halted {
        Ok(halted) if panicked.is_some() => registers::of_halted(session, halted, cpus, &tasks),
        _ => vec![None; cpus.len()],
    };
    let cr4 = registers::cr4(kernel, cpus);
    let mut threads = Vec::with_capacity(cpus.len());
    for ((((cpu, task), cr4), on_stack), root) in cpus.iter().zip(tasks).zip(cr4).zip(on_stacks).zip(roots) {
        let mut thread = of_cpu(kernel, cpu, task, cr4);
        thread.registers.set(Register::Cr3, registers::cr3(kernel, root));
        if panicked == Some(cpu.number) {
            thread.detail.push_str(", panicked here");
        }
        if let Some((known, exact)) = on_stack {
            registers::take(&mut thread.registers, &known);
            thread.detail.push_str(if exact { ", registers saved" } else { ", found on its stack" });
        }
        threads.push(thread);
    }
    threads
}

fn of_cpu(kernel: &Kernel, cpu: &Cpu, task: Result<Task, String>, cr4: Option<u64>) -> Thread {
    let mut registers = registers::of_any_cpu(kernel);
    if let Some(cr4) = cr4 {
        registers.set(Register::Cr4, cr4);
    }
    // While a CPU is in the kernel, GS points at its per-CPU area.
    registers.set(Register::GsBase, cpu.offset);
    let online = if cpu.online { "" } else { ", offline" };
    let id = task.as_ref().ok().map(|task| TaskId { addr: task.addr, pid: task.pid });
    let (name, detail) = match task {
        Ok(Task { comm, pid, state, .. }) => {
            (comm, format!("CPU {}{online}, pid {pid}, {state}", cpu.number))
        }
        Err(error) => (format!("CPU {}", cpu.number), format!("its task is not known: {error}")),
    };
    Thread {
        tid: tid::of_cpu(cpu.number),
        name,
        detail,
        cpu: Some(cpu.number),
        registers,
        asleep: None,
        task: id,
    }
}

/// The tasks that pass `filter` and that no CPU runs: idle tasks in the order of CPUs, then the kernel's list.
fn asleep(session: &Session, cpus: &[Cpu], filter: &ThreadFilter) -> Result<Vec<Thread>, KernelError> {
    let kernel = &session.kernel;
    let tasks = Tasks::resolve(kernel)?;
    let list = list(session, &tasks)?;
    let running: HashSet<VirtAddr> = cpus.iter().filter_map(|cpu| cpu.current).collect();
    let idle = idle(kernel, &tasks, cpus).unwrap_or_else(|error| {
        log::warn!("idle tasks of busy CPUs are not shown as threads: {error}");
        Vec::new()
    });
    // Only init_task of the idle tasks is in the list too, with the others' pid.
    let idle = idle.into_iter().map(|(cpu, task)| (Some(tid::of_idle(cpu)), task));
    let listed = list.tasks.into_iter().map(|task| (tid::of_pid(task.pid), task));
    let wanted = |task: &Task| !running.contains(&task.addr) && filter.accepts(&task.comm);
    let threads = idle.chain(listed).filter(|(_, task)| wanted(task));
    Ok(threads.filter_map(|(tid, task)| Some(of_task(kernel, tid?, task))).collect())
}

/// The list of tasks; on a busy machine it may take a second look to come to its end.
fn list(session: &Session, tasks: &Tasks) -> Result<TaskList, KernelError> {
    let mut list = tasks.list(&session.kernel, Scope::Threads)?;
    for _ in 1..ATTEMPTS {
        if list.torn.is_none() {
            break;
        }
        session.refresh();
        let again = tasks.list(&session.kernel, Scope::Threads)?;
        if again.torn.is_none() || again.tasks.len() > list.tasks.len() {
            list = again;
        }
    }
    if let Some(error) = &list.torn {
        log::warn!("threads are missing, of {} tasks found: {error}", list.tasks.len());
    }
    Ok(list)
}

fn idle(kernel: &Kernel, tasks: &Tasks, cpus: &[Cpu]) -> Result<Vec<(u32, Task)>, KernelError> {
    let addrs = percpu::idle_tasks(kernel, cpus)?;
    let found = cpus.iter().zip(tasks.at(kernel, &addrs));
    Ok(found.filter_map(|(cpu, task)| Some((cpu.number, task.ok()?))).collect())
}

fn of_task(kernel: &Kernel, tid: tid::Tid, task: Task) -> Thread {
    let Task { addr, pid, tgid, comm, state, cpu, .. } = task;
    let mut detail = state.to_string();
    if let Some(cpu) = cpu {
        detail.push_str(&format!(", CPU {cpu}"));
    }
    if let Some(process) = tgid.filter(|tgid| *tgid != pid) {
        detail.push_str(&format!(", process {process}"));
    }
    let asleep = Some(TaskId { addr, pid });
    Thread { tid, name: comm, detail, cpu, registers: registers::of_any_cpu(kernel), asleep, task: asleep }
}
