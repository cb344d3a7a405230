//! No byte of a forbidden range is ever asked for, by whatever command: the program as a user runs it, against an
//! adapter that remembers every address.

use std::{fs, process::Command};

use nettlp_gdb::{
    addr::{PhysAddr, PhysRange},
    dump::unreadable,
    gdb::{Host, ThreadFilter},
    kernel::{
        dmesg,
        task::{Scope, Tasks},
    },
    machine::Machine,
    mem::PhysMem as _,
    session::{Options, Session, Source},
};
use tempfile::TempDir;

use crate::{
    gdb::client::Client,
    recording::{Asked, Bench, Serving, bytes, options, range, small},
};

/// What the tests forbid: part of a task, part of the log, a stretch of free memory that ends within a line of the
/// cache, and a whole MiB. Found in a session of its own.
fn choose(machine: &Machine, directory: &TempDir) -> (Vec<PhysRange>, u64) {
    let session = Session::open(options(machine, machine.memory(), directory), &|_| ()).unwrap();
    let kernel = &session.kernel;
    let comm = kernel.types("test").unwrap().field("task_struct", "comm").unwrap().offset;
    let task = &machine.truth().tasks[3];
    let comm = kernel.memory.translate(task.addr.wrapping_add(comm)).unwrap().phys;
    let log = kernel.symbols("test").unwrap().find("__log_buf").expect("the machine has a log");
    let log = kernel.memory.translate(log).unwrap().phys;
    let forbidden = vec![
        bytes(comm.raw(), 8),
        bytes(log.raw() + 100, 50),
        bytes((30 << 20) + 77, 5000),
        bytes(40 << 20, 1 << 20),
    ];
    (forbidden, kernel.map.page_offset.unwrap().raw())
}

/// Where the double words begin and end that a range has bytes of.
fn beside(range: PhysRange) -> [u64; 2] {
    [range.start.raw() & !3, range.end.raw().next_multiple_of(4)]
}

#[test]
fn no_command_reads_it() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let (forbidden, direct_map) = choose(&machine, &directory);
    let bench = Bench::new(&machine, 1, directory, forbidden.clone());
    let hex = |value: u64| format!("{value:#x}");

    bench.ends(0, &["info"]);
    let refused = bench.run(&["ps"]);
    assert_ne!(refused.status.code(), Some(0), "a task's name is forbidden");
    bench.run(&["ps", "--threads", "--json"]);
    bench.run(&["ps", "--format", "process-list"]);
    bench.run(&["dmesg"]);
    bench.ends(0, &["modules"]);
    bench.run(&["kconfig", "--quiet"]);
    bench.ends(0, &["translate", &hex(direct_map + (40 << 20))]);

    for range in &forbidden {
        let (start, len) = (range.start.raw(), range.len());
        for (addr, len) in
            [(start, len), (start, 1), (start + len - 1, 64), (start - 1, 2), (start - 4096, 8192)]
        {
            for arguments in [
                ["read", &hex(addr), &hex(len), "--phys"],
                ["read", &hex(direct_map + addr), &hex(len), "-q"],
            ] {
                let said = bench.ends(1, &arguments);
                assert!(said.contains(&format!("`memory.forbidden` of the profile has {range}")), "{said}");
            }
        }
        let [before, behind] = beside(*range);
        bench.ends(0, &["read", "--phys", &hex(before - 8), "8"]);
        bench.ends(0, &["read", "--phys", &hex(behind), "8"]);
        assert!(bench.asked.touches(bytes(before - 1, 1)) && bench.asked.touches(bytes(behind, 1)));
    }
    bench.nothing_forbidden_was_asked_for();
}

#[test]
fn no_dump_has_it() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let (forbidden, _) = choose(&machine, &directory);
    let bench = Bench::new(&machine, 3, directory, forbidden.clone());
    for format in ["raw", "elf"] {
        let file = bench.directory.path().join(format);
        bench.ends(3, &["dump", "--format", format, "-q", "-o", file.to_str().unwrap()]);
        let listed = fs::read_to_string(unreadable::path(&file)).unwrap();
        for range in &forbidden {
            // Whole pages are left out.
            let line = listed.lines().find(|line| line.contains(&format!("has {range}")));
            let line = line.unwrap_or_else(|| panic!("{range} is not in:\n{listed}"));
            let left_out: PhysRange = line.split(' ').next().unwrap().parse().unwrap();
            assert!(
                left_out.contains(range.start, range.len()) && left_out.len() < range.len() + 8192,
                "{line}"
            );
        }
        bench.ends(3, &["dump", "--format", format, "-q", "--resume", "-o", file.to_str().unwrap()]);
    }
    bench.nothing_forbidden_was_asked_for();
}

#[test]
fn no_packet_reads_it() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let (forbidden, direct_map) = choose(&machine, &directory);
    let bench = Bench::new(&machine, 5, directory, forbidden.clone());
    let serving = Serving::start(bench.command(&["serve", "--cache-ms", "0"]));
    let mut client = Client::connect(serving.1);
    for range in &forbidden {
        let at = direct_map + range.start.raw();
        for len in [1, 8, 0x4000] {
            assert_eq!(client.ask(&format!("m{at:x},{len:x}")), "E01", "{range}");
        }
        assert_eq!(client.ask(&format!("m{:x},1", at + range.len() - 1)), "E01");
        let [before, behind] = beside(*range).map(|phys| direct_map + phys);
        assert_eq!(client.ask(&format!("m{:x},8", before - 8)).len(), 16);
        assert_eq!(client.ask(&format!("m{behind:x},8")).len(), 16);
        client.ask(&format!("m{:x},8000", (at - 0x2000) & !0xfff));
    }
    for command in ["info", "ps", "ps threads", "dmesg", "modules", "refresh", "stats"] {
        client.monitor(command);
    }
    client.ask("qXfer:threads:read::0,1000");
    drop(serving);
    bench.nothing_forbidden_was_asked_for();
}

/// Wherever it is, in the page tables, in the trampoline or in the image: finding the kernel goes around it or fails.
#[test]
fn no_search_reads_it() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let truth = machine.truth();
    let real_mode = truth.real_mode.unwrap().raw();
    let mut forbidden = vec![
        bytes(0x1ff8, 8),
        bytes(real_mode, 0x8000),
        range("0-0x9fc00"),
        bytes(truth.root.raw() + 0xff8, 8),
        bytes(truth.root.raw(), 4096),
        bytes(truth.text_phys.raw(), 1),
        bytes(truth.text_phys.raw(), 4 << 20),
        truth.image,
    ];
    forbidden.extend((1..48).map(|mib| bytes((mib << 20) + 0x1234 * mib, 100 << (mib % 12))));
    forbidden.extend((0..32).map(|page| bytes((48 << 20) - (page + 1) * 4096 + 0x100, 0xe00)));
    let base = options(&machine, machine.memory(), &directory);
    let (mut opened, mut failed) = (0, 0);
    for range in forbidden {
        for (ram, vmlinux) in [(&[][..], true), (&truth.ram, true), (&truth.ram, false)] {
            let asked = Asked::of(&machine);
            let options = Options {
                source: Source::Memory(asked.clone()),
                vmlinux: base.vmlinux.clone().filter(|_| vmlinux),
                ram: ram.to_vec(),
                forbidden: vec![range],
                ..base.clone()
            };
            match Session::open(options, &|_| ()) {
                Ok(session) => {
                    opened += 1;
                    let kernel = &session.kernel;
                    let _ = Tasks::resolve(kernel).and_then(|tasks| tasks.list(kernel, Scope::Threads));
                    let _ = dmesg::read(kernel);
                    session.threads(&ThreadFilter::All);
                    let mut page = [0; 4096];
                    if let Some(direct) = kernel.map.page_offset {
                        let _ = session.read(direct.wrapping_add(range.start.raw()), &mut page);
                    }
                }
                Err(_) => failed += 1,
            }
            assert!(!asked.touches(range), "{range} was asked for");
        }
    }
    assert!(opened > 100 && failed > 5, "{opened} opened, {failed} failed");
}

/// What page tables would say of RAM and cannot is not taken for all there is: without types they alone tell of it.
#[test]
fn page_tables_that_are_forbidden_are_ram_that_is_not_known() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let session = Session::open(options(&machine, machine.memory(), &directory), &|_| ()).unwrap();
    let map = &session.kernel.map;
    assert_eq!(map.ram_shortfall, None);
    let base = map.page_offset.unwrap();
    // The tables on the way to an address of the direct map, from the top.
    let on_the_way_to = |phys: u64| {
        let (addr, mut table, mut tables) = (base.wrapping_add(phys).raw(), map.root.raw(), Vec::new());
        for level in (1..=map.levels.count()).rev() {
            tables.push(table);
            let slot = addr >> (12 + 9 * (level - 1)) & 511;
            let entry = machine.memory().read_u64(PhysAddr::new(table + slot * 8)).unwrap();
            if entry & 1 == 0 || entry & 0x80 != 0 {
                break;
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        tables
    };
    let low = on_the_way_to(0x1000);
    let of_pages = *low.last().unwrap();
    assert_ne!(Some(&of_pages), on_the_way_to(map.text_phys.raw()).last(), "a table for less than all");

    for (number, table, lacks) in [
        (41, of_pages, "1 page tables of the direct map could not be read (they could map up to 2 MiB)"),
        (43, low[low.len() - 2], "only the kernel image is known to be RAM"),
    ] {
        let bench = Bench::new(&machine, number, tempfile::tempdir().unwrap(), vec![bytes(table, 4096)]);
        let without = fs::read_to_string(&bench.profile).unwrap().replace("vmlinux = 'vmlinux'", "");
        fs::write(&bench.profile, without).unwrap();
        let file = bench.directory.path().join("core");
        for arguments in
            [&["dump", "-q", "-o", file.to_str().unwrap()][..], &["profile", "new", "--from-target"]]
        {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nettlp-gdb"));
            command.env_remove("RUST_LOG").args(arguments).arg("--profile").arg(&bench.profile);
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(said.contains(lacks), "{said}");
        }
        let info = String::from_utf8(bench.run(&["info", "--json"]).stdout).unwrap();
        assert!(info.contains("guessed") && info.contains("ram"), "{info}");
        bench.nothing_forbidden_was_asked_for();
    }
}
