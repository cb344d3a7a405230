//! Lists, trees, rings and tables with words in them changed, for good or at some reads only: a walk ends, in a bounded
//! number of reads, takes little memory, and what can be held against the whole machine is right or an error.
//!
//! `NETTLP_GDB_CASES=1000000 cargo test --release --test it lists_and_trees -- --nocapture` runs a million of them and
//! holds what the process grows by against [`MAX_MEMORY`]; without it there are [`USUAL_CASES`]. A case is made from its
//! number alone, which a failure names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Write as _},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    panic,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use nettlp_gdb::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    emulator::SplitMix64,
    gdb::{
        Listen, Options, Patience,
        connection::Connection,
        event_loop,
        packet::{Decoder, Event, frame},
    },
    kernel::{
        cmdline, cross_view, dmesg, files, kconfig, maps, mm, module, process,
        task::{Scope, Task, Tasks},
    },
    machine::{Description, Machine},
    mem::PhysMem as _,
    session::Session,
    symbols::elf::ElfSymbols,
    types::dwarf::Dwarf,
    vmlinux::Vmlinux,
};

use crate::{
    corpus::targets::machine::{Change, Mutating, config, options, scatter, small},
    gdb::client::unhex,
};

const USUAL_CASES: u64 = 2000;
/// Of the words a walk is read with, sector by sector, most are none of its business.
const MAX_CHANGES: usize = 32;
const MAX_MEMORY: u64 = 64 << 20;
/// The longest of these walks takes some thousand.
const MAX_READS: u64 = 100_000;

/// Attached to while it was whole.
struct Stage {
    memory: Arc<Mutating>,
    session: Arc<Session>,
    /// A process.
    task: Task,
    /// A variable to be watched, and where it is.
    watched: (VirtAddr, PhysAddr),
    /// The configuration's pages.
    frames: Vec<PhysAddr>,
    /// The lines in them.
    configuration: BTreeSet<String>,
}

struct Walk {
    name: &'static str,
    /// What is said of the kernel, or of the process it is about.
    look: fn(&Stage) -> String,
    /// Panics when it cannot be so after these changes.
    judge: fn(&Stage, &str, &[Change]),
    /// One in so many of the others' cases: for what reads much.
    seldom: u64,
}

const fn walk(name: &'static str, look: fn(&Stage) -> String) -> Walk {
    Walk { name, look, judge: |_, _, _| {}, seldom: 1 }
}

const WALKS: [Walk; 11] = [
    walk("threads", |stage| {
        let kernel = &*stage.session.kernel;
        format!("{:?}", Tasks::resolve(kernel).and_then(|tasks| tasks.list(kernel, Scope::Threads)))
    }),
    walk("cross view", |stage| format!("{:?}", cross_view::compare(&stage.session.kernel))),
    walk("modules", |stage| format!("{:?}", module::list(&stage.session.kernel))),
    walk("log", |stage| format!("{:?}", dmesg::read(&stage.session.kernel))),
    walk("process", |stage| format!("{:?}", process::read(&stage.session.kernel, &stage.task))),
    walk("files", |stage| format!("{:?}", files::read(&stage.session.kernel, stage.task.addr))),
    walk("maps", |stage| {
        let (kernel, task) = (&*stage.session.kernel, &stage.task);
        format!("{:?}", mm::of(kernel, task.addr, task.pid).map(|mm| maps::read(kernel, &mm)))
    }),
    walk("arguments", |stage| {
        let (kernel, task) = (&*stage.session.kernel, &stage.task);
        format!("{:?}", mm::of(kernel, task.addr, task.pid).map(|mm| cmdline::cmdline(kernel, &mm)))
    }),
    Walk { judge: judge_watch, ..walk("watch", watch) },
    Walk { judge: judge_configuration, seldom: 20, ..walk("configuration", configuration) },
    Walk { seldom: 20, ..walk("symbols", symbols) },
];

impl Stage {
    fn new() -> Self {
        let machine = Machine::build(&Description { describes_itself: true, ..small() }).unwrap();
        let text = config("6.1.0", 5);
        let frames = scatter(&machine, &text);
        let directory = tempfile::tempdir().unwrap();
        let vmlinux = directory.path().join("vmlinux");
        fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
        let memory = Arc::new(Mutating::new(machine.memory()));
        let session = Session::open(options(memory.clone(), Some(vmlinux)), &|_| {}).unwrap();
        let tasks = Tasks::resolve(&session.kernel).unwrap().list(&session.kernel, Scope::Processes).unwrap();
        let task = tasks.tasks.into_iter().find(|task| task.kernel_thread == Some(false)).expect("a process");
        memory.asked();
        let watched = machine.symbol("jiffies_64").unwrap();
        let watched = (watched, session.kernel.memory.translate(watched).unwrap().phys);
        let configuration = text.lines().map(str::to_owned).collect();
        Self { memory, session: Arc::new(session), task, watched, frames, configuration }
    }

    /// What a walk says of the whole machine, and the words that lead it.
    fn whole(&self, walk: &Walk) -> (String, Vec<u64>) {
        self.session.refresh();
        self.memory.note();
        let said = (walk.look)(self);
        let words = self.memory.asked();
        match walk.name {
            // The stop after it reads whatever a debugger is shown then.
            "watch" => {
                self.memory.note();
                self.session.now.read_u64(self.watched.0).unwrap();
                (said, self.memory.asked())
            }
            // It reads all of RAM.
            "configuration" => {
                let of_frame = |frame: &PhysAddr| (frame.raw()..frame.raw() + PAGE_SIZE).step_by(8);
                (said, self.frames.iter().flat_map(of_frame).collect())
            }
            "symbols" => (said, self.memory.filled(words)),
            _ => (said, words),
        }
    }

    /// A word that led the walk, and what it may have to mislead; seen by all reads, or by some.
    fn change(&self, random: &mut SplitMix64, words: &[u64]) -> Change {
        let whole = |addr| self.memory.memory.read_u64(PhysAddr::new(addr)).unwrap_or_default();
        let addr = of(random, words);
        let value = match random.below(6) {
            0 => random.draw(),
            // A pointer or a count that is there, in another place.
            1 | 2 => whole(of(random, words)),
            3 => of(random, &[0, 1, u64::MAX, 1 << 63, 0xdead_0000_0000_0100]),
            4 => whole(addr).wrapping_add(random.draw() >> random.below(64)),
            _ => whole(addr) ^ (1 << random.below(64)),
        };
        let period = if random.below(4) == 0 { 1 + random.below(7) } else { 0 };
        Change { addr, value, period }
    }
}

fn of<T: Copy>(random: &mut SplitMix64, choices: &[T]) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

/// A debugger watches a variable, lets time pass, and ends that if nothing else does.
fn watch(stage: &Stage) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    let host = stage.session.clone();
    let served = thread::spawn(move || {
        let patience = Patience::default();
        let connection = Connection::unix(server, patience.reply).unwrap();
        let view = Options::new(Listen::Stdio).view;
        event_loop::run(connection, host, view, None, patience).is_ok()
    });
    for request in
        ["QStartNoAckMode".to_owned(), format!("Z2,{:x},8", stage.watched.0.raw()), "vCont;c".to_owned()]
    {
        client.write_all(&frame(request.as_bytes())).unwrap();
    }
    // Long enough for some readings. How many there are changes what is found, not whether it is right.
    client.set_read_timeout(Some(Duration::from_millis(8))).unwrap();
    let (mut said, mut decoder, mut buffer) = (String::new(), Decoder::default(), [0; 4096]);
    'stopped: loop {
        let len = match client.read(&mut buffer) {
            Ok(0) => panic!("the server hung up after: {said}"),
            Ok(len) => len,
            Err(_) => {
                client.write_all(b"\x03").unwrap();
                continue;
            }
        };
        for event in buffer[..len].iter().filter_map(|byte| decoder.push(*byte)) {
            let Event::Packet(body) = event else { continue };
            let body = String::from_utf8(body).unwrap();
            match body.strip_prefix('O') {
                Some(text) if text != "K" => said += &String::from_utf8(unhex(text)).unwrap(),
                _ if body.starts_with('T') => {
                    said += &body[..3];
                    break 'stopped;
                }
                _ => {}
            }
        }
    }
    drop(client);
    assert!(served.join().unwrap(), "{said}");
    said
}

/// Whoever changed only the variable sees values that it had, and two different ones.
fn judge_watch(stage: &Stage, said: &str, changes: &[Change]) {
    let place = stage.watched.1.raw();
    let Some((_, values)) = said.split_once(": old 0x") else { return };
    let (old, new) = values.split_once(", new 0x").unwrap();
    let value = |text: &str| u64::from_str_radix(text.lines().next().unwrap(), 16).unwrap();
    let (old, new) = (value(old), value(new));
    assert_ne!(old, new);
    if changes.iter().all(|change| change.addr == place) {
        let whole = stage.memory.memory.read_u64(stage.watched.1).unwrap();
        let had = |value| value == whole || changes.iter().any(|change| change.value == value);
        assert!(had(old) && had(new), "{said}");
    }
}

fn configuration(stage: &Stage) -> String {
    let go_on = &mut |_, _| ControlFlow::Continue(());
    match kconfig::recover(&stage.session.kernel, &*stage.session.phys, &[], go_on) {
        Ok(found) => found.text,
        Err(error) => format!("# {error}"),
    }
}

/// A word that was changed spoils the lines it is in, two at most; every other line is one of the file's.
fn judge_configuration(stage: &Stage, said: &str, changes: &[Change]) {
    let options = said.lines().filter(|line| line.contains("CONFIG_"));
    let foreign: Vec<&str> = options.filter(|line| !stage.configuration.contains(*line)).collect();
    assert!(foreign.len() <= 2 * changes.len(), "{foreign:?}");
}

/// Attached to without a file, which is made: whatever is in it, readers of such files can read it.
fn symbols(stage: &Stage) -> String {
    /// The whole machine's has 0.1 MiB.
    const MAX_BYTES: usize = 4 << 20;

    let session = match Session::open(options(stage.memory.clone(), None), &|_| {}) {
        Ok(session) => session,
        Err(error) => return error.to_string(),
    };
    match session.synthesize() {
        Ok(made) => {
            assert!(made.bytes.len() < MAX_BYTES, "{} bytes", made.bytes.len());
            let mut hasher = DefaultHasher::new();
            made.bytes.hash(&mut hasher);
            let said = format!("{} bytes, {:x}", made.bytes.len(), hasher.finish());
            let file = Vmlinux::from_bytes("made", made.bytes).unwrap();
            ElfSymbols::new(Arc::clone(&file)).unwrap();
            Dwarf::new(file).unwrap();
            said
        }
        Err(error) => error.to_string(),
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

    let stage = Stage::new();
    let whole: Vec<_> = WALKS.iter().map(|walk| stage.whole(walk)).collect();
    for (walk, (said, words)) in WALKS.iter().zip(&whole) {
        assert!(words.len() > 4, "{} read {} words: {said}", walk.name, words.len());
        (walk.judge)(&stage, said, &[]);
    }

    // Writing 5 there sets the peak back to what there is now.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let mut changed = BTreeMap::<&str, (u64, u64)>::new();
    for case in 0..cases {
        let (round, at) = (case / WALKS.len() as u64, case as usize % WALKS.len());
        let (walk, (whole, words)) = (&WALKS[at], &whole[at]);
        if !round.is_multiple_of(walk.seldom) {
            continue;
        }
        let mut random = SplitMix64::new(case);
        let count = 1 + random.below(MAX_CHANGES as u64);
        let changes: Vec<_> = (0..count).map(|_| stage.change(&mut random, words)).collect();
        *stage.memory.changes.lock().unwrap() = changes.clone();
        stage.memory.reads.store(0, Relaxed);
        stage.session.refresh();
        let said = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            let said = (walk.look)(&stage);
            (walk.judge)(&stage, &said, &changes);
            said
        }));
        let said = said.unwrap_or_else(|_| panic!("case {case}, {}", walk.name));
        let reads = stage.memory.reads.load(Relaxed);
        assert!(reads < MAX_READS, "case {case}, {}: {reads} reads", walk.name);
        let (of, different) = changed.entry(walk.name).or_default();
        *of += 1;
        *different += u64::from(said != *whole);
    }
    let grown = status("VmHWM:").saturating_sub(before) << 10;
    println!(
        "{cases} cases, of how many of each the outcome was another: {changed:?}; {grown} bytes more at most"
    );
    // Damage that no walk meets would test nothing.
    for walk in &WALKS {
        assert!(changed.get(walk.name).is_some_and(|(of, different)| different * 50 > *of), "{changed:?}");
    }
    if asked.is_some() {
        assert!(grown < MAX_MEMORY, "{grown} bytes");
    }
}
