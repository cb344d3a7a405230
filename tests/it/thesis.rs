//! The thesis' host, rebuilt from its tables, served over UDP and read with the profile that is shipped for it.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, process::Command, sync::Arc};

use nettlp_gdb::{
    addr::PhysAddr,
    emulator::{self, Emulator, ReadOnly},
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite},
};

const RUNNING: &str = include_str!("../../src/machine/thesis/running.tsv");
const PANIC: &str = include_str!("../../src/machine/thesis/panic.tsv");
/// `ps aux` on the running host, as far as it is printed: user, pid, stat, command.
const PS: &str = include_str!("thesis/ps.tsv");

/// A line of one of the listings.
struct Row {
    phys: u64,
    pid: i32,
    /// As the thesis prints it, and as `ps` does.
    letters: [char; 2],
    comm: &'static str,
}

fn rows(table: &'static str) -> Vec<Row> {
    let letter = |column: &str| column.chars().next().unwrap();
    let row = |line: &'static str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let phys = u64::from_str_radix(columns[0].trim_start_matches("0x"), 16).unwrap();
        let letters = [letter(columns[3]), letter(columns[4])];
        Row { phys, pid: columns[1].parse().unwrap(), letters, comm: columns[5] }
    };
    table.lines().skip(1).map(row).collect()
}

fn profile() -> PathBuf {
    let name = "target-profiles/ubuntu-18.04-linux-4.15.0-74-generic.toml";
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn machine(table: &str) -> Machine {
    let description =
        if table == PANIC { Description::thesis_panic() } else { Description::thesis_running() };
    Machine::build(&description.unwrap()).unwrap()
}

/// An adapter in front of the machine, and how to reach it. `number` keeps tests apart.
fn serve(machine: &Machine, number: u8) -> (Emulator, Vec<String>) {
    let [ip, local] = [number, number + 1].map(|last| IpAddr::from([127, 75, 0, last]));
    let config =
        emulator::Config { ip, requester: "02:00.0".parse().unwrap(), ..emulator::Config::default() };
    let adapter = Emulator::start(config, Arc::new(ReadOnly(machine.memory()))).unwrap();
    let profile = profile().display().to_string();
    let arguments = ["--profile", &profile, "--adapter", &ip.to_string(), "--local", &local.to_string()];
    (adapter, arguments.map(str::to_owned).to_vec())
}

/// Exit code, what was printed and what was said.
fn run(words: &[&str], target: &[String]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nettlp-gdb"));
    let output = command.env_remove("RUST_LOG").args(words).args(target).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), stdout, stderr)
}

/// The listing byte for byte, but for the letters that the thesis' program gets wrong.
fn listing(table: &'static str) -> String {
    let line = |row: &Row| format!("0x{:014x} {:>6} {}    {}\n", row.phys, row.pid, row.letters[1], row.comm);
    let lines: String = rows(table).iter().map(line).collect();
    format!("PhyAddr             PID STAT COMMAND\n{lines}")
}

#[test]
fn every_row_of_both_tables() {
    for (number, table, count) in [(1, RUNNING, 70), (3, PANIC, 128)] {
        assert_eq!(rows(table).len(), count);
        let (adapter, target) = serve(&machine(table), number);
        let (code, listed, said) = run(&["ps", "--format", "process-list"], &target);
        assert_eq!((code, listed), (Some(0), listing(table)), "{said}");
        adapter.stop();
    }
}

/// What the thesis prints is the low byte of the state word; what `ps` prints is more of it.
#[test]
fn each_letter_of_the_thesis_is_in_the_machines_state() {
    for table in [RUNNING, PANIC] {
        let memory = machine(table).memory();
        for row in rows(table) {
            let mut word = [0; 8];
            memory.read(PhysAddr::new(row.phys + 16), &mut word).unwrap();
            let state = u64::from_le_bytes(word);
            let by_low_byte = match state & 0xff {
                0 => 'R',
                1 => 'S',
                2 => 'D',
                other => panic!("{other:#x}"),
            };
            let by_ps = if state == 0x402 { 'I' } else { by_low_byte };
            assert_eq!([by_low_byte, by_ps], row.letters, "{} {}", row.pid, row.comm);
        }
    }
}

/// The host's own `ps` gives the letters that this project's does, to everything of a name it lists. Only `jbd2/sda1-8`
/// was seen in two states: it waited for its disk when the thesis listed it, and for work when `ps` did.
#[test]
fn our_letters_are_those_of_the_hosts_own_ps() {
    let line = |line: &'static str| {
        let columns: Vec<&str> = line.split('\t').collect();
        (columns[3].trim_matches(['[', ']']), columns[2].chars().next().unwrap())
    };
    let ps: BTreeMap<&str, char> = PS.lines().skip(1).map(line).collect();
    let mut seen = 0;
    for row in rows(RUNNING).into_iter().chain(rows(PANIC)) {
        let Some(letter) = ps.get(row.comm) else { continue };
        seen += 1;
        let ours = if row.comm == "jbd2/sda1-8" { [row.letters[1], 'D'] } else { [*letter, row.letters[1]] };
        assert_eq!(ours[0], ours[1], "{} {}", row.pid, row.comm);
    }
    assert_eq!(seen, 107);
    // Whatever is D in the thesis is I but for that one thread.
    let busy = |row: &Row| row.letters == ['D', 'D'];
    let busy: Vec<&str> = rows(PANIC).iter().filter(|row| busy(row)).map(|row| row.comm).collect();
    assert_eq!(busy, ["jbd2/sda1-8"]);
    assert!(
        rows(RUNNING)
            .iter()
            .chain(&rows(PANIC))
            .all(|row| row.letters[0] == row.letters[1] || row.letters == ['D', 'I'])
    );
}

/// The thesis' search for one program, and what its six members do not tell.
#[test]
fn one_process_and_what_the_profile_does_not_tell() {
    let (adapter, target) = serve(&machine(PANIC), 5);
    let (code, listed, said) = run(&["ps", "--format", "process-list", "--comm", "sh"], &target);
    let expected = "PhyAddr             PID STAT COMMAND\n0x0000023357db00   1318 R    sh\n";
    assert_eq!((code, &*listed), (Some(0), expected), "{said}");
    let (code, _, said) = run(&["ps"], &target);
    assert_eq!(code, Some(1));
    assert!(said.contains("`task_struct` has no member `tasks.next`"), "{said}");
    adapter.stop();
}

#[test]
fn what_the_profile_says_is_held_against_memory() {
    let machine = machine(RUNNING);
    let (adapter, target) = serve(&machine, 7);
    let (code, info, said) = run(&["info"], &target);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "release      4.15.0-74-generic\n",
        "page_offset  0xffff880000000000\n",
        "is mapped to 0x1000000, as in the profile\n",
        "proved   the profile: 0xffffffff82413480, whose name is swapper/0\n",
    ] {
        assert!(info.contains(part), "`{part}` is not in:\n{info}");
    }

    // Of another boot, or with another layout.
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.toml");
    let text = std::fs::read_to_string(profile()).unwrap();
    let wrong = |from: &str, to: &str, said: &str| {
        assert!(text.contains(from));
        std::fs::write(&other, text.replace(from, to)).unwrap();
        let mut target = target.clone();
        target[1] = other.display().to_string();
        let (code, _, complaint) = run(&["ps", "--format", "process-list"], &target);
        assert!(code == Some(1) && complaint.contains(said), "{complaint}");
        target.push("--force".to_owned());
        run(&["ps", "--format", "process-list"], &target)
    };
    let (code, listed, _) =
        wrong("phys-base = 0", "phys-base = 0x200000", "`kernel.phys-base` of the profile is 0x200000");
    assert_eq!((code, listed), (Some(0), listing(RUNNING)));
    wrong("slide = 0", "slide = 0x200000", "the first task is at 0xffffffff82613480, and no task");
    wrong("82413480", "82414480", "the first task is at 0xffffffff82414480, and no task");
    wrong("sibling = 2264", "# sibling", "`task_struct` has no member `sibling`");
    wrong("state = { offset = 16, size = 8 }", "state = 16", "how many bytes `task_struct.state` has");
    adapter.stop();
}

/// Where the profile has the page tables too, nothing is searched: the trampoline may be gone.
#[test]
fn a_profile_with_the_page_tables_needs_no_search() {
    let machine = machine(RUNNING);
    machine.memory().write(PhysAddr::new(0x1000), &[0; 0x9_e000]).unwrap();
    let (adapter, mut target) = serve(&machine, 9);
    let (code, _, said) = run(&["info"], &target);
    assert!(code == Some(1) && said.contains("no Linux kernel found"), "{said}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    let root = format!("[kernel.symbols]\ninit_top_pgt = '{}'", machine.symbol("init_top_pgt").unwrap());
    let text = std::fs::read_to_string(profile()).unwrap().replace("[kernel.symbols]", &root);
    std::fs::write(&path, text).unwrap();
    target[1] = path.display().to_string();
    let (code, listed, said) = run(&["ps", "--format", "process-list"], &target);
    assert_eq!((code, listed), (Some(0), listing(RUNNING)), "{said}");
    adapter.stop();
}
