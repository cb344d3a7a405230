//! A dump holds what the machine holds, however often it was interrupted, and says what it lacks.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use nettlp_gdb::{
    addr::{PhysAddr, PhysRange},
    dump::{Dump, DumpError, Existing, Format, Report, elf, journal, unreadable},
    emulator::{self, Backing, Emulator},
    kernel::{
        KernelMap,
        task::{Scope, Tasks},
    },
    link::LinkError,
    machine::{Description, Machine},
    mem::{
        Fault, PhysMem, ReadOp,
        file::{ImageFile, ImageSpec},
    },
    session::{Options, Session, Source},
};
use object::{Object, ObjectSegment};
use tempfile::TempDir;

use crate::recording::addresses;

/// The demonstration's machine with less RAM.
fn small() -> Description {
    Description {
        ram: ["0-0x9fc00", "1M-48M", "52M-72M"].map(range).to_vec(),
        text_phys: PhysAddr::new(16 << 20),
        ..Description::demo()
    }
}

/// A machine, attached to, and a directory to dump into.
struct Bench {
    machine: Machine,
    session: Session,
    directory: TempDir,
    vmlinux: PathBuf,
}

impl Bench {
    fn new() -> Self {
        Self::of(&small())
    }

    fn of(description: &Description) -> Self {
        let machine = Machine::build(description).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let vmlinux = directory.path().join("vmlinux");
        fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
        let session = open(Source::Memory(machine.memory()), &vmlinux);
        Self { machine, session, directory, vmlinux }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn dump(&self, name: &str, format: Format, existing: Existing) -> Result<Report, DumpError> {
        self.dump_from(&*self.session.phys, name, format, existing)
    }

    fn dump_from(
        &self,
        phys: &dyn PhysMem,
        name: &str,
        format: Format,
        existing: Existing,
    ) -> Result<Report, DumpError> {
        let dump = Dump::open(&self.path(name), format, &self.session.kernel.map, existing)?;
        dump.run(phys, &AtomicBool::new(false), &|| false, &|_| ())
    }

    /// Dumps until `pieces` were read.
    fn interrupted(&self, name: &str, format: Format, pieces: u32) -> Report {
        let dump = Dump::open(&self.path(name), format, &self.session.kernel.map, Existing::Resume).unwrap();
        let (stop, seen) = (AtomicBool::new(false), Cell::new(0));
        let count = |_| {
            seen.set(seen.get() + 1);
            stop.store(seen.get() == pieces, Relaxed);
        };
        dump.run(&*self.session.phys, &stop, &|| false, &count).unwrap()
    }

    fn ram(&self) -> u64 {
        self.machine.truth().ram.iter().map(PhysRange::len).sum()
    }

    /// The dump must hold the machine's memory byte for byte, and nothing else.
    #[track_caller]
    fn check(&self, name: &str, expected: &[PhysRange]) {
        let image = image(&self.path(name));
        assert_eq!(image.ranges(), expected);
        for range in expected {
            for start in (range.start.raw()..range.end.raw()).step_by(1 << 20) {
                let mut ours = vec![0; (range.end.raw() - start).min(1 << 20) as usize];
                let mut theirs = vec![1; ours.len()];
                image.read(PhysAddr::new(start), &mut ours).unwrap();
                self.machine.memory().read(PhysAddr::new(start), &mut theirs).unwrap();
                assert!(ours == theirs, "{start:#x}");
            }
        }
    }
}

fn open(source: Source, vmlinux: &Path) -> Session {
    let options = Options { vmlinux: Some(vmlinux.to_owned()), ..Options::new(source) };
    Session::open(options, &|_| ()).unwrap()
}

fn spec(path: &Path) -> ImageSpec {
    path.to_str().unwrap().parse().unwrap()
}

fn image(path: &Path) -> ImageFile {
    ImageFile::open(&[spec(path)]).unwrap()
}

fn processes(session: &Session) -> Vec<(i32, String)> {
    let tasks = Tasks::resolve(&session.kernel).unwrap().list(&session.kernel, Scope::Threads).unwrap();
    tasks.tasks.into_iter().map(|task| (task.pid, task.comm)).collect()
}

fn range(text: &str) -> PhysRange {
    text.parse().unwrap()
}

#[test]
fn both_formats_hold_the_machine_and_open_as_images() {
    for description in [small(), small().panicked()] {
        let bench = Bench::of(&description);
        for (name, format) in [("raw", Format::Raw), ("elf", Format::Elf)] {
            let report = bench.dump(name, format, Existing::Refuse).unwrap();
            assert!(report.is_complete() && !report.interrupted);
            assert_eq!((report.ram, report.read, report.kept), (bench.ram(), bench.ram(), 0));
            assert!(report.unreadable.is_empty());
            let size = fs::metadata(bench.path(name)).unwrap();
            assert!(size.blocks() * 512 < size.len() / 4, "pages of zeros are holes");
            assert!(!journal::path(&bench.path(name)).exists());

            let again = open(Source::Images(vec![spec(&bench.path(name))]), &bench.vmlinux);
            assert_eq!(processes(&again), processes(&bench.session));
            assert_eq!(again.kernel.map.ram, bench.session.kernel.map.ram);
        }
        bench.check("elf", &bench.machine.truth().ram);
        let last = bench.machine.truth().ram.last().unwrap().end;
        assert_eq!(image(&bench.path("raw")).ranges(), [PhysRange::new(PhysAddr::new(0), last).unwrap()]);
    }
}

#[test]
fn the_core_is_laid_out_as_vmcore() {
    let bench = Bench::new();
    bench.dump("elf", Format::Elf, Existing::Refuse).unwrap();
    let bytes = fs::read(bench.path("elf")).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    assert_eq!((file.kind(), file.architecture()), (object::ObjectKind::Core, object::Architecture::X86_64));
    let segments: Vec<_> = file.segments().map(|segment| (segment.address(), segment.size())).collect();
    let truth = bench.machine.truth();
    let base = truth.bases.page_offset;
    let mut expected: Vec<_> =
        truth.ram.iter().map(|range| (base.wrapping_add(range.start.raw()).raw(), range.len())).collect();
    expected.push((truth.text.raw(), bench.session.kernel.map.image.len()));
    assert_eq!(segments, expected);
    let banner = &bytes[file.segments().last().unwrap().file_range().0 as usize..];
    let mut text = vec![0; 64];
    bench.machine.memory().read(truth.text_phys, &mut text).unwrap();
    assert_eq!(&banner[..64], text);
    assert!(bytes[..8192].windows(11).any(|window| window == b"VMCOREINFO\0"));
    let release = format!("OSRELEASE={}\n", truth.release);
    assert!(bytes[..8192].windows(release.len()).any(|window| window == release.as_bytes()));
}

#[test]
fn ranges_that_touch_are_one() {
    let bench = Bench::new();
    let given = ["52M-72M", "0-0x9fc00", "20M-48M", "1M-20M"].map(range).to_vec();
    let options = Options { ram: given, ..Options::new(Source::Memory(bench.machine.memory())) };
    let session = Session::open(options, &|_| ()).unwrap();
    session.phys.read(PhysAddr::new((20 << 20) - 8), &mut [0; 16]).unwrap();
    // And if they were not, that would be said.
    let ram = vec![range("1M-20M"), range("20M-48M")];
    let map = KernelMap { ram, ..session.kernel.map.clone() };
    let dump = Dump::open(&bench.path("elf"), Format::Elf, &map, Existing::Refuse).unwrap();
    let error = dump.run(&*session.phys, &AtomicBool::new(false), &|| false, &|_| ()).unwrap_err();
    assert!(matches!(error, DumpError::NoLayout(_)), "{error}");
}

#[test]
fn an_existing_file_is_not_touched_unasked() {
    let bench = Bench::new();
    fs::write(bench.path("raw"), b"precious").unwrap();
    let refuse = bench.dump("raw", Format::Raw, Existing::Refuse).unwrap_err();
    assert!(refuse.to_string().contains("exists: --resume"), "{refuse}");
    let resume = bench.dump("raw", Format::Raw, Existing::Resume).unwrap_err();
    assert!(matches!(resume, DumpError::NoJournal { .. }));
    assert_eq!(fs::read(bench.path("raw")).unwrap(), b"precious");
    bench.dump("raw", Format::Raw, Existing::Overwrite).unwrap();
    assert_ne!(fs::read(bench.path("raw")).unwrap()[..8], *b"precious");
}

#[test]
fn a_file_has_one_writer() {
    let bench = Bench::new();
    let map = &bench.session.kernel.map;
    let path = bench.path("elf");
    let first = Dump::open(&path, Format::Elf, map, Existing::Refuse).unwrap();
    for existing in [Existing::Resume, Existing::Overwrite] {
        let second = Dump::open(&path, Format::Elf, map, existing).unwrap_err();
        assert!(matches!(second, DumpError::Busy { .. }), "{second}");
    }
    let report = first.run(&*bench.session.phys, &AtomicBool::new(false), &|| false, &|_| ()).unwrap();
    assert!(report.is_complete());
    bench.check("elf", map.ram.as_slice());
    bench.dump("elf", Format::Elf, Existing::Overwrite).unwrap();
}

#[test]
fn an_interrupted_dump_ends_as_an_uninterrupted_one() {
    let bench = Bench::new();
    for (whole, name, format) in [("whole.raw", "raw", Format::Raw), ("whole.elf", "elf", Format::Elf)] {
        bench.dump(whole, format, Existing::Refuse).unwrap();
        let first = bench.interrupted(name, format, 5);
        assert!(first.interrupted && !first.is_complete());
        let second = bench.interrupted(name, format, 7);
        assert_eq!(second.kept, first.read);

        let counted = Counted { inner: &*bench.session.phys, bytes: AtomicU64::new(0) };
        let last = bench.dump_from(&counted, name, format, Existing::Resume).unwrap();
        assert_eq!(last.kept, first.read + second.read);
        assert_eq!(counted.bytes.load(Relaxed), bench.ram() - last.kept, "nothing stored is read again");
        assert!(fs::read(bench.path(name)).unwrap() == fs::read(bench.path(whole)).unwrap());
    }
}

#[test]
fn an_interrupted_core_says_what_it_holds() {
    let bench = Bench::new();
    let report = bench.interrupted("elf", Format::Elf, 3);
    let held: u64 = image(&bench.path("elf")).ranges().iter().map(PhysRange::len).sum();
    assert_eq!(held, report.read);
}

#[test]
fn a_core_claims_nothing_that_was_seen_to_be_damaged() {
    let bench = Bench::new();
    let report = bench.interrupted("elf", Format::Elf, 3);
    let path = bench.path("elf");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x5a; 100], elf::HEADER_LEN + (2 << 20)).unwrap();
    // Killed before it has read anything.
    drop(Dump::open(&path, Format::Elf, &bench.session.kernel.map, Existing::Resume).unwrap());
    let held: u64 = image(&path).ranges().iter().map(PhysRange::len).sum();
    assert!(held > 0 && held < report.read, "{held} of {}", report.read);
}

/// What may be left behind by a kill or a crash: a journal cut in the middle of a line, lines whose bytes never
/// reached the disk, bytes without a line, lines that make no sense.
#[test]
fn a_resume_believes_only_what_it_sees() {
    let bench = Bench::new();
    bench.dump("whole", Format::Raw, Existing::Refuse).unwrap();
    let whole = fs::read(bench.path("whole")).unwrap();
    let (path, journal) = (bench.path("raw"), journal::path(&bench.path("raw")));
    let image = bench.session.kernel.map.image.start.raw();

    // The kernel image's first piece is damaged behind its line, the journal's last line is cut.
    let dump = Dump::open(&path, Format::Raw, &bench.session.kernel.map, Existing::Refuse).unwrap();
    let (stop, done) = (AtomicBool::new(false), Cell::new(0));
    dump.run(&*bench.session.phys, &stop, &|| false, &|bytes| {
        done.set(bytes);
        stop.store(bytes > image + (3 << 20), Relaxed);
    })
    .unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x5a; 100], image + 17).unwrap();
    // Where nothing is stored, a killed run left something that is zero by now.
    file.write_all_at(&[0xa5; 0x3000], whole.len() as u64 - 0x5000).unwrap();
    let lines = fs::read(&journal).unwrap();
    let mut cut = lines[..lines.len() - 9].to_vec();
    let entries = cut.split(|byte| *byte == b'\n').count() as u64 - 2;
    fs::write(&journal, &cut).unwrap();

    let report = bench.dump("raw", Format::Raw, Existing::Resume).unwrap();
    assert_eq!(report.damaged, 1 << 20);
    assert!(report.kept > 0 && report.kept <= (entries - 1) << 20);
    assert!(fs::read(&path).unwrap() == whole);

    // Hostile lines: outside RAM, twice, reversed, endless.
    bench.interrupted("raw2", Format::Raw, 6);
    let journal = journal::path(&bench.path("raw2"));
    cut = fs::read(&journal).unwrap();
    let second = cut.split(|byte| *byte == b'\n').nth(1).unwrap().to_vec();
    for line in [
        second.as_slice(),
        br#"{"start":0,"end":18446744073709551615,"sum":1}"#,
        br#"{"start":655360,"end":655361,"sum":1}"#,
        br#"{"start":9,"end":3,"sum":1}"#,
        b"nonsense",
    ] {
        cut.extend_from_slice(line);
        cut.push(b'\n');
    }
    fs::write(&journal, &cut).unwrap();
    bench.dump("raw2", Format::Raw, Existing::Resume).unwrap();
    assert!(fs::read(bench.path("raw2")).unwrap() == whole);
}

#[test]
fn another_target_is_refused() {
    let bench = Bench::new();
    bench.interrupted("raw", Format::Raw, 2);
    let format = bench.dump("raw", Format::Elf, Existing::Resume).unwrap_err();
    assert!(format.to_string().contains("another format: raw, now elf"), "{format}");
    let other = Bench::of(&Description { slide: 0, ..small() });
    let path = bench.path("raw");
    let refused = Dump::open(&path, Format::Raw, &other.session.kernel.map, Existing::Resume).unwrap_err();
    assert!(matches!(refused, DumpError::OtherTarget { .. }), "{refused}");
    assert!(bench.dump("raw", Format::Raw, Existing::Resume).unwrap().is_complete());
}

#[test]
fn unreadable_memory_is_listed_and_absent() {
    let bench = Bench::new();
    let ram = bench.machine.truth().ram.clone();
    let last = ram.last().unwrap();
    let at = last.end.raw() - (5 << 20);
    let holes = [
        range(&format!("{at:#x}-{:#x}", at + 0x2000)),
        range(&format!("{0:#x}-{1:#x}", at + (1 << 20), at + (3 << 20))),
    ];
    let broken = Broken { inner: &*bench.session.phys, holes: holes.to_vec(), dead: Mutex::default() };
    let report = bench.dump_from(&broken, "elf", Format::Elf, Existing::Refuse).unwrap();
    assert!(!report.is_complete() && !report.interrupted);
    assert_eq!(report.unreadable.iter().map(|unreadable| unreadable.range).collect::<Vec<_>>(), holes);
    assert_eq!(report.unreadable_bytes(), 0x2000 + (2 << 20));
    assert_eq!(report.read, bench.ram() - report.unreadable_bytes());
    let list = fs::read_to_string(unreadable::path(&bench.path("elf"))).unwrap();
    assert_eq!(list.lines().count(), 2);
    assert!(list.starts_with(&format!("{} the target has nothing at", holes[0])), "{list}");

    let mut expected = ram[..ram.len() - 1].to_vec();
    for (start, end) in
        [(last.start, holes[0].start), (holes[0].end, holes[1].start), (holes[1].end, last.end)]
    {
        expected.push(PhysRange::new(start, end).unwrap());
    }
    bench.check("elf", &expected);

    let mut files =
        ["", ".unreadable", ".nettlp-dump"].map(|suffix| bench.path(&format!("elf{suffix}"))).into_iter();
    assert!(files.all(|file| fs::metadata(file).unwrap().mode() & 0o777 == 0o600));

    // It answers later: only that is read, and the list goes away.
    let report = bench.dump("elf", Format::Elf, Existing::Resume).unwrap();
    assert_eq!(report.read, 0x2000 + (2 << 20));
    assert!(report.is_complete() && !unreadable::path(&bench.path("elf")).exists());
    bench.check("elf", &ram);
}

#[test]
fn a_target_that_dies_ends_the_dump_and_keeps_what_there_is() {
    let bench = Bench::new();
    let broken = Broken { inner: &*bench.session.phys, holes: Vec::new(), dead: Mutex::new(Some(4)) };
    let lost = bench.dump_from(&broken, "elf", Format::Elf, Existing::Refuse).unwrap_err();
    assert!(matches!(lost, DumpError::Lost(_)), "{lost}");
    let report = bench.dump("elf", Format::Elf, Existing::Resume).unwrap();
    assert!(report.kept > 0 && report.is_complete());
    bench.check("elf", &bench.machine.truth().ram);
}

/// A machine that is another one once a page was read that is free, and that nothing but a dump reads.
struct Rebooting {
    boots: [Arc<dyn PhysMem>; 2],
    free: PhysRange,
    anew: AtomicBool,
}

impl PhysMem for Rebooting {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.boots[usize::from(self.anew.load(Relaxed))].read_batch(ops);
        self.anew.fetch_or(ops.iter().any(|op| self.free.contains(op.addr, 1)), Relaxed);
    }
}

impl Backing for Rebooting {}

#[test]
fn memory_of_two_boots_is_no_dump() {
    let bench = Bench::new();
    let dump =
        Dump::open(&bench.path("elf"), Format::Elf, &bench.session.kernel.map, Existing::Refuse).unwrap();
    let done = Cell::new(0);
    let error = dump.run(&*bench.session.phys, &AtomicBool::new(false), &|| true, &|bytes| done.set(bytes));
    assert!(matches!(error.unwrap_err(), DumpError::BootedAnew));
    assert!(done.get() > 0 && done.get() < bench.ram(), "not only in the end");

    let anew = Machine::build(&Description { slide: 0, ..small() }).unwrap();
    let host = Rebooting {
        boots: [bench.machine.memory(), anew.memory()],
        free: PhysRange::with_len(PhysAddr::new(30 << 20), 4096).unwrap(),
        anew: AtomicBool::new(false),
    };
    let [ip, local] = addresses(71);
    let config = emulator::Config { ip, ..emulator::Config::default() };
    let adapter = Emulator::start(config, Arc::new(host)).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("nettlp-gdb").unwrap();
    command.current_dir(bench.directory.path()).env_remove("RUST_LOG");
    command.args([
        "dump",
        "-q",
        "--vmlinux",
        "vmlinux",
        "-o",
        "raw",
        "--format",
        "raw",
        "--requester",
        "1b:00.0",
    ]);
    let output =
        command.args(["--adapter", &ip.to_string(), "--local", &local.to_string()]).output().unwrap();
    adapter.stop();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the file has memory of both boots and is no dump of either"), "{stderr}");
    assert!(journal::path(&bench.path("raw")).exists());
}

/// Counts the bytes asked for.
struct Counted<'m> {
    inner: &'m dyn PhysMem,
    bytes: AtomicU64,
}

impl PhysMem for Counted<'_> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.bytes.fetch_add(ops.iter().map(|op| op.buf.len() as u64).sum(), Relaxed);
        self.inner.read_batch(ops);
    }
}

/// Memory with holes that answer Unsupported Request, and that may go silent after some batches.
struct Broken<'m> {
    inner: &'m dyn PhysMem,
    holes: Vec<PhysRange>,
    dead: Mutex<Option<u32>>,
}

impl PhysMem for Broken<'_> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let mut dead = self.dead.lock().unwrap();
        let silent = dead.as_mut().is_some_and(|left| {
            *left = left.saturating_sub(1);
            *left == 0
        });
        self.inner.read_batch(ops);
        for op in ops {
            let (addr, len) = (op.addr, op.buf.len());
            let end = addr.checked_add(len as u64).unwrap();
            if silent {
                op.buf.fill(0xee);
                op.fail(Fault::Link(LinkError::Timeout { addr, len, attempts: 4 }));
            } else if self.holes.iter().any(|hole| addr < hole.end && end > hole.start) {
                op.buf.fill(0xee);
                op.fail(Fault::Link(LinkError::UnsupportedRequest { addr, len }));
            }
        }
    }
}

#[test]
fn the_command_says_what_it_did() {
    let bench = Bench::new();
    let mut ram = File::create(bench.path("ram")).unwrap();
    bench.dump("ram.raw", Format::Raw, Existing::Refuse).unwrap();
    ram.write_all(&fs::read(bench.path("ram.raw")).unwrap()).unwrap();
    let run = |extra: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("nettlp-gdb").unwrap();
        command.current_dir(bench.directory.path()).args(["dump", "--image", "ram", "--vmlinux", "vmlinux"]);
        command.args(extra).env_remove("RUST_LOG").output().unwrap()
    };
    let output = run(&["-o", "out.elf", "--json"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["read_bytes"], bench.ram());
    assert_eq!(summary["asked_twice_bytes"], 0);
    assert_eq!(summary["complete"], true);
    bench.check("out.elf", &bench.machine.truth().ram);

    for (arguments, says) in [
        (&["-o", "out.elf"][..], "--overwrite"),
        (&["-o", "out.elf", "--resume"], "nothing to resume"),
        (&["-o", "ram", "--overwrite"], "read from"),
    ] {
        let output = run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
    // An image that ends before the RAM does: the rest is listed, and the exit code says so.
    let short = fs::metadata(bench.path("ram")).unwrap().len() - (1 << 20);
    let mut command = assert_cmd::Command::cargo_bin("nettlp-gdb").unwrap();
    let part = command
        .current_dir(bench.directory.path())
        .args(["dump", "--vmlinux", "vmlinux", "-o", "part.elf", "--image", &format!("ram@0,len={short}")])
        .output()
        .unwrap();
    let stderr = String::from_utf8(part.stderr).unwrap();
    assert_eq!(part.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("could not be read; they are not in the core"), "{stderr}");
}
