use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Every key there is.
const ALL: &str = "
name = 'rack 4'

[link]
adapter = '192.168.10.1'
local = '192.168.10.3'
requester = '1b:00.0'
driver-host = '10.0.0.4'
tags = 16
mrrs = 512
port-base = 0x3000
port-mask = '0xf'
timeout-ms = 100
retries = 3

[memory]
ram = ['0-2G', '4G-10G']
forbidden = ['0x1000-0x2000']
write = ['1G-0x40001000']

[kernel]
release = '4.15.0-74-generic'
build-id = '00ff7F'
vmlinux = 'vmlinux'
phys-base = 0
slide = '0xffffffffff000000'

[kernel.symbols]
init_task = 0xffffffff82413480

[kernel.structs.task_struct]
size = 9088
state = 16
pid = { offset = 0x470, size = 4 }
tasks = 0x7c0
'tasks.next' = '0x7c0'
";

fn load(text: &str) -> Result<Profile, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    std::fs::write(&path, text).unwrap();
    let shown = |error: ProfileError| error.to_string().replace(&path.display().to_string(), "host.toml");
    Profile::load(&path).map_err(shown)
}

fn mistake(text: &str, said: &str) {
    let error = load(text).unwrap_err();
    assert!(error.contains(said) && error.lines().count() == 1, "{error}");
}

#[test]
fn the_bounds_of_the_command_line_hold_in_a_profile() {
    let link = |line: &str| format!("[link]\nadapter = '127.0.0.1'\n{line}\n");
    mistake(&link("timeout-ms = 0"), "`link.timeout-ms` is from 1 to 60000");
    mistake(&link("retries = 4294967295"), "`link.retries` is from 0 to 100");
    for base in ["0", "0xffff"] {
        mistake(&link(&format!("port-base = {base}")), "`link.port-base` leaves no room");
    }
    load(&link("port-base = 0xffff\nport-mask = 0\ntimeout-ms = 60000\nretries = 0")).unwrap();
}

#[test]
fn a_profile_names_link_memory_and_kernel() {
    let profile = load(ALL).unwrap();
    let link = profile.link.unwrap();
    assert_eq!((link.port_base, link.port_mask, link.tags), (Some(0x3000), Some(0xf), Some(16)));
    assert_eq!(profile.memory.ram[1].to_string(), "0x100000000-0x280000000");
    assert_eq!(profile.memory.forbidden[0].to_string(), "0x1000-0x2000");
    assert_eq!(profile.memory.write[0].to_string(), "0x40000000-0x40001000");
    let kernel = profile.kernel;
    assert!(kernel.file().unwrap().is_absolute());
    assert_eq!(kernel.build_id.unwrap(), [0, 0xff, 0x7f]);
    assert_eq!((kernel.phys_base, kernel.slide), (Some(0), Some(0xffff_ffff_ff00_0000)));
    assert_eq!(kernel.symbols["init_task"].raw(), 0xffff_ffff_8241_3480);
    let task = &kernel.structs["task_struct"];
    assert_eq!(task.size, Some(9088));
    assert_eq!(task.members["state"], Member { offset: 16, size: None });
    assert_eq!(task.members["pid"], Member { offset: 0x470, size: Some(4) });
    assert_eq!(task.members["tasks.next"].offset, 0x7c0);
}

#[test]
fn every_key_has_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    std::fs::write(&path, ALL).unwrap();
    let lines = Profile::lines(&path).unwrap();
    let line = |key: &str| ALL.lines().nth(lines[key] - 1).unwrap().split(' ').next().unwrap();
    assert_eq!((line("name"), line("link.mrrs"), line("memory.ram")), ("name", "mrrs", "ram"));
    assert_eq!(line("kernel.structs.task_struct.pid.size"), "pid");
    assert_eq!(lines.get("kernel.types"), None);
}

#[test]
fn what_is_printed_is_read_again() {
    let profile = Profile::parse(ALL).unwrap();
    let printed = toml::to_string(&profile).unwrap();
    assert_eq!(Profile::parse(&printed).unwrap(), profile, "{printed}");
    assert_eq!(Profile::parse(&toml::to_string(&Profile::default()).unwrap()).unwrap(), Profile::default());
}

#[test]
fn every_key_is_known_and_no_other() {
    fn paths(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
        let is_leaf = value.as_table().is_none_or(|table| table.contains_key("offset"));
        if let Some(table) = value.as_table() {
            for (key, value) in table {
                let key = match path {
                    "kernel.symbols" => "SYMBOL",
                    "kernel.structs" => "STRUCT",
                    "kernel.structs.STRUCT" if key != "size" => "MEMBER",
                    _ => key,
                };
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                paths(value, &path, found);
            }
        }
        if is_leaf {
            found.insert(path.to_owned());
        }
    }
    let profile = Profile::parse(&format!("{ALL}\n[kernel.structs.other]\n")).unwrap();
    let types = Profile::parse("[memory]\npolicy = 'kernel-only'\n[kernel]\ntypes = 'types.o'").unwrap();
    let mut found = BTreeSet::new();
    for profile in [profile, types] {
        paths(&toml::Value::try_from(profile).unwrap(), "", &mut found);
    }
    found.retain(|path| !path.ends_with(".structs.STRUCT") && !["kernel", "memory", ""].contains(&&**path));
    assert_eq!(found, KEYS.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>());
}

#[test]
fn mistakes_are_named_with_their_line() {
    mistake("[link]\nadapter = '1.2.3.4'\ntags = 0\n", "`link.tags` is from 1 to 256");
    mistake("[memory]\nram = ['2G-1G']\n", "line 2: `2G-1G` is not a range START-END with START below END");
    mistake("name = ", "line 1");
    mistake("[kernel]\nbuild-id = 'abc'", "line 2: `abc` is not bytes as pairs of hexadecimal digits");
    mistake("[kernel]\nslide = -1", "line 2: -1 is below 0");
    mistake("[kernel.symbols]\ninit_task = 'x'", "line 2: `x` is not a number");
    mistake("[kernel]\nvmlinux = 'a'\ntypes = 'b'", "leave out `kernel.types`");
    mistake(
        "[kernel.structs.task_struct]\nsize = 9088\n'tasks.next' = 1984",
        "`kernel.structs.task_struct.\"tasks.next\"` needs `tasks` beside it",
    );
    mistake(
        "[kernel.structs.list_head]\nsize = 16\nnext = 16",
        "`kernel.structs.list_head.next` lies outside",
    );
    mistake("[kernel.structs.list_head]\nnext = { size = 8 }", "line 2: missing field `offset`");
    mistake(
        "[memory]\nforbidden = ['0-1M']\nwrite = ['0xff000-0x101000']",
        "`memory.write` has 0xff000-0x101000, of which `memory.forbidden` has 0x0-0x100000",
    );
}

#[test]
fn what_may_be_written_is_ram() {
    mistake(
        "[memory]\nram = ['1M-2M']\nwrite = ['1M-0x101000', '0x1ff000-0x201000']",
        "`memory.write` has 0x1ff000-0x201000, which no range of `memory.ram` holds",
    );
    load("[memory]\nwrite = ['1M-2M']").unwrap();
}

#[test]
fn an_unknown_key_names_the_nearest() {
    mistake(
        "[link]\nadapter = '1.2.3.4'\ntag = 3\n",
        "line 3: unknown key `link.tag`, did you mean `link.tags`?",
    );
    mistake(
        "\n[memory]\nforbiden = []",
        "line 3: unknown key `memory.forbiden`, did you mean `memory.forbidden`?",
    );
    mistake("ram = ['0-2G']", "line 1: unknown key `ram`, did you mean `memory.ram`?");
    mistake(
        "[kernel]\nbuild_id = '00'",
        "line 2: unknown key `kernel.build_id`, did you mean `kernel.build-id`?",
    );
    mistake("[memroy]\nram = []", "line 1: unknown key `memroy`, did you mean `memory`?");
    mistake("[kernel]\nsymbol.init_task = 1", "unknown key `kernel.symbol`, did you mean `kernel.symbols`?");
    mistake(
        "[kernel.structs.task_struct]\npid = { ofset = 3 }",
        "unknown key `kernel.structs.task_struct.pid.ofset`, did you mean `kernel.structs.task_struct.pid.offset`?",
    );
    mistake("[link]\nadapter = '1.2.3.4'\nentirely-else = 3\n", "line 3: unknown key `link.entirely-else` (");
    mistake("memory.write.x = 1", "unknown key `memory.write.x`");
}

proptest! {
    #[test]
    fn any_text(text: String, at in 0..ALL.len(), other in any::<char>()) {
        let _ = Profile::parse(&text);
        let mut damaged: String = ALL.chars().take(at).collect();
        damaged.push(other);
        damaged.extend(ALL.chars().skip(at + 1));
        let _ = Profile::parse(&damaged);
    }
}
