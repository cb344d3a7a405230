//! What every read and every command goes through, without a link: `cargo bench`, and `cargo bench -- walk` for one.
//!
//! Inputs are the fuzzer's kept seeds and synthetic machines, so that a run needs nothing from outside.

#![expect(clippy::unwrap_used, reason = "an input that does not fit ends the bench")]

use std::{fs, hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nettlp_gdb::{
    addr::{PhysAddr, VirtAddr},
    gdb::packet,
    link::{
        Config, Read,
        replay::replay,
        tlp::{Completion, MemRequest, Tlp},
    },
    machine::{Description, Machine},
    mem::{
        PhysMem,
        cache::{Cache, Validity},
    },
    paging::{AddressSpace, VirtMem, VirtOp},
    symbols::kallsyms::{
        Names, Tokens,
        names::{Lengths, measure},
    },
    types::{TypeId, TypeSource, btf::Btf},
};

const PAGE: usize = 4096;

fn request() -> MemRequest {
    MemRequest::for_bytes(0x1_2345_6000, 512, "1b:00.0".parse().unwrap(), 7)
}

/// Headers of requests and completions.
fn tlp(criterion: &mut Criterion) {
    let (request, data) = (request(), [0x5a; 256]);
    criterion
        .bench_function("tlp: encode a request", |bench| bench.iter(|| black_box(&request).encode_read()));
    let completion = Completion::with_data(&request, 512, 0, &data);
    let datagram = [completion.encode().as_ref(), &data].concat();
    criterion.bench_function("tlp: decode a completion of 256 bytes", |bench| {
        bench.iter(|| Tlp::decode(black_box(&datagram)).is_ok());
    });
}

/// 64 KiB through the engine and no socket: requests, completions, bytes in place.
fn engine(criterion: &mut Criterion) {
    let mut config = Config::new([127, 0, 0, 1].into());
    config.requester = Some("1b:00.0".parse().unwrap());
    let (mut buffer, data) = (vec![0; 64 << 10], [0x5a; 512]);
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Bytes(buffer.len() as u64));
    group.bench_function("64 KiB in requests of 512 bytes", |bench| {
        bench.iter(|| {
            let mut reads = [Read::new(PhysAddr::new(0x10_0000), &mut buffer)];
            let answered = replay(&config, &mut reads, &mut |tag, datagram| {
                let Ok(Tlp::Read(request)) = Tlp::decode(datagram.get(6..).unwrap_or_default()) else {
                    return vec![];
                };
                let lower = request.addr as u8 & 0x7f;
                let completion = Completion::with_data(&request, 512, lower, &data);
                vec![(tag, [&[0; 6][..], completion.encode().as_ref(), &data].concat())]
            });
            let [read] = reads;
            assert!(answered.is_ok() && read.result.is_ok(), "{:?}", read.result);
        });
    });
}

/// Translations whose tables are in the cache, as for the second command after a stop.
fn walk(criterion: &mut Criterion) {
    let machine = Machine::build(&Description::demo()).unwrap();
    let truth = machine.truth();
    let memory: Arc<dyn PhysMem> = Arc::new(Cache::new(machine.memory(), Validity::Stop));
    let space = AddressSpace::new(memory, truth.root, truth.levels, 0);
    let pages: Vec<VirtAddr> = (0..64).map(|page| truth.text.wrapping_add(page * PAGE as u64)).collect();
    criterion.bench_function("walk: translate an address", |bench| {
        bench.iter(|| space.translate(black_box(truth.text)).is_ok());
    });
    criterion.bench_function("walk: read 64 words of 64 pages in a batch", |bench| {
        bench.iter(|| {
            let mut words = [[0; 8]; 64];
            let mut ops: Vec<VirtOp<'_>> =
                pages.iter().zip(&mut words).map(|(page, word)| VirtOp::new(*page, word)).collect();
            space.read_batch(&mut ops);
            assert!(ops.iter().all(|op| op.result.is_ok()));
        });
    });
}

/// A page of memory as gdb is sent it, and a request of gdb's as it comes.
fn packets(criterion: &mut Criterion) {
    let page: Vec<u8> = (0..PAGE).map(|at| (at * 7) as u8).collect();
    criterion.bench_function("packet: a page in hex, framed", |bench| {
        bench.iter(|| packet::frame(&packet::hex(black_box(&page))));
    });
    criterion
        .bench_function("packet: a page escaped", |bench| bench.iter(|| packet::escape(black_box(&page))));
    let asked = packet::frame(b"mffffffff9a01a8c0,1000");
    criterion.bench_function("packet: decode a request", |bench| {
        bench.iter(|| {
            let mut decoder = packet::Decoder::default();
            black_box(&asked).iter().filter_map(|byte| decoder.push(*byte)).count()
        });
    });
}

/// A kernel's own symbols and types.
fn tables(criterion: &mut Criterion) {
    // Every token is its own letter, each name 12 of them behind its length: 100,000 names as a kernel has.
    let table: Vec<u8> = (0..=255_u8).flat_map(|byte| [byte.clamp(b'!', b'~'), 0]).collect();
    let index: Vec<u8> = (0..256_u16).flat_map(|token| (token * 2).to_le_bytes()).collect();
    let tokens = Tokens::parse(&table, &index).unwrap();
    let (name, count) = (b"\x0dtnettlp_name_", 100_000);
    let names = name.repeat(count);
    measure(&names, count, Lengths::ByteOrTwo).unwrap();
    criterion.bench_function("kallsyms: expand 100,000 names", |bench| {
        bench.iter(|| Names::expand(black_box(&names), count, Lengths::ByteOrTwo, &tokens).unwrap().len());
    });
    let seed = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/btf/whole")).unwrap();
    // The fuzzer's inputs begin with where a module's part would.
    let bytes = seed.get(2..).unwrap_or_default().to_vec();
    criterion.bench_function("btf: parse, and read every type", |bench| {
        bench.iter(|| {
            let btf = Btf::parse("seed", bytes.clone()).unwrap();
            let types: &dyn TypeSource = &btf;
            btf.ids().filter(|id| types.get(TypeId(u64::from(*id))).is_ok()).count()
        });
    });
}

criterion_group!(hot, tlp, engine, walk, packets, tables);
criterion_main!(hot);
