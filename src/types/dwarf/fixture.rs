//! A small kernel's debug information for tests, as a compiler would write it in DWARF 4 or 5.

use gimli::{
    DwAte, DwTag, Encoding, Format, LittleEndian, constants as dw,
    write::{
        AttributeValue as Value, DebugInfoRef, Dwarf, EndianVec, LineProgram, Sections, Unit, UnitEntryId,
        UnitId,
    },
};

use crate::vmlinux::testing::TestElf;

/// One unit being written.
struct Writer<'w> {
    dwarf: &'w mut Dwarf,
    unit: UnitId,
    version: u16,
}

impl Writer<'_> {
    fn unit(&mut self) -> &mut Unit {
        self.dwarf.units.get_mut(self.unit)
    }

    fn add(&mut self, tag: DwTag, name: &str) -> UnitEntryId {
        let root = self.unit().root();
        self.add_to(root, tag, name)
    }

    /// Short names stand in the entry, long ones in `.debug_str`, as GCC has it.
    fn add_to(&mut self, parent: UnitEntryId, tag: DwTag, name: &str) -> UnitEntryId {
        let entry = self.unit().add(parent, tag);
        if name.len() > 3 {
            let text = self.dwarf.strings.add(name);
            self.set(entry, dw::DW_AT_name, Value::StringRef(text));
        } else if !name.is_empty() {
            self.set(entry, dw::DW_AT_name, Value::String(name.into()));
        }
        entry
    }

    fn set(&mut self, entry: UnitEntryId, name: gimli::DwAt, value: Value) {
        self.unit().get_mut(entry).set(name, value);
    }

    fn refer(&mut self, entry: UnitEntryId, target: UnitEntryId) {
        self.set(entry, dw::DW_AT_type, Value::UnitRef(target));
    }

    fn base(&mut self, name: &str, size: u8, encoding: DwAte) -> UnitEntryId {
        let entry = self.add(dw::DW_TAG_base_type, name);
        self.set(entry, dw::DW_AT_byte_size, Value::Data1(size));
        self.set(entry, dw::DW_AT_encoding, Value::Encoding(encoding));
        entry
    }

    fn derived(&mut self, tag: DwTag, name: &str, target: UnitEntryId) -> UnitEntryId {
        let entry = self.add(tag, name);
        self.refer(entry, target);
        entry
    }

    fn aggregate(&mut self, tag: DwTag, name: &str, size: u16) -> UnitEntryId {
        let entry = self.add(tag, name);
        self.set(entry, dw::DW_AT_byte_size, Value::Data2(size));
        self.unit().get_mut(entry).set_sibling(true);
        entry
    }

    fn member(&mut self, parent: UnitEntryId, name: &str, target: UnitEntryId, offset: u8) -> UnitEntryId {
        let entry = self.add_to(parent, dw::DW_TAG_member, name);
        self.refer(entry, target);
        self.set(entry, dw::DW_AT_data_member_location, Value::Data1(offset));
        entry
    }

    /// A bit-field of an `int` at byte `unit`, in the form of the DWARF version.
    fn bits(&mut self, parent: UnitEntryId, name: &str, int: UnitEntryId, unit: u8, shift: u8, width: u8) {
        let entry = self.add_to(parent, dw::DW_TAG_member, name);
        self.refer(entry, int);
        if self.version >= 5 {
            self.set(entry, dw::DW_AT_bit_size, Value::ImplicitConst(width.into()));
            self.set(entry, dw::DW_AT_data_bit_offset, Value::Udata(u64::from(unit) * 8 + u64::from(shift)));
        } else {
            if name == "sized" {
                self.set(entry, dw::DW_AT_byte_size, Value::Data1(4));
            }
            self.set(entry, dw::DW_AT_bit_size, Value::Data1(width));
            self.set(entry, dw::DW_AT_bit_offset, Value::Data1(32 - shift - width));
            self.set(entry, dw::DW_AT_data_member_location, Value::Data1(unit));
        }
    }

    fn array(&mut self, element: UnitEntryId, bounds: &[Option<Value>]) -> UnitEntryId {
        let entry = self.derived(dw::DW_TAG_array_type, "", element);
        self.unit().get_mut(entry).set_sibling(true);
        for bound in bounds {
            let range = self.add_to(entry, dw::DW_TAG_subrange_type, "");
            if let Some(bound) = bound {
                self.set(range, dw::DW_AT_upper_bound, bound.clone());
            }
        }
        entry
    }

    fn enumeration(&mut self, name: &str, underlying: UnitEntryId, values: &[(&str, Value)]) -> UnitEntryId {
        let entry = self.derived(dw::DW_TAG_enumeration_type, name, underlying);
        self.set(entry, dw::DW_AT_byte_size, Value::Data1(4));
        for (name, value) in values {
            let child = self.add_to(entry, dw::DW_TAG_enumerator, name);
            self.set(child, dw::DW_AT_const_value, value.clone());
        }
        entry
    }

    fn declare(&mut self, tag: DwTag, name: &str) -> UnitEntryId {
        let entry = self.add(tag, name);
        self.set(entry, dw::DW_AT_declaration, Value::FlagPresent);
        entry
    }
}

/// The core code's unit.
fn core(w: &mut Writer<'_>) -> UnitEntryId {
    let int = w.base("int", 4, dw::DW_ATE_signed);
    let unsigned = w.base("unsigned int", 4, dw::DW_ATE_unsigned);
    let char = w.base("char", 1, dw::DW_ATE_signed_char);
    w.base("_Bool", 1, dw::DW_ATE_boolean);
    let pid_t = w.derived(dw::DW_TAG_typedef, "pid_t", int);
    let later = w.declare(dw::DW_TAG_structure_type, "later");
    let list = w.aggregate(dw::DW_TAG_structure_type, "list_head", 16);
    let pointer = w.derived(dw::DW_TAG_pointer_type, "", list);
    w.member(list, "next", pointer, 0);
    w.member(list, "prev", pointer, 8);

    let function = w.add(dw::DW_TAG_subroutine_type, "");
    let void = w.add(dw::DW_TAG_pointer_type, "");
    for target in [void, int] {
        let param = w.add_to(function, dw::DW_TAG_formal_parameter, "");
        w.refer(param, target);
    }
    let call = w.derived(dw::DW_TAG_pointer_type, "", function);

    let inner = w.aggregate(dw::DW_TAG_structure_type, "", 8);
    w.member(inner, "low", int, 0);
    w.bits(inner, "sized", int, 4, 1, 3);
    w.bits(inner, "unsized", pid_t, 4, 30, 2);
    let outer = w.aggregate(dw::DW_TAG_union_type, "", 8);
    w.member(outer, "usage", unsigned, 0);
    w.member(outer, "", inner, 0);

    let comm = w.array(char, &[Some(Value::Data1(15))]);
    let matrix = w.array(int, &[Some(Value::Data1(1)), Some(Value::Data1(2))]);
    let empty = w.array(int, &[Some(Value::Sdata(-1))]);
    let flexible = w.array(int, &[None]);
    let volatile = w.derived(dw::DW_TAG_volatile_type, "", int);
    let constant = w.derived(dw::DW_TAG_const_type, "", volatile);
    let next = w.derived(dw::DW_TAG_pointer_type, "", later);

    let rq = w.aggregate(dw::DW_TAG_structure_type, "rq", 8);
    w.member(rq, "nr", int, 0);
    let task = w.aggregate(dw::DW_TAG_structure_type, "task_struct", 120);
    w.member(task, "pid", pid_t, 0);
    w.member(task, "", outer, 8);
    w.member(task, "tasks", list, 16);
    w.member(task, "comm", comm, 32);
    w.member(task, "matrix", matrix, 48);
    w.member(task, "later", next, 72);
    w.member(task, "call", call, 80);
    w.member(task, "flags", constant, 88);
    w.member(task, "none", empty, 92);
    w.member(task, "tail", flexible, 92);

    let implicit = if w.version >= 5 { Value::ImplicitConst(-1) } else { Value::Sdata(-1) };
    w.enumeration("state", int, &[("LIVE", Value::Data1(128)), ("GONE", implicit)]);
    w.enumeration("mask", unsigned, &[("ALL", Value::Sdata(-1)), ("TOP", Value::Data4(0x8000_0000))]);
    list
}

/// A driver's unit: a `task_struct` and an `rq` of its own, what the core only declared, and a type of the core's.
fn driver(w: &mut Writer<'_>, core: (UnitId, UnitEntryId)) {
    let int = w.base("int", 4, dw::DW_ATE_signed);
    let task = w.aggregate(dw::DW_TAG_structure_type, "task_struct", 4);
    w.member(task, "mine", int, 0);
    w.aggregate(dw::DW_TAG_structure_type, "rq", 4);
    let later = w.aggregate(dw::DW_TAG_structure_type, "later", 24);
    w.member(later, "value", int, 0);
    let list = w.add_to(later, dw::DW_TAG_member, "list");
    w.set(list, dw::DW_AT_type, Value::DebugInfoRef(DebugInfoRef::Entry(core.0, core.1)));
    w.set(list, dw::DW_AT_data_member_location, Value::Data1(8));
    w.declare(dw::DW_TAG_structure_type, "nowhere");
}

/// A vmlinux with these two units.
pub(super) fn kernel(version: u16, format: Format) -> Vec<u8> {
    let encoding = Encoding { format, version, address_size: 8 };
    let mut dwarf = Dwarf::new();
    let units = [0, 1].map(|_| dwarf.units.add(Unit::new(encoding, LineProgram::none())));
    let list = core(&mut Writer { dwarf: &mut dwarf, unit: units[0], version });
    driver(&mut Writer { dwarf: &mut dwarf, unit: units[1], version }, (units[0], list));
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections).unwrap();
    let mut elf = TestElf::default();
    sections
        .for_each(|id, bytes| {
            elf = std::mem::take(&mut elf).section(id.name(), bytes.slice().to_vec());
            Ok::<_, ()>(())
        })
        .unwrap();
    elf.bytes()
}
