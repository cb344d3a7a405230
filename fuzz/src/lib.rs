//! What is fuzzed: a function per parser of foreign bytes, and the whole server. Each returns, whatever it is given;
//! those that compare check that no wrong byte comes out.
//!
//! The same functions run over the kept seeds, and mutations of them, in the project's own tests (`tests/it/corpus.rs`).

mod attach;
pub mod machine;
mod orc;
mod walks;

use std::{
    io::Write as _,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use self::{attach::attach, orc::orc, walks::walks};
use machine::{Change, Mutating};
use nettlp_gdb::{
    addr::{LinkAddr, PhysAddr, VirtAddr},
    dump::journal,
    gdb::{Host, Options, Patience, connection::Connection, event_loop},
    kernel::{
        dmesg, kconfig,
        locate::vmcoreinfo::{self, VmcoreInfo},
    },
    link::{Config, Read, message::Question, nettlp::Stamp, replay::replay, tlp::Tlp},
    machine::{Description, Printk},
    mem::{PhysMem, ReadOp, file::ImageFile},
    paging::{AddressSpace, Levels, VirtMem, VirtOp},
    profile::Profile,
    symbols::{
        elf::ElfSymbols,
        kallsyms::{
            layout,
            names::{Lengths, Names, measure},
            tokens::Tokens,
        },
        lines::{DwarfLines, SourceLines as _},
    },
    types::{Tag, TypeId, TypeSource, btf::Btf, dwarf::Dwarf},
    vmlinux::Vmlinux,
};

/// Takes bytes off the front of an input.
struct Input<'d>(&'d [u8]);

impl<'d> Input<'d> {
    fn take(&mut self, len: usize) -> &'d [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// A little-endian number; what is missing is 0.
    fn number(&mut self, len: usize) -> u64 {
        self.take(len).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The byte at an address, where an answer can be right.
fn pattern(addr: u64) -> u8 {
    (addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// Datagrams to the engine that reads: whatever comes, a read ends, and what it says it has is what was in them.
pub fn datagrams(data: &[u8]) {
    let mut input = Input(data);
    let mut config = Config::new([127, 0, 0, 1].into());
    config.requester = "1b:00.0".parse().ok();
    config.tags = 4;
    config.retries = 1;
    let mut buffers = [vec![0; 1 + input.number(2) as usize % 1500], vec![0; 8]];
    let [long, short] = &mut buffers;
    let mut reads =
        [Read::new(PhysAddr::new(0x1000 + input.number(1)), long), Read::new(PhysAddr::new(0x9004), short)];
    let stats = replay(&config, &mut reads, &mut |tag, request| {
        let mut frames = Vec::new();
        while !input.is_empty() && frames.len() < 4 {
            let choice = input.number(1);
            let len = input.number(2) as usize % 2048;
            let port = if choice & 1 == 0 { tag } else { (choice >> 4 & 3) as u8 };
            let body = input.take(len);
            // A header that fits the request lets the rest be reached.
            let frame = if choice & 2 == 0 { body.to_vec() } else { completion(tag, request, choice, body) };
            frames.push((port, frame));
            if choice & 8 != 0 {
                break;
            }
        }
        frames
    });
    assert!(stats.is_ok());
    for read in &reads {
        if let Err(error) = &read.result {
            assert!(error.to_string().contains("0x"), "{error}");
        }
    }
}

/// A completion of `request` whose header is right, or has one field from `body`.
fn completion(tag: u8, request: &[u8], choice: u64, body: &[u8]) -> Vec<u8> {
    let dwords =
        request.get(8..10).map_or(1, |length| usize::from(length[1]) | usize::from(length[0] & 3) << 8);
    let addr = request.get(14..18).map_or(0, |low| u32::from_be_bytes([low[0], low[1], low[2], low[3]]));
    let count = (dwords * 4) as u16;
    let mut frame = vec![0, 1, 0, 0, 0, 9, 0x4a, 0, (dwords >> 8) as u8, dwords as u8, 0, 0];
    frame.extend(count.to_be_bytes());
    frame.extend([0x1b, 0, tag, (addr & 0x7f) as u8]);
    if choice & 4 == 0 {
        frame.extend((u64::from(addr)..).take(dwords * 4).map(pattern));
    } else {
        frame.extend(body);
    }
    if let (Some(at), Some(byte)) = (body.first(), body.get(1)) {
        let at = usize::from(*at) % 18;
        if choice & 0x80 != 0 {
            frame[at] ^= byte;
        }
    }
    frame
}

/// The note and the text of VMCOREINFO.
pub fn vmcoreinfo(data: &[u8]) {
    let _ = vmcoreinfo::text_len(data);
    let texts = [VmcoreInfo::parse_note(data).ok(), VmcoreInfo::parse_text(data).ok()];
    let whole = [b"OSRELEASE=", data].concat();
    for info in texts.into_iter().flatten().chain(VmcoreInfo::parse_text(&whole)) {
        assert!(info.text().len() <= whole.len());
        let _ = (info.release(), info.number("phys_base"), info.symbol("_stext"), info.top_level_table());
        let _ = (info.slide(), info.build_id());
    }
}

/// The tables of kallsyms, where they are known and where they are searched for.
pub fn kallsyms(data: &[u8]) {
    let mut budget = layout::MAX_MEASURED;
    let _ = layout::names_before(data, data.len(), &mut budget);
    let mut input = Input(data);
    let count = input.number(3) as usize;
    let index_at = input.number(2) as usize;
    let (table, index) = input.0.split_at(index_at.min(input.0.len()));
    let names = index.get(512..).unwrap_or_default();
    let tokens =
        Tokens::parse(table, index).ok().into_iter().chain(Tokens::find(data).map(|found| found.tokens));
    for tokens in tokens {
        for lengths in [Lengths::Byte, Lengths::ByteOrTwo] {
            if let Ok(expanded) = Names::expand(names, count, lengths, &tokens) {
                assert!(expanded.len() == count && measure(names, count, lengths).is_ok());
                let _ = expanded.get(count / 2);
            }
        }
    }
    for align in [4, 8] {
        let _ = layout::addresses_around(input.number(8), input.number(8), count, align);
    }
}

/// BTF, of a kernel and split.
pub fn btf(data: &[u8]) {
    let mut input = Input(data);
    let split = input.number(2) as usize;
    let (base, module) = input.0.split_at(split.min(input.0.len()));
    if let Ok(btf) = Btf::parse("whole", input.0.to_vec()) {
        every_type(&btf);
    }
    let Ok(base) = Btf::parse("base", base.to_vec()) else { return };
    every_type(&base);
    if let Ok(module) = Btf::parse_split("module", module.to_vec(), Arc::new(base)) {
        every_type(&module);
    }
}

fn every_type(btf: &Btf) {
    let types: &dyn TypeSource = btf;
    for id in btf.ids() {
        let _ = btf.get(TypeId(u64::from(id)));
    }
    for name in ["task_struct", "a", "list_head"] {
        let Ok(id) = btf.find(Tag::Struct, name) else { continue };
        let _ = btf.get(id);
        for path in ["a", "pid", "tasks.next"] {
            let _ = types.field(name, path);
        }
    }
}

/// An ELF file with DWARF, or what calls itself one.
pub fn dwarf(data: &[u8]) {
    let Ok(file) = Vmlinux::from_bytes("fuzz", data.to_vec()) else { return };
    let _ = file.build_id();
    if let Ok(symbols) = ElfSymbols::new(Arc::clone(&file)) {
        use nettlp_gdb::symbols::SymbolTable as _;
        let _ = symbols.lookup("init_task");
    }
    let _ =
        DwarfLines::new(Arc::clone(&file)).frames(&[LinkAddr::new(0), LinkAddr::new(0xffff_ffff_8100_0040)]);
    let Ok(types) = Dwarf::new(file) else { return };
    let types: &dyn TypeSource = &types;
    for name in ["task_struct", "list_head", "module"] {
        let Ok(id) = types.find(Tag::Struct, name) else { continue };
        let _ = (types.get(id), types.field(name, "tasks.next"), types.field(name, "comm"));
    }
}

/// Memory images: ELF cores, and what is taken for raw memory.
pub fn image(data: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(data).is_err() {
        return;
    }
    let Ok(spec) = file.path().to_string_lossy().parse() else { return };
    let Ok(image) = ImageFile::open(&[spec]) else { return };
    for range in image.ranges() {
        assert!(range.start < range.end);
        let mut bytes = [0; 16];
        let _ = image.read(range.start, &mut bytes);
        let _ = image.read(range.end.wrapping_sub(8), &mut bytes);
    }
}

/// The printk ring, and the log of records before it.
pub fn printk(data: &[u8]) {
    static LAYOUTS: OnceLock<Option<dmesg::ring::Layout>> = OnceLock::new();
    let layout = LAYOUTS.get_or_init(|| {
        let types = machine::target().session.kernel.types.clone()?;
        dmesg::ring::Layout::resolve(&*types).ok()
    });
    let Some(layout) = layout else { return };
    let mut input = Input(data);
    let tail_id = input.number(8);
    let size_bits = input.number(1) as u32 % 24;
    let text_start = input.number(8);
    let count = input.number(1) as usize;
    let descs = input.take(count * 24).to_vec();
    let infos = input.take(count * 88).to_vec();
    let after = if input.number(1) & 1 == 0 { descs.clone() } else { input.take(descs.len()).to_vec() };
    let text = input.0.to_vec();
    let ring = dmesg::ring::Ring { tail_id, descs, infos, size_bits, text_start, text };
    let records = dmesg::ring::parse(layout, &ring, &after).records;
    let said: usize =
        records.iter().map(|record| record.lines().map(|_| 1).sum::<usize>() + record.text.len()).sum();
    // A byte that is no UTF-8 becomes three; an empty message is a line.
    assert!(said <= 4 * ring.text.len() + ring.descs.len(), "{said} bytes and lines");
}

/// The log of kernels before 5.10: records that say how long they are.
pub fn records(data: &[u8]) {
    static LAYOUT: OnceLock<dmesg::records::Layout> = OnceLock::new();
    let layout = LAYOUT.get_or_init(|| {
        let old = Description { printk: Printk::Records { buffer_bits: 14 }, ..machine::small() };
        let types = Dwarf::new(machine::vmlinux(&old)).expect("types");
        dmesg::records::Layout::resolve(&types).expect("the log of an old kernel")
    });
    let mut input = Input(data);
    let [first, next, seq] = [4, 4, 8].map(|len| input.number(len));
    let records = dmesg::records::parse(layout, input.0, first, next, seq..u64::MAX).records;
    let text: usize = records.iter().map(|record| record.text.len()).sum();
    // A byte that is no UTF-8 becomes three; the buffer is gone through twice at most.
    assert!(text <= 6 * input.0.len(), "{text} bytes of text");
}

/// What an interrupted dump left of itself.
pub fn journal(data: &[u8]) {
    let Ok(Some((_, stored))) = journal::read(data) else { return };
    assert!(stored.iter().all(|stored| stored.range.start < stored.range.end));
    assert!(stored.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start), "ranges overlap");
}

/// A TLP, as the adapter and its client decode it: what is understood is encoded again as it was understood.
pub fn tlp(data: &[u8]) {
    let _ = Question::from_bytes(data);
    let Some((_, bytes)) = Stamp::split(data) else { return };
    match Tlp::decode(bytes) {
        Ok(Tlp::Read(request)) => {
            assert!((1..=4096).contains(&request.byte_count()));
            assert_eq!(Tlp::decode(request.encode_read().as_ref()), Ok(Tlp::Read(request)));
        }
        Ok(Tlp::Write(request, payload)) => assert!(payload.len() <= bytes.len() && request.dwords > 0),
        Ok(Tlp::Completion(completion)) => {
            let again = [completion.encode().as_ref(), completion.data].concat();
            assert_eq!(Tlp::decode(&again), Ok(Tlp::Completion(completion)));
        }
        Err(defect) => assert!(!defect.to_string().is_empty()),
    }
}

/// Pages of a kernel's configuration.
pub fn kconfig(data: &[u8]) {
    for page in data.chunks(4096) {
        let found = kconfig::run::runs(page);
        for run in &found.runs {
            let _ = (run.head(), run.tail(), run.header(), run.starts_file(), run.settings().count());
        }
    }
    for line in data.split(|byte| *byte == b'\n') {
        let _ = kconfig::line::Line::parse(line).map(|line| line.setting().is_some());
        let _ = kconfig::line::header_version(line);
    }
}

/// A target profile.
pub fn profile(data: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(data).is_err() {
        return;
    }
    match Profile::load(file.path()) {
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = Profile::lines(file.path());
}

/// Physical memory whose every page is one of a few: page tables that loop, map everything to one page, or are data.
struct FewPages {
    pages: Vec<u8>,
    reads: AtomicU64,
}

impl PhysMem for FewPages {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        for op in ops {
            self.reads.fetch_add(1, Relaxed);
            for (offset, byte) in (0..).zip(op.buf.iter_mut()) {
                let at = (op.addr.raw().wrapping_add(offset) % self.pages.len() as u64) as usize;
                *byte = self.pages[at];
            }
            op.result = Ok(());
        }
    }
}

/// The walker over page tables that are whatever they like.
pub fn tables(data: &[u8]) {
    let mut input = Input(data);
    let levels = if input.number(1) & 1 == 0 { Levels::Four } else { Levels::Five };
    let addresses: Vec<u64> = (0..4).map(|_| input.number(8)).collect();
    if input.0.len() < 8 {
        return;
    }
    let few = Arc::new(FewPages { pages: input.0.to_vec(), reads: AtomicU64::new(0) });
    let space = AddressSpace::new(few.clone(), PhysAddr::new(addresses[0] & !0xfff), levels, 0);
    let mut buffers = vec![vec![0; 5000]; addresses.len()];
    let mut ops: Vec<VirtOp<'_>> = addresses
        .iter()
        .zip(&mut buffers)
        .map(|(addr, buf)| VirtOp::new(VirtAddr::new(*addr), buf))
        .collect();
    space.read_batch(&mut ops);
    for addr in &addresses {
        let _ = space.translate(VirtAddr::new(*addr));
    }
    let reads = few.reads.load(Relaxed);
    assert!(reads < 1000, "{reads} reads for four addresses");
}

/// What `input` says is changed of `words` in `memory`.
fn changes(input: &mut Input<'_>, memory: &Mutating, words: &[u64]) -> Vec<Change> {
    let mut changes = Vec::new();
    while !input.is_empty() && changes.len() < 16 {
        let word = |number: u64| words[number as usize % words.len()];
        let whole = |addr| memory.memory.read_u64(PhysAddr::new(addr)).unwrap_or(0);
        let how = input.number(1);
        let addr = word(input.number(3));
        let value = match how & 3 {
            0 => input.number(8),
            // A pointer that is there, in another place.
            1 => whole(word(input.number(3))),
            2 => [0, u64::MAX, 1 << 63, 0xdead_0000_0000_0100][input.number(1) as usize % 4],
            _ => whole(addr).wrapping_add(input.number(2)),
        };
        changes.push(Change { addr, value, period: how >> 4 & 7 });
    }
    changes
}

/// A kernel that lies, and one that changes between any two reads: what is asked of it, one thing or all, ends within a
/// stated number of reads.
pub fn kernel(data: &[u8]) {
    /// The whole machine takes a few thousand.
    const MAX_READS: u64 = 400_000;

    let target = machine::target();
    let mut input = Input(data);
    let question = input.number(1) as usize % target.words.len();
    let changes = changes(&mut input, &target.memory, &target.words[question]);
    *target.memory.changes.lock().expect("one thread") = changes;
    target.memory.reads.store(0, Relaxed);
    target.session.refresh();
    if let Some(ask) = machine::QUESTIONS.get(question) {
        ask(&target.session.kernel, machine::PROCESSES);
    } else {
        machine::everything(&target.session.kernel, machine::PROCESSES);
        target.session.threads(&nettlp_gdb::gdb::ThreadFilter::All);
    }
    let reads = target.memory.reads.load(Relaxed);
    assert!(reads < MAX_READS, "{reads} reads");
    target.memory.changes.lock().expect("one thread").clear();
}

/// The whole server, from the client's bytes to the kernel's memory: framing, state machine, `vFile`, `qXfer`.
pub fn packets(data: &[u8]) {
    let target = machine::target();
    let Ok((mut client, server)) = UnixStream::pair() else { return };
    let soon = Duration::from_millis(20);
    let patience = Patience { first_packet: soon, packet: soon, reply: soon, ..Patience::default() };
    // Half of the inputs are lines that are framed here, or else no checksum would ever be right.
    let bytes: Vec<u8> = match data.split_first() {
        Some((b'#', lines)) => {
            let lines = lines.split(|byte| *byte == b'\n');
            lines.flat_map(nettlp_gdb::gdb::packet::frame).collect()
        }
        _ => data.to_vec(),
    };
    if client.write_all(bytes.get(..bytes.len().min(64 << 10)).unwrap_or_default()).is_err() {
        return;
    }
    let _ = client.shutdown(Shutdown::Write);
    let Ok(connection) = Connection::unix(server, patience.reply) else { return };
    let host: Arc<dyn Host> = target.session.clone();
    let view = Options::new(nettlp_gdb::gdb::Listen::Stdio).view;
    let _ = event_loop::run(connection, host, view, None, patience);
}
