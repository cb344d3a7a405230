//! Tasks and everything they point to (kernel/fork.c, init/init_task.c).

use super::{Boot, Object, stack::STACK_LEN};
use crate::{
    addr::VirtAddr,
    machine::{
        MachineError,
        description::{Task, TaskState},
        truth::TrueTask,
    },
};

/// `PF_KTHREAD`
const KERNEL_THREAD: u64 = 0x0020_0000;
/// `PF_IDLE`
const IDLE: u64 = 0x2;
/// What a process sends its parent when it ends.
const SIGCHLD: i32 = 17;
/// The page in which the kernel puts a process' arguments, at the end of its stack.
const ARGUMENTS: VirtAddr = VirtAddr::new(0x7ffd_3a91_e000);
const ARGUMENTS_OFFSET: u64 = 0x6c0;
const DEFAULT_PRIO: u64 = 120;
/// `STACK_END_MAGIC`
const STACK_END: u64 = 0x57ac_6e9d;

/// What the threads of a process share.
#[derive(Clone, Copy)]
struct Process<'d> {
    task: &'d Task,
    leader: Object,
    parent: Object,
    signal: Object,
    cred: VirtAddr,
    mm: Option<VirtAddr>,
}

/// What is a thread's own.
#[derive(Clone, Copy)]
struct Thread<'d> {
    object: Object,
    tid: u32,
    comm: &'d str,
    stack: VirtAddr,
    path: &'static [&'static str],
    /// The processor that runs it now.
    on: Option<usize>,
    /// The processor it ran on last.
    cpu: usize,
}

impl<'d> Boot<'d> {
    pub(super) fn start_tasks(&mut self) -> Result<(), MachineError> {
        let init_task = self.start_idle_tasks()?;
        let mut families = vec![(0, init_task, Vec::new())];
        let description = self.description;
        for task in &description.tasks {
            let leader = self.allocate_task(task)?;
            let parent = families.iter_mut().find(|(pid, ..)| *pid == task.parent);
            let Some((_, parent, children)) = parent else {
                return Err(super::wrong(format!("pid {} has no parent {}", task.pid, task.parent)));
            };
            children.push(leader);
            self.start_process(task, leader, *parent)?;
            families.push((task.pid, leader, Vec::new()));
        }
        let tasks: Result<Vec<_>, _> = families.iter().map(|(_, task, _)| self.at(*task, "tasks")).collect();
        self.ring(&tasks?)?;
        for (_, parent, children) in families {
            let mut ring = vec![self.at(parent, "children")?];
            for child in children {
                ring.push(self.at(child, "sibling")?);
            }
            self.ring(&ring)?;
        }
        Ok(())
    }

    fn allocate_task(&mut self, task: &Task) -> Result<Object, MachineError> {
        match task.phys {
            Some(phys) => Ok(Object { ty: "task_struct", addr: self.direct(phys) }),
            None => self.alloc_object("task_struct"),
        }
    }

    /// `init_task` on the image's own stack, and an idle task for each further processor.
    fn start_idle_tasks(&mut self) -> Result<Object, MachineError> {
        let init_mm = self.global("mm_struct", "init_mm")?;
        self.set(init_mm, "pgd", self.symbol("init_top_pgt")?)?;
        self.set(init_mm, "mm_users", 2)?;
        self.set(init_mm, "mm_count", 1)?;
        let nsproxy = self.global("nsproxy", "init_nsproxy")?;
        self.set(nsproxy, "count", 1)?;
        self.set(nsproxy, "uts_ns", self.symbol("init_uts_ns")?)?;
        let init_task = self.global("task_struct", "init_task")?;
        for (cpu, running) in self.description.cpus.iter().enumerate() {
            let (object, signal, stack) = if cpu == 0 {
                let signal = self.global("signal_struct", "init_signals")?;
                (init_task, signal, self.symbol("init_stack")?)
            } else {
                let signal = self.alloc_object("signal_struct")?;
                (self.alloc_object("task_struct")?, signal, self.vmalloc(STACK_LEN)?)
            };
            let comm = format!("swapper/{cpu}");
            let task = Task { comm: comm.clone(), ..Task::default() };
            let cred = self.symbol("init_cred")?;
            let process = Process { task: &task, leader: object, parent: init_task, signal, cred, mm: None };
            let busy = *running != 0;
            let path = match (cpu, busy) {
                (0, false) => IDLE_FIRST,
                (0, true) => IDLE_FIRST_ASLEEP,
                (_, false) => IDLE_OTHER,
                (_, true) => IDLE_OTHER_ASLEEP,
            };
            let on = (!busy).then_some(cpu);
            let thread = Thread { object, tid: 0, comm: &comm, stack, path, on, cpu };
            let filled = self.fill_thread(&process, &thread)?;
            self.idle.push(filled.clone());
            if cpu == 0 {
                self.truth.tasks.push(filled);
            }
            self.set(object, "flags", KERNEL_THREAD | IDLE)?;
            self.link_alone(object)?;
            self.link_threads(&[object], signal)?;
        }
        Ok(init_task)
    }

    fn start_process(&mut self, task: &Task, leader: Object, parent: Object) -> Result<(), MachineError> {
        let signal = self.alloc_object("signal_struct")?;
        let cred = self.credentials(task.uid)?;
        let mm = if task.cmdline.is_empty() { None } else { Some(self.address_space(task, leader)?) };
        let process = Process { task, leader, parent, signal, cred, mm };
        let mut group = Vec::new();
        let others = task.threads.iter().map(|(tid, comm)| (*tid, comm));
        for (tid, comm) in std::iter::once((task.pid, &task.comm)).chain(others) {
            let object = if group.is_empty() { leader } else { self.alloc_object("task_struct")? };
            let stack = self.vmalloc(STACK_LEN)?;
            let on = self.description.cpus.iter().position(|running| *running == tid);
            let cpu = on.unwrap_or(tid as usize % self.description.cpus.len().max(1));
            let thread = Thread { object, tid, comm, stack, path: task.path, on, cpu };
            let filled = self.fill_thread(&process, &thread)?;
            self.truth.tasks.push(filled);
            if !group.is_empty() {
                self.link_alone(object)?;
            }
            group.push(object);
        }
        self.link_threads(&group, signal)
    }

    /// Makes rings of one of the lists that link processes only.
    fn link_alone(&self, task: Object) -> Result<(), MachineError> {
        for list in ["tasks", "children", "sibling"] {
            self.ring(&[self.at(task, list)?])?;
        }
        Ok(())
    }

    fn link_threads(&self, group: &[Object], signal: Object) -> Result<(), MachineError> {
        let member = |path| group.iter().map(|task| self.at(*task, path)).collect::<Result<Vec<_>, _>>();
        if self.has("task_struct", "thread_group") {
            self.ring(&member("thread_group")?)?;
        }
        let mut nodes = vec![self.at(signal, "thread_head")?];
        nodes.extend(member("thread_node")?);
        self.set(signal, "nr_threads", group.len())?;
        self.ring(&nodes)
    }

    /// Everything of a thread that is not in a list.
    fn fill_thread(&mut self, process: &Process<'_>, thread: &Thread<'_>) -> Result<TrueTask, MachineError> {
        let started = self.truth.tasks.len() as u64 * 37_000_000;
        self.set_identity_of(process, thread)?;
        self.set_relations_of(process, thread)?;
        let times = ["start_time", "start_boottime", "real_start_time"];
        times.iter().try_for_each(|member| self.set_if(thread.object, member, started))?;
        for (member, value) in [("utime", 1), ("stime", 2), ("se.sum_exec_runtime", 4)] {
            self.set(thread.object, member, value * u64::from(thread.tid))?;
        }
        let sp = self.set_schedule_of(process, thread)?;
        let task = process.task;
        Ok(TrueTask {
            addr: thread.object.addr,
            pid: thread.tid,
            tgid: task.pid,
            parent: task.parent,
            comm: thread.comm.chars().take(15).collect(),
            state: if thread.on.is_some() { TaskState::Running } else { task.state },
            uid: task.uid,
            kernel_thread: process.mm.is_none(),
            cmdline: task.cmdline.clone(),
            start_time: started,
            running_on: thread.on,
            stack: thread.stack,
            sp,
            path: thread.path,
        })
    }

    fn set_identity_of(&self, process: &Process<'_>, thread: &Thread<'_>) -> Result<(), MachineError> {
        let object = thread.object;
        let leads = object.addr == process.leader.addr;
        self.set(object, "usage", 2)?;
        self.set(object, "flags", if process.mm.is_none() { KERNEL_THREAD } else { 0 })?;
        self.set(object, "exit_signal", if leads { SIGCHLD } else { -1 })?;
        self.set(object, "pid", thread.tid)?;
        self.set(object, "tgid", process.task.pid)?;
        self.set(object, "stack_canary", 0x5ca1_ab1e_0000_0000 | u64::from(thread.tid))?;
        self.set_text(object, "comm", thread.comm)
    }

    fn set_relations_of(&self, process: &Process<'_>, thread: &Thread<'_>) -> Result<(), MachineError> {
        let object = thread.object;
        self.set(object, "real_parent", process.parent.addr)?;
        self.set(object, "parent", process.parent.addr)?;
        self.set(object, "group_leader", process.leader.addr)?;
        self.set(object, "real_cred", process.cred)?;
        self.set(object, "cred", process.cred)?;
        self.set(object, "nsproxy", self.symbol("init_nsproxy")?)?;
        self.set(object, "signal", process.signal.addr)?;
        self.set(object, "mm", process.mm.unwrap_or_default())?;
        self.set(object, "active_mm", process.mm.unwrap_or(self.symbol("init_mm")?))
    }

    /// Its state, stack and processor; returns the stack pointer of a thread that sleeps.
    fn set_schedule_of(
        &self,
        process: &Process<'_>,
        thread: &Thread<'_>,
    ) -> Result<Option<VirtAddr>, MachineError> {
        let (object, state) = (thread.object, process.task.state);
        let (word, exit_state) = if thread.on.is_some() { (0, 0) } else { state_words(state) };
        self.set_if(object, "__state", word)?;
        self.set_if(object, "state", word)?;
        self.set(object, "exit_state", exit_state)?;
        self.set_if(object, "in_iowait", state == TaskState::Uninterruptible)?;
        for prio in ["prio", "static_prio", "normal_prio"] {
            self.set(object, prio, DEFAULT_PRIO)?;
        }
        self.set(object, "nr_cpus_allowed", self.description.cpus.len())?;
        self.set_if(object, "cpu", thread.cpu)?;
        self.set_if(object, "thread_info.cpu", thread.cpu)?;
        self.set(object, "on_cpu", thread.on.is_some())?;
        self.set(object, "on_rq", word == 0)?;
        self.set(object, "stack", thread.stack)?;
        self.write_word(thread.stack, STACK_END.into(), 8)?;
        let user_sp = process.mm.map(|_| ARGUMENTS.wrapping_sub(0x1b8));
        let asleep = thread.on.is_none();
        let sp = self.fill_stack(thread.stack.wrapping_add(STACK_LEN), thread.path, user_sp, asleep)?;
        if asleep {
            self.set(object, "thread.sp", sp)?;
        }
        Ok(asleep.then_some(sp))
    }

    fn credentials(&mut self, uid: u32) -> Result<VirtAddr, MachineError> {
        if uid == 0 {
            return self.symbol("init_cred");
        }
        let cred = self.alloc_object("cred")?;
        self.set(cred, "usage", 1)?;
        for member in ["uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "fsgid"] {
            self.set(cred, member, uid)?;
        }
        Ok(cred.addr)
    }

    /// An `mm_struct` whose page tables map the arguments.
    fn address_space(&mut self, task: &Task, leader: Object) -> Result<VirtAddr, MachineError> {
        let arguments: Vec<u8> =
            task.cmdline.iter().flat_map(|argument| argument.bytes().chain([0])).take(0x800).collect();
        let start = ARGUMENTS.wrapping_add(ARGUMENTS_OFFSET);
        let environment = format!("PID={}\0HOME=/\0", task.pid);
        let root = self.user_space(start, &[&arguments, environment.as_bytes()].concat())?;
        let environment = environment.len();
        let mm = self.alloc_object("mm_struct")?;
        let end = start.wrapping_add(arguments.len() as u64);
        self.set(mm, "pgd", self.direct(root))?;
        self.set(mm, "mm_users", 1 + task.threads.len())?;
        self.set(mm, "mm_count", 1)?;
        self.set(mm, "map_count", 1)?;
        self.set(mm, "total_vm", 1)?;
        self.set(mm, "task_size", 0x7fff_ffff_f000_u64)?;
        self.set(mm, "start_stack", start)?;
        self.set(mm, "arg_start", start)?;
        for member in ["arg_end", "env_start"] {
            self.set(mm, member, end)?;
        }
        let environment = end.wrapping_add(environment as u64);
        self.set(mm, "env_end", environment)?;
        let (pid, comm) = (task.pid, task.comm.clone());
        self.spaces.push(super::process::Space { pid, comm, task: leader.addr, mm, root });
        Ok(mm.addr)
    }
}

/// What the idle tasks are in: the first processor's and the others', idle and while something else runs.
const IDLE_FIRST: &[&str] =
    &["secondary_startup_64", "start_kernel", "rest_init", "cpu_startup_entry", "do_idle", "default_idle"];
const IDLE_FIRST_ASLEEP: &[&str] = &[
    "secondary_startup_64",
    "start_kernel",
    "rest_init",
    "cpu_startup_entry",
    "do_idle",
    "schedule_idle",
    "__schedule",
];
const IDLE_OTHER: &[&str] =
    &["secondary_startup_64", "start_secondary", "cpu_startup_entry", "do_idle", "default_idle"];
const IDLE_OTHER_ASLEEP: &[&str] = &[
    "secondary_startup_64",
    "start_secondary",
    "cpu_startup_entry",
    "do_idle",
    "schedule_idle",
    "__schedule",
];

/// `__state` and `exit_state` (include/linux/sched.h).
fn state_words(state: TaskState) -> (u32, u32) {
    match state {
        TaskState::Running => (0, 0),
        TaskState::Interruptible => (1, 0),
        TaskState::Uninterruptible => (2, 0),
        TaskState::Idle => (0x402, 0),
        TaskState::Stopped => (4, 0),
        TaskState::Zombie => (0x80, 0x20),
    }
}
