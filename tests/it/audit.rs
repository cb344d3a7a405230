//! `--audit`: what was looked at is in the file before the answer is out, and nothing is done that is not there.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nettlp_gdb::gdb::packet::frame;
use serde_json::Value;

use crate::{
    gdb::client::Client,
    recording::{Bench, Serving, addresses, bytes, small},
};

fn bench(number: u8) -> Bench {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vmlinux"), machine.vmlinux().unwrap()).unwrap();
    Bench::new(&machine, number, directory, vec![bytes(40 << 20, 16)])
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

/// The last line, which must be of this event.
#[track_caller]
fn last(path: &Path, event: &str) -> Value {
    let last = lines(path).pop().unwrap();
    assert_eq!(last["event"], event, "{last}");
    last
}

#[test]
fn a_command_leaves_its_range() {
    let bench = bench(21);
    let file = bench.directory.path().join("audit.jsonl");
    let audit = file.to_str().unwrap();
    let dump = bench.directory.path().join("raw");
    bench.ends(0, &["read", "--audit", audit, "--phys", "0x1000", "16"]);
    bench.ends(1, &["read", "--audit", audit, "--phys", "40M", "16"]);
    bench.ends(0, &["translate", "--audit", audit, "init_task"]);
    bench.ends(3, &["dump", "--audit", audit, "-q", "--format", "raw", "-o", dump.to_str().unwrap()]);
    bench.ends(0, &["info", "--audit", audit]);
    let lines = lines(&file);
    let session = |what: &[&'static str]| [&["session-start", "command"], what, &["session-end"]].concat();
    let expected = [&["read"][..], &["read"], &["translate"], &["read"], &[]].map(session).concat();
    assert_eq!(events(&lines), expected);
    let first = lines[1]["command"].as_str().unwrap();
    assert!(first.contains("nettlp-gdb read --profile") && first.ends_with("--phys 0x1000 16"), "{first}");
    assert_eq!((&lines[2]["space"], &lines[2]["ranges"][0]), (&"physical".into(), &"0x1000-0x1010".into()));
    assert_eq!(lines[6]["ranges"][0], "0x2800000-0x2800010", "refused, and written down nevertheless");
    assert!(lines[10]["address"].as_str().unwrap().starts_with("0xffffffff"));
    assert_eq!(lines[14]["ranges"], serde_json::json!(["0x1000-0x9fc00", "0x100000-0x3000000"]));
    let target = format!("adapter {}", addresses(21)[0]);
    assert!(lines.iter().all(|line| line["target"] == target && line["uid"].is_u64()));
    // What would destroy the evidence, of earlier commands and of this one.
    for output in ["new", "./new"] {
        let output = bench.directory.path().join(output);
        let new = bench.directory.path().join("new");
        let arguments = ["symbols", "--audit", new.to_str().unwrap(), "-o", output.to_str().unwrap()];
        assert!(bench.ends(1, &arguments).contains("choose another file"));
    }
    let said = bench.ends(1, &["dump", "--audit", audit, "-o", audit, "--overwrite"]);
    assert!(said.contains("choose another file"), "{said}");
}

#[test]
fn without_a_line_nothing_is_asked_of_the_target() {
    let bench = bench(23);
    for arguments in [&["info"][..], &["ps"], &["read", "--phys", "0x1000", "16"], &["serve", "--once"]] {
        let said = bench.ends(1, &[arguments, &["--audit", "/dev/full"]].concat());
        assert!(said.contains("cannot write to the audit file /dev/full"), "{said}");
    }
    assert!(!bench.asked.touches(bytes(0, 1 << 40)));
    bench.ends(0, &["info"]);
    assert!(bench.asked.touches(bytes(0, 1 << 40)));
}

#[test]
fn a_debugger_leaves_pages_commands_and_attempts_to_write() {
    let bench = bench(25);
    let file = bench.directory.path().join("audit.jsonl");
    let serving = Serving::start(bench.command(&["serve", "--audit", file.to_str().unwrap()]));
    let mut client = Client::connect(serving.1);
    client.ask("qSupported");
    let start = last(&file, "session-start");
    assert_eq!(start["peer"], client.stream.local_addr().unwrap().to_string());

    let text = 0xffff_ffff_8100_0000_u64;
    client.ask(&format!("m{:x},10", text + 0xff8));
    let read = last(&file, "read");
    assert_eq!(read["ranges"], serde_json::json!(["0xffffffff81000000-0xffffffff81002000"]));
    assert_eq!((&read["space"], &read["session"]), (&"virtual".into(), &start["session"]));
    let count = lines(&file).len();
    client.ask(&format!("m{:x},10", text + 0x10));
    assert_eq!(lines(&file).len(), count, "a page is written down once");
    client.ask(&format!("m{:x},3000", text + 0xf00));
    assert_eq!(last(&file, "read")["ranges"][0], "0xffffffff81002000-0xffffffff81004000");

    // What is never read is not written down as read.
    let count = lines(&file).len();
    for (packet, reply) in [
        (format!("x{:x},", text + 0x8000), "E16"),
        (format!("m{:x},0", text + 0x8000), "E16"),
        (format!("Z2,{text:x},0"), ""),
        (format!("Z02,{:x},8", text + 0x8000), "E16"),
        (format!("Z2,{:x},8;X1,0", text + 0x8000), "E16"),
    ] {
        let answer = client.ask(&packet);
        assert!(answer == reply || answer.starts_with('E') && reply.is_empty(), "{packet}: {answer}");
    }
    assert_eq!(lines(&file).len(), count);
    assert_eq!(client.ask(&format!("Z2,{:x},8", text + 0x8000)), "OK");
    assert_eq!(last(&file, "read")["ranges"][0], "0xffffffff81008000-0xffffffff81009000");
    assert_eq!(client.ask(&format!("z2,{:x},8", text + 0x8000)), "OK");

    // The same page of two processes is two pages.
    for pid in [1, 590] {
        client.ask(&format!("Hg{pid:x}"));
        client.ask("m1c00000,4");
        let read = last(&file, "read");
        assert_eq!((&read["space"], &read["task"]), (&"user".into(), &pid.into()));
        assert_eq!(read["ranges"][0], "0x1c00000-0x1c01000");
    }

    client.monitor("info version");
    assert_eq!(last(&file, "command")["command"], "monitor info version");
    assert!(client.ask(&format!("M{text:x},2:0000")).starts_with('E'));
    let write = last(&file, "write");
    assert_eq!(write["ranges"][0], "0xffffffff81000000-0xffffffff81000002");
    assert_eq!(write["allowed"], false);
    assert!(client.ask("P0=0000000000000000").starts_with('E'));
    assert_eq!(last(&file, "write")["space"], "registers");

    let mut second = TcpStream::connect(serving.1).unwrap();
    second.write_all(&frame(b"qSupported")).unwrap();
    let mut told = String::new();
    second.read_to_string(&mut told).unwrap();
    assert_eq!(last(&file, "turned-away")["peer"], second.local_addr().unwrap().to_string(), "{told}");

    drop(client);
    // The server notices in its own time.
    while lines(&file).last().unwrap()["event"] != "session-end" {
        thread::sleep(Duration::from_millis(5));
    }
    drop(serving);
    let lines = lines(&file);
    assert_eq!(events(&lines)[..3], ["session-start", "command", "session-start"]);
    assert_eq!(lines.last().unwrap()["session"], start["session"]);
}

/// A process on this machine is named by the system, whatever it says of itself.
#[test]
fn a_debugger_on_a_unix_socket_is_a_user_and_a_process() {
    let bench = bench(29);
    let [file, socket] = ["audit.jsonl", "socket"].map(|name| bench.directory.path().join(name));
    let mut command = bench.command(&["serve", "--once", "--audit", file.to_str().unwrap()]);
    command.args(["--listen", &format!("unix:{}", socket.display())]).stderr(Stdio::null());
    let mut serving = command.spawn().unwrap();
    let mut client = loop {
        match UnixStream::connect(&socket) {
            Ok(client) => break client,
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
        assert!(serving.try_wait().unwrap().is_none(), "the server ended");
    };
    client.write_all(&frame(b"qC")).unwrap();
    assert!(client.read(&mut [0; 100]).unwrap() > 0);
    let uid = fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(last(&file, "session-start")["peer"], format!("uid {uid}, pid {}", std::process::id()));
    drop(client);
    assert!(serving.wait().unwrap().success());
    assert_eq!(events(&lines(&file))[2..], ["session-start", "session-end", "session-end"]);
}

/// A pipe takes lines as long as somebody reads them.
#[test]
fn a_debugger_gets_no_answer_that_is_not_written_down() {
    let bench = bench(27);
    let pipe = bench.directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = pipe.clone();
    let reader = thread::spawn(move || File::open(path).unwrap());
    let serving = Serving::start(bench.command(&["serve", "--audit", pipe.to_str().unwrap()]));
    let mut reader = reader.join().unwrap();
    let mut client = Client::connect(serving.1);
    let text = small().truth().text.raw();
    let read = format!("m{text:x},8");
    assert_eq!(client.ask(&read).len(), 16);
    let mut seen = vec![0; 64 << 10];
    assert!(reader.read(&mut seen).unwrap() > 100);
    drop(reader);
    assert_eq!(client.ask(&read).len(), 16, "written down before");
    let refused =
        [client.ask("mffffffff81008000,8"), client.ask("qRcmd,7073"), client.ask("Mffffffff81000000,1:00")];
    for reply in refused {
        assert!(reply.starts_with("E.cannot write to the audit file"), "{reply}");
    }
}
