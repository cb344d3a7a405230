//! Synthetic machines, read as a stranger would read them: every kind of kernel the machine can be, from page
//! tables to the process list, each compared with what the machine says it holds.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use nettlp_gdb::{
    addr::{PhysAddr, PhysRange},
    emulator::{self, Emulator, ReadOnly},
    gdb::{self, Server},
    kernel::{
        dmesg, family, module, percpu, pid,
        task::{Scope, Tasks},
    },
    link,
    machine::{Description, Machine, PerCpu, Printk, TrueTask},
    mem::{PhysMem, cache::Validity},
    paging::Levels,
    session::{Options, Session, Source},
    types::{Aggregate, Tag, Type, TypeSource, dwarf::Dwarf},
    vmlinux::Vmlinux,
};
use tempfile::NamedTempFile;

/// Opens a machine's memory with its own vmlinux.
fn attach(machine: &Machine, source: Source, ram: &[PhysRange]) -> Session {
    let file = vmlinux(machine);
    let options = Options {
        vmlinux: Some(file.path().to_owned()),
        ram: ram.to_vec(),
        validity: Validity::Pause(Duration::from_secs(60)),
        ..Options::new(source)
    };
    Session::open(options, &|_| ()).unwrap()
}

fn vmlinux(machine: &Machine) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&machine.vmlinux().unwrap()).unwrap();
    file
}

fn in_process(machine: &Machine) -> Session {
    attach(machine, Source::Memory(machine.memory()), &[])
}

/// Everything that is read of a machine must be what it holds.
fn check(machine: &Machine, session: &Session) {
    check_map(machine, session);
    check_tasks(machine, session);
    let (truth, kernel) = (machine.truth(), &session.kernel);
    let log = dmesg::read(kernel).unwrap();
    assert_eq!(log.lost, 0);
    let log: Vec<_> =
        log.records.iter().map(|record| (record.ts_nsec, record.level, record.text.as_str())).collect();
    let expected: Vec<_> =
        truth.log.iter().map(|line| (line.ts_nsec, line.level, line.text.as_str())).collect();
    assert_eq!(log, expected);

    let cpus = percpu::cpus(kernel).unwrap();
    let cpus: Vec<_> = cpus.iter().map(|cpu| (cpu.offset, cpu.current.unwrap(), cpu.online)).collect();
    let expected: Vec<_> =
        truth.cpus.iter().map(|cpu| (cpu.per_cpu_offset, cpu.current, cpu.online)).collect();
    assert_eq!(cpus, expected);

    let modules = module::list(kernel).unwrap();
    let modules: Vec<_> =
        modules.iter().map(|m| (m.addr, m.name.as_str(), m.base, m.size, m.references)).collect();
    let expected: Vec<_> = truth
        .modules
        .iter()
        .map(|m| (m.addr, m.name.as_str(), m.base, u64::from(m.size), Some(m.users as i64)))
        .collect();
    assert_eq!(modules, expected);
}

fn check_map(machine: &Machine, session: &Session) {
    let (truth, map) = (machine.truth(), &session.kernel.map);
    assert_eq!(map.text, truth.text);
    assert_eq!(map.text_phys, truth.text_phys);
    assert_eq!(map.phys_base, truth.phys_base);
    assert_eq!(map.slide, Some(truth.slide));
    assert_eq!(map.root, truth.root);
    assert_eq!(map.levels, truth.levels);
    assert_eq!(map.page_offset, Some(truth.bases.page_offset));
    assert_eq!(map.vmalloc_base, Some(truth.bases.vmalloc));
    assert_eq!(map.vmemmap_base, Some(truth.bases.vmemmap));
    assert_eq!(map.release.as_deref(), Some(truth.release.as_str()));
    assert_eq!(map.banner.as_deref().map(str::trim_end), Some(truth.banner.trim_end()));
    assert_eq!(map.build_id.as_deref(), Some(truth.build_id.as_slice()));
    assert_eq!(map.ram, truth.ram);
}

/// Depth first by the truth's parents, in the order of birth; the first entry is `init_task`, pid 0.
fn check_family(machine: &Machine, session: &Session) {
    let (addrs, torn) = family::depth_first(&session.kernel).unwrap();
    assert!(torn.is_none(), "{torn:?}");
    let leaders: Vec<_> = machine.truth().tasks.iter().filter(|task| task.pid == task.tgid).collect();
    let (mut expected, mut stack) = (Vec::new(), vec![0]);
    while let Some(pid) = stack.pop() {
        expected.push(pid);
        stack.extend(leaders.iter().rev().filter(|t| t.parent == pid && t.pid != 0).map(|t| t.pid));
    }
    let tasks = Tasks::resolve(&session.kernel).unwrap();
    let pids: Vec<u32> =
        tasks.at(&session.kernel, &addrs).into_iter().map(|task| task.unwrap().pid as u32).collect();
    assert_eq!(pids, expected);
}

/// Every thread but the idle ones, by its number.
fn check_numbers(machine: &Machine, session: &Session) {
    let found = pid::tasks(&session.kernel).unwrap();
    assert!(found.torn.is_none(), "{:?}", found.torn);
    let found: Vec<_> = found.tasks.iter().map(|task| (task.pid, task.addr)).collect();
    let numbered = machine.truth().tasks.iter().filter(|task| task.pid != 0);
    let mut expected: Vec<_> = numbered.map(|task| (task.pid, task.addr)).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

fn check_tasks(machine: &Machine, session: &Session) {
    check_family(machine, session);
    check_numbers(machine, session);
    let tasks = Tasks::resolve(&session.kernel).unwrap();
    for scope in [Scope::Processes, Scope::Threads] {
        let listed = tasks.list(&session.kernel, scope).unwrap();
        assert!(listed.torn.is_none(), "{:?}", listed.torn);
        let listed: Vec<_> = listed
            .tasks
            .iter()
            .map(|t| (t.addr, t.pid, t.tgid, t.ppid, t.comm.as_str(), t.state, t.kernel_thread))
            .collect();
        let wanted = |task: &&TrueTask| scope == Scope::Threads || task.pid == task.tgid;
        let expected: Vec<_> = machine
            .truth()
            .tasks
            .iter()
            .filter(wanted)
            .map(|t| {
                let [pid, tgid, ppid] = [t.pid, t.tgid, t.parent].map(|id| id as i32);
                (
                    t.addr,
                    pid,
                    Some(tgid),
                    Some(ppid),
                    t.comm.as_str(),
                    t.state.letter(),
                    Some(t.kernel_thread),
                )
            })
            .collect();
        assert_eq!(listed, expected);
    }
}

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
}

/// The image and all that the kernel allocates above 4 GiB.
fn above_4_gib(mut description: Description) -> Description {
    description.ram = vec![range(0, 0x9_fc00), range(1 << 20, 3 << 30), range(4 << 30, 9 << 30)];
    description.text_phys = PhysAddr::new(0x1_4c20_0000);
    description
}

#[test]
fn every_kind_of_machine_is_read_as_it_is() {
    let mut kinds = vec![("demo", Description::demo())];
    for (name, levels) in [("4 levels", Levels::Four), ("5 levels", Levels::Five)] {
        kinds.push((name, Description { levels, ..Description::demo() }));
        kinds.push((name, Description { levels, slide: 0, ..Description::demo() }));
        kinds.push((name, above_4_gib(Description { levels, ..Description::demo() })));
        kinds.push((name, above_4_gib(Description { levels, slide: 0, ..Description::demo() })));
    }
    for (name, mut description) in kinds {
        for percpu in [PerCpu::ZeroBased, PerCpu::Ordinary] {
            description.percpu = percpu;
            for description in [description.clone(), description.clone().panicked()] {
                let machine = Machine::build(&description).unwrap();
                println!("{name}, slide {:#x}, {percpu:?}, {:?}", description.slide, description.state);
                check(&machine, &in_process(&machine));
            }
        }
    }
}

#[test]
fn the_least_machine() {
    let machine = Machine::build(&Description::minimal()).unwrap();
    check(&machine, &in_process(&machine));
}

#[test]
fn logs_that_wrap() {
    for lines in [0, 1, 100, 1_000, 1_003, 5_000] {
        for printk in [
            Printk::Ring { text_bits: 14 },
            Printk::Ring { text_bits: 12 },
            Printk::Records { buffer_bits: 14 },
            Printk::Records { buffer_bits: 12 },
        ] {
            let description = Description { printk, ..Description::demo() }.with_more_log(lines);
            let machine = Machine::build(&description).unwrap();
            println!("{lines} lines in {printk:?}: {} kept", machine.truth().log.len());
            assert!(!machine.truth().log.is_empty());
            check(&machine, &in_process(&machine));
        }
    }
}

#[test]
fn many_tasks() {
    let machine = Machine::build(&Description::demo().with_more_tasks(1_000)).unwrap();
    check(&machine, &in_process(&machine));
}

/// A replay of a host that is known from its tables: structs and tasks lie where they lay there.
#[test]
fn structs_and_tasks_lie_where_the_description_says() {
    let defines = vec![("UBUNTU_4_15", 1)];
    let mut description =
        Description { defines, printk: Printk::Records { buffer_bits: 12 }, ..Description::demo() };
    for (task, slot) in description.tasks.iter_mut().zip(0..) {
        task.phys = Some(PhysAddr::new(0x1_7ffe_0000 - slot * 0x2d80));
    }
    let machine = Machine::build(&description).unwrap();
    check(&machine, &in_process(&machine));
    let types: &dyn TypeSource = machine.types();
    assert_eq!(types.field("task_struct", "pid").unwrap().offset, 2216);
    assert_eq!(types.field("task_struct", "comm").unwrap().offset, 2640);
    let slide = machine.truth().slide;
    assert_eq!(machine.truth().tasks[0].addr.raw(), 0xffff_ffff_8241_3480 + slide);
    let direct = machine.truth().bases.page_offset;
    assert_eq!(machine.truth().task(2).unwrap().addr, direct.wrapping_add(0x1_7ffe_0000 - 0x2d80));
}

#[test]
fn a_machine_without_a_trampoline_is_found_by_the_fallbacks() {
    let description = Description { real_mode: None, ..Description::demo() };
    let machine = Machine::build(&description).unwrap();
    let session = attach(&machine, Source::Memory(machine.memory()), &machine.truth().ram);
    check(&machine, &session);
}

/// An adapter in front of the machine, and a session through it. `number` keeps tests apart.
fn over_link(machine: &Machine, number: u8) -> (Emulator, Session) {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let address = |number| -> IpAddr { Ipv4Addr::new(127, 128 | high & 0x3f, low, number).into() };
    let config = emulator::Config { ip: address(number), ..emulator::Config::default() };
    let link = link::Config {
        local: Some(address(number + 1)),
        requester: Some(config.requester),
        ..link::Config::new(address(number))
    };
    let adapter = Emulator::start(config, Arc::new(ReadOnly(machine.memory()))).unwrap();
    let session = attach(machine, Source::Adapter(link), &[]);
    (adapter, session)
}

#[test]
fn over_the_link() {
    let machine = Machine::demo().unwrap();
    let (adapter, session) = over_link(&machine, 1);
    check(&machine, &session);
    adapter.stop();
}

#[test]
fn gdb_reads_the_vmlinux() {
    for percpu in [PerCpu::ZeroBased, PerCpu::Ordinary] {
        let machine = Machine::build(&Description { percpu, ..Description::demo() }).unwrap();
        let file = vmlinux(&machine);
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch"]).arg(file.path());
        for command in [
            "ptype struct task_struct",
            "p &init_task",
            "p &((struct task_struct *)0)->comm",
            "whatis &'printk.c'::prb",
            "p linux_banner",
            "p sizeof(struct printk_info)",
            "p/x &runqueues.curr",
        ] {
            gdb.args(["-ex", command]);
        }
        let output = gdb.output().expect("gdb runs");
        let (stdout, stderr) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(stderr, "");
        let init_task = machine.symbol("init_task").unwrap().raw() - machine.truth().slide;
        for expected in [
            "    char comm[16];\n".to_owned(),
            format!("(struct task_struct *) {init_task:#x} <init_task>\n"),
            "type = struct printk_ringbuffer **\n".to_owned(),
            format!("\"{}\"", machine.truth().banner.replace('\n', "\\n")),
            " = 88\n".to_owned(),
        ] {
            assert!(stdout.contains(&expected), "no {expected:?} in:\n{stdout}");
        }
    }
}

/// What gdb prints for `commands` once it is attached to `machine` over the link.
fn gdb_session(machine: &Machine, number: u8, commands: &[&str]) -> String {
    let file = vmlinux(machine);
    let (adapter, session) = over_link(machine, number);
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(gdb::Options { once: true, ..gdb::Options::new(listen) }).unwrap();
    let (address, stopper) = (server.tcp_address().unwrap(), server.stopper());
    let serving = thread::spawn(move || server.run(Arc::new(session)));
    let mut gdb = Command::new("gdb");
    gdb.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-nx", "-batch"]).arg(file.path());
    gdb.args(["-ex", "set width 0", "-ex", &format!("target remote {address}")]);
    gdb.args(["-ex", "source scripts/nettlp-gdb.py"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.output().expect("gdb must be installed to test a GDB server (apt install gdb)");
    stopper.stop();
    serving.join().unwrap().unwrap();
    adapter.stop();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Vec<&'t str> {
    let after = text.split_once(start).unwrap_or_else(|| panic!("no {start:?} in:\n{text}")).1;
    after.split_once(end).unwrap_or_else(|| panic!("no {end:?} in:\n{after}")).0.lines().collect()
}

#[test]
fn gdb_lists_tasks_and_log_over_the_link() {
    let commands = [
        "echo == ps\\n",
        "lx-ps",
        "echo == log\\n",
        "lx-dmesg",
        "echo == end\\n",
        "printf \"cpu 0 runs %s\\n\", $lx_current().comm",
        "printf \"cpu 1 runs %s\\n\", $lx_per_cpu(\"runqueues\", 1).curr->comm",
        "lx-version",
        "printf \"cpu 1 really runs %s\\n\", $lx_per_cpu(runqueues, 1).curr->comm",
        "printf \"thread 1 is %s\\n\", $lx_task().comm",
        "python max(gdb.selected_inferior().threads(), key=lambda thread: thread.num).switch()",
        "printf \"the last thread is pid %d of \", $lx_task().pid",
        "python print(gdb.selected_thread().ptid[1])",
        "printf \"contained %d\\n\", $container_of(&init_task.tasks, \"struct task_struct\", \"tasks\") == &init_task",
        "lx-refresh",
    ];
    let ordinary = Description { percpu: PerCpu::Ordinary, ..Description::demo() };
    for (number, description, second) in [
        (10, Description::demo(), "swapper/1"),
        (12, Description::demo().panicked(), "bash"),
        (14, ordinary, "swapper/1"),
    ] {
        let machine = Machine::build(&description).unwrap();
        let (text, truth) = (gdb_session(&machine, number, &commands), machine.truth());
        let tasks = between(&text, "== ps\n", "== log\n");
        let expected = truth.tasks.iter().map(|task| format!("{} {:^5} {}", task.addr, task.pid, task.comm));
        assert_eq!(tasks.get(1..).unwrap_or_default(), expected.collect::<Vec<_>>(), "{text}");
        let log = between(&text, "== log\n", "== end\n");
        let log: Vec<_> = log.iter().map(|line| line.split_once("] ").unwrap_or((line, "")).1).collect();
        assert_eq!(log, truth.log.iter().map(|line| line.text.as_str()).collect::<Vec<_>>());
        let last = truth.tasks.iter().map(|task| task.pid).max().unwrap();
        for expected in [
            "cpu 0 runs swapper/0\n",
            &format!("cpu 1 runs {second}\n"),
            &format!("cpu 1 really runs {second}\n"),
            "thread 1 is swapper/0\n",
            &format!("the last thread is pid {last} of {last}\n"),
            "contained 1\n",
            " threads\n",
            &truth.banner,
        ] {
            assert!(text.contains(expected), "no {expected:?} in:\n{text}");
        }
    }
}

/// Our own reader must see each struct as the source declares it.
#[test]
fn debug_information_says_what_the_source_says() {
    for percpu in [PerCpu::ZeroBased, PerCpu::Ordinary] {
        let machine = Machine::build(&Description { percpu, ..Description::demo() }).unwrap();
        let file = vmlinux(&machine);
        let read = Dwarf::new(Vmlinux::open(file.path()).unwrap()).unwrap();
        let (read, declared): (&dyn TypeSource, &dyn TypeSource) = (&read, machine.types());
        let mut compared = 0;
        for (_, ty) in machine.types().iter() {
            let Type::Aggregate(Aggregate { tag: Tag::Struct, name: Some(name), members, size }) = ty else {
                continue;
            };
            // Not every struct is used by a variable or a cast.
            if read.find(Tag::Struct, name).is_err() {
                continue;
            }
            assert_eq!(read.struct_size(name).unwrap(), *size, "struct {name}");
            for member in members.iter().filter_map(|member| member.name.as_deref()) {
                let [read, declared] = [read, declared].map(|types| types.field(name, member).unwrap());
                assert_eq!(
                    (read.offset, read.size, read.bits),
                    (declared.offset, declared.size, declared.bits),
                    "{name}.{member}"
                );
                compared += 1;
            }
        }
        assert!(compared > 250, "only {compared} members were compared");
        for required in ["task_struct", "module", "printk_info", "mount", "pt_regs", "inactive_task_frame"] {
            assert!(read.find(Tag::Struct, required).is_ok(), "no struct {required}");
        }
    }
}

#[test]
fn memory_outside_ram_is_nothing() {
    let machine = Machine::demo().unwrap();
    let mut byte = [0];
    assert!(machine.memory().read(PhysAddr::new(0xa_0000), &mut byte).is_err());
    assert!(machine.memory().read(PhysAddr::new(0xfee0_0000), &mut byte).is_err());
    assert!(machine.memory().read(PhysAddr::new(0x9_8000), &mut byte).is_ok());
}
