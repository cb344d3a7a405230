//! Commands on a kernel that carries no types, given no vmlinux: they say what is missing and which way remains.

use std::{fs, process::Command};

use assert_cmd::prelude::*;
use nettlp_gdb::{machine::Machine, mem::PhysMem};

#[test]
fn a_kernel_without_btf_is_told_what_to_give() {
    let machine = Machine::demo().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for range in machine.memory().ram() {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap()];
        machine.memory().read(range.start, &mut bytes).unwrap();
        let path = directory.path().join(range.start.to_string());
        fs::write(&path, bytes).unwrap();
        images.extend(["--image".to_owned(), format!("{}@{}", path.display(), range.start)]);
    }
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    let output = command.arg("dmesg").args(&images).env_remove("RUST_LOG").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    for part in ["CONFIG_DEBUG_INFO_BTF", "--vmlinux", "scripts/rebuild-types"] {
        assert!(said.contains(part), "{said}");
    }
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    let made = directory.path().join("vmlinux");
    let output = command.args(["symbols", "-o"]).arg(&made).args(&images).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!made.exists());
}
