//! Backtraces of synthetic machines, whose kernel has frame pointers and no ORC tables.

use std::collections::HashMap;

use nettlp_gdb::{
    emulator::SplitMix64,
    kernel::{
        bt::{self, Backtrace, Which},
        unwind::FoundBy,
    },
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite},
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
