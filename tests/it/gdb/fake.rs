//! A machine with a small kernel that is never read from anywhere, served on a port of its own.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use nettlp_gdb::{
    addr::{PhysAddr, VirtAddr},
    gdb::{
        self, Gone, Host, Hosts, MonitorError, PercpuRebase, Register, Registers, ServeError, Server,
        Stopper, TaskId, Thread, ThreadFilter, tid,
    },
    kernel::KernelError,
    paging::{VirtError, VirtFault, VirtOp},
    synth::SymbolFile,
};

/// Where the fake kernel is linked; `vmlinux.s` and `vmlinux.lds` say the same.
pub(super) const TEXT: u64 = 0xffff_ffff_8100_0000;
pub(super) const PER_CPU_OFFSET: u64 = TEXT + 0x100;
const DATA: u64 = 0xffff_ffff_8200_0000;
/// How far from there it runs.
pub(super) const SLIDE: u64 = 0x1100_0000;
/// The per-CPU area of CPU 0; each CPU has one such page.
pub(super) const PERCPU_AREA: u64 = 0xffff_8880_0010_0000;
pub(super) const CPUS: u64 = 2;
pub(super) const PAGE: usize = 4096;

/// What the file with the fake kernel's symbols is called.
pub(super) const SYMBOL_FILE: &str = "/vmlinux";

/// Run-time address of `init_task`.
pub(super) const INIT_TASK: u64 = DATA + SLIDE;

pub(super) struct FakeHost {
    pages: BTreeMap<u64, Vec<u8>>,
    slide_known: bool,
    pub(super) refreshes: Arc<AtomicU64>,
    /// Bytes that the machine has written since, for who does not look at a cache.
    pub(super) written: Arc<Mutex<BTreeMap<u64, u8>>>,
    /// Held by who wants the list of threads to take its time.
    pub(super) looking: Arc<Mutex<()>>,
    /// Whether the machine was booted anew since.
    pub(super) booted_anew: Arc<AtomicBool>,
    /// Whether pid 1 is still there.
    pub(super) init_lives: Arc<AtomicBool>,
    symbol_file: Option<SymbolFile>,
}

impl FakeHost {
    pub(super) fn new() -> Self {
        let mut text = vec![0x90; PAGE];
        text[0x40..0x4e].copy_from_slice(b"Linux version\0");
        for cpu in 0..CPUS as usize {
            let area = PERCPU_AREA + (cpu * PAGE) as u64;
            text[0x100 + 8 * cpu..][..8].copy_from_slice(&area.to_le_bytes());
        }
        let mut data = vec![0; PAGE];
        data[..8].copy_from_slice(b"swapper\0");
        let mut pages = BTreeMap::from([(TEXT + SLIDE, text), (DATA + SLIDE, data)]);
        for cpu in 0..CPUS {
            let mut area = vec![0; PAGE];
            area[0x80..0x88].copy_from_slice(&(INIT_TASK + cpu).to_le_bytes());
            pages.insert(PERCPU_AREA + cpu * PAGE as u64, area);
        }
        Self {
            pages,
            slide_known: true,
            refreshes: Arc::default(),
            written: Arc::default(),
            looking: Arc::default(),
            booted_anew: Arc::default(),
            init_lives: Arc::new(AtomicBool::new(true)),
            symbol_file: None,
        }
    }

    /// The same machine before anybody knows where its kernel was linked.
    pub(super) fn without_slide() -> Self {
        Self { slide_known: false, ..Self::new() }
    }

    /// The same machine with symbols to hand out.
    pub(super) fn with_symbols(bytes: Vec<u8>) -> Self {
        let file = SymbolFile { path: SYMBOL_FILE.to_owned(), bytes: Arc::new(bytes) };
        Self { symbol_file: Some(file), ..Self::new() }
    }

    fn byte(&self, addr: u64) -> Option<u8> {
        let (start, page) = self.pages.range(..=addr).next_back()?;
        page.get(usize::try_from(addr - start).ok()?).copied()
    }
}

impl Host for FakeHost {
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, VirtError> {
        let mut read = 0;
        let now = self.written.lock().unwrap();
        for (offset, slot) in (0..).zip(buf.iter_mut()) {
            let byte = |at| now.get(&at).copied().or_else(|| self.byte(at));
            let Some(byte) = addr.raw().checked_add(offset).and_then(byte) else { break };
            *slot = byte;
            read += 1;
        }
        if read == 0 {
            // As if a page table were missing.
            let fault = VirtFault::NotPresent { level: 2, entry_addr: PhysAddr::new(0), entry: 0 };
            return Err(VirtError { addr, len: buf.len(), fault });
        }
        Ok(read)
    }

    fn read_user(&self, task: TaskId, _: VirtAddr, buf: &mut [u8]) -> Result<usize, KernelError> {
        buf.fill(u8::try_from(task.pid).unwrap());
        Ok(buf.len())
    }

    fn read_now(&self, ops: &mut [VirtOp<'_>]) {
        // All at one moment.
        let now = self.written.lock().unwrap();
        for op in ops {
            let addr = op.addr.raw();
            let bytes: Option<Vec<u8>> = (addr..addr + op.buf.len() as u64)
                .map(|at| now.get(&at).copied().or_else(|| self.byte(at)))
                .collect();
            op.result = match bytes {
                Some(bytes) => {
                    op.buf.copy_from_slice(&bytes);
                    Ok(())
                }
                None => Err(VirtError { addr: op.addr, len: op.buf.len(), fault: VirtFault::NonCanonical }),
            };
        }
    }

    fn threads(&self, filter: &ThreadFilter) -> Vec<Thread> {
        let _turn = self.looking.lock().unwrap();
        let thread = |cpu: u32| {
            let mut registers = Registers::default();
            registers.set(Register::Cr3, 0x1234_5000);
            registers.set(Register::GsBase, PERCPU_AREA + u64::from(cpu) * PAGE as u64);
            Thread {
                tid: tid::of_cpu(cpu),
                name: format!("swapper/{cpu}"),
                detail: format!("CPU {cpu}, pid 0, running"),
                cpu: Some(cpu),
                registers,
                asleep: None,
                task: None,
            }
        };
        let init = Thread {
            tid: tid::of_pid(1).unwrap(),
            name: "<init> & \u{1b}".to_owned(),
            detail: "pid 1, sleeping".to_owned(),
            cpu: None,
            registers: Registers::default(),
            asleep: Some(TaskId { addr: VirtAddr::new(INIT_TASK), pid: 1 }),
            task: Some(TaskId { addr: VirtAddr::new(INIT_TASK), pid: 1 }),
        };
        let mut threads = vec![thread(0), thread(1)];
        threads.extend(Some(init).filter(|init| filter.accepts(&init.name)));
        threads
    }

    fn registers(&self, tasks: &[TaskId]) -> Vec<Result<Registers, Gone>> {
        let lives = self.init_lives.load(Ordering::Relaxed);
        let mut registers = Registers::default();
        registers.set(Register::Rbx, 0x1234);
        registers.set(Register::Rip, TEXT + SLIDE + 0x20);
        tasks.iter().map(|_| if lives { Ok(registers.clone()) } else { Err(Gone) }).collect()
    }

    fn text(&self) -> Option<VirtAddr> {
        self.slide_known.then_some(VirtAddr::new(TEXT + SLIDE))
    }

    fn percpu_rebase(&self) -> Option<PercpuRebase> {
        let array = VirtAddr::new(PER_CPU_OFFSET + SLIDE);
        self.slide_known.then_some(PercpuRebase { array, cpus: CPUS, slide: SLIDE })
    }

    fn symbol_file(&self) -> Option<SymbolFile> {
        self.symbol_file.clone()
    }

    fn refresh(&self) {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
    }

    fn booted_anew(&self) -> bool {
        self.booted_anew.load(Ordering::Relaxed)
    }

    fn monitor(&self, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("info", "") => {
                out.write_str("the fake machine\n").map_err(|e| MonitorError::Failed(e.to_string()))
            }
            ("long", "") => (0..3000)
                .try_for_each(|line| writeln!(out, "line {line}"))
                .map_err(|e| MonitorError::Failed(e.to_string())),
            ("torn", "") => {
                let _ = out.write_str("one line\n");
                Err(MonitorError::Failed("the rest is missing".to_owned()))
            }
            ("translate", "") => Err(MonitorError::Usage("translate ADDR")),
            _ => Err(MonitorError::Unknown(line.to_owned())),
        }
    }

    fn monitor_help(&self) -> Vec<(&'static str, &'static str)> {
        vec![("info", "what is served"), ("translate ADDR", "where ADDR is")]
    }
}

/// A server on a port the system chose; stopped when dropped.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

pub(super) fn options() -> gdb::Options {
    gdb::Options::new("127.0.0.1:0".parse().unwrap())
}

pub(super) fn serve(host: FakeHost) -> Running {
    serve_with(host, options())
}

pub(super) fn serve_with(host: FakeHost, options: gdb::Options) -> Running {
    run(options, move |server| server.run(Arc::new(host)))
}

pub(super) fn serve_any(hosts: Arc<dyn Hosts>) -> Running {
    run(options(), move |server| server.run_any(hosts))
}

fn run(
    options: gdb::Options,
    serve: impl FnOnce(Server) -> Result<(), ServeError> + Send + 'static,
) -> Running {
    let server = Server::bind(options).unwrap();
    let (address, stopper) = (server.tcp_address().unwrap(), server.stopper());
    let thread = std::thread::spawn(move || serve(server));
    Running { address, stopper, thread: Some(thread) }
}

impl Running {
    /// Stops the server and says how it ended.
    pub(super) fn stop(mut self) -> Result<(), ServeError> {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until the server ends by itself.
    pub(super) fn wait(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
