//! Backtraces of synthetic machines, whose kernel has frame pointers and no ORC tables.

use nettlp_gdb::{
    kernel::{
        bt::{self, Backtrace, Which},
        unwind::FoundBy,
    },
    machine::{Description, Machine},
    mem::cache::Validity,
    session::{Options, Session, Source},
};

fn attach(machine: &Machine) -> Session {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), machine.vmlinux().unwrap()).unwrap();
    let options = Options {
        source: Source::Memory(machine.memory()),
        vmlinux: Some(file.path().to_owned()),
        ram: Vec::new(),
        forbidden: Vec::new(),
        force: false,
        validity: Validity::Stop,
    };
    Session::open(options, &|_| {}).unwrap()
}

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
