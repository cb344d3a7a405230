//! The host of the thesis that first read processes through NetTLP, as far as its tables go.
//!
//! "Acquiring process information of a remote bare-metal machine by memory search over RDMA" (bachelor's thesis, Keio
//! University, January 2020) prints where `init_task` and every `task_struct` were on an Ubuntu 18.04 host of 8 GB, twice:
//! running, and after `echo c > /proc/sysrq-trigger`. `thesis/*.tsv` are those listings, with two columns of ours: the
//! parent, of which the order alone tells (depth first, siblings as they were forked), and the letter that Linux's `ps`
//! has where the thesis' program takes the low byte of the state: an idle worker is `I` there, and `D` in the listing.
//! Names are as printed: pid 40 of the panic has none. What no table tells (memory map, stacks, arguments) is made up, as
//! in every synthetic machine.

use super::{
    MachineError,
    demo::{self, READ_TTY, SYSRQ},
    description::{Bases, Description, Printk, State, Task, TaskState},
};
use crate::{
    addr::{PhysAddr, VirtAddr, parse_number},
    paging::Levels,
};

const RUNNING: &str = include_str!("thesis/running.tsv");
const PANIC: &str = include_str!("thesis/panic.tsv");

/// Pid of the shell that crashed the host.
const SHELL: u32 = 1318;
/// Pid of `kthreadd`, from which the kernel's own threads descend.
const KTHREADD: u32 = 2;
const CPUS: usize = 4;

/// Start of the direct map without KASLR until d52888aa2753 (4.20).
const PAGE_OFFSET: VirtAddr = VirtAddr::new(0xffff_8800_0000_0000);

impl Description {
    /// The thesis' host while it ran, as far as the listing is printed.
    ///
    /// # Errors
    /// Never, as a test shows.
    pub fn thesis_running() -> Result<Self, MachineError> {
        Ok(Self { tasks: tasks(RUNNING)?, cpus: vec![0; CPUS], ..host() })
    }

    /// The thesis' host after its panic.
    ///
    /// # Errors
    /// Never, as a test shows.
    pub fn thesis_panic() -> Result<Self, MachineError> {
        let mut cpus = vec![0; CPUS - 1];
        cpus.push(SHELL);
        let state = State::Panicked { cpu: CPUS - 1 };
        Ok(Self { tasks: tasks(PANIC)?, cpus, state, ..host() })
    }
}

fn host() -> Description {
    let bases = Bases {
        page_offset: PAGE_OFFSET,
        vmalloc: VirtAddr::new(0xffff_c900_0000_0000),
        vmemmap: VirtAddr::new(0xffff_ea00_0000_0000),
    };
    let host = Description {
        defines: vec![("UBUNTU_4_15", 1)],
        release: "4.15.0-74-generic".to_owned(),
        version: "#1 SMP".to_owned(),
        nodename: "thesis".to_owned(),
        command_line: "BOOT_IMAGE=/boot/vmlinuz-4.15.0-74-generic ro nopti nospectre_v2 nokaslr".to_owned(),
        levels: Levels::Four,
        slide: 0,
        text_phys: PhysAddr::new(16 << 20),
        bases: Some(bases),
        // The highest task is at 0x2363ddb00: 3 GiB below 4 GiB, and 5 GiB from there.
        ram: demo::ram(&[(0, 0x9_fc00), (0x10_0000, 0xc000_0000), (1 << 32, 9 << 30)]),
        printk: Printk::Records { buffer_bits: 14 },
        modules: vec![demo::module("nettlp", 16_384, &[])],
        ..Description::demo()
    };
    let log = host.boot_log();
    Description { log, ..host }
}

fn tasks(table: &str) -> Result<Vec<Task>, MachineError> {
    let wrong =
        |line: &str| MachineError::Description { reason: format!("`{line}` is no line of the thesis") };
    let rows = table.lines().skip(1).map(|line| row(line).ok_or_else(|| wrong(line)));
    // The first is `init_task`, which is part of the image.
    let mut tasks: Vec<Task> = rows.skip(1).collect::<Result<_, _>>()?;
    // As they were forked.
    tasks.sort_by_key(|task| task.pid);
    Ok(tasks)
}

/// `phys_addr pid parent state ps comm`; a kernel thread has no arguments, everybody else is made to have one.
fn row(line: &str) -> Option<Task> {
    let mut columns = line.split('\t');
    let mut next = || columns.next();
    let phys = PhysAddr::new(parse_number(next()?).ok()?);
    let pid = next()?.parse().ok()?;
    let parent: u32 = next()?.parse().unwrap_or(0);
    let (_, letter, comm) = (next()?, next()?, next()?.to_owned());
    let kernel_thread = pid == KTHREADD || parent == KTHREADD;
    let state = match letter {
        "R" => TaskState::Running,
        "S" => TaskState::Interruptible,
        "D" => TaskState::Uninterruptible,
        "I" => TaskState::Idle,
        _ => return None,
    };
    let path = match (kernel_thread, state) {
        (false, TaskState::Running) => SYSRQ,
        (false, _) => READ_TTY,
        (true, _) if pid == KTHREADD => demo::KTHREADD,
        (true, TaskState::Idle) => demo::WORKER,
        (true, _) => demo::PER_CPU_THREAD,
    };
    let cmdline = if kernel_thread { Vec::new() } else { vec![comm.clone()] };
    Some(Task { pid, parent, comm, state, path, cmdline, phys: Some(phys), ..Task::default() })
}
