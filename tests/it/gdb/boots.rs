//! A machine that is booted anew while it is served.

use std::{
    fs::File,
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use nettlp_gdb::{
    addr::{PhysAddr, VirtAddr},
    gdb::{Host, Hosts},
    machine::{Bases, Description, Machine},
    mem::{Fault, MemError, PhysMem, ReadOp},
    session::{Options, Session, Source},
};

use super::{
    client::Client,
    fake::{self, FakeHost, INIT_TASK},
    lifecycle::connect_when_free,
    real_gdb::gdb,
};
use nettlp_gdb::gdb::packet::frame;

const SENTENCE: &str = "the host was booted anew since this debugger attached";

#[test]
fn who_is_attached_is_told_and_shown_nothing_more() {
    let host = FakeHost::new();
    let booted = host.booted_anew.clone();
    let server = fake::serve(host);
    let mut client = Client::connect(server.address);
    assert!(client.monitor("info").starts_with("the fake machine\n"));
    client.raw(&frame(b"vCont;c"));
    client.console();
    booted.store(true, Ordering::Relaxed);
    client.raw(b"\x03");
    assert!(client.console_until("T02thread:989680;").starts_with(SENTENCE));
    for line in ["info", "refresh", "frob"] {
        assert!(client.monitor(line).starts_with(SENTENCE), "{line}");
    }
    assert_eq!(client.memory(INIT_TASK, 7).unwrap_err(), "E05");
    assert!(client.ask("g").starts_with(&format!("E.{SENTENCE}")));
    assert!(client.monitor("help").contains("monitor info version"));
    assert_eq!(client.ask("D"), "OK");
}

#[test]
fn a_command_notices_by_itself() {
    let host = FakeHost::new();
    let booted = host.booted_anew.clone();
    let server = fake::serve(host);
    let mut client = Client::connect(server.address);
    assert_eq!(client.memory(INIT_TASK, 7).unwrap(), b"swapper");
    booted.store(true, Ordering::Relaxed);
    assert!(client.monitor("info").starts_with(SENTENCE));
    booted.store(false, Ordering::Relaxed);
    assert!(client.monitor("info").starts_with(SENTENCE), "what the client knows stays wrong");
}

#[test]
fn who_comes_later_is_refused_where_nobody_can_look_again() {
    let host = FakeHost::new();
    host.booted_anew.store(true, Ordering::Relaxed);
    let server = fake::serve(host);
    let text = gdb(None, &server.address.to_string(), &[]);
    assert!(text.contains("the host was booted anew since its kernel was found"), "{text}");
}

/// Machines, one boot after the other.
struct Boots {
    seen: Mutex<Option<Arc<dyn Host>>>,
    next: Mutex<Vec<FakeHost>>,
}

impl Hosts for Boots {
    fn found(&self) -> Option<Arc<dyn Host>> {
        self.seen.lock().unwrap().clone().filter(|host| !host.booted_anew())
    }

    fn find(&self) -> Result<Arc<dyn Host>, String> {
        let host = self.next.lock().unwrap().pop().ok_or("no kernel is there yet")?;
        Ok(Arc::clone(self.seen.lock().unwrap().insert(Arc::new(host))))
    }
}

#[test]
fn who_comes_later_sees_the_new_boot() {
    let (first, second) = (FakeHost::new(), FakeHost::without_slide());
    let booted = first.booted_anew.clone();
    let boots = Boots { seen: Mutex::default(), next: Mutex::new(vec![second, first]) };
    let server = fake::serve_any(Arc::new(boots));
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask("qOffsets"), "TextSeg=ffffffff92000000");
    booted.store(true, Ordering::Relaxed);
    drop(client);
    let mut client = connect_when_free(server.address);
    assert_eq!(client.ask("qOffsets"), "", "not the slide of the boot before");
    assert_eq!(client.memory(INIT_TASK, 7).unwrap(), b"swapper");
}

#[test]
fn a_kernel_that_is_not_there_yet_is_looked_for_each_time() {
    let boots = Arc::new(Boots { seen: Mutex::default(), next: Mutex::default() });
    let server = fake::serve_any(boots.clone());
    let refused = gdb(None, &server.address.to_string(), &[]);
    assert!(refused.contains("no kernel is there yet"), "{refused}");
    boots.next.lock().unwrap().push(FakeHost::new());
    let text = gdb(None, &server.address.to_string(), &["info threads"]);
    assert!(text.contains("* 1    Thread 10000000 \"swapper/0\""), "{text}");
}

/// The memory of a host before a reset and after it; a link that may be down.
struct Reset {
    boots: [Arc<dyn PhysMem>; 2],
    anew: AtomicBool,
    down: AtomicBool,
}

impl PhysMem for Reset {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        if self.down.load(Ordering::Relaxed) {
            for op in ops {
                op.result = Err(MemError { addr: op.addr, len: op.buf.len(), fault: Fault::NotAttempted });
            }
            return;
        }
        self.boots[usize::from(self.anew.load(Ordering::Relaxed))].read_batch(ops);
    }
}

fn session(memory: Arc<dyn PhysMem>, machine: &Machine, with_file: bool) -> Session {
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    File::create(&vmlinux).unwrap().write_all(&machine.vmlinux().unwrap()).unwrap();
    let options = Options { vmlinux: with_file.then_some(vmlinux), ..Options::new(Source::Memory(memory)) };
    Session::open(options, &|_| ()).unwrap()
}

#[test]
fn a_boot_is_told_from_the_one_before() {
    let first = Description::demo();
    let machine = Machine::build(&first).unwrap();
    let bases = machine.truth().bases;
    let moved = |base: VirtAddr| base.wrapping_add(1 << 30);
    let other = |change: &dyn Fn(&mut Description)| {
        let mut description = Description::demo();
        change(&mut description);
        Machine::build(&description).unwrap()
    };
    let boots = [
        ("another slide", other(&|d| d.slide += 2 << 20)),
        ("another place", other(&|d| d.text_phys = d.text_phys.wrapping_add(2 << 20))),
        ("another kernel", other(&|d| d.release = "6.12.0-other".to_owned())),
        (
            "another direct map",
            other(&|d| {
                d.bases = Some(Bases {
                    page_offset: moved(bases.page_offset),
                    vmalloc: moved(bases.vmalloc),
                    vmemmap: moved(bases.vmemmap),
                })
            }),
        ),
        (
            "a trampoline elsewhere",
            other(&|d| {
                d.slide += 2 << 20;
                d.real_mode = d.real_mode.map(|place| PhysAddr::new(place.raw() - 0x8000));
            }),
        ),
    ];
    for (what, anew) in boots {
        for with_file in [true, false] {
            let boots = [machine.memory() as _, anew.memory() as _];
            let host = Arc::new(Reset { boots, anew: AtomicBool::new(false), down: AtomicBool::new(false) });
            let mut session = session(host.clone(), &machine, with_file);
            session.mark_boot();
            assert!(!session.booted_anew(), "{what}: nothing has happened");
            host.down.store(true, Ordering::Relaxed);
            assert!(!session.booted_anew(), "{what}: a dead link proves nothing");
            host.down.store(false, Ordering::Relaxed);
            host.anew.store(true, Ordering::Relaxed);
            assert!(session.booted_anew(), "{what}, with a vmlinux: {with_file}");
        }
    }
}
