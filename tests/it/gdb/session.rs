//! GDB on a located kernel: a synthetic machine, from its memory to what GDB prints.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use nettlp_gdb::{
    addr::VirtAddr,
    gdb::{Host, Register, Server, TaskId, ThreadFilter},
    machine::{Description, Machine, PerCpu},
    mem::{PhysMem as _, stats::Counts},
    session::{
        Options, Session, Source, debug_file,
        handout::{Origin, Places},
    },
    synth::{SymbolFile, build_id},
    vmlinux::Vmlinux,
};

use super::{
    fake,
    real_gdb::{gdb, gdb_after},
};

fn write_vmlinux(machine: &Machine, path: &Path) {
    File::create(path).unwrap().write_all(&machine.vmlinux().unwrap()).unwrap();
}

/// Serves `machine` to GDB and returns what it prints.
fn debug(machine: &Machine, commands: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    write_vmlinux(machine, &vmlinux);
    debug_session(open(machine, &vmlinux), Some(&vmlinux), &[], commands)
}

fn options(machine: &Machine, vmlinux: Option<PathBuf>) -> Options {
    Options { vmlinux, ..Options::new(Source::Memory(machine.memory())) }
}

fn open(machine: &Machine, vmlinux: &Path) -> Session {
    Session::open(options(machine, Some(vmlinux.to_owned())), &|_| ()).unwrap()
}

fn debug_session(session: Session, file: Option<&Path>, first: &[&str], commands: &[&str]) -> String {
    let server = Server::bind(fake::options()).unwrap();
    let (address, stopper) = (server.tcp_address().unwrap(), server.stopper());
    let thread = std::thread::spawn(move || server.run(Arc::new(session)));
    let text = gdb_after(first, file, &address.to_string(), commands);
    stopper.stop();
    thread.join().unwrap().unwrap();
    text
}

#[track_caller]
fn assert_prints(text: &str, expected: &[String]) {
    for line in expected {
        assert!(text.contains(line), "`{line}` is not in what gdb printed:\n{text}");
    }
}

/// What `$lx_per_cpu("current_task", CPU)->comm` of the kernel's scripts evaluates.
fn current_comm(cpu: usize) -> String {
    format!(
        "output ((struct task_struct *)*(unsigned long *)((char *)&current_task + __per_cpu_offset[{cpu}]))->comm"
    )
}

#[test]
fn a_machine_with_kaslr_and_percpu_symbols_of_either_kind() {
    for percpu in [PerCpu::ZeroBased, PerCpu::Ordinary] {
        let machine = Machine::build(&Description { percpu, ..Description::demo() }).unwrap();
        let truth = machine.truth();
        assert_ne!(truth.slide, 0);
        let (first, second) = (current_comm(0), current_comm(1));
        let text = debug(
            &machine,
            &[
                "info threads",
                "p &init_task",
                "output init_task.comm",
                "x/s linux_banner",
                &first,
                &second,
                "p/x $cr3",
            ],
        );
        let comm = |addr| {
            let idle = truth.cpus.iter().map(|cpu| &cpu.idle);
            truth.tasks.iter().chain(idle).find(|task| task.addr == addr).unwrap().comm.clone()
        };
        let mut expected = vec![
            format!("(struct task_struct *) {:#x} <init_task>", truth.tasks[0].addr),
            format!("\"{}", truth.banner.trim_end()),
            format!("= {:#x}", truth.root),
        ];
        for (number, cpu) in truth.cpus.iter().enumerate() {
            let name = comm(cpu.current);
            expected.push(format!("Thread {} \"{name}\" (CPU {number}, pid ", 10_000_000 + number));
            expected.push(format!("\"{name}\\000"));
        }
        assert_prints(&text, &expected);
    }
}

/// What `info threads` lists: id, name, what stands in parentheses and the function.
fn threads(text: &str) -> Vec<(u32, String, String, String)> {
    let row = |line: &str| {
        let (_, line) = line.split_once("Thread ")?;
        let (id, line) = line.split_once(" \"")?;
        let (name, line) = line.split_once("\" (")?;
        let (detail, line) = line.split_once(')')?;
        Some((id.parse().ok()?, name.to_owned(), detail.to_owned(), line.trim().to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn every_task_is_a_thread_and_sleeps_where_it_does() {
    let mut busy = Description::demo();
    busy.cpus = vec![512, 0];
    let machine = Machine::build(&busy).unwrap();
    let truth = machine.truth();
    let text = debug(
        &machine,
        &[
            "info threads",
            "thread find 20000000",
            "thread 4",
            "info registers rbx rsp rip rax",
            "thread find cron",
        ],
    );
    let listed = threads(&text);
    let mut expected: Vec<(u32, String)> =
        vec![(10_000_000, "cron".into()), (10_000_001, "swapper/1".into()), (20_000_000, "swapper/0".into())];
    let others = truth.tasks.iter().filter(|task| task.pid != 0 && task.running_on.is_none());
    expected.extend(others.clone().map(|task| (task.pid, task.comm.clone())));
    let names: Vec<(u32, String)> =
        listed.iter().map(|(tid, name, ..)| (*tid, name.clone())).take(expected.len()).collect();
    assert_eq!(names, expected, "{text}");
    for task in others {
        let (_, _, detail, frame) = listed.iter().find(|(tid, ..)| *tid == task.pid).unwrap();
        assert!(detail.starts_with(&format!("{}, CPU ", task.state.letter())), "{detail}");
        assert_eq!(detail.ends_with(&format!(", process {}", task.tgid)), task.pid != task.tgid, "{detail}");
        assert!(frame.contains("in __schedule ()"), "{}: {frame}", task.comm);
    }
    let init = truth.task(1).unwrap();
    assert_prints(
        &text,
        &[
            format!("rsp            {:#x}", init.sp.unwrap().wrapping_add(56)),
            "rbx            0x0".to_owned(),
            "rax            <unavailable>".to_owned(),
            "Thread 1 has target name 'cron'".to_owned(),
        ],
    );
}

#[test]
fn a_sleeping_process_has_its_own_page_table_and_a_kernel_thread_none() {
    let machine = Machine::demo().unwrap();
    let truth = machine.truth();
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    write_vmlinux(&machine, &vmlinux);
    let session = open(&machine, &vmlinux);
    let pointer = |addr: VirtAddr, ty, member| {
        let types = session.kernel.types("members").unwrap();
        let place = addr.wrapping_add(types.field(ty, member).unwrap().offset);
        VirtAddr::new(session.kernel.memory.read_u64(place).unwrap())
    };
    let asleep: Vec<_> = truth.tasks.iter().filter(|task| task.running_on.is_none()).collect();
    let ids: Vec<TaskId> =
        asleep.iter().map(|task| TaskId { addr: task.addr, pid: task.pid as i32 }).collect();
    let shown = Host::registers(&session, &ids);
    for (task, registers) in asleep.iter().zip(shown) {
        let expected = (!task.kernel_thread).then(|| {
            let pgd = pointer(pointer(task.addr, "task_struct", "mm"), "mm_struct", "pgd");
            pgd.wrapping_offset_from(truth.bases.page_offset)
        });
        assert_eq!(registers.unwrap().get(Register::Cr3), expected, "{}", task.comm);
    }
    assert!(asleep.iter().any(|task| task.kernel_thread) && asleep.iter().any(|task| !task.kernel_thread));
}

/// What showing every thread with its registers costs on a machine with so many further tasks.
fn cost_of_threads(count: u32) -> Counts {
    let machine = Machine::build(&Description::demo().crowded(count)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    write_vmlinux(&machine, &vmlinux);
    let session = open(&machine, &vmlinux);
    Host::refresh(&session);
    let before = session.counts();
    let threads = Host::threads(&session, &ThreadFilter::All);
    assert_eq!(threads.len(), machine.truth().tasks.len() + 1, "and the second idle task");
    let asleep: Vec<TaskId> = threads.iter().filter_map(|thread| thread.asleep).collect();
    let known = Host::registers(&session, &asleep);
    assert!(known.into_iter().all(|registers| registers.unwrap().get(Register::Rip).is_some()));
    let after = session.counts();
    Counts {
        batches: after.batches - before.batches,
        requests: after.requests - before.requests,
        bytes: after.bytes - before.bytes,
        failures: after.failures - before.failures,
    }
}

#[test]
fn further_tasks_cost_bytes_and_no_round_trips() {
    // More than are read at once.
    let [few, many] = [200, 2600].map(cost_of_threads);
    assert!(many.batches <= few.batches + 8, "{few}; {many}");
    assert!(many.requests - few.requests <= 2400 * 16, "{few}; {many}");
    assert!(many.bytes - few.bytes <= 2400 * (12 << 10), "{few}; {many}");
}

/// The debug file is found by build id on GDB's machine, or given to it: it sees the same.
#[test]
fn a_gdb_that_finds_the_debug_file_itself() {
    for (percpu, given) in
        [PerCpu::ZeroBased, PerCpu::Ordinary].into_iter().flat_map(|percpu| [(percpu, false), (percpu, true)])
    {
        let machine = Machine::build(&Description { percpu, ..Description::demo() }).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let full = Vmlinux::from_bytes("vmlinux", machine.vmlinux().unwrap()).unwrap();
        let id: String = full.build_id().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let file = directory.path().join(format!(".build-id/{}/{}.debug", &id[..2], &id[2..]));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        write_vmlinux(&machine, &file);
        let found = debug_file::find(full.build_id().unwrap(), &[directory.path().to_owned()]);
        let given = given.then(|| found.clone()).flatten();
        let mut session = Session::open(options(&machine, found), &|_| ()).unwrap();
        session.symbol_file = Some(SymbolFile {
            path: "/vmlinux".to_owned(),
            bytes: Arc::new(build_id::write(&full).unwrap()),
        });
        let search = format!("set debug-file-directory {}", directory.path().display());
        let (first, second) = (current_comm(0), current_comm(1));
        let commands = ["p &init_task", "output init_task.comm", "x/s linux_banner", &first, &second];
        let text = debug_session(session, given.as_deref(), &[&search], &commands);
        let truth = machine.truth();
        assert_prints(
            &text,
            &[format!("{:#x} <init_task>", truth.tasks[0].addr), truth.banner.trim_end().to_owned()],
        );
        for cpu in &truth.cpus {
            let idle = truth.cpus.iter().map(|cpu| &cpu.idle);
            let task = truth.tasks.iter().chain(idle).find(|task| task.addr == cpu.current).unwrap();
            assert_prints(&text, &[format!("\"{}\\000", task.comm)]);
        }
        let warnings = text.matches("warning: ").count();
        assert_eq!(
            warnings,
            text.matches("warning: File transfers from remote targets can be slow.").count(),
            "{text}"
        );
    }
}

/// What `serve --vmlinux` shows a gdb with another vmlinux, and one with none.
#[test]
fn the_given_vmlinux_is_handed_out_and_held_against_gdbs_own() {
    let machine = Machine::demo().unwrap();
    let other = Machine::build(&Description { percpu: PerCpu::Ordinary, ..Description::demo() }).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [vmlinux, wrong] = ["vmlinux", "vmlinux.other"].map(|name| directory.path().join(name));
    write_vmlinux(&machine, &vmlinux);
    write_vmlinux(&other, &wrong);
    let places = Places { debug: Vec::new(), cache: None };
    let serve = |origin, file: Option<&Path>, commands: &[&str]| {
        let options = options(&machine, Some(vmlinux.clone()));
        let session = Session::open_with_symbols(options, origin, &places, &|_| ()).unwrap();
        debug_session(session, file, &[], commands)
    };
    let mismatch = "Build ID mismatch between current exec-file";
    let init = "output init_task.comm";
    let text = serve(Origin::Auto, None, &[init, &current_comm(1)]);
    assert_eq!(text.matches("\"swapper/").count(), 2, "{text}");
    assert!(!serve(Origin::Auto, Some(&vmlinux), &[]).contains(mismatch));
    for origin in [Origin::Auto, Origin::BuildId] {
        assert!(serve(origin, Some(&wrong), &[]).contains(mismatch), "{origin:?}");
    }
    assert!(serve(Origin::None, None, &[init]).contains("No symbol table is loaded"));
}

#[test]
fn a_panicked_machine() {
    let machine = Machine::build(&Description::demo().panicked()).unwrap();
    let text = debug(
        &machine,
        &[
            "info threads",
            "monitor dmesg 5",
            "monitor ps",
            "monitor translate linux_banner",
            "monitor bt cpus json",
        ],
    );
    let mut expected = vec![
        "(CPU 0, offline, pid ".to_owned(),
        "\"bash\" (CPU 1, pid 871, R, panicked here, found on its stack)".to_owned(),
        "Kernel panic - not syncing".to_owned(),
        "{\"pid\":871,\"comm\":\"bash\",\"cpu\":1,".to_owned(),
        "\"sp\":\"0x".to_owned(),
    ];
    let processes = machine.truth().tasks.iter().filter(|task| task.pid == task.tgid);
    expected.extend(processes.map(|task| format!(" {} {}\n", task.state.letter(), task.comm)));
    let banner = machine.symbol("linux_banner").unwrap();
    expected.push(format!("{banner} -> physical "));
    assert_prints(&text, &expected);
}

#[test]
fn through_a_pipe() {
    let machine = Machine::build(&Description::minimal()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (vmlinux, image) = (directory.path().join("vmlinux"), directory.path().join("ram"));
    write_vmlinux(&machine, &vmlinux);
    let file = File::create(&image).unwrap();
    let mut page = [0; 4096];
    for range in machine.memory().ram() {
        file.set_len(range.end.raw()).unwrap();
        for offset in (0..range.len()).step_by(page.len()) {
            let addr = range.start.checked_add(offset).unwrap();
            let len = page.len().min((range.len() - offset) as usize);
            machine.memory().read(addr, &mut page[..len]).unwrap();
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(&page[..len], addr.raw()).unwrap();
            }
        }
    }
    let program = env!("CARGO_BIN_EXE_nettlp-gdb");
    let serve =
        format!("{program} serve --stdio --image {} --vmlinux {}", image.display(), vmlinux.display());
    let text = gdb(Some(&vmlinux), &format!("| {serve}"), &["output init_task.comm", "monitor ps"]);
    assert_prints(&text, &["\"swapper/0".to_owned(), "S init\n".to_owned()]);
}
