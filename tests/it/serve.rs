//! `serve` as a user or a service manager runs it: where it listens, and how it ends.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

use nettlp_gdb::gdb::packet::frame;

use crate::{
    gdb::client::Client,
    recording::{Bench, Serving, small, terminate},
};

fn bench(number: u8) -> Bench {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vmlinux"), machine.vmlinux().unwrap()).unwrap();
    Bench::new(&machine, number, directory, Vec::new())
}

fn last_event(audit: &Path) -> String {
    let text = fs::read_to_string(audit).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
    line["event"].as_str().unwrap().to_owned()
}

#[test]
fn other_machines_are_let_in_only_if_told_to() {
    let bench = bench(41);
    let said = bench.ends(2, &["serve", "--listen", "0.0.0.0:0"]);
    assert!(said.contains("--allow-remote") && said.contains("no password"), "{said}");
    let mut serve = bench.command(&["serve", "--listen", "0.0.0.0:0", "--allow-remote", "-v"]);
    let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let warned = lines.find(|line| line.contains("no loopback address")).unwrap();
    assert!(warned.contains("without a password"), "{warned}");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn sigterm_hangs_up_and_leaves_nothing_behind() {
    let bench = bench(43);
    let audit = bench.directory.path().join("audit.jsonl");
    for request in ["qAttached", "vCont;c"] {
        let serving = Serving::start(bench.command(&["serve", "--audit", audit.to_str().unwrap()]));
        let mut client = Client::connect(serving.1);
        client.ask("qSupported");
        client.raw(&frame(request.as_bytes()));
        while client.event() != Some(nettlp_gdb::gdb::packet::Event::Ack) {}
        assert_eq!(serving.terminate().code(), Some(0));
        while client.event().is_some() {}
        assert_eq!(last_event(&audit), "session-end");
    }
}

#[test]
fn a_unix_socket_is_private_and_goes_with_its_server() {
    let bench = bench(45);
    let path = bench.directory.path().join("gdb.sock");
    let listen = format!("unix:{}", path.display());
    let mut child = bench.command(&["serve", "--listen", &listen]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let ready = format!("'target remote {}'", path.display());
    lines.find(|line| line.ends_with(&ready)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&frame(b"qAttached")).unwrap();
    let mut reply = [0; 6];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+$1#31");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn sigterm_ends_a_session_over_standard_input() {
    let bench = bench(47);
    let mut serve = bench.command(&["serve", "--stdio"]);
    let mut child = serve.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&frame(b"qAttached")).unwrap();
    let mut reply = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+$1#31");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Its vmlinux is its owner's alone, of a name nobody foresees, and goes with it.
#[test]
fn demonstrations_do_not_meet() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_nettlp-gdb"));
        demo.args(["demo", "--listen", "127.0.0.1:0"]).env("TMPDIR", directory.path());
        let mut child = demo.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let shown = lines.find(|line| line.contains("gdb -q")).unwrap();
        let vmlinux = shown.split_whitespace().nth(2).unwrap().to_owned();
        (child, lines, vmlinux)
    };
    let mut started = [start(), start()];
    let seen: Vec<_> = started
        .iter()
        .map(|(.., vmlinux)| (fs::read(vmlinux), Path::new(vmlinux).parent().unwrap().metadata()))
        .collect();
    for (child, ..) in &mut started {
        terminate(child);
        assert!(child.wait().unwrap().success());
    }
    assert_ne!(started[0].2, started[1].2);
    for (vmlinux, private) in seen {
        assert!(vmlinux.unwrap().starts_with(b"\x7fELF"));
        assert_eq!(private.unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// The unit's command line is one this program takes: it fails for want of the profile, not for an argument.
#[test]
fn the_shipped_unit_starts_this_program() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/nettlp-gdb@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let start = start.replace("%i", "missing").replace("%t", "/nonexistent").replace("%L", "/nonexistent");
    let mut words = start.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/nettlp-gdb"));
    let output = Command::new(env!("CARGO_BIN_EXE_nettlp-gdb")).args(words).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("missing.toml"), "{said}");
}
