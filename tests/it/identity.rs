//! What `info` says of a synthetic machine: every value with its evidence, none invented, and why nothing was found.

use std::{fs, path::Path};

use assert_cmd::Command;
use nettlp_gdb::{
    addr::PhysAddr,
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite},
    paging::Levels,
};
use serde_json::Value;

use crate::{corpus::targets::machine::small, recording::images};

/// Where evidence has another name than the value it is for.
const OTHER_NAMES: [(&str, &str); 2] = [("build_id", "build id"), ("text_phys", "phys_base")];

/// A machine whose RAM, of 96 MiB, begins at 0 and has one hole.
fn machine(release: &str, version: &str) -> Machine {
    let mut description = Description { levels: Levels::Five, ..Description::demo() };
    (description.release, description.version) = (release.to_owned(), version.to_owned());
    description.ram = vec!["0-0x9f000".parse().unwrap(), "1M-96M".parse().unwrap()];
    description.text_phys = PhysAddr::new(32 << 20);
    Machine::build(&description).unwrap()
}

/// Writes the machine's RAM and its vmlinux to files.
fn files(machine: &Machine, directory: &Path) -> (String, String) {
    let (image, vmlinux) = (directory.join("ram"), directory.join("vmlinux"));
    let mut bytes = vec![0; 96 << 20];
    for range in machine.memory().ram() {
        let part = &mut bytes[range.start.raw() as usize..range.end.raw() as usize];
        machine.memory().read(range.start, part).unwrap();
    }
    fs::write(&image, bytes).unwrap();
    fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
    (format!("{}@0", image.display()), vmlinux.display().to_string())
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    let output = command.args(arguments).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn info(arguments: &[&str]) -> Value {
    let (code, said, complaint) = run(&[&["info"], arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{complaint}");
    serde_json::from_str(&said).unwrap()
}

fn evidence<'v>(info: &'v Value, what: &str) -> Vec<&'v Value> {
    info["evidence"].as_array().unwrap().iter().filter(|line| line["what"] == what).collect()
}

#[track_caller]
fn every_value_has_evidence(info: &Value) {
    for (key, value) in info.as_object().unwrap().iter().filter(|(key, _)| *key != "evidence") {
        let name = OTHER_NAMES.iter().find(|(other, _)| other == key).map_or(key.as_str(), |(_, name)| *name);
        let known = !(value.is_null() || value == &Value::Array(Vec::new()));
        let lines = evidence(info, name);
        assert_eq!(lines.len(), usize::from(known), "{key} is {value}, its evidence {lines:?}");
        for part in lines.iter().flat_map(|line| ["method", "detail", "confidence"].map(|part| &line[part])) {
            assert!(part.as_str().is_some_and(|text| !text.is_empty()), "{key}: {lines:?}");
        }
    }
}

#[test]
fn every_value_has_its_evidence_with_and_without_a_vmlinux() {
    let directory = tempfile::tempdir().unwrap();
    let machine = machine("6.1.0-own", "#1 SMP");
    let (image, vmlinux) = files(&machine, directory.path());
    let alone = info(&["--image", &image]);
    every_value_has_evidence(&alone);
    assert_eq!(alone["distribution"], Value::Null);
    assert_eq!(alone["cpus"], Value::Array(Vec::new()));

    let with_vmlinux = info(&["--image", &image, "--vmlinux", &vmlinux]);
    every_value_has_evidence(&with_vmlinux);
    assert_eq!(with_vmlinux["init_task"], machine.truth().tasks[0].addr.to_string());
    assert_eq!(evidence(&with_vmlinux, "slide")[0]["confidence"], "proved");
}

/// A host that hangs in an initcall: nothing tells its text from its data, and no vmlinux is given.
#[test]
fn a_kernel_that_still_boots_is_read_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut answers = Vec::new();
    for (protected, real_mode) in [(true, true), (false, true), (false, false)] {
        let mut description = Description { describes_itself: true, protected, ..small() };
        description.real_mode.take_if(|_| !real_mode);
        let arguments = images(&Machine::build(&description).unwrap(), &directory);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let unprotected = evidence(&info(&arguments), "rodata").len();
        assert_eq!(unprotected, usize::from(!protected));
        answers.push(["ps", "dmesg", "bt"].map(|command| run(&[&[command], &arguments[..]].concat())));
    }
    let (protected, unprotected) = answers.split_first().unwrap();
    assert!(protected.iter().all(|(_, said, _)| said.lines().count() > 3), "{protected:?}");
    assert!(unprotected.iter().all(|answer| answer == protected), "{answers:?}");
}

#[test]
fn a_distribution_is_named_with_its_mark() {
    let directory = tempfile::tempdir().unwrap();
    let (image, _) = files(&machine("6.5.6-300.fc39.x86_64", "#1 SMP"), directory.path());
    let found = info(&["--image", &image]);
    assert_eq!(found["distribution"], "Fedora 39");
    assert_eq!(evidence(&found, "distribution")[0]["detail"], "\".fc39\" in its release");
    let (_, text, _) = run(&["info", "--image", &image]);
    assert!(text.contains("\ndistribution Fedora 39\n"), "{text}");
}

#[test]
fn what_was_tried_is_told_when_nothing_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let machine = machine("6.1.0-own", "#1 SMP");
    machine.memory().write(PhysAddr::new(0x1000), &[0; 0x9_e000]).unwrap();
    machine.memory().write(machine.truth().root, &[0; 4096]).unwrap();
    let (image, _) = files(&machine, directory.path());
    let (code, said, complaint) = run(&["info", "--image", &image]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    for part in [
        "real-mode trampoline: nothing",
        "2 MiB slots: not tried, they need symbols",
        "banner at 2 MiB: nothing",
        "VMCOREINFO: 0x",
        "init_task: not tried, it needs types",
        "page tables: nothing",
        "check that",
    ] {
        assert!(complaint.contains(part), "`{part}` is not in: {complaint}");
    }
}
