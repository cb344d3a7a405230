//! `symbols` on a kernel that carries no symbol table for itself.

use std::{fs, process::Command};

use assert_cmd::prelude::*;
use nettlp_gdb::{machine::Machine, mem::PhysMem};

#[test]
fn a_kernel_without_kallsyms_is_told_from_one_that_cannot_be_read() {
    let machine = Machine::demo().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    command.args(["symbols", "--list"]).env_remove("RUST_LOG");
    for range in machine.memory().ram() {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap()];
        machine.memory().read(range.start, &mut bytes).unwrap();
        let path = directory.path().join(range.start.to_string());
        fs::write(&path, bytes).unwrap();
        command.arg("--image").arg(format!("{}@{}", path.display(), range.start));
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("no kallsyms tables in") && said.contains("(0 bytes could not be read)"), "{said}");
}
