//! Commands on a kernel that carries no types, given no vmlinux: they say what is missing and which way remains.

use std::process::Command;

use assert_cmd::prelude::*;

use crate::recording::{images, small};

#[test]
fn a_kernel_without_btf_is_told_what_to_give() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(&small(), &directory);
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
