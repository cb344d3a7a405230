//! Writing to a target: only what was allowed, exactly that, and proved; the program as a user runs it.

use std::{fs, sync::atomic::Ordering::Relaxed};

use nettlp_gdb::{
    addr::{PhysAddr, PhysRange},
    gdb::packet::{self, frame},
    machine::Machine,
    mem::{PhysMem, PhysWrite},
    session::Session,
};

use crate::{
    gdb::{client::Client, lifecycle::connect_when_free, real_gdb},
    recording::{Bench, Serving, attach, bytes, options, small},
};

/// Two pages of free memory, which the direct map has side by side.
const PAGES: u64 = 30 << 20;

struct Target {
    machine: Machine,
    bench: Bench,
    direct_map: u64,
}

/// A machine of which most of two pages may be written.
fn target(number: u8) -> Target {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let session = Session::open(options(&machine, machine.memory(), &directory), &|_| ()).unwrap();
    let direct_map = session.kernel.map.page_offset.unwrap().raw();
    let bench = Bench::new(&machine, number, directory, vec![bytes(PAGES - 8, 8)]);
    bench.allow_writes(&[writable()]);
    Target { machine, bench, direct_map }
}

fn writable() -> PhysRange {
    bytes(PAGES, 8000)
}

impl Target {
    /// Both pages and something on each side.
    fn memory(&self) -> Vec<u8> {
        let mut memory = vec![0; 0x2000 + 128];
        self.machine.memory().read(PhysAddr::new(PAGES - 64), &mut memory).unwrap();
        memory
    }

    fn expect(&self, expected: &mut [u8], offset: usize, data: &[u8]) {
        expected[64 + offset..][..data.len()].copy_from_slice(data);
        assert!(self.memory() == *expected, "{} bytes at {offset:#x}", data.len());
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn exactly_the_bytes_that_were_given() {
    let target = target(51);
    let mut expected = target.memory();
    for (offset, len) in [(0, 1), (5, 2), (0xffe, 5), (0x1003, 3000), (0xf3f, 4096)] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8 | 1).collect();
        for (flag, addr) in [("--phys", PAGES), ("-q", target.direct_map + PAGES)] {
            let addr = format!("{:#x}", addr + offset as u64);
            target.bench.ends(0, &["write", "--allow-write", flag, &addr, &hex(&data)]);
            target.expect(&mut expected, offset, &data);
        }
    }
}

/// Finding the kernel has read some of both.
#[test]
fn what_is_held_longest_is_read_anew_too() {
    let machine = small();
    let session = attach(&machine);
    let banner = session.kernel.symbols("a test").unwrap().find("linux_banner").unwrap();
    let banner = session.kernel.memory.translate(banner).unwrap().phys;
    let text = session.kernel.map.text_phys;
    assert!(session.kernel.map.rodata.unwrap().contains(banner, 1));
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vmlinux"), machine.vmlinux().unwrap()).unwrap();
    let bench = Bench::new(&machine, 67, directory, Vec::new());
    bench.allow_writes(&[text, banner].map(|place| bytes(place.raw(), 4)));
    for place in [text, banner] {
        let mut before = [0; 4];
        machine.memory().read(place, &mut before).unwrap();
        let data = before.map(|byte| !byte);
        bench.ends(0, &["write", "--allow-write", "--phys", &place.to_string(), &hex(&data)]);
        let mut now = [0; 4];
        machine.memory().read(place, &mut now).unwrap();
        assert_eq!(now, data);
        machine.memory().write(place, &before).unwrap();
    }
}

#[test]
fn a_new_debugger_is_shown_nothing_that_was_read_for_another() {
    let target = target(69);
    let serving = Serving::start(target.bench.command(&["serve", "--cache-ms", "100000"]));
    let map = attach(&target.machine).kernel.map.clone();
    let rodata = map.rodata.unwrap().start;
    // Beyond what a boot is known by.
    let places = [map.text_phys, rodata, PhysAddr::new(PAGES)].map(|place| place.wrapping_add(0x1800));
    let seen = |client: &mut Client| {
        places.map(|place| client.memory(target.direct_map + place.raw(), 1).unwrap()[0])
    };
    let before = seen(&mut Client::connect(serving.1));
    for place in places {
        let mut byte = [0];
        target.machine.memory().read(place, &mut byte).unwrap();
        target.machine.memory().write(place, &[!byte[0]]).unwrap();
    }
    assert_eq!(seen(&mut connect_when_free(serving.1)), before.map(|byte| !byte));
}

#[test]
fn nothing_that_was_not_allowed() {
    let target = target(53);
    let before = target.memory();
    let at = |addr: u64| format!("{addr:#x}");
    let virt = target.direct_map + PAGES;
    let said = target.bench.ends(2, &["write", "--phys", &at(PAGES), "00"]);
    assert!(said.contains("say --allow-write"), "{said}");
    for (addr, data) in [(PAGES + 7999, "0101"), (PAGES + 8000, "01"), (PAGES - 1, "0101"), (0x1000, "01")] {
        for (flag, addr) in [("--phys", addr), ("-q", target.direct_map + addr)] {
            let said = target.bench.ends(1, &["write", "--allow-write", flag, &at(addr), data]);
            assert!(said.contains("not inside one range of `memory.write`"), "{said}");
        }
    }
    let many = "01".repeat(4097);
    for bad in ["", "1", "0x01", "+1", "g0", &*many] {
        target.bench.ends(2, &["write", "--allow-write", "--phys", &at(PAGES), bad]);
    }
    let said = target.bench.ends(1, &["write", "--allow-write", "0x1000", "01"]);
    assert!(said.contains("nothing was written"), "{said}");
    let said = target.bench.ends(2, &["write", "--allow-write", "init_taks", "01"]);
    assert!(said.contains("did you mean `init_task`"), "{said}");
    // Half of it would be allowed: none of it is written.
    let said = target.bench.ends(1, &["write", "--allow-write", &at(virt + 0x1f00), &"01".repeat(512)]);
    assert!(said.contains("refused"), "{said}");
    assert!(target.memory() == before && target.bench.asked.writes() == 0);
}

#[test]
fn without_ranges_there_is_nothing_to_allow() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vmlinux"), machine.vmlinux().unwrap()).unwrap();
    let bench = Bench::new(&machine, 55, directory, Vec::new());
    for arguments in [&["write", "--allow-write", "--phys", "0x1000", "00"][..], &["serve", "--allow-write"]]
    {
        let said = bench.ends(2, arguments);
        assert!(said.contains("write = [\"START-END\"]"), "{said}");
    }
    let forbidden = bytes(0x2000, 8);
    let bench = Bench::new(&machine, 57, tempfile::tempdir().unwrap(), vec![forbidden]);
    bench.allow_writes(&[bytes(0x2004, 8)]);
    let said = bench.ends(1, &["write", "--allow-write", "--phys", "0x2008", "00"]);
    assert!(said.contains("forbidden"), "a profile that contradicts itself: {said}");
}

#[test]
fn an_image_is_never_written_to() {
    let target = target(59);
    let image = target.bench.directory.path().join("image");
    let file = image.to_str().unwrap();
    target.bench.ends(3, &["dump", "-q", "-o", file]);
    let before = fs::read(&image).unwrap();
    let at = format!("{PAGES:#x}");
    let said = target.bench.ends(2, &["write", "--image", file, "--allow-write", "--phys", &at, "01"]);
    assert!(said.contains("image is never written to"), "{said}");
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn a_lost_write_is_told_and_not_repeated() {
    let target = target(61);
    target.bench.asked.losing.store(true, Relaxed);
    let at = format!("{:#x}", PAGES + 1);
    let said = target.bench.ends(1, &["write", "--allow-write", "--phys", &at, "0102"]);
    assert!(said.contains("the write of 2 bytes at 0x1e00001 was lost"), "{said}");
    assert_eq!(target.bench.asked.writes(), 1);
}

#[test]
fn a_debugger_writes_what_was_allowed_and_sees_it() {
    let target = target(63);
    let audit = target.bench.directory.path().join("audit.jsonl");
    let arguments = ["serve", "--allow-write", "--cache-ms", "100000", "--audit", audit.to_str().unwrap()];
    let serving = Serving::start(target.bench.command(&arguments));
    let mut client = Client::connect(serving.1);
    let mut expected = target.memory();
    let at = target.direct_map + PAGES;
    assert_eq!(client.ask(&format!("X{at:x},0:")), "OK");
    assert_eq!(client.memory(at, 8).unwrap(), [0; 8]);
    assert_eq!(client.ask(&format!("M{:x},3:010203", at + 1)), "OK");
    target.expect(&mut expected, 1, &[1, 2, 3]);
    assert_eq!(client.memory(at, 8).unwrap(), [0, 1, 2, 3, 0, 0, 0, 0], "what was cached is forgotten");
    let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
    let packet =
        [format!("X{:x},{:x}:", at + 0x7ff, data.len()).into_bytes(), packet::escape(&data)].concat();
    client.raw(&frame(&packet));
    assert_eq!(client.reply().unwrap(), "OK");
    target.expect(&mut expected, 0x7ff, &data);
    let refused = client.ask(&format!("M{:x},1:01", at + 8000));
    assert!(refused.starts_with("E.refused: 0x1e01f40-0x1e01f41"), "{refused}");
    assert!(client.ask(&format!("M{at:x},2:01")).starts_with("E.this is no write"));
    let lines = fs::read_to_string(&audit).unwrap();
    let allowed: Vec<bool> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["event"] == "write")
        .map(|line| line["allowed"].as_bool().unwrap())
        .collect();
    assert_eq!(allowed, [true, true, false, false], "neither past the range nor what is no write");
    target.bench.asked.losing.store(true, Relaxed);
    let lost = client.ask(&format!("M{:x},1:77", at + 100));
    assert!(lost.starts_with("E.the write of 1 bytes at 0x1e00064 was lost"), "{lost}");
    assert!(target.memory() == expected);
}

#[test]
fn gdb_sets_variables() {
    let target = target(65);
    let serving = Serving::start(target.bench.command(&["serve", "--allow-write", "--cache-ms", "100000"]));
    let at = target.direct_map + PAGES + 6;
    let allowed = format!("*(unsigned int *) {at:#x}");
    let printed = real_gdb::gdb(
        None,
        &serving.1.to_string(),
        &[
            "set architecture i386:x86-64",
            &format!("p/x {allowed}"),
            &format!("set var {allowed} = 0x7d23242a"),
            &format!("p/x {allowed}"),
            &format!("set var *(char *) {:#x} = 1", target.direct_map + PAGES + 8000),
        ],
    );
    assert!(printed.contains("$1 = 0x0\n$2 = 0x7d23242a\n"), "{printed}");
    assert!(printed.contains("Cannot access memory at address"), "{printed}");
    let mut expected = vec![0; target.memory().len()];
    target.expect(&mut expected, 6, &0x7d23_242a_u32.to_le_bytes());
}
