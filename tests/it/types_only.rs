//! Types without symbols: object files that were not linked, stripped kernels, and the first task found by what it is.

use gimli::{
    Encoding, Format, LittleEndian, SectionId, constants as dw,
    write::{
        AttributeValue, Dwarf, EndianVec, LineProgram, RelocateWriter, Relocation, RelocationTarget,
        Sections, Unit,
    },
};
use nettlp_gdb::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    kernel::task::{Scope, Tasks},
    machine::{Description, Machine},
    mem::{PhysMem, PhysWrite},
    paging::Levels,
    session::{Options, Session, SessionError, Source},
    types::{TypeSource, dwarf::Dwarf as Types},
    vmlinux::{Vmlinux, VmlinuxError},
};
use object::{
    Architecture, BinaryFormat, Endianness, Object as _, ObjectSection as _, RelocationFlags, SectionKind,
    elf,
    write::{Object, Relocation as ObjectRelocation},
};

/// A debug section as a compiler leaves it: its references are in `relocations` and not in its bytes.
#[derive(Clone)]
struct Unlinked {
    data: EndianVec<LittleEndian>,
    relocations: Vec<Relocation>,
}

impl RelocateWriter for Unlinked {
    type Writer = EndianVec<LittleEndian>;

    fn writer(&self) -> &Self::Writer {
        &self.data
    }

    fn writer_mut(&mut self) -> &mut Self::Writer {
        &mut self.data
    }

    fn relocate(&mut self, relocation: Relocation) {
        self.relocations.push(relocation);
    }
}

/// An object file with two units, each with a struct whose names are references to `.debug_str`.
fn object_file(kind: elf::RelocationType) -> Vec<u8> {
    let encoding = Encoding { format: Format::Dwarf32, version: 5, address_size: 8 };
    let mut dwarf = Dwarf::new();
    for (structure, member, offset) in [("other", "first", 0_u64), ("task_struct", "pid", 2416)] {
        let (structure, member) = (dwarf.strings.add(structure), dwarf.strings.add(member));
        let id = dwarf.units.add(Unit::new(encoding, LineProgram::none()));
        let unit = dwarf.units.get_mut(id);
        let int = unit.add(unit.root(), dw::DW_TAG_base_type);
        let base = unit.get_mut(int);
        base.set(dw::DW_AT_name, AttributeValue::String(b"int".to_vec()));
        base.set(dw::DW_AT_encoding, AttributeValue::Encoding(dw::DW_ATE_signed));
        base.set(dw::DW_AT_byte_size, AttributeValue::Udata(4));
        let entry = unit.add(unit.root(), dw::DW_TAG_structure_type);
        unit.get_mut(entry).set(dw::DW_AT_name, AttributeValue::StringRef(structure));
        unit.get_mut(entry).set(dw::DW_AT_byte_size, AttributeValue::Udata(9728));
        let part = unit.add(entry, dw::DW_TAG_member);
        unit.get_mut(part).set(dw::DW_AT_name, AttributeValue::StringRef(member));
        unit.get_mut(part).set(dw::DW_AT_type, AttributeValue::UnitRef(int));
        unit.get_mut(part).set(dw::DW_AT_data_member_location, AttributeValue::Udata(offset));
    }
    let empty = Unlinked { data: EndianVec::new(LittleEndian), relocations: Vec::new() };
    let mut sections = Sections::new(empty);
    dwarf.write(&mut sections).unwrap();
    link_nothing(&sections, kind)
}

fn link_nothing(sections: &Sections<Unlinked>, kind: elf::RelocationType) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let mut added: Vec<(SectionId, object::write::SectionId)> = Vec::new();
    let mut add = |id: SectionId, section: &Unlinked| -> Result<(), ()> {
        let name = id.name().as_bytes().to_vec();
        let at = object.add_section(Vec::new(), name, SectionKind::Debug);
        object.append_section_data(at, section.data.slice(), 1);
        added.push((id, at));
        Ok(())
    };
    sections.for_each(&mut add).unwrap();
    let place = |id| added.iter().find(|(other, _)| *other == id).unwrap().1;
    sections
        .for_each(|id, section| -> Result<(), ()> {
            for relocation in &section.relocations {
                let RelocationTarget::Section(target) = relocation.target else { panic!("a symbol") };
                let symbol = object.section_symbol(place(target));
                let relocation = ObjectRelocation {
                    offset: relocation.offset as u64,
                    symbol,
                    addend: relocation.addend,
                    flags: RelocationFlags::Elf { r_type: kind },
                };
                object.add_relocation(place(id), relocation).unwrap();
            }
            Ok(())
        })
        .unwrap();
    object.write().unwrap()
}

#[test]
fn relocations_of_an_object_file_are_applied() {
    let bytes = object_file(elf::R_X86_64_32);
    let file = Vmlinux::from_bytes("types.o", bytes).unwrap();
    assert!(file.is_relocatable());
    let types = Types::new(file).unwrap();
    let types: &dyn TypeSource = &types;
    assert_eq!(types.field("task_struct", "pid").unwrap().offset, 2416);
    assert_eq!(types.field("other", "first").unwrap().offset, 0);
    assert_eq!(types.struct_size("task_struct").unwrap(), 9728);
}

#[test]
fn relocations_that_cannot_be_applied_are_damage() {
    let damaged = |bytes| match Vmlinux::from_bytes("types.o", bytes) {
        Err(error @ VmlinuxError::Truncated { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let unknown = damaged(object_file(elf::R_X86_64_GOT32));
    assert!(unknown.contains(".debug_info") && unknown.contains("cannot be applied"), "{unknown}");

    let whole = object_file(elf::R_X86_64_32);
    let entries = object::File::parse(&*whole).unwrap();
    let entries = entries.section_by_name(".rela.debug_info").unwrap().file_range().unwrap();
    let mut outside = whole.clone();
    outside[entries.0 as usize..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(damaged(outside).contains("0xffffffffffffffff"));
    let mut no_symbol = whole;
    no_symbol[entries.0 as usize + 12..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(damaged(no_symbol).contains("cannot be applied"));
}

#[test]
fn no_damage_to_an_object_file_panics() {
    let whole = object_file(elf::R_X86_64_32);
    for at in 0..whole.len() {
        for value in [0, 0xff, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let Ok(file) = Vmlinux::from_bytes("types.o", bytes) else { continue };
            let Ok(types) = Types::new(file) else { continue };
            let _ = (&types as &dyn TypeSource).field("task_struct", "pid");
        }
    }
}

/// The machine's vmlinux without its symbol table.
fn stripped(machine: &Machine) -> tempfile::NamedTempFile {
    const SECTION_HEADER: usize = 64;
    let mut bytes = machine.vmlinux().unwrap();
    let at = u64::from_le_bytes(bytes[0x28..0x30].try_into().unwrap()) as usize;
    for header in bytes[at..].chunks_exact_mut(SECTION_HEADER) {
        if header[4..8] == elf::SHT_SYMTAB.0.to_le_bytes() {
            header[4..8].fill(0);
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn open(machine: &Machine, ram: &[PhysRange]) -> Result<Session, SessionError> {
    let file = stripped(machine);
    let options = Options {
        vmlinux: Some(file.path().to_owned()),
        ram: ram.to_vec(),
        ..Options::new(Source::Memory(machine.memory()))
    };
    Session::open(options, &|_| ())
}

#[track_caller]
fn check_tasks(machine: &Machine, session: &Session) {
    assert!(session.kernel.symbols("a task").is_err());
    let list = Tasks::resolve(&session.kernel).unwrap().list(&session.kernel, Scope::Threads).unwrap();
    assert!(list.torn.is_none(), "{:?}", list.torn);
    let mut listed: Vec<_> = list.tasks.iter().map(|t| (t.addr, t.pid as u32, t.comm.as_str())).collect();
    let mut expected: Vec<_> =
        machine.truth().tasks.iter().map(|t| (t.addr, t.pid, t.comm.as_str())).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

fn evidence<'s>(session: &'s Session, what: &str) -> (&'static str, &'s str) {
    let entry = session.kernel.map.evidence.iter().find(|entry| entry.what == what).unwrap();
    (entry.method, &entry.detail)
}

/// Neither trampoline nor VMCOREINFO, nor a banner where it is expected; little RAM, since all of it is searched.
fn bare(levels: Levels) -> Machine {
    let mut description = Description { real_mode: None, vmcoreinfo: false, levels, ..Description::demo() };
    description.ram = vec!["0-0x9f000".parse().unwrap(), "1M-96M".parse().unwrap()];
    description.text_phys = PhysAddr::new(32 << 20);
    let machine = Machine::build(&description).unwrap();
    let (memory, truth) = (machine.memory(), machine.truth());
    let phys =
        |name| truth.text_phys.wrapping_add(machine.symbol(name).unwrap().wrapping_offset_from(truth.text));
    memory.write(phys("linux_banner"), &vec![0; truth.banner.len()]).unwrap();
    let elsewhere = phys("__start_rodata").wrapping_add(0x8000);
    memory.write(elsewhere, format!("{}\0", truth.banner).as_bytes()).unwrap();
    machine
}

#[test]
fn tasks_from_types_and_memory() {
    let machine = Machine::demo().unwrap();
    let session = open(&machine, &[]).unwrap();
    check_tasks(&machine, &session);
    assert_eq!(session.kernel.map.init_task, Some(machine.truth().tasks[0].addr));
    assert_eq!(evidence(&session, "init_task").0, "signature");
}

#[test]
fn tasks_from_types_and_ram_alone() {
    for levels in [Levels::Four, Levels::Five] {
        let machine = bare(levels);
        let session = open(&machine, &machine.truth().ram).unwrap();
        check_tasks(&machine, &session);
        let (truth, map) = (machine.truth(), &session.kernel.map);
        assert_eq!((map.text, map.text_phys), (truth.text, truth.text_phys));
        assert_eq!((map.phys_base, map.root, map.levels), (truth.phys_base, truth.root, truth.levels));
        assert_eq!(evidence(&session, "text").0, "init_task");
    }
}

/// Physical address and bytes of the machine's `init_task`.
fn init_task(machine: &Machine) -> (PhysAddr, Vec<u8>) {
    let truth = machine.truth();
    let place = truth.text_phys.wrapping_add(truth.tasks[0].addr.wrapping_offset_from(truth.text));
    let size = (machine.types() as &dyn TypeSource).struct_size("task_struct").unwrap();
    let mut bytes = vec![0; size as usize];
    machine.memory().read(place, &mut bytes).unwrap();
    (place, bytes)
}

fn offset(machine: &Machine, path: &str) -> usize {
    (machine.types() as &dyn TypeSource).field("task_struct", path).unwrap().offset as usize
}

#[test]
fn names_and_copies_of_the_first_task_are_no_first_task() {
    let machine = bare(Levels::Five);
    let (place, original) = init_task(&machine);
    let memory = machine.memory();
    // Below the image, so that they are met first: strings, then copies, as far from 2 MiB as the task itself.
    for index in 0..255 {
        memory.write(PhysAddr::new(0x20_0000 + index * 0x100), b"\0\0\0\0\0\0\0\0swapper/0\0").unwrap();
    }
    for slot in 2..8 {
        let at = PhysAddr::new(slot * (2 << 20) + place.offset_in(2 << 20));
        assert!(at < machine.truth().image.start);
        let mut copy = original.clone();
        match slot {
            3 => copy[offset(&machine, "pid")] = 1,
            4 => copy[offset(&machine, "mm")] = 8,
            5 => copy[offset(&machine, "parent")] ^= 0x40,
            6 => copy[offset(&machine, "exit_state")] = 0x20,
            _ => {}
        }
        memory.write(at, &copy).unwrap();
    }
    let session = open(&machine, &machine.truth().ram).unwrap();
    check_tasks(&machine, &session);
    assert_eq!(session.kernel.map.text_phys, machine.truth().text_phys);
}

#[test]
fn memory_full_of_first_tasks_is_not_searched_for_each() {
    let machine = bare(Levels::Four);
    let (_, original) = init_task(&machine);
    let truth = machine.truth();
    let mut at = PhysAddr::new(2 << 20);
    for _ in 0..16 {
        let mut copy = original.clone();
        let own = truth.text.align_down(2 << 20).wrapping_add(at.offset_in(2 << 20));
        for member in ["real_parent", "parent", "group_leader"] {
            let offset = offset(&machine, member);
            copy[offset..offset + 8].copy_from_slice(&own.raw().to_le_bytes());
        }
        machine.memory().write(at, &copy).unwrap();
        at = at.wrapping_add((copy.len() as u64).next_multiple_of(64));
    }
    assert!(at < truth.image.start);
    let session = open(&machine, &truth.ram).unwrap();
    assert_eq!(evidence(&session, "text").0, "page tables");
    check_tasks(&machine, &session);
}

#[test]
fn a_task_whose_neighbours_do_not_know_it_is_refused() {
    for member in ["tasks.next", "tasks.prev", "stack"] {
        let machine = Machine::demo().unwrap();
        let (place, _) = init_task(&machine);
        let at = place.wrapping_add(offset(&machine, member) as u64);
        let mut byte = [0];
        machine.memory().read(at, &mut byte).unwrap();
        machine.memory().write(at, &[byte[0] ^ 0x10]).unwrap();
        let session = open(&machine, &[]).unwrap();
        assert_eq!(session.kernel.map.init_task, None::<VirtAddr>, "{member}");
        let error = Tasks::resolve(&session.kernel).err().unwrap().to_string();
        assert!(error.contains("needs symbols"), "{error}");
    }

    let machine = bare(Levels::Four);
    let (place, _) = init_task(&machine);
    let at = place.wrapping_add(offset(&machine, "tasks.next") as u64);
    machine.memory().write(at, &[0x10]).unwrap();
    let session = open(&machine, &machine.truth().ram).unwrap();
    assert_eq!((evidence(&session, "text").0, session.kernel.map.init_task), ("page tables", None));
}
