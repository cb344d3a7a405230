use gimli::Format;
use proptest::prelude::*;

use super::*;
use crate::{
    types::{Aggregate, Encoding, Member},
    vmlinux::testing::{COMPRESSED, PROGBITS, TestElf, TestSection},
};

const KINDS: [(u16, Format); 3] = [(4, Format::Dwarf32), (5, Format::Dwarf32), (5, Format::Dwarf64)];

fn open(bytes: Vec<u8>) -> Dwarf {
    Dwarf::new(Vmlinux::from_bytes("vmlinux", bytes).unwrap()).unwrap()
}

fn each_kind(check: impl Fn(&dyn TypeSource)) {
    for (version, format) in KINDS {
        check(&open(fixture::kernel(version, format)));
    }
}

fn place(types: &dyn TypeSource, structure: &str, path: &str) -> (u64, u64, Option<(u32, u32)>) {
    let info = types.field(structure, path).unwrap();
    (info.offset, info.size, info.bits)
}

/// Type, stride and number of what an array holds.
fn elements(types: &dyn TypeSource, id: TypeId) -> (TypeId, u64, Option<u64>) {
    match types.resolve(id).unwrap() {
        Type::Array { element, count } => (element, types.size_of(element).unwrap(), count),
        other => panic!("{other:?}"),
    }
}

fn pointee(types: &dyn TypeSource, id: TypeId) -> TypeId {
    match types.resolve(id).unwrap() {
        Type::Pointer(target) => target,
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_through_anonymous_ones() {
    each_kind(|types| {
        assert_eq!(types.struct_size("task_struct"), Ok(120));
        assert_eq!(place(types, "task_struct", "pid"), (0, 4, None));
        assert_eq!(place(types, "task_struct", "usage"), (8, 4, None));
        assert_eq!(place(types, "task_struct", "low"), (8, 4, None));
        assert_eq!(place(types, "task_struct", "tasks.prev"), (24, 8, None));
        assert_eq!(place(types, "task_struct", "comm"), (32, 16, None));
        assert_eq!(place(types, "task_struct", "flags"), (88, 4, None));
    });
}

#[test]
fn bit_fields_of_either_form() {
    each_kind(|types| {
        assert_eq!(place(types, "task_struct", "sized"), (12, 1, Some((1, 3))));
        assert_eq!(place(types, "task_struct", "unsized"), (15, 1, Some((6, 2))));
    });
}

#[test]
fn arrays() {
    each_kind(|types| {
        let elements = |name| elements(types, types.field("task_struct", name).unwrap().ty);
        let (row, stride, rows) = elements("matrix");
        assert_eq!((stride, rows), (12, Some(2)));
        assert!(matches!(types.get(row), Ok(Type::Array { count: Some(3), .. })));
        assert_eq!(place(types, "task_struct", "matrix"), (48, 24, None));
        assert_eq!(elements("none").2, Some(0));
        assert_eq!(elements("tail").2, None);
        let third = types.get(TypeId(types.field("task_struct", "matrix").unwrap().ty.0 | 2 << OFFSET_BITS));
        assert!(matches!(third, Err(TypeError::Damaged { .. })));
    });
}

#[test]
fn declarations_are_completed_by_name() {
    each_kind(|types| {
        let later = pointee(types, types.field("task_struct", "later").unwrap().ty);
        assert_eq!(types.get(later), Ok(Type::Forward { tag: Tag::Struct, name: "later".to_owned() }));
        assert_eq!(types.size_of(later), Ok(24));
        assert_eq!(place(types, "later", "list.next"), (8, 8, None), "of a struct in another unit");
        assert!(matches!(types.find(Tag::Struct, "nowhere"), Err(TypeError::NoType { .. })));
    });
}

#[test]
fn the_first_definition_counts() {
    each_kind(|types| {
        assert_eq!(types.struct_size("later"), Ok(24));
        assert_eq!(types.struct_size("task_struct"), Ok(120), "after the second one was met");
        assert_eq!(types.struct_size("rq"), Ok(8), "its name stands in the entry");
        assert!(types.field("task_struct", "mine").is_err());
    });
}

#[test]
fn tags_are_name_spaces() {
    each_kind(|types| {
        for (tag, name) in [
            (Tag::Struct, "list_head"),
            (Tag::Enum, "state"),
            (Tag::Typedef, "pid_t"),
            (Tag::Base, "unsigned int"),
            (Tag::Base, "int"),
        ] {
            for other in [Tag::Struct, Tag::Union, Tag::Enum, Tag::Typedef, Tag::Base] {
                assert_eq!(types.find(other, name).is_ok(), other == tag, "{other:?} {name}");
            }
        }
        let absent = types.find(Tag::Union, "list_head").unwrap_err();
        assert_eq!(absent.to_string(), "vmlinux has no complete `union list_head`");
        assert!(types.find(Tag::Struct, "_head").is_err(), "part of a name");
    });
}

#[test]
fn enumerators_have_the_sign_of_their_type() {
    each_kind(|types| {
        let values = |name| match types.get(types.find(Tag::Enum, name).unwrap()).unwrap() {
            Type::Enum { values, size: 4, .. } => values,
            other => panic!("{other:?}"),
        };
        assert_eq!(values("state"), [("LIVE".to_owned(), 128), ("GONE".to_owned(), -1)]);
        assert_eq!(values("mask"), [("ALL".to_owned(), 0xffff_ffff), ("TOP".to_owned(), 0x8000_0000)]);
    });
}

#[test]
fn the_model() {
    each_kind(|types| {
        let bool = types.get(types.find(Tag::Base, "_Bool").unwrap());
        assert_eq!(bool, Ok(Type::Base { name: "_Bool".to_owned(), size: 1, encoding: Encoding::Bool }));
        let list = types.find(Tag::Struct, "list_head").unwrap();
        let Type::Aggregate(Aggregate { tag: Tag::Struct, name: Some(_), size: 16, members }) =
            types.get(list).unwrap()
        else {
            panic!("list_head");
        };
        let [next, _] = &members[..] else { panic!("{members:?}") };
        let name = Some("next".to_owned());
        assert_eq!(*next, Member { name, bit_offset: 0, bit_size: None, ty: next.ty });
        assert_eq!(types.get(next.ty), Ok(Type::Pointer(list)));
        let call = pointee(types, types.field("task_struct", "call").unwrap().ty);
        let Type::Function { result, params } = types.get(call).unwrap() else { panic!("call") };
        assert_eq!(types.get(result), Ok(Type::Void));
        assert_eq!(types.get(params[0]), Ok(Type::Pointer(VOID)));
        assert_eq!(types.size_of(params[1]), Ok(4));
    });
}

#[test]
fn what_cannot_be_used() {
    let new = |elf: TestElf| Dwarf::new(Vmlinux::from_bytes("vmlinux", elf.bytes()).unwrap()).map(|_| ());
    assert!(matches!(new(TestElf::default()), Err(VmlinuxError::NoDebugInfo { .. })));
    let mut compressed = TestElf::default().section(".debug_info", vec![1; 40]);
    compressed.sections.push(TestSection {
        name: ".debug_str",
        kind: PROGBITS,
        flags: COMPRESSED,
        bytes: vec![1; 40],
        ..TestSection::default()
    });
    assert!(matches!(new(compressed), Err(VmlinuxError::Compressed { .. })));
}

#[test]
fn behind_damage_nothing_is_called_absent() {
    let bytes = fixture::kernel(5, Format::Dwarf32);
    let whole = Vmlinux::from_bytes("vmlinux", bytes.clone()).unwrap();
    let info = whole.section(".debug_info").unwrap();
    let start = bytes.windows(info.len()).position(|window| window == info).unwrap();
    let second = 4 + u32::from_le_bytes(info[..4].try_into().unwrap()) as usize;

    let mut broken_chain = bytes.clone();
    broken_chain[start + second..][..4].fill(0xee);
    let mut broken_entry = bytes;
    broken_entry[start + second + 12] = 0x7f;
    for bytes in [broken_chain, broken_entry] {
        let types = open(bytes);
        assert_eq!((&types as &dyn TypeSource).struct_size("task_struct"), Ok(120));
        assert!(matches!(types.find(Tag::Struct, "later"), Err(TypeError::Damaged { .. })));
    }
}

#[test]
fn places_without_a_type() {
    let types = open(fixture::kernel(5, Format::Dwarf32));
    for place in [0, 1, 11, 12, 1 << 40, u64::MAX - 1] {
        assert!(types.get(TypeId(place)).is_err(), "{place:#x}");
    }
}

/// Everything that can be asked of a file that may be damaged: each question ends, with an answer or an error.
fn ask_everything(bytes: Vec<u8>) {
    let Ok(file) = Vmlinux::from_bytes("vmlinux", bytes) else { return };
    let Ok(dwarf) = Dwarf::new(file) else { return };
    let types: &dyn TypeSource = &dwarf;
    for path in ["pid", "unsized", "tasks.prev", "later", "tail", "absent"] {
        let _ = types.field("task_struct", path);
    }
    let _ = types.field("later", "list.next");
    let _ = types.enumerator("state", "GONE");
    let _ = types.find(Tag::Union, "absent");
    for place in (0..0x400).chain([u64::MAX, 1 << OFFSET_BITS, 0x80 | 1 << OFFSET_BITS]) {
        let _ = types.get(TypeId(place));
        let _ = types.size_of(TypeId(place));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(
        kind in prop::sample::select(&KINDS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = fixture::kernel(kind.0, kind.1);
        for (at, byte) in changes {
            // The headers are checked by [`Vmlinux`]; what is of interest here comes after them.
            let at = 64 + at.index(bytes.len() - 64);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        ask_everything(bytes);
    }
}
