//! Backtraces of synthetic machines, whose kernel has frame pointers and no ORC tables.

use std::collections::HashMap;

use nettlp_gdb::{
    addr::VirtAddr,
    emulator::SplitMix64,
    gdb::{Host, ThreadFilter},
    kernel::{
        bt::{self, Backtrace, Which},
        info::Info,
        unwind::FoundBy,
    },
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite},
    render,
    session::Session,
};

use crate::recording::attach;

fn functions(task: &Backtrace) -> Vec<&str> {
    task.frames.iter().map(|call| call.function.as_deref().unwrap_or("??")).collect()
}

#[test]
fn every_sleeping_task_is_where_it_sleeps() {
    let machine = Machine::build(&Description::demo()).unwrap();
    let session = attach(&machine);
    let found = bt::read(&session.kernel, Which::All, None).unwrap();
    assert!(found.torn.is_none());
    for task in &machine.truth().tasks {
        let of = |one: &&Backtrace| one.pid == task.pid as i32 && one.comm == task.comm;
        let shown = found.tasks.iter().find(of).unwrap_or_else(|| panic!("{} is not listed", task.comm));
        let mut path: Vec<&str> = task.path.iter().rev().copied().collect();
        if task.sp.is_none() {
            path.clear();
            assert!(shown.incomplete.as_ref().unwrap().contains("is running it"), "{shown:?}");
        }
        assert_eq!(functions(shown), path, "{}: {:?}", task.comm, shown.incomplete);
        let first = shown.frames.first().map(|call| call.found_by);
        assert!(first.is_none_or(|found_by| found_by == FoundBy::Registers), "{first:?}");
        assert!(shown.frames.iter().skip(1).all(|call| call.found_by == FoundBy::FramePointer));
    }
}

/// Writes over the target's memory, and has the session forget it.
fn poke(session: &Session, machine: &Machine, addr: VirtAddr, value: u64) {
    let phys = session.kernel.memory.translate(addr).unwrap().phys;
    machine.memory().write(phys, &value.to_le_bytes()).unwrap();
    session.refresh();
}

#[test]
fn a_task_that_never_ran_is_at_the_start_of_ret_from_fork() {
    let machine = Machine::demo().unwrap();
    let session = attach(&machine);
    let types = session.kernel.types.clone().unwrap();
    let offset = |ty: &str, member: &str| types.field(ty, member).unwrap().offset;
    let task = machine.truth().tasks.iter().find(|task| task.kernel_thread && task.sp.is_some()).unwrap();
    let frame = |member| task.sp.unwrap().wrapping_add(offset("inactive_task_frame", member));
    poke(&session, &machine, frame("ret_addr"), machine.symbol("ret_from_fork").unwrap().raw());
    let end = task.stack.wrapping_add(16 << 10).wrapping_sub(types.struct_size("pt_regs").unwrap());
    poke(&session, &machine, frame("bp"), end.raw() | 1);
    let found = bt::read(&session.kernel, Which::Pid(task.pid as i32), None).unwrap();
    let call = &found.tasks[0].frames[0];
    assert_eq!(functions(&found.tasks[0]), ["ret_from_fork"], "{:?}", found.tasks[0].incomplete);
    assert_eq!((call.offset, Some(call.address)), (Some(0), machine.symbol("ret_from_fork")));
}

/// `maxcpus=`, and whatever happens before the other CPUs are started: `current_task` is the template's.
#[test]
fn a_cpu_that_was_never_started_runs_nothing() {
    let machine = Machine::demo().unwrap();
    let session = attach(&machine);
    let (truth, kernel) = (machine.truth(), &*session.kernel);
    let current = kernel.symbols.as_ref().unwrap().find("current_task").unwrap();
    let current = current.wrapping_add(truth.cpus[1].per_cpu_offset);
    poke(&session, &machine, current, truth.tasks[0].addr.raw());
    poke(&session, &machine, machine.symbol("__cpu_online_mask").unwrap(), 1);

    let found = bt::read(kernel, Which::Pid(0), None).unwrap();
    let shown: Vec<_> = found.tasks.iter().map(|task| (task.comm.as_str(), task.on_cpu)).collect();
    assert_eq!(shown, [("swapper/0", true), ("swapper/1", false)]);
    let why = found.tasks[1].incomplete.as_ref().unwrap();
    assert_eq!(why, "it is to run on CPU 1, which was never started");
    assert!(bt::read(kernel, Which::Cpu(1), None).unwrap().tasks.is_empty());

    let mut info = String::new();
    render::info(&mut info, &Info::of(kernel)).unwrap();
    let line = info.lines().find(|line| line.starts_with("CPU 1")).unwrap();
    assert!(line.contains("offline") && line.ends_with("was never started"), "{line}");

    let threads = Host::threads(&session, &ThreadFilter::Cpus);
    assert_eq!(threads[1].task, None);
    assert_eq!(threads[1].detail, "its task is not known: it was never started");
}

#[test]
fn the_cpu_that_panicked_is_in_panic() {
    let machine = Machine::build(&Description::demo().panicked()).unwrap();
    let session = attach(&machine);
    let found = bt::read(&session.kernel, Which::Cpus, None).unwrap();
    let task = found.tasks.iter().find(|task| task.comm == "bash").unwrap();
    let expected: Vec<&str> =
        machine.truth().task(task.pid as u32).unwrap().path.iter().rev().skip(1).copied().collect();
    assert_eq!(functions(task), expected, "{task:?}");
    assert!(task.recovered.as_ref().unwrap().contains("a return address into panic"), "{task:?}");
    assert_eq!(task.frames[0].found_by, FoundBy::Scan);
}

/// Random bytes in every task and stack: each backtrace ends, and those of the other tasks stay what they were.
#[test]
fn random_bytes_in_tasks_and_stacks_end_every_backtrace() {
    let machine = Machine::build(&Description::demo().panicked()).unwrap();
    let session = attach(&machine);
    let memory = machine.memory();
    let places: Vec<_> = machine
        .truth()
        .tasks
        .iter()
        .flat_map(|task| [(task, task.addr, 0x800), (task, task.stack.wrapping_add(0x3c00), 0x400)])
        .map(|(task, addr, len)| {
            let phys = session.kernel.memory.translate(addr).unwrap().phys;
            ((task.pid as i32, task.comm.clone()), phys, len)
        })
        .collect();
    let name = |task: &Backtrace| (task.pid, task.comm.clone());
    let all = || bt::read(&session.kernel, Which::All, None);
    let sound: HashMap<_, _> = all().unwrap().tasks.into_iter().map(|task| (name(&task), task)).collect();
    let mut random = SplitMix64::new(1);
    let (mut refused, mut changed) = (0, 0);
    for _ in 0..150 {
        let (hit, start, len) = &places[random.below(places.len() as u64) as usize];
        let at = start.wrapping_add(random.below(len / 8) * 8);
        let mut before = [0; 8];
        memory.read(at, &mut before).unwrap();
        memory.write(at, &random.draw().to_le_bytes()).unwrap();
        session.refresh();
        match all() {
            Ok(found) => {
                for task in &found.tasks {
                    match sound.get(&name(task)) {
                        Some(before) if name(task) != *hit => {
                            assert_eq!(functions(task), functions(before), "{task:?}")
                        }
                        Some(before) => changed += usize::from(functions(task) != functions(before)),
                        None => changed += 1,
                    }
                }
            }
            Err(_) => refused += 1,
        }
        memory.write(at, &before).unwrap();
    }
    assert!(changed > 10, "{refused} refused, {changed} changed");
    session.refresh();
    let found = all().unwrap();
    assert!(
        found.torn.is_none()
            && found.tasks.iter().all(|task| functions(task) == functions(&sound[&name(task)]))
    );
}

/// What a thread that sleeps costs to look at on a machine with so many others.
fn requests_of_one(count: u32) -> u64 {
    let machine = Machine::build(&Description::demo().crowded(count)).unwrap();
    let session = attach(&machine);
    let task = machine.truth().tasks.iter().rfind(|task| task.sp.is_some()).unwrap();
    let before = session.counts().requests;
    let found = bt::read(&session.kernel, Which::Pid(task.pid as i32), None).unwrap();
    assert_eq!(found.tasks.iter().map(|found| &found.comm).collect::<Vec<_>>(), [&task.comm]);
    assert!(!found.tasks[0].frames.is_empty());
    session.counts().requests - before
}

#[test]
fn one_thread_costs_the_same_among_many() {
    let [few, many] = [10, 1000].map(requests_of_one);
    assert!(many <= few + 8, "{few} requests among few, {many} among many");
}
