//! GDB itself, against the fake machine and a `vmlinux` linked like one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use nettlp_gdb::gdb::{Options, Server};

use super::{
    client::Client,
    fake::{self, FakeHost, INIT_TASK, SYMBOL_FILE},
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
pub(crate) fn gdb(file: Option<&Path>, target: &str, commands: &[&str]) -> String {
    gdb_after(&[], file, target, commands)
}

/// As [`gdb`], with `first` run before it attaches.
pub(super) fn gdb_after(first: &[&str], file: Option<&Path>, target: &str, commands: &[&str]) -> String {
    // GDB ends a batch at the first command that fails: here a failure is printed, and the next one run.
    let each = |line: &&str| {
        format!("try:\n  gdb.execute({line:?}, from_tty=True)\nexcept Exception as e: print(e, flush=True)\n")
    };
    let script = format!("python\n{}end\n", commands.iter().map(each).collect::<String>());
    let mut file_of_commands = tempfile::NamedTempFile::new().unwrap();
    file_of_commands.write_all(script.as_bytes()).unwrap();
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-ex", "set confirm off", "-ex", "set debuginfod enabled off"]);
    command.args(first.iter().flat_map(|line| ["-ex", line]));
    command.args(["-ex", &format!("target remote {target}"), "-x"]).arg(file_of_commands.path()).args(file);
    let Output { status, stdout, stderr } =
        command.output().expect("gdb must be installed to test a GDB server (apt install gdb)");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.code().is_some(), "gdb crashed: {text}");
    text
}

/// Attaches GDB to a fresh server, runs `commands` and looks for `expected` in what it prints.
fn check(file: Option<&Path>, commands: &[&str], expected: &[&str]) {
    let server = fake::serve(FakeHost::new());
    let text = gdb(file, &server.address.to_string(), commands);
    for line in expected {
        assert!(text.contains(line), "`{line}` is not in what gdb printed:\n{text}");
    }
}

#[test]
fn attaches_lists_threads_and_shows_what_is_not_known() {
    check(
        None,
        &[
            "info threads",
            "info registers",
            "p $cr3",
            "p/x $gs_base",
            "thread 2",
            "p/x $gs_base",
            "bt",
            "detach",
        ],
        &[
            "* 1    Thread 10000000 \"swapper/0\" (CPU 0, pid 0, running) 0xffffffffffffffff in ?? ()",
            "  2    Thread 10000001 \"swapper/1\" (CPU 1, pid 0, running) 0xffffffffffffffff in ?? ()",
            "  3    Thread 1 \"<init> & \\u{1b}\" (pid 1, sleeping)",
            "rax            <unavailable>",
            "rsp            <unavailable>",
            "cr4            <unavailable>",
            "$1 = 305418240",
            "$2 = 0xffff888000100000",
            "$3 = 0xffff888000101000",
            "Backtrace stopped: not enough registers or memory available to unwind further",
            "[Inferior 1 (Remote target) detached]",
        ],
    );
}

#[test]
fn a_plain_vmlinux_is_moved_and_its_percpu_symbols_are_right() {
    let directory = tempfile::tempdir().unwrap();
    check(
        Some(&vmlinux(directory.path())),
        &[
            "x/s &linux_banner",
            "p &init_task",
            "x/s &init_task",
            // What `$lx_per_cpu("current_task", 1)` computes.
            "x/gx (char *)&current_task + ((unsigned long *)&__per_cpu_offset)[1]",
            "x/gx (char *)&current_task + ((unsigned long *)&__per_cpu_offset)[0]",
        ],
        &[
            "0xffffffff92000040 <linux_banner>:\t\"Linux version\"",
            "$1 = (<data variable, no debug info> *) 0xffffffff93000000",
            "0xffffffff93000000:\t\"swapper\"",
            "0xffff888000101080:\t0xffffffff93000001",
            "0xffff888000100080:\t0xffffffff93000000",
        ],
    );
}

#[test]
fn a_gdb_without_a_file_is_handed_one() {
    let directory = tempfile::tempdir().unwrap();
    let symbols = std::fs::read(vmlinux(directory.path())).unwrap();
    let server = fake::serve(FakeHost::with_symbols(symbols));
    let commands =
        ["info files", "x/s &init_task", "x/gx (char *)&current_task + *(long *)&__per_cpu_offset"];
    let text = gdb(None, &server.address.to_string(), &commands);
    for line in [
        &format!("Symbols from \"target:{SYMBOL_FILE}\"."),
        "0xffffffff93000000:\t\"swapper\"",
        "0xffff888000100080:\t0xffffffff93000000",
    ] {
        assert!(text.contains(line), "`{line}` is not in what gdb printed:\n{text}");
    }
}

#[test]
fn what_the_kernels_scripts_ask_first() {
    check(
        None,
        &[
            "python print(gdb.newest_frame().architecture().name())",
            "python print(len(gdb.execute('monitor info version', to_string=True)) > 0)",
            "thread 2",
            "python print('CPU', gdb.selected_thread().num - 1)",
        ],
        &["i386:x86-64", "True", "CPU 1"],
    );
}

#[test]
fn what_cannot_be_done_is_said_and_the_session_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    check(
        Some(&vmlinux(directory.path())),
        &[
            "x/x 0x10",
            "stepi",
            "break *&_text",
            "continue",
            "delete",
            "rwatch *(long *)&init_task",
            "continue",
            "delete",
            "watch *(char (*)[8192])&init_task",
            "continue",
            "delete",
            "watch *(long *)0x10",
            "continue",
            "delete",
            "p $xmm0.v2_int64",
            &format!("generate-core-file {}", directory.path().join("core").display()),
            "set var $rbx = 1",
            "set var *(char *)&init_task = 1",
            "kill",
            "info threads",
            "x/s &init_task",
        ],
        &[
            "Cannot access memory at address 0x10",
            "nettlp-gdb cannot step: it reads the target's memory from outside",
            "Thread 1 \"swapper/0\" stopped.",
            "nettlp-gdb cannot continue: GDB has set 1 breakpoint(s) or read watchpoint(s), and they can never be reached",
            "nettlp-gdb cannot watch 1 range(s), 8192 bytes: at most 16 of 4096 bytes together are read each time",
            "$1 = <unavailable>",
            "is not available",
            "Could not write register \"rbx\"; remote failure reply 'E.registers are read-only",
            "Cannot access memory at address 0xffffffff93000000",
            "Can't kill process",
            "  2    Thread 10000001 \"swapper/1\" (CPU 1, pid 0, running) 0xffffffffffffffff in ?? ()",
            "0xffffffff93000000:\t\"swapper\"",
        ],
    );
}

/// GDB's own `watch`: what it prints of the change is what it then reads itself.
#[test]
fn a_variable_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let host = FakeHost::new();
    let written = host.written.clone();
    let server = fake::serve(host);
    let script = directory.path().join("commands");
    let commands = "watch *(long *)&init_task\ncontinue\nprint \"stopped\"\ninfo threads\ndetach\n";
    std::fs::write(&script, commands).unwrap();
    let mut gdb = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "set debuginfod enabled off"])
        .args(["-ex", &format!("target remote {}", server.address), "-x"])
        .arg(&script)
        .arg(vmlinux(directory.path()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The server's own words come on standard error. Once it says that it reads, it has read what memory held before.
    let mut said = BufReader::new(gdb.stderr.take().unwrap()).lines().map(Result::unwrap);
    let start = said.by_ref().take_while(|line| !line.starts_with("Reading 1 watched range(s)")).count();
    written.lock().unwrap().insert(INIT_TASK, b'S');
    let said: Vec<String> = said.collect();
    let done = gdb.wait_with_output().unwrap();
    let text = format!("{start} lines\n{}\n{}", said.join("\n"), String::from_utf8_lossy(&done.stdout));
    assert!(done.status.success(), "{text}");
    let (old, new) = (u64::from_le_bytes(*b"swapper\0"), u64::from_le_bytes(*b"Swapper\0"));
    for line in [
        format!("8 bytes at {INIT_TASK:#x}: old {old:#x}, new {new:#x}"),
        "Thread 1 \"swapper/0\" hit Hardware watchpoint 1: *(long *)&init_task".to_owned(),
        format!("Old value = {old}\nNew value = {new}"),
        "$1 = \"stopped\"".to_owned(),
        "Thread 10000001".to_owned(),
    ] {
        assert!(text.contains(&line), "`{line}` is not in what gdb printed:\n{text}");
    }
}

#[test]
fn monitor_from_gdb() {
    check(
        None,
        &["monitor help", "monitor info", "monitor frob", "monitor refresh"],
        &["monitor translate ADDR", "the fake machine", "there is no `monitor frob`", "3 threads"],
    );
}

#[test]
fn a_second_gdb_is_told_why() {
    let server = fake::serve(FakeHost::new());
    let mut first = Client::connect(server.address);
    assert_eq!(first.ask("qAttached"), "1");
    let text = gdb(None, &server.address.to_string(), &[]);
    assert!(text.contains("another debugger is attached to this nettlp-gdb"), "{text}");
}

#[test]
fn attach_detach_and_attach_again_in_one_gdb() {
    let server = fake::serve(FakeHost::new());
    let again = format!("target remote {}", server.address);
    let text =
        gdb(None, &server.address.to_string(), &["disconnect", &again, "detach", &again, "info threads"]);
    assert_eq!(text.matches("Ending remote debugging.").count(), 2, "{text}");
    assert!(text.contains("* 1    Thread 10000000 \"swapper/0\""), "{text}");
}

#[test]
fn through_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gdb.sock");
    let listen = format!("unix:{}", path.display()).parse().unwrap();
    let server = Server::bind(Options { listen, once: true, ..fake::options() }).unwrap();
    let thread = std::thread::spawn(move || server.run(Arc::new(FakeHost::new())));
    let text = gdb(None, &path.display().to_string(), &["info threads"]);
    assert!(text.contains("* 1    Thread 10000000 \"swapper/0\""), "{text}");
    thread.join().unwrap().unwrap();
}
