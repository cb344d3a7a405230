use proptest::prelude::*;

use super::{
    fixture::{Builder, info, kernel},
    *,
};
use crate::types::{Aggregate, Encoding, Member};

fn types(btf: &Btf) -> &dyn TypeSource {
    btf
}

fn small() -> Btf {
    Btf::parse("vmlinux", kernel().0).unwrap()
}

#[test]
fn members_by_name_are_where_they_are() {
    let btf = small();
    let at = |path| {
        let field = types(&btf).field("task_struct", path).unwrap();
        (field.offset, field.size, field.bits)
    };
    assert_eq!(at("comm"), (0, 16, None));
    assert_eq!(at("pid"), (16, 4, None));
    assert_eq!(at("mm"), (24, 8, None));
    assert_eq!((at("first"), at("second")), ((32, 4, None), (32, 8, None)));
    assert_eq!(at("flag"), (40, 1, Some((5, 3))));
    assert_eq!(types(&btf).struct_size("task_struct").unwrap(), 64);
    assert_eq!(types(&btf).enumerator("state", "TASK_A").unwrap(), -1);
    assert_eq!(types(&btf).enumerator("wide", "WIDE").unwrap(), 0x8000_0000_0000_0001);
}

#[test]
fn names_are_of_one_kind_and_complete() {
    let btf = small();
    let error = btf.find(Tag::Struct, "mm_struct").unwrap_err();
    assert_eq!(error.to_string(), "vmlinux has no complete `struct mm_struct`");
    assert!(btf.find(Tag::Union, "task_struct").is_err());
    assert!(btf.find(Tag::Struct, "").is_err());
    let base = |name| btf.get(btf.find(Tag::Base, name).unwrap()).unwrap();
    let of = |name: &str, size, encoding| Type::Base { name: name.to_owned(), size, encoding };
    assert_eq!(base("char"), of("char", 1, Encoding::Char));
    assert_eq!(base("_Bool"), of("_Bool", 1, Encoding::Bool));
    assert_eq!(base("long unsigned int"), of("long unsigned int", 8, Encoding::Unsigned));
    assert_eq!(base("double"), of("double", 8, Encoding::Other));
}

#[test]
fn functions_variables_and_sections() {
    let (bytes, ids) = kernel();
    let btf = Btf::parse("vmlinux", bytes).unwrap();
    let record = |id: u32| btf.record(TypeId(u64::from(id))).unwrap();
    let function = record(ids.function);
    assert_eq!(function.name, "schedule");
    let Kind::Function { prototype, linkage: Linkage::Global } = function.kind else {
        panic!("{function:?}")
    };
    let Kind::Prototype { params, .. } = btf.record(prototype).unwrap().kind else { panic!("no prototype") };
    let params: Vec<_> = params.iter().map(|param| param.unwrap().name).collect();
    assert_eq!(params, ["task", ""]);
    // What `...` stands for is no parameter of the model.
    match types(&btf).resolve(TypeId(u64::from(ids.function))).unwrap() {
        Type::Function { result, params } => assert_eq!((result.0 as u32, params.len()), (ids.int, 1)),
        other => panic!("{other:?}"),
    }
    let Kind::Section { entries, .. } = record(ids.section).kind else { panic!("no section") };
    let entry = entries.iter().next().unwrap().unwrap();
    assert_eq!((entry.offset, entry.size), (0x1000, 64));
    let variable = btf.record(entry.variable).unwrap();
    assert_eq!(variable.name, "runqueues");
    assert!(matches!(variable.kind, Kind::Variable { ty, .. } if ty.0 as u32 == ids.task));
}

#[test]
fn bit_fields_of_an_encoder_without_kind_flag() {
    let mut btf = Builder::new();
    // Three bits of an unsigned int, two bits into it.
    let narrow = btf.record("unsigned int", info(1, 0, false), 4, &[2 << 16 | 3]);
    let alias = btf.record("u32", info(8, 0, false), narrow, &[]);
    btf.aggregate("flags", (4, 4, false), &[("a", alias, 8)]);
    let btf = Btf::parse("old", btf.finish()).unwrap();
    let field = types(&btf).field("flags", "a").unwrap();
    assert_eq!((field.offset, field.bits), (1, Some((2, 3))));
}

#[test]
fn signs_of_enums_are_left_open_by_old_encoders_only() {
    let value = |with_signs: bool| {
        let mut btf = Builder::new();
        let name = btf.string("TOP");
        btf.record("top", info(6, 1, false), 4, &[name, 0xffff_ffff]);
        if with_signs {
            btf.record("other", info(6, 0, true), 4, &[]);
        }
        types(&Btf::parse("enums", btf.finish()).unwrap()).enumerator("top", "TOP").unwrap()
    };
    assert_eq!(value(false), -1);
    assert_eq!(value(true), 0xffff_ffff);
}

#[test]
fn a_module_goes_on_where_its_kernel_ends() {
    let (bytes, ids) = kernel();
    let base = Arc::new(Btf::parse("vmlinux", bytes).unwrap());
    let mut module = Builder::split(base.ids().end - 1, base.strings_len());
    let own =
        module.aggregate("ext4_inode", (4, 68, false), &[("task", ids.task, 0), ("last", ids.int, 512)]);
    let btf = Btf::parse_split("ext4", module.finish(), Arc::clone(&base)).unwrap();
    assert_eq!(btf.ids(), own..own + 1);
    assert_eq!(types(&btf).field("ext4_inode", "last").unwrap().offset, 64);
    assert_eq!(types(&btf).field("ext4_inode", "task.pid").unwrap().offset, 16);
    assert_eq!(types(&btf).struct_size("task_struct").unwrap(), 64);
    assert!(base.find(Tag::Struct, "ext4_inode").is_err());
    let error = btf.find(Tag::Struct, "xfs_inode").unwrap_err();
    assert!(matches!(error, TypeError::NoType { .. }));
}

#[test]
fn what_is_no_btf_is_refused_with_the_place() {
    let (bytes, _) = kernel();
    let reason = |bytes: &[u8]| Btf::parse("btf", bytes.to_vec()).unwrap_err().to_string();
    assert!(reason(b"").contains("does not begin"));
    assert!(reason(&bytes[..20]).contains("header is cut off"));
    assert_eq!(
        reason(&bytes[..bytes.len() - 1]),
        format!("btf is damaged at {:#x}: it is cut off", bytes.len() - 1)
    );
    let mut unknown = bytes.clone();
    unknown[24 + 7] = 30;
    assert_eq!(reason(&unknown), "btf is damaged at 0x18: a record is of a kind nobody knows");
    let mut long = bytes.clone();
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(reason(&long).contains("impossibly large"));
    let btf = small();
    assert!(btf.get(TypeId(u64::MAX)).is_err());
    assert!(btf.get(TypeId(1 << 20)).is_err());
    assert_eq!(btf.get(TypeId(0)).unwrap(), Type::Void);
}

#[test]
fn a_name_that_many_members_share_is_no_longer_than_a_symbols() {
    let members = |len: usize| {
        let mut btf = Builder::new();
        let int = btf.int("int", 4, 1);
        let long = btf.string(&"x".repeat(len));
        let tail: Vec<u32> = [long, int, 0].repeat(1000);
        let ty = btf.record("task_struct", info(4, 1000, false), 4, &tail);
        let btf = Btf::parse("btf", btf.finish()).unwrap();
        btf.get(TypeId(ty.into()))
            .map(|ty| matches!(ty, Type::Aggregate(found) if found.members.len() == 1000))
    };
    assert_eq!(members(511), Ok(true));
    assert!(members(512).unwrap_err().to_string().contains("a name is outside the strings"));

    let mut btf = Builder::new();
    let int = btf.int("int", 4, 1);
    btf.record("task_struct", info(4, 1 << 18, false), 4, &[0, int, 0].repeat(1 << 18));
    let said = Btf::parse("btf", btf.finish()).unwrap_err().to_string();
    assert!(said.contains("impossibly many entries"), "{said}");
}

#[test]
fn a_struct_keeps_its_order() {
    let mut btf = Builder::new();
    let int = btf.int("int", 4, 1);
    btf.aggregate("pair", (4, 8, false), &[("b", int, 32), ("a", int, 0)]);
    btf.aggregate("pair", (4, 4, false), &[("other", int, 0)]);
    let btf = Btf::parse("btf", btf.finish()).unwrap();
    let member = |name: &str, bit_offset| Member {
        name: Some(name.to_owned()),
        bit_offset,
        bit_size: None,
        ty: TypeId(1),
    };
    let expected = Aggregate {
        tag: Tag::Struct,
        name: Some("pair".to_owned()),
        size: 8,
        members: vec![member("b", 32), member("a", 0)],
    };
    // Of two structs of one name the first counts.
    assert_eq!(btf.get(btf.find(Tag::Struct, "pair").unwrap()).unwrap(), Type::Aggregate(expected));
}

/// Everything that can be asked.
fn walk(btf: &Btf) {
    for id in btf.ids().chain([0, u32::MAX]).map(|id| TypeId(u64::from(id))) {
        let _ = btf.get(id);
        let _ = types(btf).size_of(id);
        let _ = types(btf).field_of(id, "any", "pid.a");
        let Ok(record) = btf.record(id) else { continue };
        if let Some(tag) = record.tag() {
            let _ = btf.find(tag, record.name);
        }
        match record.kind {
            Kind::Section { entries, .. } => entries.iter().for_each(drop),
            Kind::Prototype { params, .. } => params.iter().for_each(drop),
            _ => {}
        }
    }
    let _ = types(btf).field("task_struct", "first");
}

proptest! {
    #[test]
    fn any_damage(at in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..24), len in 0_usize..4096) {
        let (mut bytes, _) = kernel();
        for (at, byte) in at {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let base = Btf::parse("damaged", bytes.clone());
        if let Ok(btf) = base {
            walk(&btf);
            if let Ok(module) = Btf::parse_split("module", bytes.clone(), Arc::new(btf)) {
                walk(&module);
            }
        }
        bytes.truncate(len);
        if let Ok(btf) = Btf::parse("cut", bytes) {
            walk(&btf);
        }
    }

    #[test]
    fn any_records(records in proptest::collection::vec((0_u32..21, 0_u32..4, any::<bool>(), 0_u32..24), 1..40)) {
        let mut btf = Builder::new();
        for (kind, count, flag, target) in records {
            let tail: Vec<u32> = (0..20).map(|word| word * 7 % 23).collect();
            let len = match kind { 1 | 14 | 17 => 1, 3 => 3, 4 | 5 | 15 | 19 => 3 * count, 6 | 13 => 2 * count, _ => 0 };
            btf.record("any", info(kind, count, flag), target, &tail[..len as usize]);
        }
        if let Ok(btf) = Btf::parse("any", btf.finish()) {
            walk(&btf);
        }
    }
}
