//! Profiles that are shipped, written, shown and checked; the page that documents them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nettlp_gdb::profile::{KEYS, Profile};

use crate::recording::{Bench, addresses, bytes, small};

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nettlp-gdb")).env_remove("RUST_LOG").args(arguments).output().unwrap()
}

/// Runs the program, which must end with `code`; returns what it printed and what it said.
#[track_caller]
fn ends(code: i32, arguments: &[&str]) -> [String; 2] {
    let output = program(arguments);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    [stdout, stderr]
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target-profiles")
}

fn shipped() -> Vec<PathBuf> {
    let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let profiles: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    assert!(profiles.len() >= 8);
    profiles
}

#[test]
fn every_shipped_profile_is_valid_and_shown() {
    for path in shipped() {
        let file = path.to_str().unwrap();
        assert_eq!(ends(0, &["profile", "check", file])[0], format!("{file}: valid\n"));
        let profile = Profile::load(&path).unwrap();
        let [shown, _] = ends(0, &["profile", "show", file]);
        for (key, line) in Profile::lines(&path).unwrap() {
            let is_value = match key.strip_prefix("kernel.structs") {
                // Of a member its table counts, not what is in it.
                Some(below) => below.matches('.').count() == 2,
                None => !["link", "memory", "kernel", "kernel.symbols"].contains(&&*key),
            };
            if is_value {
                let from = format!("{file}:{line}");
                let line = shown.lines().find(|line| line.starts_with(&format!("{key} ")));
                assert!(line.is_some_and(|line| line.ends_with(&from)), "{key} is not in:\n{shown}");
            }
        }
        assert_eq!(profile.link.is_some(), shown.contains("link.mrrs "), "{shown}");
    }
}

/// Every key in the first column of the table.
#[test]
fn every_key_is_documented_and_no_other() {
    let text = fs::read_to_string(directory().join("README.md")).unwrap();
    let table = text.split("| key |").nth(1).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let documented: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(documented, KEYS.iter().copied().collect());
    for row in rows {
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
    for path in shipped() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(&format!("`{name}`")), "{name} is not in target-profiles/README.md");
    }
}

/// What stands in comments must be right, too: the template has every key but those that exclude each other.
#[test]
fn templates_are_valid_without_their_comment_signs() {
    for name in ["template.toml", "kc705-template.toml"] {
        let text = fs::read_to_string(directory().join(name)).unwrap();
        let is_toml = |line: &&str| {
            let line = line.trim_start_matches("# ");
            let key = line.split(" = ").next().unwrap();
            line.starts_with('[') || key.len() < line.len() && !key.contains(' ')
        };
        let lines: Vec<&str> =
            text.lines().filter(is_toml).filter(|line| !line.starts_with("# types")).collect();
        let bare: String = lines.iter().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, &bare).unwrap();
        let profile = Profile::load(&path).unwrap_or_else(|error| panic!("{error}\n{bare}"));
        assert!(profile.kernel.vmlinux.is_some() && !profile.memory.forbidden.is_empty());
        if name == "template.toml" {
            let lines = Profile::lines(&path).unwrap();
            let plain =
                KEYS.iter().filter(|key| !key.chars().any(char::is_uppercase) && **key != "kernel.types");
            plain.for_each(|key| assert!(lines.contains_key(*key), "{key}"));
        }
    }
}

#[test]
fn a_profile_of_what_is_found_is_a_profile_of_the_target() {
    let machine = small();
    let truth = machine.truth();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vmlinux"), machine.vmlinux().unwrap()).unwrap();
    let bench = Bench::new(&machine, 31, directory, vec![bytes(40 << 20, 4096)]);
    let file = bench.directory.path().join("found.toml");
    let file = file.to_str().unwrap();
    let given = bench.profile.to_str().unwrap();
    ends(0, &["profile", "new", "--from-target", "--profile", given, "--mrrs", "1024", "-q", "-o", file]);
    ends(0, &["profile", "check", file]);

    let found = Profile::load(Path::new(file)).unwrap();
    assert_eq!(found.memory.ram, truth.ram);
    assert_eq!(found.memory.forbidden, [bytes(40 << 20, 4096)]);
    assert_eq!(found.kernel.release.as_deref(), Some(&*truth.release));
    assert_eq!(found.kernel.build_id.as_deref(), Some(&truth.build_id[..]));
    assert!(found.kernel.vmlinux.unwrap().ends_with("vmlinux"));
    let link = found.link.unwrap();
    assert_eq!(
        (link.adapter.to_string(), link.mrrs, link.tags),
        (addresses(31)[0].to_string(), Some(1024), Some(64))
    );
    assert_eq!((link.retries, link.timeout_ms, link.driver_host), (None, None, None), "defaults");
    ends(0, &["info", "--profile", file]);
    assert!(ends(0, &["ps", "--profile", file])[0].contains("swapper/0"));

    let before = fs::read(file).unwrap();
    let [_, said] = ends(1, &["profile", "new", "--from-target", "--profile", given, "-o", file]);
    assert!(said.contains("found.toml exists"), "{said}");
    assert_eq!(fs::read(file).unwrap(), before);

    // After an update of the kernel.
    let text = String::from_utf8(before).unwrap();
    fs::write(file, text.replace(&format!("release = \"{}\"", truth.release), "release = \"9.9\"")).unwrap();
    let [_, said] = ends(1, &["info", "--profile", file]);
    assert!(
        said.contains("`kernel.release` of the profile is 9.9") && said.contains(&truth.release),
        "{said}"
    );
    ends(0, &["info", "--profile", file, "--force"]);
    fs::write(file, text.replace("build-id = \"", "build-id = \"00")).unwrap();
    let [_, said] = ends(1, &["info", "--profile", file]);
    assert!(said.contains("`kernel.build-id` of the profile is 00"), "{said}");
}

#[test]
fn a_template_is_written_and_not_over_another_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    let file = path.to_str().unwrap();
    ends(0, &["profile", "new", "-o", file]);
    assert_eq!(fs::read_to_string(&path).unwrap(), ends(0, &["profile", "new"])[0]);
    let [_, said] = ends(1, &["profile", "new", "-o", file]);
    assert!(said.contains("host.toml exists"), "{said}");
    let [_, said] = ends(2, &["profile", "new", "--adapter", "127.0.0.1"]);
    assert!(said.contains("--from-target"), "{said}");
}

#[test]
fn every_value_says_where_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    let file = path.to_str().unwrap();
    fs::write(
        &path,
        "[link]\nadapter = '10.0.0.1'\ntags = 4\n[memory]\nforbidden = ['1M-2M']\n[kernel]\ntypes = 'x'\n",
    )
    .unwrap();
    let json = ["profile", "show", "--json", file, "--tags", "8", "--ram", "0-1G", "--vmlinux", "y"];
    let [shown, _] = ends(0, &json);
    let lines: Vec<serde_json::Value> =
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |key: &str| {
        let line = lines.iter().find(|line| line["key"] == key).unwrap();
        [line["value"].as_str().unwrap().to_owned(), line["from"].as_str().unwrap().to_owned()]
    };
    assert_eq!(of("link.adapter"), ["10.0.0.1".to_owned(), format!("{file}:2")]);
    assert_eq!(of("link.tags"), ["8", "--tags"]);
    assert_eq!(of("link.mrrs"), ["512", "default"]);
    assert_eq!(of("memory.ram"), ["0x0-0x40000000", "--ram"]);
    assert_eq!(of("memory.forbidden"), ["0x100000-0x200000".to_owned(), format!("{file}:5")]);
    assert_eq!(
        (of("kernel.vmlinux"), of("kernel.types")),
        (["y", "--vmlinux"].map(str::to_owned), ["-", "--vmlinux"].map(str::to_owned))
    );
    let [_, said] = ends(2, &["profile", "show", file, "--profile", file]);
    assert!(said.contains("one profile"), "{said}");
}

#[test]
fn checks_go_through_all_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good.toml", "name = 'x'");
    let absent = file("absent.toml", "[kernel]\nvmlinux = 'nowhere'");
    let typo = file("typo.toml", "[memory]\nforbid = []");
    let requester = file("requester.toml", "[link]\nadapter = '10.0.0.1'\nrequester = '1b'");
    let [stdout, stderr] = ends(3, &["profile", "check", &good, &absent]);
    assert_eq!(stdout.lines().count(), 2);
    assert!(stderr.contains("there is no") && stderr.contains("nowhere"), "{stderr}");
    let [stdout, stderr] = ends(1, &["profile", "check", &typo, &good, &requester]);
    assert_eq!(stdout, format!("{good}: valid\n"));
    assert!(
        stderr.contains("line 2: unknown key `memory.forbid`, did you mean `memory.forbidden`?"),
        "{stderr}"
    );
    assert!(stderr.contains("`link.requester`") && stderr.contains("BB:DD.F"), "{stderr}");
}
