//! Lists, trees and rings with words in them changed, for good or at some reads only: a walk ends, in a bounded number of
//! reads, and takes little memory.
//!
//! `NETTLP_GDB_CASES=1000000 cargo test --release --test it lists_and_trees -- --nocapture` runs a million of them and
//! holds what the process grows by against [`MOST_MEMORY`]; without it there are [`USUAL_CASES`]. A case is made from its
//! number alone, which a failure names.

use std::{collections::BTreeMap, fs, panic, sync::atomic::Ordering::Relaxed};

use nettlp_gdb::{
    addr::PhysAddr,
    kernel::{
        Kernel, cmdline, cross_view, dmesg, files, maps, mm, module, process,
        task::{Scope, Task, Tasks},
    },
    mem::PhysMem as _,
    session::Session,
};

use crate::corpus::targets::machine::{Change, Mutating, options, small};

const USUAL_CASES: u64 = 2000;
/// Of the words a walk is read with, sector by sector, most are none of its business.
const MOST_CHANGES: usize = 32;
const MOST_MEMORY: u64 = 64 << 20;
/// The longest of these walks takes some hundred.
const MOST_READS: u64 = 100_000;

/// What is said of the kernel, or of the process it is about.
type Walk = fn(&Kernel, &Task) -> String;

const WALKS: [(&str, Walk); 8] = [
    ("threads", |kernel, _| {
        format!("{:?}", Tasks::resolve(kernel).and_then(|tasks| tasks.list(kernel, Scope::Threads)))
    }),
    ("cross view", |kernel, _| format!("{:?}", cross_view::compare(kernel))),
    ("modules", |kernel, _| format!("{:?}", module::list(kernel))),
    ("log", |kernel, _| format!("{:?}", dmesg::read(kernel))),
    ("process", |kernel, task| format!("{:?}", process::read(kernel, task))),
    ("files", |kernel, task| format!("{:?}", files::read(kernel, task.addr))),
    ("maps", |kernel, task| {
        format!("{:?}", mm::of(kernel, task.addr, task.pid).map(|mm| maps::read(kernel, &mm)))
    }),
    ("arguments", |kernel, task| {
        format!("{:?}", mm::of(kernel, task.addr, task.pid).map(|mm| cmdline::cmdline(kernel, &mm)))
    }),
];

/// xorshift64*, which is enough to choose words.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A word that led the walk, and what it may have to mislead; seen by all reads, or by some.
    fn change(&mut self, memory: &Mutating, words: &[u64]) -> Change {
        let whole = |addr| memory.memory.read_u64(PhysAddr::new(addr)).unwrap_or_default();
        let addr = self.of(words);
        let value = match self.below(6) {
            0 => self.next(),
            // A pointer or a count that is there, in another place.
            1 | 2 => whole(self.of(words)),
            3 => self.of(&[0, 1, u64::MAX, 1 << 63, 0xdead_0000_0000_0100]),
            4 => whole(addr).wrapping_add(self.next() >> self.below(64)),
            _ => whole(addr) ^ (1 << self.below(64)),
        };
        let period = if self.below(4) == 0 { 1 + self.below(7) as u64 } else { 0 };
        Change { addr, value, period }
    }
}

/// KiB of a line of `/proc/self/status`.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn damaged_lists_and_trees_end_every_walk() {
    let asked = std::env::var("NETTLP_GDB_CASES").ok().map(|cases| cases.parse::<u64>().unwrap());
    let cases = asked.unwrap_or(USUAL_CASES);

    let machine = nettlp_gdb::machine::Machine::build(&small()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
    let memory = std::sync::Arc::new(Mutating::new(machine.memory()));
    let session = Session::open(options(memory.clone(), Some(vmlinux)), &|_| {}).unwrap();
    let kernel = &*session.kernel;
    let tasks = Tasks::resolve(kernel).unwrap().list(kernel, Scope::Processes).unwrap().tasks;
    let task = tasks.iter().find(|task| task.kernel_thread == Some(false)).expect("a process");
    memory.asked();

    let whole: Vec<(String, Vec<u64>)> = WALKS
        .iter()
        .map(|(_, walk)| {
            session.refresh();
            memory.note();
            (walk(kernel, task), memory.asked())
        })
        .collect();

    for ((name, _), (said, words)) in WALKS.iter().zip(&whole) {
        assert!(words.len() > 8, "{name} read {} words: {said}", words.len());
    }

    // Writing 5 there sets the peak back to what there is now.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let mut changed = BTreeMap::<&str, u64>::new();
    for case in 0..cases {
        let at = case as usize % WALKS.len();
        let ((name, walk), (whole, words)) = (WALKS[at], &whole[at]);
        let mut random = Random(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let changes = (0..=random.below(MOST_CHANGES)).map(|_| random.change(&memory, words)).collect();
        *memory.changes.lock().unwrap() = changes;
        memory.reads.store(0, Relaxed);
        session.refresh();
        let said = panic::catch_unwind(panic::AssertUnwindSafe(|| walk(kernel, task)));
        let said = said.unwrap_or_else(|_| panic!("case {case}, {name}"));
        let reads = memory.reads.load(Relaxed);
        assert!(reads < MOST_READS, "case {case}, {name}: {reads} reads");
        *changed.entry(name).or_default() += u64::from(said != *whole);
    }
    let grown = status("VmHWM:").saturating_sub(before) << 10;
    println!("{cases} cases, what they changed: {changed:?}; {grown} bytes more at most");
    // Damage that no walk meets would test nothing.
    for (name, _) in WALKS {
        assert!(changed.get(name).is_some_and(|count| *count > cases / 100), "{name}: {changed:?}");
    }
    if asked.is_some() {
        assert!(grown < MOST_MEMORY, "{grown} bytes");
    }
}
