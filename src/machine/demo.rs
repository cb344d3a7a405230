//! Descriptions to start from.

use super::{
    c::Source,
    description::{Description, LogLine, Module, Mount, PerCpu, Printk, State, Task, TaskState},
};
use crate::{
    addr::{PhysAddr, PhysRange},
    paging::Levels,
};

/// The kernel's source, declarations before their use.
const SOURCES: [Source; 15] = [
    ("include/linux/types.h", include_str!("source/types.h")),
    ("arch/x86/kernel/head_64.c", include_str!("source/head_64.c")),
    ("init/main.c", include_str!("source/init.c")),
    ("kernel/sched/core.c", include_str!("source/sched.c")),
    ("kernel/pid.c", include_str!("source/pid.c")),
    ("kernel/cpu.c", include_str!("source/smp.c")),
    ("kernel/printk/printk.c", include_str!("source/printk.c")),
    ("kernel/module/main.c", include_str!("source/module.c")),
    ("kernel/resource.c", include_str!("source/resource.c")),
    ("kernel/vmcore_info.c", include_str!("source/vmcore_info.c")),
    ("fs/namespace.c", include_str!("source/namespace.c")),
    ("fs/open.c", include_str!("source/open.c")),
    ("mm/mmap.c", include_str!("source/mmap.c")),
    ("mm/memory-failure.c", include_str!("source/memory-failure.c")),
    ("arch/x86/realmode/init.c", include_str!("source/realmode.c")),
];

pub(super) const KTHREADD: &[&str] = &["ret_from_fork", "kthreadd", "schedule", "__schedule"];
pub(super) const WORKER: &[&str] = &["ret_from_fork", "kthread", "worker_thread", "schedule", "__schedule"];
pub(super) const PER_CPU_THREAD: &[&str] =
    &["ret_from_fork", "kthread", "smpboot_thread_fn", "schedule", "__schedule"];
const RCU: &[&str] = &["ret_from_fork", "kthread", "rcu_gp_kthread", "schedule", "__schedule"];
const EPOLL: &[&str] = &[
    "entry_SYSCALL_64",
    "do_syscall_64",
    "__x64_sys_epoll_wait",
    "do_epoll_wait",
    "ep_poll",
    "schedule_hrtimeout_range",
    "schedule",
    "__schedule",
];
const NANOSLEEP: &[&str] = &[
    "entry_SYSCALL_64",
    "do_syscall_64",
    "__x64_sys_clock_nanosleep",
    "hrtimer_nanosleep",
    "do_nanosleep",
    "schedule",
    "__schedule",
];
const WAIT: &[&str] = &[
    "entry_SYSCALL_64",
    "do_syscall_64",
    "__x64_sys_wait4",
    "kernel_wait4",
    "do_wait",
    "schedule",
    "__schedule",
];
pub(super) const READ_TTY: &[&str] = &[
    "entry_SYSCALL_64",
    "do_syscall_64",
    "__x64_sys_read",
    "ksys_read",
    "vfs_read",
    "n_tty_read",
    "wait_woken",
    "schedule_timeout",
    "schedule",
    "__schedule",
];
pub(super) const SYSRQ: &[&str] = &[
    "entry_SYSCALL_64",
    "do_syscall_64",
    "__x64_sys_write",
    "ksys_write",
    "vfs_write",
    "write_sysrq_trigger",
    "__handle_sysrq",
    "sysrq_handle_crash",
    "panic",
    "__const_udelay",
];

/// Pid of the shell that crashes a panicked machine.
const SHELL: u32 = 871;

impl Description {
    /// The machine of the `demo` command: a small server of 6 GiB, KASLR on, 5 levels, alive.
    #[must_use]
    pub fn demo() -> Self {
        let mut demo = Self {
            sources: SOURCES.to_vec(),
            defines: Vec::new(),
            release: "6.1.0-synthetic-amd64".to_owned(),
            version: "#1 SMP PREEMPT_DYNAMIC Mon Jan 6 09:00:00 UTC 2025".to_owned(),
            nodename: "demo".to_owned(),
            command_line: "BOOT_IMAGE=/boot/vmlinuz-6.1.0-synthetic-amd64 root=/dev/sda1 ro quiet".to_owned(),
            levels: Levels::Five,
            slide: 0x1e60_0000,
            text_phys: PhysAddr::new(0x5da0_0000),
            bases: None,
            ram: ram(&[(0, 0x9_fc00), (0x10_0000, 0x7ffd_a000), (1 << 32, 6 << 30)]),
            real_mode: Some(PhysAddr::new(0x9_8000)),
            protected: true,
            vmcoreinfo: true,
            describes_itself: false,
            percpu: PerCpu::ZeroBased,
            cpus: vec![0, 0],
            tasks: tasks(),
            printk: Printk::Ring { text_bits: 14 },
            log: Vec::new(),
            modules: vec![
                module("nettlp", 16_384, &[]),
                module("e1000e", 331_776, &[]),
                module("ext4", 1_015_808, &[]),
                module("jbd2", 192_512, &["ext4"]),
                module("mbcache", 16_384, &["ext4"]),
            ],
            mounts: vec![
                mount("/dev/sda1", "/", "ext4", false),
                mount("proc", "/proc", "proc", false),
                mount("sysfs", "/sys", "sysfs", false),
                mount("tmpfs", "/run", "tmpfs", false),
                mount("/dev/sr0", "/media/cdrom", "iso9660", true),
            ],
            poisoned: Vec::new(),
            state: State::Running,
        };
        demo.log = demo.boot_log();
        demo
    }

    /// The least that is still a Linux machine: one processor, two tasks, 64 MiB, no KASLR, 4 levels.
    #[must_use]
    pub fn minimal() -> Self {
        Self {
            levels: Levels::Four,
            slide: 0,
            text_phys: PhysAddr::new(0x100_0000),
            ram: ram(&[(0, 0x9_fc00), (0x10_0000, 0x400_0000)]),
            cpus: vec![0],
            tasks: vec![user(1, 0, "init", 0, EPOLL, &["/sbin/init"]), kernel(2, 0, "kthreadd", KTHREADD)],
            log: vec![line(0, 5, "Linux version 6.1.0-synthetic-amd64")],
            modules: Vec::new(),
            mounts: vec![mount("rootfs", "/", "rootfs", false)],
            ..Self::demo()
        }
    }

    /// The same machine after `echo c > /proc/sysrq-trigger` on its last processor.
    #[must_use]
    pub fn panicked(mut self) -> Self {
        let cpu = self.cpus.len().saturating_sub(1);
        self.state = State::Panicked { cpu };
        if let Some(shell) = self.tasks.iter_mut().find(|task| task.pid == SHELL) {
            (shell.state, shell.path) = (TaskState::Running, SYSRQ);
            if let Some(running) = self.cpus.last_mut() {
                *running = SHELL;
            }
        }
        let last = self.log.last().map_or(0, |line| line.ts_nsec) + 3_000_000_000;
        let offset = format!("Kernel Offset: {:#x} from 0xffffffff81000000", self.slide);
        let lines = [
            (6, "sysrq: Trigger a crash"),
            (0, "Kernel panic - not syncing: sysrq triggered crash"),
            (4, &format!("CPU: {cpu} PID: {SHELL} Comm: bash Not tainted {} #1", self.release)),
            (0, &offset),
            (0, "---[ end Kernel panic - not syncing: sysrq triggered crash ]---"),
        ];
        let lines = (last..).step_by(1_377_000).zip(lines).map(|(ts, (level, text))| line(ts, level, text));
        self.log.extend(lines);
        self
    }

    /// `count` further processes, children of pid 1.
    #[must_use]
    pub fn with_more_tasks(mut self, count: u32) -> Self {
        let extra = (10_000..).take(count as usize);
        self.tasks
            .extend(extra.map(|pid| user(pid, 1, &format!("worker-{pid}"), 1000, NANOSLEEP, &["worker"])));
        self
    }

    /// `count` further messages, from one byte to most of a line long.
    #[must_use]
    pub fn with_more_log(mut self, count: u64) -> Self {
        let last = self.log.last().map_or(0, |line| line.ts_nsec);
        self.log.extend((1..=count).map(|number| {
            let text = format!("{number} {}", "abcdefghij".repeat((number % 8) as usize));
            line(last + number * 1_000_000, (number % 8) as u8, &text)
        }));
        self
    }

    /// What this machine says while it boots.
    pub(super) fn boot_log(&self) -> Vec<LogLine> {
        let mut texts = vec![
            super::banner(self).trim_end().to_owned(),
            format!("Command line: {}", self.command_line),
            "BIOS-provided physical RAM map:".to_owned(),
        ];
        texts.extend(self.ram.iter().map(|range| {
            let (start, last) = (range.start.raw(), range.end.raw() - 1);
            format!("BIOS-e820: [mem {start:#018x}-{last:#018x}] usable")
        }));
        texts.push("NX (Execute Disable) protection: active".to_owned());
        texts.push(format!("smp: Brought up 1 node, {} CPUs", self.cpus.len()));
        texts.extend(self.modules.iter().rev().map(|module| format!("{}: loaded", module.name)));
        texts.push("EXT4-fs (sda1): mounted filesystem with ordered data mode. Quota mode: none.".to_owned());
        texts.push("systemd[1]: Detected architecture x86-64.".to_owned());
        texts.push("systemd[1]: Hostname set to <demo>.".to_owned());
        texts.push("e1000e 0000:00:1f.6 eno1: NIC Link is Up 1000 Mbps Full Duplex".to_owned());
        texts.push("nettlp: this machine is synthetic; everything else about the session is real".to_owned());
        let times = (0_u64..).map(|number| number * number * 9_071_000);
        times.zip(&texts).map(|(ts, text)| line(ts, 6, text)).collect()
    }

    /// With `count` further tasks that sleep, one in four of them a process, from pid 1000 on.
    #[must_use]
    pub fn crowded(mut self, count: u32) -> Self {
        self.tasks.extend((1000..).take(count as usize).map(|pid| match pid % 4 {
            0 => user(pid, 1, "worker", 33, EPOLL, &["worker", "--daemon"]),
            _ => kernel(pid, 2, &format!("kworker/u4:{pid}"), WORKER),
        }));
        self
    }
}

pub(super) fn ram(ranges: &[(u64, u64)]) -> Vec<PhysRange> {
    let range = |(start, end): &(u64, u64)| PhysRange::new(PhysAddr::new(*start), PhysAddr::new(*end));
    ranges.iter().filter_map(range).collect()
}

fn line(ts_nsec: u64, level: u8, text: &str) -> LogLine {
    LogLine { ts_nsec, level, text: text.to_owned() }
}

pub(super) fn module(name: &str, size: u32, used_by: &[&str]) -> Module {
    Module { name: name.to_owned(), size, used_by: used_by.iter().map(|user| (*user).to_owned()).collect() }
}

fn mount(device: &str, path: &str, fstype: &str, read_only: bool) -> Mount {
    let (device, path, fstype) = (device.to_owned(), path.to_owned(), fstype.to_owned());
    Mount { device, path, fstype, read_only }
}

fn kernel(pid: u32, parent: u32, comm: &str, path: &'static [&'static str]) -> Task {
    let state = if path == WORKER || path == RCU { TaskState::Idle } else { TaskState::Interruptible };
    Task { pid, parent, comm: comm.to_owned(), state, path, ..Task::default() }
}

fn user(
    pid: u32,
    parent: u32,
    comm: &str,
    uid: u32,
    path: &'static [&'static str],
    cmdline: &[&str],
) -> Task {
    Task {
        cmdline: cmdline.iter().map(|argument| (*argument).to_owned()).collect(),
        state: TaskState::Interruptible,
        uid,
        ..kernel(pid, parent, comm, path)
    }
}

fn tasks() -> Vec<Task> {
    let threads =
        |comms: &[(u32, &str)]| comms.iter().map(|(tid, comm)| (*tid, (*comm).to_owned())).collect();
    vec![
        user(1, 0, "systemd", 0, EPOLL, &["/sbin/init"]),
        kernel(2, 0, "kthreadd", KTHREADD),
        kernel(3, 2, "rcu_gp", WORKER),
        kernel(4, 2, "kworker/0:0", WORKER),
        kernel(5, 2, "kworker/0:0H", WORKER),
        kernel(9, 2, "mm_percpu_wq", WORKER),
        kernel(11, 2, "ksoftirqd/0", PER_CPU_THREAD),
        kernel(12, 2, "rcu_preempt", RCU),
        kernel(13, 2, "migration/0", PER_CPU_THREAD),
        kernel(15, 2, "cpuhp/0", PER_CPU_THREAD),
        kernel(16, 2, "cpuhp/1", PER_CPU_THREAD),
        kernel(17, 2, "migration/1", PER_CPU_THREAD),
        kernel(18, 2, "ksoftirqd/1", PER_CPU_THREAD),
        kernel(23, 2, "kworker/1:0H", WORKER),
        kernel(31, 2, "kswapd0", WORKER),
        Task { state: TaskState::Uninterruptible, ..kernel(184, 2, "jbd2/sda1-8", WORKER) },
        user(231, 1, "systemd-journal", 0, EPOLL, &["/lib/systemd/systemd-journald"]),
        user(258, 1, "systemd-udevd", 0, EPOLL, &["/lib/systemd/systemd-udevd"]),
        user(512, 1, "cron", 0, NANOSLEEP, &["/usr/sbin/cron", "-f"]),
        user(513, 1, "dbus-daemon", 101, EPOLL, &["/usr/bin/dbus-daemon", "--system"]),
        Task {
            threads: threads(&[(541, "in:imuxsock"), (542, "in:imklog"), (543, "rs:main Q:Reg")]),
            ..user(520, 1, "rsyslogd", 0, EPOLL, &["/usr/sbin/rsyslogd", "-n", "-iNONE"])
        },
        user(590, 1, "sshd", 0, EPOLL, &["sshd: /usr/sbin/sshd -D [listener]"]),
        user(860, 590, "sshd", 0, EPOLL, &["sshd: root@pts/0"]),
        user(SHELL, 860, "bash", 0, READ_TTY, &["-bash"]),
        user(904, 1, "nginx", 33, WAIT, &["nginx: master process /usr/sbin/nginx"]),
        user(905, 904, "nginx", 33, EPOLL, &["nginx: worker process"]),
        Task { state: TaskState::Zombie, ..user(917, 512, "backup.sh", 1000, WAIT, &["sh", "backup.sh"]) },
    ]
}
