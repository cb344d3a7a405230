//! GDB itself, against the fake machine and a `vmlinux` linked like one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{
    client::Client,
    fake::{self, FakeHost},
};

/// Builds the fake kernel's `vmlinux` in `directory`.
fn vmlinux(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/gdb");
    let (object, linked) = (directory.join("vmlinux.o"), directory.join("vmlinux"));
    let run = |command: &mut Command| {
        let status =
            command.status().unwrap_or_else(|error| panic!("{command:?}: {error} (install binutils)"));
        assert!(status.success(), "{command:?}");
    };
    run(Command::new("as").arg("-o").arg(&object).arg(source.join("vmlinux.s")));
    run(Command::new("ld").arg("-o").arg(&linked).arg("-T").arg(source.join("vmlinux.lds")).arg(&object));
    linked
}

/// What GDB prints, standard error included, for `commands` after attaching.
fn gdb(file: Option<&Path>, address: SocketAddr, commands: &[&str]) -> String {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-ex", "set confirm off", "-ex", "set debuginfod enabled off"]);
    command.args(["-ex", &format!("target remote {address}")]);
    commands.iter().for_each(|line| drop(command.args(["-ex", line])));
    command.args(file);
    let Output { status, stdout, stderr } =
        command.output().expect("gdb must be installed to test a GDB server (apt install gdb)");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.code().is_some(), "gdb crashed: {text}");
    text
}

fn check(file: Option<&Path>, commands: &[&str], expected: &[&str]) {
    let server = fake::serve(FakeHost::new());
    let text = gdb(file, server.address, commands);
    for line in expected {
        assert!(text.contains(line), "`{line}` is not in what gdb printed:\n{text}");
    }
}

#[test]
fn experiment() {
    let directory = tempfile::tempdir().unwrap();
    let file = vmlinux(directory.path());
    let server = fake::serve(FakeHost::new());
    let commands = std::fs::read_to_string("/tmp/gdbexp/cmds").unwrap();
    let lines: Vec<&str> = commands.lines().collect();
    let text = gdb(Some(&file), server.address, &lines);
    println!("{text}");
    let _ = check;
    let _ = Client::connect;
}
