//! A machine behind an adapter that remembers every address it was asked for, and the program run against it.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use nettlp_gdb::{
    addr::{PhysAddr, PhysRange},
    emulator::{self, Backing, Emulator},
    machine::Machine,
    mem::{MemError, PhysMem, PhysWrite, ReadOp, sparse::Sparse},
    session::{Options, Session, Source},
};
use tempfile::TempDir;

/// The machine's memory, remembering what was asked of it.
pub(crate) struct Asked {
    memory: Arc<Sparse>,
    reads: Mutex<Vec<(PhysAddr, u64)>>,
    writes: AtomicUsize,
    /// Whether writes are lost on the way.
    pub(crate) losing: AtomicBool,
}

impl Asked {
    pub(crate) fn of(machine: &Machine) -> Arc<Self> {
        let (reads, writes, losing) = (Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { memory: machine.memory(), reads, writes, losing })
    }

    /// Write requests that reached it, the lost ones included.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    pub(crate) fn touches(&self, range: PhysRange) -> bool {
        let reads = self.reads.lock().unwrap();
        reads.iter().any(|(addr, len)| *addr < range.end && addr.raw() + len > range.start.raw())
    }
}

impl PhysMem for Asked {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.reads.lock().unwrap().extend(ops.iter().map(|op| (op.addr, op.buf.len() as u64)));
        self.memory.read_batch(ops);
    }
}

impl PhysWrite for Asked {
    fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.losing.load(Ordering::Relaxed) { Ok(()) } else { self.memory.write(addr, data) }
    }
}

impl Backing for Asked {
    fn writer(&self) -> Option<&dyn PhysWrite> {
        Some(self)
    }
}

pub(crate) fn range(text: &str) -> PhysRange {
    text.parse().unwrap()
}

/// `len` bytes from `addr`.
pub(crate) fn bytes(addr: u64, len: u64) -> PhysRange {
    PhysRange::with_len(PhysAddr::new(addr), len).unwrap()
}

pub(crate) fn small() -> Machine {
    Machine::build(&crate::corpus::targets::machine::small()).unwrap()
}

pub(crate) fn options(machine: &Machine, memory: Arc<dyn PhysMem>, directory: &TempDir) -> Options {
    let vmlinux = directory.path().join("vmlinux");
    fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
    Options { vmlinux: Some(vmlinux), ..Options::new(Source::Memory(memory)) }
}

/// A machine that was attached to, with its vmlinux and nothing in between.
pub(crate) fn attach(machine: &Machine) -> Session {
    let directory = tempfile::tempdir().unwrap();
    Session::open(options(machine, machine.memory(), &directory), &|_| ()).unwrap()
}

/// A machine's memory in files of `directory`, and the arguments that name them.
pub(crate) fn images(machine: &Machine, directory: &TempDir) -> Vec<String> {
    let mut arguments = Vec::new();
    for range in machine.memory().ram() {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap()];
        machine.memory().read(range.start, &mut bytes).unwrap();
        let path = directory.path().join(range.start.to_string());
        fs::write(&path, bytes).unwrap();
        arguments.extend(["--image".to_owned(), format!("{}@{}", path.display(), range.start)]);
    }
    arguments
}

/// The adapter's and our own address in the bench of this number: of this process alone, because the ports are fixed and
/// test runs may run side by side.
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    let [.., high, low] = std::process::id().to_be_bytes();
    [number, number + 1].map(|last| Ipv4Addr::new(127, 32 | high & 0x1f, low, last).into())
}

/// A machine behind an adapter, and a profile of it.
pub(crate) struct Bench {
    pub(crate) asked: Arc<Asked>,
    pub(crate) adapter: Emulator,
    pub(crate) directory: TempDir,
    pub(crate) profile: PathBuf,
    pub(crate) forbidden: Vec<PhysRange>,
}

impl Bench {
    pub(crate) fn new(machine: &Machine, number: u8, directory: TempDir, forbidden: Vec<PhysRange>) -> Self {
        let [ip, local] = addresses(number);
        let asked = Asked::of(machine);
        let config = emulator::Config { ip, ..emulator::Config::default() };
        let adapter = Emulator::start(config, asked.clone()).unwrap();
        let profile = directory.path().join("host.toml");
        let quoted: Vec<String> = forbidden.iter().map(|range| format!("'{range}'")).collect();
        let text = format!(
            "[link]\nadapter = '{ip}'\nlocal = '{local}'\nrequester = '1b:00.0'\ntags = 64\n\
             [memory]\nforbidden = [{}]\n[kernel]\nvmlinux = 'vmlinux'\n",
            quoted.join(", ")
        );
        fs::write(&profile, text).unwrap();
        Self { asked, adapter, directory, profile, forbidden }
    }

    /// Allows `ranges` to be written, in the profile.
    pub(crate) fn allow_writes(&self, ranges: &[PhysRange]) {
        let quoted: Vec<String> = ranges.iter().map(|range| format!("'{range}'")).collect();
        let text = fs::read_to_string(&self.profile).unwrap();
        let memory = format!("[memory]\nwrite = [{}]\n", quoted.join(", "));
        fs::write(&self.profile, text.replace("[memory]\n", &memory)).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nettlp-gdb"));
        command.env_remove("RUST_LOG").arg(arguments[0]).arg("--profile").arg(&self.profile);
        command.args(&arguments[1..]);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must end with `code`; returns what it said on stderr.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        stderr
    }

    #[track_caller]
    pub(crate) fn nothing_forbidden_was_asked_for(self) {
        self.adapter.stop();
        for range in &self.forbidden {
            assert!(!self.asked.touches(*range), "{range} was asked for");
        }
    }
}

/// `serve` on a port of its own.
pub(crate) struct Serving(Child, pub(crate) SocketAddr);

impl Serving {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let (mut said, mut address) = (String::new(), None);
        let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
        while address.is_none() {
            let line = lines.next().unwrap_or_else(|| panic!("no address in: {said}")).unwrap();
            address = line.trim_end_matches('\'').rsplit(' ').next().and_then(|word| word.parse().ok());
            said.push_str(&line);
        }
        let address = address.unwrap();
        Self(child, address)
    }
}

impl Serving {
    /// Asks it to end, as a service manager does, and waits until it has.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        terminate(&self.0);
        self.0.wait().unwrap()
    }
}

/// Sends SIGTERM.
pub(crate) fn terminate(child: &Child) {
    let kill = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
