//! A small machine whose memory lies, and everything that is read of a kernel.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use nettlp_gdb::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange},
    gdb::{Host as _, ThreadFilter},
    kernel::{
        Kernel, bt, cmdline, cross_view, dmesg, files,
        halted::Halted,
        info::Info,
        maps, mm, module, module_symbols, percpu, process,
        task::{Scope, Task, Tasks, details},
        timekeeper, user,
    },
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite as _, ReadOp},
    session::{Options, Session, Source},
    synth::SymbolFile,
    vmlinux::Vmlinux,
};

/// The machine's memory with some words changed, each the same at every read or another one each time.
pub struct Mutating {
    pub memory: Arc<dyn PhysMem>,
    pub changes: Mutex<Vec<Change>>,
    /// Where the kernel was read when it was whole: the words worth changing.
    asked: Mutex<Vec<u64>>,
    recording: AtomicBool,
    pub reads: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub addr: u64,
    pub value: u64,
    /// Only every so many-th read sees it; 0: all do.
    pub period: u64,
}

impl PhysMem for Mutating {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.memory.read_batch(ops);
        if self.recording.load(Relaxed) {
            let words = ops
                .iter()
                .flat_map(|op| (op.addr.raw() & !7..op.addr.raw() + op.buf.len() as u64).step_by(8));
            self.asked.lock().expect("one thread").extend(words);
        }
        let reads = self.reads.fetch_add(ops.len() as u64, Relaxed);
        let changes = self.changes.lock().expect("one thread");
        for op in ops {
            for change in
                changes.iter().filter(|change| change.period == 0 || reads.is_multiple_of(change.period))
            {
                for (at, byte) in (change.addr..).zip(change.value.to_le_bytes()) {
                    let place = at.checked_sub(op.addr.raw()).and_then(|place| usize::try_from(place).ok());
                    if let Some(target) = place.and_then(|place| op.buf.get_mut(place)) {
                        *target = byte;
                    }
                }
            }
        }
    }
}

pub struct Target {
    pub memory: Arc<Mutating>,
    pub session: Arc<Session>,
    /// The words that led to each answer while it was whole; the last of them to all answers.
    pub words: Vec<Vec<u64>>,
}

impl Mutating {
    /// `memory` as it is, the words that are read being noted.
    pub fn new(memory: Arc<dyn PhysMem>) -> Self {
        Self {
            memory,
            changes: Mutex::default(),
            asked: Mutex::default(),
            recording: true.into(),
            reads: AtomicU64::new(0),
        }
    }

    /// From now on the words that are read are noted.
    pub fn note(&self) {
        self.recording.store(true, Relaxed);
    }

    /// Those of `words` that are not 0: of a table that was read as a whole, the part that says something.
    pub fn filled(&self, mut words: Vec<u64>) -> Vec<u64> {
        words.retain(|word| self.memory.read_u64(PhysAddr::new(*word)).is_ok_and(|value| value != 0));
        words
    }

    /// The words that were read so far; no more of them are noted.
    pub fn asked(&self) -> Vec<u64> {
        self.recording.store(false, Relaxed);
        let mut words = std::mem::take(&mut *self.asked.lock().expect("one thread"));
        words.sort_unstable();
        words.dedup();
        words
    }
}

/// How a session over `memory` is opened.
pub fn options(memory: Arc<Mutating>, vmlinux: Option<std::path::PathBuf>) -> Options {
    Options { vmlinux, ..Options::new(Source::Memory(memory)) }
}

/// A machine of 48 MiB.
pub fn small() -> Description {
    let range = |text: &str| -> PhysRange { text.parse().expect("a range") };
    Description {
        ram: ["0-0x9fc00", "1M-48M"].map(range).to_vec(),
        text_phys: PhysAddr::new(16 << 20),
        ..Description::demo()
    }
}

/// A configuration's file of that version, whose options depend on `unset`.
pub fn config(version: &str, unset: usize) -> String {
    let mut text = format!(
        "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 {version} Kernel Configuration\n#\n"
    );
    for n in 0..1000 {
        match n % unset {
            0 => text += &format!("# CONFIG_SYNTHETIC_DRIVER_{n} is not set\n"),
            1 => text += &format!("CONFIG_SYNTHETIC_DRIVER_{n}={}\n", n * 7),
            _ => text += &format!("CONFIG_SYNTHETIC_DRIVER_{n}=m\n"),
        }
    }
    text
}

/// Frames of RAM that nothing was written to, from its end.
fn free_frames(machine: &Machine) -> impl Iterator<Item = PhysAddr> {
    let memory = machine.memory();
    let range = memory.ram().last().copied().expect("RAM");
    let frames = (range.start.raw() / PAGE_SIZE..range.end.raw() / PAGE_SIZE).rev();
    frames.map(|frame| PhysAddr::new(frame * PAGE_SIZE)).filter(move |frame| {
        let mut page = [0; PAGE_SIZE as usize];
        memory.read(*frame, &mut page).is_ok() && page == [0; PAGE_SIZE as usize]
    })
}

/// Puts the pages of `text` into every other free frame, first the odd ones, then the even ones; says where.
pub fn scatter(machine: &Machine, text: &str) -> Vec<PhysAddr> {
    let pages: Vec<&[u8]> = text.as_bytes().chunks(PAGE_SIZE as usize).collect();
    let frames: Vec<PhysAddr> = free_frames(machine).step_by(2).take(pages.len()).collect();
    assert_eq!(frames.len(), pages.len());
    let (even, odd): (Vec<_>, Vec<_>) = pages.iter().enumerate().partition(|(n, _)| n % 2 == 0);
    for (frame, (_, page)) in frames.iter().zip(odd.into_iter().chain(even)) {
        machine.memory().write(*frame, page).expect("RAM");
    }
    frames
}

/// A kernel's file.
pub fn vmlinux(description: &Description) -> Arc<Vmlinux> {
    let bytes = Machine::build(description).expect("a machine").vmlinux().expect("a vmlinux");
    Vmlinux::from_bytes("vmlinux", bytes).expect("an ELF file")
}

/// Of how many processes the memory is read.
pub const PROCESSES: usize = 4;

/// A small machine, attached to while it was whole.
pub fn target() -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let machine = Machine::build(&small()).expect("a machine");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let vmlinux = machine.vmlinux().expect("a vmlinux");
        std::fs::write(file.path(), &vmlinux).expect("a file");
        let memory = Arc::new(Mutating::new(machine.memory()));
        let options = options(memory.clone(), Some(file.path().to_owned()));
        let mut session = Session::open(options, &|_| {}).expect("a session");
        session.symbol_file = Some(SymbolFile { path: "/vmlinux".to_owned(), bytes: Arc::new(vmlinux) });
        // What led to the kernel itself is not what leads a walk.
        memory.asked();
        let mut words: Vec<Vec<u64>> = QUESTIONS
            .iter()
            .map(|ask| {
                session.refresh();
                memory.note();
                ask(&session.kernel, PROCESSES);
                memory.asked()
            })
            .collect();
        memory.note();
        session.threads(&ThreadFilter::All);
        let mut all = [memory.asked(), words.concat()].concat();
        all.sort_unstable();
        all.dedup();
        // What only asks what the session knows reads nothing.
        for words in words.iter_mut().filter(|words| words.is_empty()) {
            words.clone_from(&all);
        }
        words.push(all);
        Target { memory, session: Arc::new(session), words }
    })
}

/// One thing a command reads of a kernel, and of so many of its processes.
type Question = fn(&Kernel, usize);

pub const QUESTIONS: [Question; 11] = [
    |kernel, _| {
        let _ = list(kernel, Scope::Processes);
    },
    |kernel, _| {
        let _ = details(kernel, &list(kernel, Scope::Threads));
    },
    processes,
    |kernel, _| {
        let _ = dmesg::read(kernel)
            .map(|log| log.records.iter().map(|record| record.lines().count()).sum::<usize>());
    },
    |kernel, _| {
        let _ = module::list(kernel);
    },
    |kernel, _| {
        let _ = module_symbols::list(kernel);
    },
    |kernel, _| {
        let _ = (percpu::cpus(kernel), timekeeper::booted(kernel));
    },
    |kernel, _| {
        let _ = Info::of(kernel);
    },
    |kernel, _| {
        let _ = cross_view::compare(kernel);
    },
    |kernel, _| {
        let _ = Halted::find(kernel).map(|halted| halted.panicked());
    },
    |kernel, _| {
        let _ = bt::read(kernel, bt::Which::All, None);
    },
];

fn list(kernel: &Kernel, scope: Scope) -> Vec<Task> {
    let list = Tasks::resolve(kernel).and_then(|tasks| tasks.list(kernel, scope));
    list.map(|list| list.tasks).unwrap_or_default()
}

/// The first task and the first `most - 1` that have memory of their own.
fn processes(kernel: &Kernel, most: usize) {
    let processes = list(kernel, Scope::Processes);
    let users = processes.iter().filter(|task| task.kernel_thread != Some(true));
    for task in processes.iter().take(1).chain(users).take(most) {
        let _ = (process::read(kernel, task), files::read(kernel, task.addr));
        let Ok(mm) = mm::of(kernel, task.addr, task.pid) else { continue };
        let _ = (cmdline::cmdline(kernel, &mm), cmdline::environ(kernel, &mm));
        for map in maps::read(kernel, &mm).map(|maps| maps.maps).unwrap_or_default().iter().take(8) {
            let _ = user::read_prefix(kernel, &mm, map.start, &mut [0; 64]);
        }
    }
}

/// Everything a command reads of a kernel, and of `most` of its processes.
pub fn everything(kernel: &Kernel, most: usize) {
    for ask in QUESTIONS {
        ask(kernel, most);
    }
}
