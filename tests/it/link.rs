//! The client against the emulated adapter over real sockets on loopback.
//!
//! Each test has addresses of its own in 127/8, so that tests and test runs do not meet on a port.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use nettlp_gdb::{
    addr::PhysAddr,
    emulator::{self, Emulator, Faults, Holes, Ram, Writable},
    link::{
        self, Client, LinkError, Read,
        message::{self, DRIVER_PORT, Question},
    },
    mem::{Fault, PhysMem as _, PhysWrite as _, ReadOp, remote::Remote},
};

const BASE: u64 = 0xffff_0000;
const LEN: usize = 0x4_0000;

/// The byte at an address: no two 4 KiB blocks of the test memory are alike.
fn pattern(addr: u64) -> u8 {
    (addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// Two addresses nobody else uses: the adapter's and the client's. The network's .1 and .2 are left to clients that
/// choose their own.
fn addresses() -> (IpAddr, IpAddr) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let n = NEXT.fetch_add(1, Ordering::Relaxed) as u8;
    let address = |last| Ipv4Addr::new(127, 64 | high & 0x3f, low, last).into();
    (address(2 * n + 4), address(2 * n + 5))
}

struct Bench {
    client: Client,
    emulator: Emulator,
    adapter: IpAddr,
}

/// A client and an adapter over memory that straddles 4 GiB.
fn bench(faults: Faults, adjust: impl FnOnce(&mut link::Config, &mut emulator::Config)) -> Bench {
    let (adapter, local) = addresses();
    let mut server = emulator::Config { ip: adapter, port_mask: 0x0f, faults, ..emulator::Config::default() };
    let mut config = link::Config {
        local: Some(local),
        requester: Some(server.requester),
        port_mask: 0x0f,
        timeout: Duration::from_millis(40),
        // Enough that chance alone makes no read fail.
        retries: 8,
        ..link::Config::new(adapter)
    };
    adjust(&mut config, &mut server);
    let ram = Ram::new(PhysAddr::new(BASE), (BASE..).take(LEN).map(pattern).collect());
    let emulator = Emulator::start(server, Arc::new(Writable(ram))).unwrap();
    Bench { client: Client::connect(&config).unwrap(), emulator, adapter }
}

fn read_one(client: &Client, addr: u64, len: usize) -> Result<Vec<u8>, LinkError> {
    let mut buf = vec![0xee; len];
    let mut reads = [Read::new(PhysAddr::new(addr), &mut buf)];
    client.read_batch(&mut reads);
    let [read] = reads;
    read.result.map(|()| buf)
}

fn check_read(client: &Client, addr: u64, len: usize) {
    let expected: Vec<_> = (addr..).take(len).map(pattern).collect();
    assert!(read_one(client, addr, len).unwrap() == expected, "wrong bytes at {addr:#x} ({len})");
}

/// Reads 64 scattered places in one batch, several times; none may be wrong. Returns how many failed.
fn soak(client: &Client, rounds: u64) -> usize {
    let mut failed = 0;
    for round in 0..rounds {
        let place = |i: u64| {
            let random = (round * 64 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            (BASE + random % 0x3_8000, 1 + (random >> 20) as usize % 1500)
        };
        let mut buffers: Vec<_> = (0..64).map(|i| vec![0xee; place(i).1]).collect();
        let mut reads: Vec<_> = buffers
            .iter_mut()
            .enumerate()
            .map(|(i, buf)| Read::new(PhysAddr::new(place(i as u64).0), buf))
            .collect();
        client.read_batch(&mut reads);
        for read in &reads {
            match &read.result {
                Ok(()) => {
                    let right =
                        (read.addr.raw()..).zip(&*read.buf).all(|(addr, &byte)| byte == pattern(addr));
                    assert!(right, "wrong bytes at {} ({})", read.addr, read.buf.len());
                }
                Err(error) => {
                    assert!(error.to_string().contains("0x"), "{error} names no address");
                    failed += 1;
                }
            }
        }
    }
    failed
}

#[test]
fn reads_of_every_alignment_and_length() {
    let Bench { client, emulator, .. } = bench(Faults::default(), |_, _| {});
    for start in BASE + 0x0ffa..BASE + 0x1006 {
        for len in (0..40).chain([255, 256, 257, 511, 512, 513, 4095, 4096, 4097, 20_000]) {
            check_read(&client, start, len);
        }
    }
    assert_eq!(soak(&client, 4), 0);
    let (ours, theirs) = (client.stats(), emulator.stats());
    assert_eq!((ours.requests, ours.completions), (theirs.reads, theirs.completions));
    assert_eq!((ours.retries, ours.malformed, ours.stale, ours.lost), (0, 0, 0, 0));
}

#[test]
fn a_read_across_4_gib_changes_the_header_format() {
    let Bench { client, emulator: _emulator, .. } = bench(Faults::default(), |_, _| {});
    check_read(&client, 0xffff_fff0, 32);
    assert_eq!(client.stats().requests, 2);
}

#[test]
fn requests_of_4_kib_and_their_16_completions() {
    let Bench { client, emulator: _emulator, .. } = bench(Faults::default(), |link, _| link.mrrs = 4096);
    check_read(&client, BASE + 0x1000, 4096);
    let stats = client.stats();
    assert_eq!((stats.requests, stats.completions), (1, 16));

    let whole = |link: &mut link::Config, emulator: &mut emulator::Config| {
        (link.mrrs, emulator.max_payload) = (4096, 4096);
    };
    let Bench { client, emulator: _emulator, .. } = bench(Faults::default(), whole);
    check_read(&client, BASE + 0x1000, 4096);
    assert_eq!(client.stats().completions, 1);
}

#[test]
fn all_256_tags() {
    let Bench { client, emulator, .. } = bench(Faults::default(), |link, emulator| {
        (link.tags, link.port_mask, emulator.port_mask) = (256, 0xff, 0xff);
    });
    check_read(&client, BASE, LEN);
    // One that the machine was too busy to answer is asked again.
    assert_eq!(emulator.stats().reads, (LEN / 512) as u64 + client.stats().retries);
}

/// The writes an adapter of ours receives, put into `memory` by what each header enables: the emulator is lenient, and
/// an adapter would inject whatever it gets.
fn land(wire: &UdpSocket, memory: &mut [u8], bytes: usize) -> usize {
    let mut buffer = [0; 2048];
    let (mut landed, mut datagrams) = (0, 0);
    while landed < bytes {
        let len = wire.recv(&mut buffer).unwrap();
        datagrams += 1;
        let tlp = &buffer[6..len];
        let wide = tlp[0] == 0x60;
        assert!(wide || tlp[0] == 0x40, "{:#x} is no memory write", tlp[0]);
        assert_eq!(tlp[1], 0);
        let dwords = usize::from(u16::from_be_bytes([tlp[2], tlp[3]]));
        assert!((1..=64).contains(&dwords), "{dwords} double words, or attributes that are not asked for");
        let (first, last) = (tlp[7] & 0xf, tlp[7] >> 4);
        assert_eq!(last == 0, dwords == 1);
        let header = if wide { 16 } else { 12 };
        let address = tlp[8..header].iter().fold(0, |address, byte| address << 8 | u64::from(*byte));
        assert_eq!((wide, address % 4), (address >= 1 << 32, 0));
        let data = &tlp[header..];
        assert_eq!(data.len(), 4 * dwords, "whole double words");
        let end = address + 4 * dwords as u64 - 1;
        assert_eq!(address >> 12, end >> 12, "a request over a 4 KiB boundary");
        for (index, byte) in data.iter().enumerate() {
            let enables = match index / 4 {
                0 => first,
                dword if dword + 1 == dwords => last,
                _ => 0xf,
            };
            if enables >> (index % 4) & 1 == 1 {
                memory[(address - BASE) as usize + index] = *byte;
                landed += 1;
            } else {
                assert_eq!(*byte, 0, "padding");
            }
        }
    }
    assert_eq!(landed, bytes);
    datagrams
}

#[test]
fn a_write_of_any_alignment_and_length_is_right_on_the_wire() {
    let (adapter, local) = addresses();
    let wire = UdpSocket::bind((adapter, 0x3000)).unwrap();
    wire.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let requester = "1b:00.0".parse().ok();
    let config = link::Config { local: Some(local), requester, tags: 1, ..link::Config::new(adapter) };
    let client = Client::connect(&config).unwrap();
    let mut expected = vec![0; LEN];
    let mut memory = expected.clone();
    let mut check = |addr: u64, len: usize| {
        let data: Vec<u8> = (0..len).map(|i| (i as u64 ^ addr ^ len as u64) as u8 | 1).collect();
        client.write(PhysAddr::new(addr), &data).unwrap();
        let datagrams = land(&wire, &mut memory, len);
        expected[(addr - BASE) as usize..][..len].copy_from_slice(&data);
        assert!(memory == expected, "{len} bytes at {addr:#x}");
        datagrams
    };
    for skip in 0..4 {
        for len in 1..300 {
            check(BASE + 0x1000 + skip, len);
        }
        for len in [511, 512, 513, 4093, 4094, 4095, 4096] {
            check(BASE + 0x1000 + skip, len);
        }
        // Over a page, and over 4 GiB.
        for len in 1..12 {
            assert_eq!(check(BASE + 0x2000 - 4 + skip, len), 1 + usize::from(len as u64 + skip > 4));
            assert_eq!(check((1 << 32) - 4 + skip, len), 1 + usize::from(len as u64 + skip > 4));
        }
    }
    assert_eq!(check(BASE + 0x3000, 4096), 16, "16 payloads of 256 bytes");
}

#[test]
fn writes_set_exactly_their_bytes() {
    let Bench { client, emulator, .. } = bench(Faults::default(), |_, _| {});
    let mut expected: Vec<_> = (BASE..).take(0x2000).map(pattern).collect();
    let mut combinations: Vec<(usize, usize)> =
        (0..4).flat_map(|skip| (1..20).map(move |len| (0x100 * len + skip, len))).collect();
    combinations.extend([(0xff0, 700), (0x1801, 0), (0x1003, 255), (0x1202, 256), (0x1401, 257)]);
    for (offset, len) in combinations {
        let data: Vec<_> = (0..len).map(|i| i as u8 ^ 0x5a ^ offset as u8).collect();
        client.write(PhysAddr::new(BASE + offset as u64), &data).unwrap();
        expected[offset..offset + len].copy_from_slice(&data);
    }
    // Posted writes and later reads use different ports; ask until the last write has landed.
    while read_one(&client, BASE, 0x2000).as_ref() != Ok(&expected) {
        assert_eq!(emulator.stats().malformed, 0);
    }
    assert_eq!(client.stats().writes, emulator.stats().writes);
}

#[test]
fn holes_are_unsupported_requests_and_spoil_nothing_else() {
    let Bench { client, emulator: _emulator, .. } = bench(Faults::default(), |_, _| {});
    let (mut hole, mut good) = ([0; 8], [0; 600]);
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut hole), Read::new(PhysAddr::new(BASE), &mut good)];
    client.read_batch(&mut reads);
    let refused = LinkError::UnsupportedRequest { addr: PhysAddr::new(0x1000), len: 8 };
    assert_eq!(reads[0].result, Err(refused));
    assert_eq!(reads[1].result, Ok(()));
    assert_eq!(client.stats().retries, 0);
    // A long read names the part that is not there.
    let end = BASE + LEN as u64;
    let missing = LinkError::UnsupportedRequest { addr: PhysAddr::new(end), len: 512 };
    assert_eq!(read_one(&client, end - 512, 1024), Err(missing));
}

#[test]
fn silence_times_out_after_every_retry() {
    let faults = Faults { holes: Holes::Silent, ..Faults::default() };
    let Bench { client, emulator, .. } = bench(faults, |link, _| link.retries = 2);
    let silent = LinkError::Timeout { addr: PhysAddr::new(0x1002), len: 8, attempts: 3 };
    assert_eq!(read_one(&client, 0x1002, 8), Err(silent));
    assert_eq!((emulator.stats().reads, client.stats().timeouts), (3, 3));
    assert_eq!(soak(&client, 1), 0);
}

#[test]
fn a_foreign_requester_gets_no_answer() {
    let Bench { client, emulator, .. } = bench(Faults::default(), |link, _| {
        (link.requester, link.retries) = ("02:00.0".parse().ok(), 0);
    });
    assert!(matches!(read_one(&client, BASE, 4), Err(LinkError::Timeout { attempts: 1, .. })));
    assert_eq!(emulator.stats().misrouted, 1);
}

#[test]
fn nobody_there() {
    let Bench { client, emulator, .. } = bench(Faults::default(), |_, _| {});
    emulator.stop();
    for _ in 0..20 {
        let refused = LinkError::NoAdapter { addr: PhysAddr::new(BASE), len: 4 };
        assert_eq!(read_one(&client, BASE, 4), Err(refused));
    }
    assert_eq!(client.stats().timeouts, 0);
}

#[test]
fn an_adapter_that_restarts_is_found_again() {
    let Bench { client, emulator, adapter } = bench(Faults::default(), |_, _| {});
    assert_eq!(soak(&client, 1), 0);
    emulator.stop();
    assert!(read_one(&client, BASE, 4).is_err());
    let again = emulator::Config { ip: adapter, port_mask: 0x0f, ..emulator::Config::default() };
    let ram = Ram::new(PhysAddr::new(BASE), (BASE..).take(LEN).map(pattern).collect());
    let _emulator = Emulator::start(again, Arc::new(Writable(ram))).unwrap();
    // Its clock starts over, so its first answers look old.
    assert_eq!(soak(&client, 2), 0);
}

#[test]
fn loss() {
    let Bench { client, emulator, .. } =
        bench(Faults { loss: 0.05, seed: 1, ..Faults::default() }, |_, _| {});
    assert_eq!(soak(&client, 3), 0);
    assert!(emulator.stats().lost > 0 && client.stats().retries > 0 && client.stats().lost > 0);
}

/// All requests of a batch leave together. Those behind the lost one overtake it, and it is asked again long before its
/// timeout, which would be the end of it here.
#[test]
fn one_lost_among_others_is_not_waited_for() {
    // With this seed the network loses one datagram of the batch, and none else.
    let faults = Faults { loss: 0.04, seed: 1, ..Faults::default() };
    let Bench { client, emulator, .. } = bench(faults, |link, _| {
        (link.timeout, link.retries) = (Duration::from_secs(2), 0);
    });
    check_read(&client, BASE, 8);
    let mut buffers = [[0; 8]; 15];
    let places = (BASE..).step_by(0x1000).map(PhysAddr::new);
    let mut reads: Vec<_> = places.zip(&mut buffers).map(|(addr, buf)| Read::new(addr, buf)).collect();
    client.read_batch(&mut reads);
    assert!(reads.iter().all(|read| read.result.is_ok()));
    assert_eq!((emulator.stats().lost, client.stats().timeouts), (1, 1));
}

#[test]
fn duplicates() {
    let Bench { client, emulator, .. } =
        bench(Faults { dup: 0.5, seed: 2, ..Faults::default() }, |link, _| {
            // With one tag, a duplicate meets the very next request.
            link.tags = 1;
        });
    assert_eq!(soak(&client, 6), 0);
    assert!(emulator.stats().duplicated > 0 && client.stats().stale > 0);
}

#[test]
fn reordering() {
    let faults = Faults { reorder: 0.1, seed: 3, ..Faults::default() };
    let Bench { client, emulator, .. } = bench(faults, |_, _| {});
    assert_eq!(soak(&client, 4), 0);
    assert!(emulator.stats().reordered > 0);
}

#[test]
fn corruption() {
    let faults = Faults { corrupt: 0.05, seed: 4, ..Faults::default() };
    let Bench { client, emulator, .. } = bench(faults, |_, _| {});
    assert_eq!(soak(&client, 4), 0);
    let stats = client.stats();
    assert!(emulator.stats().corrupted > 0 && stats.malformed + stats.poisoned + stats.errors > 0);
}

#[test]
fn late_answers_are_not_taken_for_others() {
    let faults = Faults { late: 0.05, late_by: Duration::from_millis(60), seed: 5, ..Faults::default() };
    let Bench { client, emulator, .. } = bench(faults, |_, _| {});
    assert_eq!(soak(&client, 4), 0);
    assert!(emulator.stats().late > 0 && client.stats().timeouts > 0 && client.stats().stale > 0);
}

/// As when a command is run again that just failed: the same ports, tags, lengths and stamps.
#[test]
fn late_answers_to_one_client_are_not_taken_for_the_nexts() {
    let faults = Faults { late: 1.0, late_by: Duration::from_millis(200), ..Faults::default() };
    let mut next = None;
    let Bench { client, emulator, .. } = bench(faults, |link, _| {
        link.retries = 0;
        next = Some(link::Config { timeout: Duration::from_secs(10), ..link.clone() });
    });
    assert!(matches!(read_one(&client, BASE, 8), Err(LinkError::Timeout { .. })));
    drop(client);
    let client = Client::connect(&next.unwrap()).unwrap();
    check_read(&client, BASE + 0x1000, 8);
    assert_eq!(emulator.stats().late, 2);
}

#[test]
fn everything_at_once_gives_right_bytes_or_an_error() {
    for seed in 0..3 {
        let faults = Faults {
            latency: Duration::from_micros(30),
            loss: 0.03,
            reorder: 0.05,
            dup: 0.1,
            corrupt: 0.03,
            late: 0.02,
            late_by: Duration::from_millis(30),
            seed,
            ..Faults::default()
        };
        let Bench { client, emulator: _emulator, .. } =
            bench(faults, |link, _| link.timeout = Duration::from_millis(20));
        soak(&client, 3);
        assert!(client.stats().bytes > 0);
    }
}

#[test]
fn a_client_bound_to_a_taken_port_says_so() {
    let Bench { client, adapter, emulator: _emulator } = bench(Faults::default(), |_, _| {});
    let config = link::Config {
        local: Some(adapter),
        requester: Some(client.requester()),
        ..link::Config::new(adapter)
    };
    let error = Client::connect(&config).unwrap_err();
    assert!(matches!(error, LinkError::Bind { kind: std::io::ErrorKind::AddrInUse, .. }), "{error:?}");
}

#[test]
fn the_driver_tells_the_requester_id() {
    let Bench { client, adapter, emulator: _emulator } = bench(Faults::default(), |link, emulator| {
        emulator.requester = "64:03.1".parse().unwrap();
        link.requester = None;
        link.driver_host = Some(emulator.ip);
        // The emulator starts before the client connects.
    });
    assert_eq!(client.requester().to_string(), "64:03.1");
    assert_eq!(soak(&client, 1), 0);
    let ask = |question| message::ask((adapter, DRIVER_PORT).into(), question).unwrap();
    assert_eq!(ask(Question::Bar4), 0xb000_0000_u64.to_le_bytes());
    assert_eq!(ask(Question::Msix)[..12], [0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0x20, 0x40, 0, 0]);
    assert_eq!(ask(Question::Msix).len(), 192);
}

#[test]
fn no_requester_and_nobody_to_ask() {
    let (adapter, local) = addresses();
    let config = link::Config { local: Some(local), ..link::Config::new(adapter) };
    let error = Client::connect(&config).unwrap_err();
    assert!(matches!(error, LinkError::NoDriver { .. }), "{error:?}");
}

#[test]
fn garbage_on_the_adapters_ports_does_no_harm() {
    let Bench { client, emulator, adapter } = bench(Faults::default(), |_, _| {});
    let stranger = UdpSocket::bind((adapter, 0)).unwrap();
    for len in 0..64_u8 {
        let garbage: Vec<_> = (0..len).map(|i| i.wrapping_mul(37) ^ len).collect();
        stranger.send_to(&garbage, (adapter, 0x3000)).unwrap();
        stranger.send_to(&garbage, (adapter, DRIVER_PORT)).unwrap();
    }
    assert_eq!(soak(&client, 1), 0);
    assert!(emulator.stats().malformed > 0);
}

#[test]
fn remote_memory_reports_each_read() {
    let Bench { client, emulator: _emulator, .. } = bench(Faults::default(), |_, _| {});
    let remote = Remote::new(client);
    let (mut good, mut hole) = ([0; 16], [0; 16]);
    let mut ops = [ReadOp::new(PhysAddr::new(BASE), &mut good), ReadOp::new(PhysAddr::new(0), &mut hole)];
    remote.read_batch(&mut ops);
    assert!(ops[0].result.is_ok());
    let error = ops[1].result.as_ref().unwrap_err();
    assert!(matches!(error.fault, Fault::Link(LinkError::UnsupportedRequest { .. })), "{error}");
    assert_eq!((error.addr, error.len), (PhysAddr::new(0), 16));

    let addr = PhysAddr::new(BASE + 8);
    remote.write(addr, &7_u64.to_le_bytes()).unwrap();
    while remote.read_u64(addr).unwrap() != 7 {}
    assert!(remote.write(PhysAddr::new(u64::MAX), &[0; 2]).is_err());
}

#[test]
fn stopping_closes_every_socket() {
    let Bench { emulator, adapter, .. } = bench(Faults::default(), |_, _| {});
    assert!(UdpSocket::bind((adapter, 0x3000)).is_err());
    emulator.stop();
    for port in 0x3000..0x3010 {
        UdpSocket::bind((adapter, port)).unwrap();
    }
}

/// The same faults in real time, over real sockets. `NETTLP_FAULT_READS` is how many reads each makes;
/// 192 when it is not given, because here a timeout takes its time.
#[test]
fn every_fault_the_emulator_knows() {
    let reads = std::env::var("NETTLP_FAULT_READS").map_or(192, |count| count.parse().unwrap());
    let late_by = Duration::from_millis(60);
    let rows: &[(&str, Faults)] = &[
        ("loss 1 %", Faults { loss: 0.01, ..Faults::default() }),
        ("loss 20 %", Faults { loss: 0.2, ..Faults::default() }),
        ("reorder 20 %", Faults { reorder: 0.2, ..Faults::default() }),
        ("duplicates 50 %", Faults { dup: 0.5, ..Faults::default() }),
        ("damaged 5 %", Faults { corrupt: 0.05, ..Faults::default() }),
        ("late 2 %", Faults { late: 0.02, late_by, ..Faults::default() }),
        ("silent holes", Faults { holes: Holes::Silent, ..Faults::default() }),
        (
            "everything, with latency",
            Faults {
                latency: Duration::from_micros(12),
                loss: 0.02,
                reorder: 0.05,
                dup: 0.1,
                corrupt: 0.02,
                late: 0.01,
                late_by,
                ..Faults::default()
            },
        ),
    ];
    for (number, (name, faults)) in rows.iter().enumerate() {
        let faults = Faults { seed: number as u64, ..*faults };
        // A tag whose answer was lost is out of use for a second: with few of them that would be all there is to see.
        let tags = |link: &mut link::Config, emulator: &mut emulator::Config| {
            (link.tags, link.port_mask, emulator.port_mask) = (256, 0xff, 0xff);
        };
        let Bench { client, emulator: _emulator, .. } = bench(faults, tags);
        let failed = soak(&client, u64::div_ceil(reads, 64));
        println!("{name:26} {failed:4} of {reads} failed; {}", client.stats());
        assert!(failed < reads as usize / 10, "{name}: {failed} of {reads} failed");
    }
}
