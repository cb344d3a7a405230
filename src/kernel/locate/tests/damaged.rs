//! VMCOREINFO damaged in every way, on a synthetic machine: the kernel is found all the same, no value is wrong, and
//! the evidence says what was not believed.

use super::*;
use crate::{
    machine::{Description, Machine, Truth},
    mem::MemError,
    symbols::elf::ElfSymbols,
    vmlinux::Vmlinux,
};

const BANNER_HIDDEN_AT: u64 = 0x8000;

/// A machine with little RAM, since all of it may be searched.
fn machine(levels: Levels) -> Machine {
    let ram = ["0-0x9f000", "1M-96M"].map(|range| range.parse().unwrap()).to_vec();
    let text_phys = PhysAddr::new(32 << 20);
    Machine::build(&Description { ram, text_phys, levels, ..Description::demo() }).unwrap()
}

/// Where the kernel put VMCOREINFO.
#[derive(Clone, Copy)]
struct Copies {
    note: PhysAddr,
    text: PhysAddr,
}

impl Copies {
    fn of(machine: &Machine) -> Self {
        let pointer = |name: &str| {
            let truth = machine.truth();
            let at = machine.symbol(name).unwrap().wrapping_offset_from(truth.text);
            let addr = machine.memory().read_u64(truth.text_phys.wrapping_add(at)).unwrap();
            PhysAddr::new(addr - truth.bases.page_offset.raw())
        };
        Self { note: pointer("vmcoreinfo_note"), text: pointer("vmcoreinfo_data") }
    }
}

/// What can be wrong with a note, and what the evidence then says of it.
struct Damage {
    name: &'static str,
    /// Of the whole note, header included.
    apply: fn(&[u8]) -> Vec<u8>,
    says: &'static str,
}

/// The note with the value of `key` replaced and its length kept right.
fn with(note: &[u8], key: &str, value: &str) -> Vec<u8> {
    let text = std::str::from_utf8(&note[vmcoreinfo::HEADER_LEN..]).unwrap().trim_end_matches('\0');
    assert!(text.contains(&format!("{key}=")), "{key}");
    let lines = text.lines().map(|line| match line.split_once('=') {
        Some((name, _)) if name == key => format!("{key}={value}\n"),
        _ => format!("{line}\n"),
    });
    vmcoreinfo::note(&lines.collect::<String>())
}

fn header(note: &[u8], at: usize, value: u32) -> Vec<u8> {
    let mut note = note.to_vec();
    note[at..at + 4].copy_from_slice(&value.to_le_bytes());
    note
}

const DAMAGES: [Damage; 20] = [
    Damage { name: "another release", apply: |n| with(n, "OSRELEASE", "5.4.0-9"), says: "it says 5.4.0-9" },
    Damage { name: "no release", apply: |n| with(n, "OSRELEASE", ""), says: "it says , the kernel says" },
    Damage {
        name: "phys_base",
        apply: |n| with(n, "NUMBER(phys_base)", "4096"),
        says: "its phys_base is 0x1000",
    },
    Damage {
        name: "KERNELOFFSET of another boot",
        apply: |n| with(n, "KERNELOFFSET", "200000"),
        says: "its KERNELOFFSET is 0x200000",
    },
    Damage {
        name: "KERNELOFFSET that cannot be",
        apply: |n| with(n, "KERNELOFFSET", "123456789abcdef"),
        says: "KERNELOFFSET",
    },
    Damage {
        name: "letters for a number",
        apply: |n| with(n, "NUMBER(phys_base)", "12 apples"),
        says: "its phys_base is \"12 apples\", no number",
    },
    Damage {
        name: "KERNELOFFSET past 64 bits",
        apply: |n| with(n, "KERNELOFFSET", "10000000000000000"),
        says: "its KERNELOFFSET is \"10000000000000000\", no number",
    },
    Damage {
        name: "depth",
        apply: |n| with(n, "NUMBER(pgtable_l5_enabled)", "7"),
        says: "its pgtable_l5_enabled is 0x7",
    },
    Damage {
        name: "sme_mask",
        apply: |n| with(n, "NUMBER(sme_mask)", "140737488355328"),
        says: "its sme_mask is",
    },
    Damage {
        name: "text elsewhere",
        apply: |n| with(n, "SYMBOL(_stext)", "ffffffffbf000000"),
        says: "its _stext is 0xffffffffbf000000",
    },
    Damage {
        name: "table elsewhere",
        apply: |n| with(n, "SYMBOL(swapper_pg_dir)", "ffffffff81001000"),
        says: "its swapper_pg_dir 0xffffffff81001000 is not",
    },
    Damage {
        name: "length of the name",
        apply: |n| header(n, 0, 7),
        says: "its note header (name of 7 bytes",
    },
    Damage { name: "no length", apply: |n| header(n, 4, 0), says: "its note header" },
    Damage { name: "endless", apply: |n| header(n, 4, u32::MAX), says: "its note header" },
    Damage { name: "type", apply: |n| header(n, 8, 3), says: "type 3) is not" },
    Damage {
        name: "cut in the middle of a line",
        apply: |n| header(n, 4, n.len() as u32 - vmcoreinfo::HEADER_LEN as u32 - 5),
        says: "its last line does not end",
    },
    Damage {
        name: "second half wiped",
        apply: |n| [&n[..n.len() / 2 - 3], &vec![0; n.len() / 2]].concat(),
        says: "its last line does not end",
    },
    Damage {
        name: "no newline at all",
        apply: |n| {
            [n[..vmcoreinfo::HEADER_LEN].to_vec(), [b"OSRELEASE=".to_vec(), vec![b'6'; n.len()]].concat()]
                .concat()
        },
        says: "its last line does not end",
    },
    Damage {
        name: "a huge line",
        apply: |n| with(n, "OSRELEASE", &"6".repeat(400)),
        says: "it has a line of 410 bytes",
    },
    Damage { name: "wiped", apply: |n| vec![0; n.len()], says: "it is wiped" },
];

/// How the kernel is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All that helps is there.
    Symbols,
    Trampoline,
    /// The trampoline is not, RAM is known.
    Banner,
    /// Nor does read-only data begin with the banner.
    Types,
    Nothing,
}

const WAYS: [Way; 5] = [Way::Symbols, Way::Trampoline, Way::Banner, Way::Types, Way::Nothing];

fn write(machine: &Machine, at: PhysAddr, bytes: &[u8]) {
    let written: Result<(), MemError> = machine.memory().write(at, bytes);
    written.unwrap();
}

/// Takes away what `way` has to do without.
fn prepare(machine: &Machine, way: Way) {
    let truth = machine.truth();
    if matches!(way, Way::Banner | Way::Types | Way::Nothing) {
        write(machine, PhysAddr::new(0x1000), &[0; 0x9_e000]);
    }
    if matches!(way, Way::Types | Way::Nothing) {
        let phys = |name| {
            truth.text_phys.wrapping_add(machine.symbol(name).unwrap().wrapping_offset_from(truth.text))
        };
        write(machine, phys("linux_banner"), &vec![0; truth.banner.len()]);
        let hidden = phys("__start_rodata").wrapping_add(BANNER_HIDDEN_AT);
        write(machine, hidden, format!("{}\0", truth.banner).as_bytes());
    }
}

fn locate_by(machine: &Machine, way: Way) -> KernelMap {
    let file = Vmlinux::from_bytes("vmlinux", machine.vmlinux().unwrap()).unwrap();
    let id = machine.truth().build_id;
    let symbols = ElfSymbols::new(file).unwrap();
    let mut hints = Hints::default();
    match way {
        Way::Symbols => {
            hints.symbols = Some(&symbols);
            hints.build_id = Some(&id);
        }
        Way::Types => hints.types = Some(machine.types()),
        _ => {}
    }
    let ram =
        (way != Way::Trampoline).then(|| machine.truth().ram.clone()).map(|ram| Limits::Operator(ram.into()));
    locate(&Arc::new(Guard::new(machine.memory(), ram)), &hints).unwrap()
}

/// No value is wrong; one may be unknown.
#[track_caller]
fn check(map: &KernelMap, truth: &Truth) {
    assert_eq!((map.text, map.text_phys, map.phys_base), (truth.text, truth.text_phys, truth.phys_base));
    assert_eq!((map.root, map.levels, map.sme_mask), (truth.root, truth.levels, 0));
    assert_eq!(map.release.as_deref(), Some(truth.release.as_str()));
    assert_eq!(map.banner.as_deref(), Some(truth.banner.trim_end()));
    assert_eq!(map.build_id.as_deref(), Some(&truth.build_id[..]));
    assert_eq!(map.page_offset, Some(truth.bases.page_offset));
    assert!(map.slide.is_none_or(|slide| slide == truth.slide), "{:x?}", map.slide);
    // Where nothing decides on the slide, nothing decides on the note that claims another.
    if let Some(info) = map.vmcoreinfo.as_ref().filter(|_| map.slide.is_some()) {
        assert_eq!(Some(info.text()), truth.vmcoreinfo.as_deref());
    }
}

fn dropped(map: &KernelMap) -> Vec<&str> {
    let dropped = map.evidence.iter().filter(|entry| entry.confidence == Confidence::Dropped);
    dropped.map(|entry| entry.detail.as_str()).collect()
}

#[test]
fn every_damage_by_every_way() {
    for damage in &DAMAGES {
        for way in WAYS {
            let levels = if way == Way::Banner { Levels::Four } else { Levels::Five };
            let machine = machine(levels);
            let Copies { note, text } = Copies::of(&machine);
            let whole = vmcoreinfo::note(machine.truth().vmcoreinfo.as_deref().unwrap());
            let mut bytes = (damage.apply)(&whole);
            bytes.resize(8192, 0);
            write(&machine, note, &bytes[..4096]);
            write(&machine, text, &bytes[vmcoreinfo::HEADER_LEN..][..4000]);
            prepare(&machine, way);
            let map = locate_by(&machine, way);
            check(&map, machine.truth());
            let said = dropped(&map);
            match way {
                Way::Symbols => {
                    assert_eq!(map.slide, Some(machine.truth().slide));
                    assert!(said.iter().any(|said| said.contains(damage.says)), "{}: {said:?}", damage.name);
                }
                // Without exports nothing leads there.
                Way::Trampoline | Way::Banner => assert_eq!(said, <[&str; 0]>::default()),
                // What does not begin like a note is none to a search.
                Way::Types | Way::Nothing => {
                    let begins = vmcoreinfo::text_len(&bytes).is_some()
                        || bytes[vmcoreinfo::HEADER_LEN..].starts_with(vmcoreinfo::BEGINNING);
                    let spoilt = machine.truth().vmcoreinfo.as_deref()
                        != map.vmcoreinfo.as_ref().map(VmcoreInfo::text);
                    assert!(!(begins && spoilt && said.is_empty()), "{}: nothing said", damage.name);
                }
            }
        }
    }
}

#[test]
fn the_text_stands_in_for_a_damaged_note() {
    for damage in &DAMAGES {
        let machine = machine(Levels::Five);
        let whole = vmcoreinfo::note(machine.truth().vmcoreinfo.as_deref().unwrap());
        let mut bytes = (damage.apply)(&whole);
        bytes.resize(8192, 0);
        write(&machine, Copies::of(&machine).note, &bytes[..4096]);
        let map = locate_by(&machine, Way::Symbols);
        check(&map, machine.truth());
        assert!(map.vmcoreinfo.is_some(), "{}", damage.name);
        assert_eq!(dropped(&map).len(), 1, "{}", damage.name);
    }
}

#[test]
fn a_build_id_that_notes_contradict_is_not_believed() {
    for way in WAYS {
        let machine = machine(Levels::Five);
        let Copies { note, text } = Copies::of(&machine);
        let whole = vmcoreinfo::note(machine.truth().vmcoreinfo.as_deref().unwrap());
        let bytes = with(&whole, "BUILD-ID", &"5a".repeat(20));
        write(&machine, note, &bytes);
        write(&machine, text, &bytes[vmcoreinfo::HEADER_LEN..]);
        prepare(&machine, way);
        let map = locate_by(&machine, way);
        assert_eq!(map.build_id.as_deref(), Some(&machine.truth().build_id[..]), "{way:?}");
        let noted = map.vmcoreinfo.is_some();
        assert_eq!(
            noted,
            dropped(&map).iter().any(|said| said.contains("is not what .notes has")),
            "{way:?}"
        );
        assert!(noted || way != Way::Symbols);
    }
}

/// The synthetic kernel of this file's parent, with VMCOREINFO to be found by a search alone.
fn searched(noted_offset: u64, boot_params: Option<u64>) -> (Layout, KernelMap) {
    let layout = Layout::usual();
    let mut builder = Builder::new();
    builder.kernel(&layout);
    builder.wipe(&layout);
    builder.put(layout.text_phys + BANNER, &[0; 256]);
    builder.put(layout.text_phys + MIB2 + BANNER_HIDDEN_AT, format!("{}\n\0", layout.banner()).as_bytes());
    let note = with(&layout.vmcoreinfo(), "KERNELOFFSET", &format!("{noted_offset:x}"));
    builder.put(layout.heap, &note);
    if let Some(preferred) = boot_params {
        builder.put(layout.text_phys + 2 * MIB2 + 0x2_0f00, &slide::boot_params(preferred));
    }
    let run = Run::new(builder.mem, Some(ALL), &Hints::default());
    (layout, run.found.unwrap())
}

#[test]
fn the_boot_loaders_header_decides_between_two_slides() {
    const MIB16: u64 = 16 << 20;
    let usual = Layout::usual().slide;

    let (layout, map) = searched(usual - MIB16, Some(MIB16));
    assert_eq!((map.slide, map.vmcoreinfo), (Some(layout.slide), None), "the note is wrong");

    let (layout, map) = searched(usual - MIB16, Some(2 * MIB16));
    assert_eq!(map.slide, Some(layout.slide - MIB16), "a kernel linked at an unusual address");
    assert!(map.vmcoreinfo.is_some());

    let (_, map) = searched(usual - MIB16, None);
    assert_eq!(map.slide, None, "nothing decides");
    assert!(dropped(&map).iter().any(|said| said.contains("a vmlinux would decide")));
}

#[test]
fn every_value_has_its_evidence() {
    for way in WAYS {
        let machine = machine(Levels::Four);
        prepare(&machine, way);
        let map = locate_by(&machine, way);
        check(&map, machine.truth());
        let names = [
            "release",
            "banner",
            "build id",
            "text",
            "phys_base",
            "slide",
            "root",
            "levels",
            "sme_mask",
            "ram",
        ];
        let optional = [
            ("page_offset_base", map.page_offset.is_some()),
            ("vmalloc_base", map.vmalloc_base.is_some()),
            ("vmemmap_base", map.vmemmap_base.is_some()),
            ("init_task", map.init_task.is_some()),
            ("VMCOREINFO", map.vmcoreinfo.is_some()),
        ];
        let known = optional.into_iter().filter(|(_, known)| *known).map(|(name, _)| name);
        for name in names.into_iter().chain(known) {
            let lines: Vec<_> = map.evidence.iter().filter(|entry| entry.what == name).collect();
            let [line] = lines[..] else { panic!("{way:?}: {name} has {} lines", lines.len()) };
            assert!(!line.method.is_empty() && !line.detail.is_empty(), "{way:?}: {name}");
        }
        let method = map.evidence.iter().find(|entry| entry.what == "text").unwrap().method;
        let expected = match way {
            Way::Symbols | Way::Trampoline => "real-mode trampoline",
            Way::Banner => "banner at 2 MiB",
            Way::Types | Way::Nothing => "VMCOREINFO",
        };
        assert_eq!(method, expected, "{way:?}");
    }
}

#[test]
fn page_tables_alone_lead_to_the_kernel() {
    for levels in [Levels::Four, Levels::Five] {
        let machine = machine(levels);
        let Copies { note, text } = Copies::of(&machine);
        write(&machine, note, &[0; 4096]);
        write(&machine, text, &[0; 4096]);
        prepare(&machine, Way::Nothing);
        let map = locate_by(&machine, Way::Nothing);
        check(&map, machine.truth());
        assert_eq!(map.evidence.iter().find(|entry| entry.what == "text").unwrap().method, "page tables");
    }
}
