//! `kconfig` against synthetic machines: a configuration in the kernel image, and one in scattered pages, read over
//! the link.

use std::{fs, io::Write as _, net::IpAddr, ops::ControlFlow, sync::Arc};

use assert_cmd::Command;
use flate2::{Compression, write::GzEncoder};
use nettlp_gdb::{
    addr::PhysRange,
    emulator::{self, Emulator, ReadOnly},
    kernel::kconfig::{self, Method, Recovered, order},
    link,
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite},
    session::{Options, Session, Source},
};

use crate::{
    corpus::targets::machine::{config, scatter},
    recording::images,
};

fn open(source: Source, ram: &[PhysRange]) -> Session {
    let options = Options { ram: ram.to_vec(), ..Options::new(source) };
    Session::open(options, &|_| ()).unwrap()
}

fn recover(session: &Session, names: &[String]) -> Recovered {
    let go_on = &mut |_, _| ControlFlow::Continue(());
    kconfig::recover(&session.kernel, &*session.phys, names, go_on).unwrap()
}

/// A source tree with the options of [`config`].
fn tree(directory: &std::path::Path) {
    fs::write(directory.join("Kconfig"), "mainmenu \"x\"\nsource \"drivers/Kconfig\"\n").unwrap();
    fs::create_dir(directory.join("drivers")).unwrap();
    let options: String = (0..1000).map(|n| format!("config SYNTHETIC_DRIVER_{n}\n\ttristate\n")).collect();
    fs::write(directory.join("drivers/Kconfig"), options).unwrap();
}

#[test]
fn in_the_kernel_image() {
    let machine = Machine::build(&Description::minimal()).unwrap();
    let text = config("6.1.0", 5);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    let marked = [&b"IKCFG_ST"[..], &encoder.finish().unwrap(), b"IKCFG_ED"].concat();

    let image = open(Source::Memory(machine.memory()), &[]).kernel.map.image;
    let unused = |at: &u64| {
        let mut bytes = vec![0; marked.len()];
        machine.memory().read(image.start.wrapping_add(*at), &mut bytes).unwrap();
        bytes.iter().all(|byte| *byte == 0)
    };
    let place = (0..image.len() - marked.len() as u64).step_by(512).find(unused).unwrap();
    machine.memory().write(image.start.wrapping_add(place), &marked).unwrap();

    let session = open(Source::Memory(machine.memory()), &[]);
    let Recovered { text: found, report } = recover(&session, &[]);
    assert_eq!(found, text);
    assert_eq!((report.method, report.options, report.is_complete()), (Method::Embedded, 1000, true));
}

#[test]
fn in_scattered_pages_over_the_link() {
    let machine = Machine::build(&Description::minimal()).unwrap();
    let text = config("6.1.0", 5);
    scatter(&machine, &text);
    scatter(&machine, &config("5.10.1", 4));

    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let address = |last: u8| IpAddr::from([127, 64 | high & 0x3f, low, last]);
    let config = emulator::Config { ip: address(1), ..emulator::Config::default() };
    let link = link::Config {
        local: Some(address(2)),
        requester: Some(config.requester),
        ..link::Config::new(address(1))
    };
    let adapter = Emulator::start(config, Arc::new(ReadOnly(machine.memory()))).unwrap();
    let session = open(Source::Adapter(link), &[]);
    let names = order::names_in_tree("x86", &mut |_| {
        Some((0..1000).map(|n| format!("config SYNTHETIC_DRIVER_{n}\n")).collect())
    });
    let Recovered { text: found, report } = recover(&session, &names);
    adapter.stop();
    assert_eq!(found, text, "{report:?}");
    assert_eq!(report.method, Method::Search);
    assert!(report.stitched_by_order > 0 && report.is_complete());
    assert_eq!(report.others.len(), 1);
}

#[test]
fn the_command() {
    let directory = tempfile::tempdir().unwrap();
    let machine = Machine::build(&Description::minimal()).unwrap();
    let text = config("6.1.0", 5);
    scatter(&machine, &text);
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let arguments = images(&machine, &directory);
    let run = |more: &[&str]| {
        let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
        command.arg("kconfig").args(&arguments).args(more).env_remove("RUST_LOG");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let output = path("config");
    let (code, stdout, stderr) = run(&["-o", &output]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
    assert!(stderr.contains("missing") && stderr.contains("cut: "), "{stderr}");
    assert!(fs::read_to_string(&output).unwrap().contains("# INCOMPLETE"));

    tree(directory.path());
    let source = path("");
    let (code, stdout, stderr) = run(&["-o", &output, "--source", &source, "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["options"], &report["whole"]), (&1000.into(), &true.into()));
    assert!(fs::read_to_string(&output).unwrap().ends_with(&text));

    let (code, stdout, stderr) = run(&["--json"]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(2), "", 1));
    let (code, _, stderr) = run(&["-o", &output, "--source", &path("drivers/none")]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no kernel source tree"), "{stderr}");
}
