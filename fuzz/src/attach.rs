//! Memory that lies from the first read on, and no file: a kernel is found in it, its symbols and types are read, and then
//! one thing is asked.

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
};

use nettlp_gdb::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange},
    kernel::{
        Kernel, dmesg,
        info::Info,
        kconfig, module,
        task::{Scope, Tasks},
    },
    machine::{Description, Machine, PerCpu, State},
    paging::Levels,
    session::{Options, Session},
};

use super::{
    Input, changes,
    machine::{Mutating, config, everything, options, scatter},
};

/// What may be asked of a machine that was found.
const QUESTIONS: [fn(&Session); 7] = [
    |session| {
        let _ = Info::of(&session.kernel);
    },
    |session| {
        let tasks = |kernel: &Kernel| Tasks::resolve(kernel)?.list(kernel, Scope::Threads);
        let _ = tasks(&session.kernel);
    },
    |session| {
        let _ = dmesg::read(&session.kernel);
    },
    |session| {
        let _ = (module::list(&session.kernel), session.synthesize_modules().map(|made| made.bytes.len()));
    },
    |session| {
        let _ = session.synthesize().map(|made| made.bytes.len());
    },
    |session| {
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let _ = kconfig::recover(&session.kernel, &*session.phys, &[], go_on).map(|found| found.text.len());
    },
    |session| everything(&session.kernel, 1),
];
/// Its words would be all of RAM.
const CONFIGURATION: usize = 5;

struct Victim {
    memory: Arc<Mutating>,
    ram: Vec<PhysRange>,
    /// The words that lead to the kernel, and further by question.
    finding: Vec<u64>,
    asking: Vec<Vec<u64>>,
}

impl Victim {
    fn new(description: Description) -> Self {
        let range = |text: &str| -> PhysRange { text.parse().expect("a range") };
        let description = Description {
            ram: ["0-0x9fc00", "1M-24M"].map(range).to_vec(),
            text_phys: PhysAddr::new(4 << 20),
            describes_itself: true,
            ..description
        };
        let machine = Machine::build(&description).expect("a machine");
        let frames = scatter(&machine, &config(&description.release, 5));
        let memory = Arc::new(Mutating::new(machine.memory()));
        let open = || Session::open(options(memory.clone(), None), &|_| {}).expect("a kernel");
        open();
        let finding = memory.asked();
        let asking = QUESTIONS.iter().enumerate().map(|(at, ask)| {
            if at == CONFIGURATION {
                let of_frame = |frame: &PhysAddr| (frame.raw()..frame.raw() + PAGE_SIZE).step_by(8);
                return frames.iter().flat_map(of_frame).collect();
            }
            let session = open();
            memory.note();
            ask(&session);
            let words = memory.filled(memory.asked());
            // Who only asks what was found reads nothing more.
            if words.is_empty() { finding.clone() } else { words }
        });
        let asking = asking.collect();
        Self { ram: description.ram, asking, finding, memory }
    }
}

/// What is asked, whether RAM is known beforehand, and what is changed: of the words that lead to the kernel, or of those
/// that were read for the answer.
pub fn attach(data: &[u8]) {
    /// With nothing left to find the kernel by, the search tries every page of RAM.
    const MAX_READS: u64 = 400_000;
    static VICTIMS: OnceLock<[Victim; 2]> = OnceLock::new();

    let [alive, dead] = VICTIMS.get_or_init(|| {
        let demo = Description::demo;
        let new = Description {
            percpu: PerCpu::Ordinary,
            levels: Levels::Five,
            state: State::Panicked { cpu: 0 },
            ..demo()
        };
        [Victim::new(demo()), Victim::new(new)]
    });
    let mut input = Input(data);
    let [how, question] = [input.number(1), input.number(1) % QUESTIONS.len() as u64];
    let victim = if how & 1 == 0 { alive } else { dead };
    let ask = QUESTIONS[question as usize];
    let words = if how & 2 == 0 { &victim.finding } else { &victim.asking[question as usize] };
    *victim.memory.changes.lock().expect("one thread") = changes(&mut input, &victim.memory, words);
    victim.memory.reads.store(0, Relaxed);
    let ram = if how & 4 == 0 { Vec::new() } else { victim.ram.clone() };
    let options = Options { ram, ..options(victim.memory.clone(), None) };
    match Session::open(options, &|_| {}) {
        Ok(session) => ask(&session),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let reads = victim.memory.reads.load(Relaxed);
    assert!(reads < MAX_READS, "{reads} reads");
}
