//! The program as a user runs it: bad input gets one clear sentence and exit code 1 or 2.

use std::{fs, net::UdpSocket, path::Path};

use assert_cmd::Command;
use nettlp_gdb::machine::{Description, Machine};

use crate::recording::{images, small};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    command.args(arguments).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    command
}

/// Runs the program, which must fail with `code`, print nothing on stdout and one line on stderr.
#[track_caller]
fn complaint(code: i32, arguments: &[&str]) -> String {
    let output = program(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

#[track_caller]
fn assert_says(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "`{part}` is not in: {sentence}");
    }
}

fn file(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_vmlinux_is_not_one() {
    let directory = tempfile::tempdir().unwrap();
    let image = file(directory.path(), "ram", &[0; 0x10_0000]);
    let check = |vmlinux: &str| complaint(1, &["info", "--image", &image, "--vmlinux", vmlinux]);
    assert_says(&check("/nonexistent/vmlinux"), &["there is no vmlinux at /nonexistent/vmlinux"]);
    let text = file(
        directory.path(),
        "text",
        b"not an ELF file, but long enough to hold its header, one would think",
    );
    assert_says(&check(&text), &["text", "ELF"]);
    let program = fs::read(env!("CARGO_BIN_EXE_nettlp-gdb")).unwrap();
    let truncated = file(directory.path(), "truncated", &program[..200]);
    assert_says(&check(&truncated), &["truncated"]);
    let empty = file(directory.path(), "empty", b"");
    assert_says(&check(&empty), &["empty"]);
    assert_says(&check(directory.path().to_str().unwrap()), &[]);
}

#[test]
fn the_profile_has_an_unknown_key() {
    let directory = tempfile::tempdir().unwrap();
    let profile = file(directory.path(), "host.toml", b"[link]\nadapter = '127.0.0.1'\nspeed = 3\n");
    let said = complaint(1, &["info", "--profile", &profile]);
    assert_says(&said, &["host.toml", "line 3", "`link.speed`"]);
}

#[test]
fn no_target_is_a_usage_error() {
    assert_says(&complaint(2, &["info"]), &["--adapter", "--image", "--profile"]);
}

#[test]
fn numbers_and_images_are_checked_when_parsed() {
    for (arguments, part) in [
        (&["info", "--adapter", "127.0.0.1", "--tags", "0"][..], "1..=256"),
        (&["info", "--adapter", "127.0.0.1", "--mrrs", "100"], "128, 256"),
        (&["info", "--adapter", "127.0.0.1", "--requester", "1b"], "BB:DD.F"),
        (&["info", "--image", "ram@0,size=4"], "`size` is neither"),
        (&["info", "--ram", "2G-1G", "--image", "ram"], "START-END"),
        (&["serve", "--listen", "here", "--image", "ram"], "here"),
        (&["info", "--adapter", "127.0.0.1", "--port-base", "0xffff"], "leaves no room"),
        (&["info", "--adapter", "127.0.0.1", "--port-mask", "0"], "several tags the same port"),
        (&["emulate", "--machine", "demo", "--port-base", "0xffff"], "leaves no room"),
        (&["read", "--image", "ram", "0", "0"], "1 byte to 64 MiB"),
        (&["read", "--image", "ram", "0", "1T"], "1 byte to 64 MiB"),
        (&["bench", "--image", "ram@zz"], "`zz` is not"),
        (&["bench", "--image", "ram", "--transfer", "511"], "512 bytes or more"),
        (&["symbols", "--image", "ram", "--list", "--modules"], "cannot be used with"),
        (&["demo", "--vmlinux", "vmlinux"], "unexpected argument '--vmlinux'"),
        (&["emulate", "--machine", "demo", "--vmlinux", "vmlinux"], "unexpected argument '--vmlinux'"),
    ] {
        let output = program(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
}

#[test]
fn nobody_or_nothing_answers() {
    let options = ["--local", "127.61.0.2", "--requester", "1b:00.0", "--timeout-ms", "5", "--retries", "1"];
    let refused = complaint(1, &[&["info", "--adapter", "127.61.0.1"][..], &options].concat());
    assert_says(&refused, &["no adapter", "0x", "is the adapter"]);

    let _silent: Vec<UdpSocket> =
        (0..256).map(|tag| UdpSocket::bind(("127.61.0.3", 0x3000 + tag)).unwrap()).collect();
    let silent = complaint(1, &[&["info", "--adapter", "127.61.0.3"][..], &options].concat());
    assert_says(&silent, &["no completion"]);
}

#[test]
fn an_image_without_a_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let image = file(directory.path(), "ram", &[0; 0x20_0000]);
    let said = complaint(1, &["info", "--image", &image]);
    assert_says(&said, &["trampoline"]);
    assert_says(&complaint(1, &["info", "--image", "/nonexistent"]), &["/nonexistent", "No such file"]);
    let empty = file(directory.path(), "empty", b"");
    assert_says(&complaint(1, &["info", "--image", &empty]), &["memory image", "is empty"]);
    let short = complaint(1, &["info", "--image", &format!("{image}@0,len=5G")]);
    assert_says(&short, &["ends at 2097152: offset 0 and len 5368709120 reach beyond it"]);
}

/// A machine in files, and the arguments that name it and its vmlinux.
fn synthetic() -> (tempfile::TempDir, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let machine = small();
    let vmlinux = file(directory.path(), "vmlinux", &machine.vmlinux().unwrap());
    let target = [images(&machine, &directory), vec!["--vmlinux".to_owned(), vmlinux]].concat();
    (directory, target)
}

#[test]
fn a_mistyped_symbol() {
    let (_directory, target) = synthetic();
    let target: Vec<&str> = target.iter().map(String::as_str).collect();
    for command in [&["read", "init_taks", "64"][..], &["translate", "init_taks"]] {
        let said = complaint(2, &[command, &target].concat());
        let sentence = "there is no symbol `init_taks` (did you mean `init_task`?), and it is no address";
        assert_says(&said, &[sentence]);
    }
    let other = complaint(2, &[&["translate", "xyzzy"][..], &target].concat());
    assert_says(&other, &["there is no symbol `xyzzy`, and it is no address"]);
    let beside = complaint(2, &[&["translate", "&init_taks+8"][..], &target].concat());
    assert_says(&beside, &["there is no symbol `init_taks` (did you mean `init_task`?)"]);
    assert_says(
        &complaint(1, &[&["translate", "4G"][..], &target].concat()),
        &["cannot translate virtual address"],
    );
    let physical = complaint(2, &[&["read", "--phys", "init_task", "64"][..], &target].concat());
    assert_says(&physical, &["`init_task` is not an address"]);
    assert_says(&complaint(1, &[&["translate", "4G"][..], &target].concat()), &["0x100000000"]);
}

/// A server's map of its vmlinux outlives a new file of that name.
#[test]
fn a_file_that_is_made_anew_is_another_file() {
    let directory = tempfile::tempdir().unwrap();
    let description = Description { describes_itself: true, ..crate::corpus::targets::machine::small() };
    let machine = Machine::build(&description).unwrap();
    let target = images(&machine, &directory);
    let made = file(directory.path(), "made", b"old");
    let (old, files) = (fs::File::open(&made).unwrap(), fs::read_dir(directory.path()).unwrap().count());
    program(&["symbols", "-o", &made]).args(&target).assert().success();
    assert_eq!(old.metadata().unwrap().len(), 3);
    assert!(fs::read(&made).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), files, "nothing is left beside it");
}

/// Before anything is read of the target, which here does not exist either.
#[test]
fn an_output_that_cannot_be_made_is_told_first() {
    for command in ["symbols", "kconfig"] {
        let said = complaint(1, &[command, "--image", "/nonexistent", "-o", "/nonexistent/out"]);
        assert_says(&said, &["cannot write /nonexistent/out", "No such file"]);
    }
}

#[test]
fn help_has_examples_and_a_closed_pipe_is_no_failure() {
    let help = String::from_utf8(program(&["--help"]).output().unwrap().stdout).unwrap();
    assert!(help.contains("target remote :1234") && help.contains("Examples:"));
    assert!(help.contains("Exit codes: 0 done, 1 failed, 2 usage, 3 partial result"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(program(&["completions", shell]).output().unwrap().stdout.len() > 1000);
    }
    let man = String::from_utf8(program(&["man"]).output().unwrap().stdout).unwrap();
    assert!(man.contains("Exit codes: 0 done"));
    assert!(man.starts_with(".ie") && man.contains("NETTLP\\-GDB") || man.contains("nettlp\\-gdb"));
}
