//! What processes have mapped and open, their memory, and whoever hides: machines of both kinds of kernels, what they
//! say of themselves being the oracle; then the same with the operator against it.

use std::fs;

use nettlp_gdb::{
    addr::{PhysAddr, VirtAddr},
    gdb::{
        Host,
        packet::{PACKET_SIZE, frame},
    },
    kernel::{
        Kernel, KernelError, UserMemory, cmdline,
        cross_view::{self, View},
        files, maps, mm, pid, process, task, user,
    },
    machine::{Description, Machine, PerCpu, TrueProcess},
    mem::PhysWrite,
    paging::Levels,
    session::{Options, Session},
};

use crate::{
    gdb::client::Client,
    recording::{Bench, Serving, options, small},
};

const HEAP: u64 = 0x1c0_0000;

fn attach(machine: &Machine, user_memory: UserMemory) -> Session {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { user_memory, ..options(machine, machine.memory(), &directory) };
    Session::open(options, &|_| ()).unwrap()
}

/// Both trees of mappings, both depths of page tables.
fn machines() -> Vec<Machine> {
    let kinds = [(PerCpu::ZeroBased, Levels::Five), (PerCpu::Ordinary, Levels::Four)];
    let build = |(percpu, levels)| Machine::build(&Description { percpu, levels, ..Description::demo() });
    kinds.into_iter().map(build).map(Result::unwrap).collect()
}

fn mm_of(kernel: &Kernel, pid: u32) -> Result<mm::Mm, KernelError> {
    let task = pid::find(kernel, pid as i32)?;
    mm::of(kernel, task.addr, task.pid)
}

fn lines(kernel: &Kernel, pid: u32) -> Result<(Vec<String>, Option<String>), KernelError> {
    let found = maps::read(kernel, &mm_of(kernel, pid)?)?;
    let mut text = String::new();
    nettlp_gdb::render::maps(&mut text, &found.maps).unwrap();
    Ok((text.lines().map(str::to_owned).collect(), found.torn.map(|error| error.to_string())))
}

/// Writes over the target's memory, and has the session forget it.
fn poke(session: &Session, machine: &Machine, addr: VirtAddr, value: u64) -> u64 {
    let before = session.kernel.memory.read_u64(addr).unwrap();
    let phys = session.kernel.memory.translate(addr).unwrap().phys;
    machine.memory().write(phys, &value.to_le_bytes()).unwrap();
    session.refresh();
    before
}

fn offset(kernel: &Kernel, structure: &str, path: &str) -> u64 {
    kernel.types("test").unwrap().field(structure, path).unwrap().offset
}

#[test]
fn a_title_over_the_arguments_goes_on_into_the_environment() {
    for machine in machines() {
        let session = attach(&machine, UserMemory::All);
        let kernel = &*session.kernel;
        let pid = machine.truth().processes.iter().map(|one| one.pid).find(|pid| *pid != 1).unwrap();
        let mm = mm_of(kernel, pid).unwrap();
        let [start, end] = mm.arguments;
        assert_eq!(mm.environment[0], end);
        let len = end.wrapping_offset_from(start) as usize;
        let phys = user::translate(kernel, &mm, start).unwrap().phys;
        machine.memory().write(phys, &vec![b'x'; len]).unwrap();
        session.refresh();
        let title = [format!("{}PID={pid}", "x".repeat(len))];
        assert_eq!(cmdline::strings(&cmdline::cmdline(kernel, &mm).unwrap()), title);
        let task = pid::find(kernel, pid as i32).unwrap();
        let details = task::details(kernel, &[task]).unwrap().pop().unwrap();
        assert_eq!((details.cmdline.as_deref(), details.cmdline_cut), (Some(&title[..]), false));
    }
}

#[test]
fn every_process_is_what_the_machine_says() {
    for machine in machines() {
        let session = attach(&machine, UserMemory::All);
        let kernel = &*session.kernel;
        let truth = machine.truth();
        assert!(truth.processes.len() > 8);
        for TrueProcess { pid, exe, maps, files } in &truth.processes {
            assert_eq!(lines(kernel, *pid).unwrap(), (maps.clone(), None), "pid {pid}");
            let task = truth.task(*pid).unwrap();
            let found = files::read(kernel, task.addr).unwrap();
            assert!(found.torn.is_none(), "{:?}", found.torn);
            let found: Vec<_> = found.files.iter().map(|it| (it.fd, it.path.clone().unwrap())).collect();
            assert_eq!(found, *files, "pid {pid}");

            let mm = mm_of(kernel, *pid).unwrap();
            assert_eq!(cmdline::strings(&cmdline::cmdline(kernel, &mm).unwrap()), task.cmdline);
            let environment = cmdline::strings(&cmdline::environ(kernel, &mm).unwrap());
            assert_eq!(environment, [format!("PID={pid}"), "HOME=/".to_owned()]);

            let found = process::read(kernel, &pid::find(kernel, *pid as i32).unwrap()).unwrap();
            let all = || truth.tasks.iter().filter(|one| one.pid != 0);
            let threads: Vec<_> = all().filter(|one| one.tgid == *pid).map(|one| one.pid as i32).collect();
            let children = all().filter(|one| one.parent == *pid && one.pid == one.tgid);
            assert_eq!(found.children, children.map(|one| one.pid as i32).collect::<Vec<_>>());
            let ticks = threads.iter().sum::<i32>() as u64;
            assert_eq!(found.thread_ids, threads);
            let times = [found.cpu_nsec, found.user_nsec, found.system_nsec];
            assert_eq!(times, [Some(4 * ticks), Some(ticks), Some(2 * ticks)]);
            assert_eq!((found.uids, found.gids), (Some([task.uid; 4]), Some([task.uid; 4])));
            let places = [found.cwd, found.root, found.exe].map(Option::unwrap);
            assert_eq!(places, ["/", "/", exe]);
        }
        let first = process::read(kernel, &pid::find(kernel, 0).unwrap()).unwrap();
        assert_eq!((first.thread_ids.as_slice(), first.children.contains(&0)), (&[0][..], false));
        let descriptor = files::read(kernel, truth.task(1).unwrap().addr).unwrap().files.pop().unwrap();
        assert_eq!((descriptor.fd, descriptor.flags), (40, Some(0o10_0002 | 0o200_0000)));
        assert_eq!((descriptor.access.as_deref(), descriptor.inode), (Some("rw"), Some(1)));
    }
}

/// vhost's workers do so for life, until 6.3; a process that has ended has none and is no kernel thread.
#[test]
fn the_address_space_that_a_kernel_thread_borrows_is_not_its_own() {
    for machine in machines() {
        let session = attach(&machine, UserMemory::All);
        let (kernel, truth) = (&*session.kernel, machine.truth());
        let thread = truth.tasks.iter().find(|task| task.kernel_thread && task.pid != 0).unwrap();
        let [lender, ended] = [0, 1].map(|at| truth.task(truth.processes[at].pid).unwrap());
        let mm = |addr: VirtAddr| addr.wrapping_add(offset(kernel, "task_struct", "mm"));
        let lent = kernel.memory.read_u64(mm(lender.addr)).unwrap();
        poke(&session, &machine, mm(thread.addr), lent);
        poke(&session, &machine, mm(ended.addr), 0);

        let found = process::read(kernel, &pid::find(kernel, thread.pid as i32).unwrap()).unwrap();
        assert_eq!((found.task.kernel_thread, found.exe), (Some(true), None));
        assert_eq!(found.details.cmdline, Some(Vec::new()));
        let refused = mm_of(kernel, thread.pid).unwrap_err();
        assert!(matches!(refused, KernelError::NoUserSpace { .. }), "{refused}");
        let roots = user::roots(kernel, &[thread.addr, lender.addr]);
        assert!(roots[0].is_some() && roots[0] == roots[1], "what CR3 holds: {roots:?}");
        let ended = pid::find(kernel, ended.pid as i32).unwrap();
        assert_eq!(ended.kernel_thread, Some(false));
    }
}

#[test]
fn a_page_that_is_not_there_says_why() {
    for machine in machines() {
        let session = attach(&machine, UserMemory::All);
        let kernel = &*session.kernel;
        let mm = mm_of(kernel, 1).unwrap();
        let read = |addr: u64, len| user::read_vec(kernel, &mm, VirtAddr::new(addr), len);
        assert_eq!(read(HEAP, 9).unwrap(), b"heap of 1");
        assert_eq!(read(0x40_0000, 4).unwrap(), b"\x7fELF");
        for (addr, reason) in [
            (HEAP + 0x1000, "anonymous memory that was never touched, or given back"),
            (HEAP + 0x2008, "swapped out, to page 4660 of swap area 1"),
            (0x40_1000, "page 4 of a mapped file, which is not read in"),
            (0x7f00_0000_0010, "mapped without access (PROT_NONE), in memory at physical"),
            (0x10_0000, "no mapping of the process holds it"),
        ] {
            let error = read(addr, 8).unwrap_err().to_string();
            let expected = format!("no memory of the process at {addr:#x}: {reason}");
            assert!(error.starts_with(&expected) && error.contains("entry at physical"), "{error}");
            let error = user::translate(kernel, &mm, VirtAddr::new(addr)).unwrap_err().to_string();
            assert!(error.starts_with(&expected), "{error}");
        }
        let error = read(HEAP + 0xff8, 16).unwrap_err().to_string();
        assert!(error.starts_with("no memory of the process at 0x1c01000: anonymous"), "{error}");
        for addr in [u64::MAX - 8, 0xffff_8000_0000_0000, 1 << 60] {
            assert!(read(addr, 4).unwrap_err().to_string().contains("are not user space"));
        }
        let found = user::translate(kernel, &mm, VirtAddr::new(HEAP + 5)).unwrap();
        assert!(found.user && found.writable && found.page_size == 4096);
        let error = mm_of(kernel, 2).unwrap_err().to_string();
        assert_eq!(error, "pid 2 has no address space: it is a kernel thread, or has ended");
        let reused = mm::of(kernel, machine.truth().task(1).unwrap().addr, 2).unwrap_err();
        assert!(matches!(reused, KernelError::NoTask { pid: 2 }), "{reused}");
        let error = pid::find(kernel, 4_000_000).unwrap_err().to_string();
        assert_eq!(error, "there is no task with pid 4000000: `ps`, with threads, lists them all");
    }
}

/// Whatever is written over it, the list ends, and what is left is not called whole.
#[test]
fn damaged_mappings_and_files_are_reported() {
    for machine in machines() {
        let session = attach(&machine, UserMemory::All);
        let kernel = &*session.kernel;
        let mm = mm_of(kernel, 1).unwrap();
        let whole = lines(kernel, 1).unwrap().0;
        let first = match mm.areas {
            mm::Areas::Maple(_) => {
                let list = nettlp_gdb::kernel::vma::list(kernel, &mm).unwrap();
                list.areas[1].addr
            }
            mm::Areas::RedBlack { first, .. } => kernel
                .memory
                .read_ptr(first.wrapping_add(offset(kernel, "vm_area_struct", "vm_next")))
                .unwrap(),
        };
        for (member, values) in [("vm_start", [0, u64::MAX, 0x40_1000]), ("vm_end", [0, u64::MAX, HEAP])] {
            for value in values {
                let at = first.wrapping_add(offset(kernel, "vm_area_struct", member));
                let before = poke(&session, &machine, at, value);
                let (found, torn) = lines(kernel, 1).unwrap();
                assert!(torn.is_some() && found.len() <= whole.len(), "{member} {value:#x}: {found:#?}");
                poke(&session, &machine, at, before);
            }
        }
        let file = nettlp_gdb::kernel::vma::list(kernel, &mm).unwrap().areas[0].file;
        let dentry =
            kernel.memory.read_ptr(file.wrapping_add(offset(kernel, "file", "f_path.dentry"))).unwrap();
        for (place, value) in [
            (dentry.wrapping_add(offset(kernel, "dentry", "d_parent")), 0),
            (dentry.wrapping_add(offset(kernel, "dentry", "d_parent")), 0xdead_0000_0000_0100),
            (dentry.wrapping_add(offset(kernel, "dentry", "d_name.name")), 0x10),
            (dentry.wrapping_add(offset(kernel, "dentry", "d_name.len")), u64::MAX),
            (file.wrapping_add(offset(kernel, "file", "f_inode")), 0x10),
        ] {
            let before = poke(&session, &machine, place, value);
            let (found, torn) = lines(kernel, 1).unwrap();
            assert!(torn.is_some() && found.len() == whole.len(), "{value:#x} at {place}: {found:#?}");
            poke(&session, &machine, place, before);
        }
        // A directory that is its own grandparent.
        let parent =
            kernel.memory.read_ptr(dentry.wrapping_add(offset(kernel, "dentry", "d_parent"))).unwrap();
        let at = parent.wrapping_add(offset(kernel, "dentry", "d_parent"));
        let before = poke(&session, &machine, at, dentry.raw());
        let torn = lines(kernel, 1).unwrap().1.unwrap();
        assert!(torn.contains("goes in a circle"), "{torn}");
        poke(&session, &machine, at, before);
        assert_eq!(lines(kernel, 1).unwrap(), (whole, None));
    }
}

#[test]
fn whoever_hides_from_one_record_shows_in_the_others() {
    for machine in machines() {
        let session = attach(&machine, UserMemory::All);
        let kernel = &*session.kernel;
        let compare = || cross_view::settled(kernel, &|| session.refresh()).unwrap();
        let clean = compare();
        assert!(clean.differences.is_empty() && clean.incomplete.is_empty(), "{clean:?}");
        assert_eq!(clean.tasks, machine.truth().tasks.len() + machine.truth().cpus.len() - 1);
        let task = machine.truth().task(512).unwrap();
        let missing = || -> Vec<(i32, Vec<View>)> {
            let found = compare();
            assert!(found.incomplete.is_empty(), "{:?}", found.incomplete);
            found.differences.into_iter().map(|it| (it.task.pid, it.missing_from)).collect()
        };

        // As list_del() does it.
        let node = task.addr.wrapping_add(offset(kernel, "task_struct", "tasks"));
        let (next, prev) =
            (kernel.memory.read_ptr(node).unwrap(), kernel.memory.read_ptr(node.wrapping_add(8)).unwrap());
        poke(&session, &machine, prev, next.raw());
        assert_eq!(missing(), [(512, vec![View::TaskList])]);
        poke(&session, &machine, prev, node.raw());
        assert_eq!(missing(), []);

        // The number taken out of the IDR.
        let thread_pid = task.addr.wrapping_add(offset(kernel, "task_struct", "thread_pid"));
        let pid = kernel.memory.read_ptr(thread_pid).unwrap();
        let first = pid.wrapping_add(offset(kernel, "pid", "tasks"));
        let before = poke(&session, &machine, first, 0);
        assert_eq!(missing(), [(512, vec![View::PidIdr])]);
        poke(&session, &machine, first, before);

        // Out of its parent's children, with its own, which nobody is then the ancestor of.
        let sibling = task.addr.wrapping_add(offset(kernel, "task_struct", "sibling"));
        let (next, prev) = (
            kernel.memory.read_ptr(sibling).unwrap(),
            kernel.memory.read_ptr(sibling.wrapping_add(8)).unwrap(),
        );
        poke(&session, &machine, prev, next.raw());
        assert_eq!(missing(), [(512, vec![View::Family]), (917, vec![View::Family])]);
        poke(&session, &machine, prev, sibling.raw());

        // What changes between two looks is nobody's secret.
        let before = poke(&session, &machine, first, 0);
        let came_back = cross_view::settled(kernel, &|| {
            poke(&session, &machine, first, before);
        });
        assert!(came_back.unwrap().differences.is_empty());
    }
}

/// A thread's lower half is its process' own.
#[test]
fn gdb_reads_the_selected_threads_memory() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    options(&machine, machine.memory(), &directory);
    let bench = Bench::new(&machine, 201, directory, Vec::new());
    let serving = Serving::start(bench.command(&["serve", "--cache-ms", "0"]));
    let mut client = Client::connect(serving.1);
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for pid in [1, 590, 905] {
        client.ask(&format!("Hg{pid:x}"));
        let wanted = format!("heap of {pid}");
        assert_eq!(client.ask(&format!("m{HEAP:x},{:x}", wanted.len())), hex(&wanted));
        assert_eq!(client.ask(&format!("m{:x},8", HEAP + 0x1000)), "E0e");
        assert_eq!(client.ask(&format!("m{:x},10", HEAP + 0xff8)).len(), 16, "as far as it goes");
    }
    client.ask("Hg2");
    let reply = client.ask("mffffffff81000000,ffffffffffffffff");
    assert!((2..=PACKET_SIZE).contains(&reply.len()), "a reply is a packet at most");
    assert_eq!(client.ask(&format!("m{HEAP:x},8")), "E0e", "a kernel thread has none");
    assert!(client.monitor("maps 905").contains("[heap]"));
    assert!(client.monitor("maps 2").contains("pid 2 has no address space"));
    assert!(client.monitor("files 905").contains("socket:[905]"));
    assert!(client.monitor("environ 905").contains("PID=905"));
    assert!(client.monitor("cmdline 905").contains("nginx"));
    assert!(client.monitor("process 905").contains("parent    904"));
    assert!(client.monitor("read 905 0x1c00000 16").contains("heap of 905"));
    assert!(client.monitor("read 905 0x1c01000 16").contains("never touched"));
    assert!(client.monitor("translate 0x1c00000 905").contains("-> physical"));
    assert!(client.monitor("translate 0x1c02000 905").contains("swapped out"));
    assert!(client.monitor("translate init_taks").contains("did you mean `init_task`?"));
    assert!(client.monitor("translate init_task 905").contains("`init_task` is not an address"));
    assert!(client.monitor("ps cross-view").contains("no difference"));
    drop(serving);
    bench.nothing_forbidden_was_asked_for();
}

/// By whatever way it is asked for, no byte of user space leaves the machine, and none is written.
#[test]
fn kernel_only_keeps_user_space_out_of_every_path() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    options(&machine, machine.memory(), &directory);
    let session = attach(&machine, UserMemory::All);
    let kernel = &*session.kernel;
    let pids: Vec<u32> = machine.truth().processes.iter().map(|process| process.pid).collect();
    let page =
        |pid: u32, addr: VirtAddr| user::translate(kernel, &mm_of(kernel, pid).unwrap(), addr).unwrap().phys;
    let heaps = pids.iter().map(|pid| page(*pid, VirtAddr::new(HEAP)));
    let stacks =
        pids.iter().map(|pid| page(*pid, mm_of(kernel, *pid).unwrap().arguments[0].align_down(4096)));
    let pages: Vec<PhysAddr> = heaps.chain(stacks).collect();

    let bench = Bench::new(&machine, 203, directory, Vec::new());
    bench.allow_writes(&[crate::recording::bytes(pages[0].raw(), 4096)]);
    let profile = fs::read_to_string(&bench.profile).unwrap();
    fs::write(&bench.profile, profile.replace("[memory]", "[memory]\npolicy = 'kernel-only'")).unwrap();
    let file = bench.directory.path().join("file");
    let file = file.to_str().unwrap();
    let physical = &pages[0].to_string();

    for arguments in [
        &["maps", "1"][..],
        &["cmdline", "1"],
        &["environ", "1", "--json"],
        &["read", "--pid", "1", "0x1c00000", "8"],
        &["read", "--phys", physical, "8"],
        &["translate", "--pid", "1", "0x1c00000"],
        &["write", "--allow-write", "--phys", physical, "00"],
        &["dump", "-o", file, "-q"],
        &["dump", "--format", "raw", "-o", file, "-q"],
        &["kconfig", "-o", file, "-q"],
    ] {
        let said = bench.ends(1, arguments);
        let expected = "`memory.policy = \"kernel-only\"` of the profile keeps";
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!std::path::Path::new(file).exists(), "{arguments:?}");
    }
    // What is the kernel's own is shown without the command line.
    for (arguments, expected) in [
        (&["ps", "--long"][..], "sshd            -\n"),
        (&["ps", "--json"], "\"cmdline\":null"),
        (&["process", "590"], "cmdline   -\n"),
        (&["files", "590"], "socket:[590]"),
        (&["bt", "590"], "schedule"),
    ] {
        let said = String::from_utf8(bench.run(arguments).stdout).unwrap();
        assert!(said.contains(expected) && !said.contains("/usr/sbin"), "{arguments:?}: {said}");
    }

    let serving = Serving::start(bench.command(&["serve", "--allow-write", "--cache-ms", "0"]));
    let mut client = Client::connect(serving.1);
    let path: String = "/proc/590/mem".bytes().map(|byte| format!("{byte:02x}")).collect();
    for pid in &pids {
        client.ask(&format!("Hg{pid:x}"));
        for (packet, expected) in [
            (format!("m{HEAP:x},8"), "E01"),
            (format!("qSearch:memory:0;{:x};/usr/sbin", 1_u64 << 47), "0"),
            (format!("M{HEAP:x},1:00"), "E."),
            (format!("X{HEAP:x},1:0"), "E."),
            (format!("vFile:open:{path},0,0"), "F-1"),
        ] {
            let answer = client.ask(&packet);
            assert!(answer.starts_with(expected), "{packet}: {answer}");
        }
    }
    assert_eq!(client.ask(&format!("Z2,{HEAP:x},8")), "OK");
    client.raw(&frame(b"vCont;c"));
    assert!(client.console().starts_with("nettlp-gdb cannot watch "));
    assert!(client.reply().unwrap().starts_with('T'));
    for command in
        ["maps 590", "cmdline 590", "environ 590", "read 590 0x1c00000 8", "translate 0x1c00000 590"]
    {
        let said = client.monitor(command);
        assert!(said.contains("`memory.policy = \"kernel-only\"`"), "{command}: {said}");
    }
    assert!(client.monitor("process 590").contains("cmdline   -\n"));
    assert!(!client.monitor("ps").contains("/usr/sbin"));
    drop(serving);
    for page in pages {
        let range = crate::recording::bytes(page.raw(), 4096);
        assert!(!bench.asked.touches(range), "{page} was asked for");
    }
    assert_eq!(bench.asked.writes(), 0);
}

#[test]
fn a_session_that_may_not_says_so() {
    let machine = small();
    let session = attach(&machine, UserMemory::KernelOnly);
    let task = machine.truth().task(1).unwrap();
    let id = nettlp_gdb::gdb::TaskId { addr: task.addr, pid: 1 };
    let error = Host::read_user(&session, id, VirtAddr::new(HEAP), &mut [0; 8]).unwrap_err();
    assert!(matches!(error, KernelError::KernelOnly { .. }), "{error}");
}
