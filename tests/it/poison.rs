//! Pages that the kernel marked after memory errors are not read by what reads physical memory as it comes: the program
//! as a user runs it, against an adapter that remembers every address.

use std::{
    fs,
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool},
};

use nettlp_gdb::{
    addr::{PhysAddr, PhysRange},
    dump::{Dump, Existing, Format, unreadable},
    kernel::{
        kconfig::{self, Recovered},
        poison::{self, Unpoisoned},
    },
    machine::{Description, Machine, Poisoned},
    mem::{PhysMem, PhysWrite as _, file::ImageFile, stats::Counts},
    session::Session,
};

use crate::{
    corpus::targets::machine::{config, scatter, small},
    recording::{Asked, Bench, attach, bytes, images, options},
};

const PAGE: u64 = (30 << 20) + 0x5000;
const HUGE: u64 = 32 << 20;

fn poisoned() -> Description {
    let poisoned = vec![Poisoned::Page(PhysAddr::new(PAGE)), Poisoned::Huge(PhysAddr::new(HUGE))];
    Description { poisoned, ..small() }
}

fn failed() -> [PhysRange; 2] {
    [bytes(PAGE, 4096), bytes(HUGE, 2 << 20)]
}

#[test]
fn no_command_reads_them() {
    let machine = Machine::build(&poisoned()).unwrap();
    for range in failed() {
        machine.memory().write(range.start, b"lost").unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vmlinux"), machine.vmlinux().unwrap()).unwrap();
    let bench = Bench::new(&machine, 71, directory, Vec::new());

    let info = bench.run(&["info", "--json"]);
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["poisoned_pages"], 2);
    let info = String::from_utf8(bench.run(&["info"]).stdout).unwrap();
    assert!(
        info.contains("bad memory   pages that the kernel took out of use after memory errors: 2"),
        "{info}"
    );

    let hex = |value: u64| format!("{value:#x}");
    for (addr, len, page) in [
        (PAGE, 8, PAGE),
        (PAGE - 4096, 8192, PAGE),
        (PAGE + 4095, 1, PAGE),
        (HUGE + (1 << 20), 16, HUGE + (1 << 20)),
        (HUGE - 8, 16, HUGE),
    ] {
        let said = bench.ends(1, &["read", "--phys", &hex(addr), &len.to_string()]);
        assert!(said.contains(&format!("the page at {page:#x} has a memory error")), "{said}");
    }
    for addr in [PAGE - 8, PAGE + 4096, HUGE - 8, HUGE + (2 << 20)] {
        bench.ends(0, &["read", "--phys", &hex(addr), "8"]);
        assert!(bench.asked.touches(bytes(addr, 8)));
    }

    bench.run(&["kconfig", "--quiet"]);
    assert!(bench.asked.touches(bytes(PAGE + 4096, 4096)), "RAM was searched");

    let file = bench.directory.path().join("elf");
    let said = bench.ends(3, &["dump", "--quiet", "-o", file.to_str().unwrap()]);
    let lines: Vec<String> = failed()
        .map(|range| format!("{range} refused: the page at {} has a memory error (PG_hwpoison)", range.start))
        .to_vec();
    let listed = fs::read_to_string(unreadable::path(&file)).unwrap();
    assert_eq!(listed.lines().count(), 2);
    for (line, expected) in listed.lines().zip(lines) {
        assert!(line.starts_with(&expected) && said.contains(line), "{line}\n{said}");
    }
    let image = ImageFile::open(&[file.to_str().unwrap().parse().unwrap()]).unwrap();
    let [page, huge] = failed();
    let [first, last] = [machine.truth().ram[0], machine.truth().ram[1]];
    let between = |start, end| PhysRange::new(start, end).unwrap();
    let whole =
        [first, between(last.start, page.start), between(page.end, huge.start), between(huge.end, last.end)];
    assert_eq!(image.ranges(), whole);
    for range in whole {
        let mut both = [vec![0; range.len() as usize], vec![1; range.len() as usize]];
        image.read(range.start, &mut both[0]).unwrap();
        machine.memory().read(range.start, &mut both[1]).unwrap();
        assert!(both[0] == both[1], "{range}");
    }

    bench.adapter.stop();
    for range in failed() {
        assert!(!bench.asked.touches(range), "{range} was asked for");
    }
}

/// What a dump asks for, with and without the layer.
fn costs(description: &Description) -> [Counts; 2] {
    let machine = Machine::build(description).unwrap();
    [false, true].map(|layered| {
        let session = attach(&machine);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raw");
        let dump = Dump::open(&path, Format::Raw, &session.kernel.map, Existing::Refuse).unwrap();
        let sound = layered.then(|| Unpoisoned::new(&session.kernel, &*session.phys));
        let phys = sound.as_ref().map_or(&*session.phys, |sound| sound);
        dump.run(phys, &AtomicBool::new(false), &|| false, &|_| ()).unwrap();
        session.counts()
    })
}

#[test]
fn a_host_without_errors_pays_for_the_count_alone() {
    let [plain, layered] = costs(&small());
    assert!(layered.requests - plain.requests <= 1 && layered.batches - plain.batches <= 1);
    // With errors: the structs, a 64th of what they tell of, each stretch once.
    let [plain, layered] = costs(&poisoned());
    let structs = 48 * (1 << 20) / 64;
    assert!(layered.bytes < plain.bytes + structs + structs / 4, "{plain} {layered}");
}

#[test]
fn a_configuration_is_searched_around_them() {
    let text = config("6.1.0", 5);
    let whole = Machine::build(&small()).unwrap();
    let pages = scatter(&whole, &text);
    let lost = pages[2];
    let machine = Machine::build(&Description { poisoned: vec![Poisoned::Page(lost)], ..small() }).unwrap();
    assert_eq!(scatter(&machine, &text), pages);
    let asked = Asked::of(&machine);
    let directory = tempfile::tempdir().unwrap();
    let session = Session::open(options(&machine, Arc::clone(&asked) as _, &directory), &|_| ()).unwrap();
    assert_eq!(poison::count(&session.kernel).unwrap().pages, 1);
    let sound = Unpoisoned::new(&session.kernel, &*session.phys);
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let Recovered { report, .. } = kconfig::recover(&session.kernel, &sound, &[], go_on).unwrap();
    assert_eq!(report.unreadable, 4096);
    assert!(report.options > 500 && !report.is_complete(), "{report:?}");
    let [page, next] = [lost, lost.wrapping_add(4096)].map(|page| bytes(page.raw(), 4096));
    assert!(!asked.touches(page) && asked.touches(next));
}

#[test]
fn pages_that_cannot_be_told_apart_are_warned_of() {
    let mut description = Description { vmcoreinfo: false, ..small() };
    for (name, text) in &mut description.sources {
        if *name == "mm/memory-failure.c" {
            *text = "extern atomic_long_t num_poisoned_pages __data; void memory_failure(void) { }";
        }
    }
    let machine = Machine::build(&description).unwrap();
    let session = attach(&machine);
    let count = machine.symbol("num_poisoned_pages").unwrap();
    let count = session.kernel.memory.translate(count).unwrap().phys;
    machine.memory().write(count, &3_u64.to_le_bytes()).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("nettlp-gdb").unwrap();
    command.env_remove("RUST_LOG").args(["read", "--phys", "0x2000000", "8", "--vmlinux"]).arg(vmlinux);
    let output = command.args(images(&machine, &directory)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !output.stdout.is_empty(), "{stderr}");
    assert!(
        stderr.contains(
            "the host has pages with memory errors (3), and where the kernel marks them is not known"
        ),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
