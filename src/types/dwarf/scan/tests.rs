//! Forms that other producers use, assembled by hand.

use super::*;
use crate::{
    types::{TypeError, TypeSource, dwarf::Dwarf},
    vmlinux::{Vmlinux, testing::TestElf},
};

/// One abbreviation: code, tag, children, (attribute, form) pairs; codes below 128 only.
fn abbreviation(code: u8, tag: DwTag, children: bool, attributes: &[(DwAt, DwForm)]) -> Vec<u8> {
    let mut bytes = vec![code, tag.0 as u8, u8::from(children)];
    for (name, form) in attributes {
        for word in [name.0, form.0] {
            match word {
                0..0x80 => bytes.push(word as u8),
                _ => bytes.extend([word as u8 | 0x80, (word >> 7) as u8]),
            }
        }
    }
    bytes.extend([0, 0]);
    bytes
}

/// A DWARF 5 unit around `entries`, whose abbreviations begin at 0.
fn unit(entries: &[u8]) -> Vec<u8> {
    let mut bytes = (entries.len() as u32 + 8).to_le_bytes().to_vec();
    bytes.extend([5, 0, 1, 8, 0, 0, 0, 0]);
    bytes.extend(entries);
    bytes
}

fn open(info: Vec<u8>, abbrev: Vec<u8>) -> Dwarf {
    let strings = b"\0\0other_struct\0".to_vec();
    let mut offsets: Vec<u8> = vec![16, 0, 0, 0, 5, 0, 0, 0];
    [99_u32, 2, 8, 0].iter().for_each(|offset| offsets.extend(offset.to_le_bytes()));
    let elf = TestElf::default()
        .section(".debug_info", info)
        .section(".debug_abbrev", abbrev)
        .section(".debug_str", strings)
        .section(".debug_line_str", b"line_named\0".to_vec())
        .section(".debug_str_offsets", offsets);
    Dwarf::new(Vmlinux::from_bytes("vmlinux", elf.bytes()).unwrap()).unwrap()
}

const SIZE: (DwAt, DwForm) = (dw::DW_AT_byte_size, dw::DW_FORM_data1);

/// A unit of a C compiler that indexes its strings (clang does), and some things no compiler does.
fn indexed() -> (Vec<u8>, Vec<u8>) {
    let struct_type = dw::DW_TAG_structure_type;
    let abbrev = [
        abbreviation(
            1,
            dw::DW_TAG_compile_unit,
            true,
            &[(dw::DW_AT_name, dw::DW_FORM_strx2), (dw::DW_AT_str_offsets_base, dw::DW_FORM_sec_offset)],
        ),
        abbreviation(2, struct_type, false, &[(dw::DW_AT_name, dw::DW_FORM_strx1), SIZE]),
        abbreviation(3, struct_type, false, &[SIZE, (dw::DW_AT_name, dw::DW_FORM_strx)]),
        abbreviation(4, struct_type, false, &[(dw::DW_AT_name, dw::DW_FORM_line_strp), SIZE]),
        abbreviation(
            5,
            struct_type,
            false,
            &[(dw::DW_AT_name, dw::DW_FORM_string), (dw::DW_AT_declaration, dw::DW_FORM_flag), SIZE],
        ),
        abbreviation(
            6,
            dw::DW_TAG_subprogram,
            true,
            &[
                (dw::DW_AT_sibling, dw::DW_FORM_ref_udata),
                (dw::DW_AT_frame_base, dw::DW_FORM_exprloc),
                (dw::DW_AT_location, dw::DW_FORM_block1),
            ],
        ),
        abbreviation(7, dw::DW_TAG_lexical_block, true, &[]),
        abbreviation(8, struct_type, false, &[(dw::DW_AT_name, dw::DW_FORM_string), SIZE]),
        vec![0],
    ]
    .concat();
    let entries = [
        &[1, 0, 0, 8, 0, 0, 0][..],       // offset 12: the unit, its strings from 8
        &[2, 1, 40],                      // 19: other_struct
        &[3, 41, 2],                      // 22: struct
        &[4, 0, 0, 0, 0, 42],             // 25: line_named
        b"\x05maybe\0\x01\x2b",           // 31: declared
        b"\x05whole\0\x00\x2c",           // 40: not declared
        &[6, 64, 1, 0x9c, 2, 0xff, 0xff], // 49: a function with a sibling at 64
        b"\x08hid\0\x01\0\0",             // 56: in it, and past its end
        &[7, 7],                          // 64: blocks without siblings
        b"\x08deep\0\x01\0\0",            // 66: in them
        b"\x08last\0\x2d\0",              // 75: the last, and the end of the unit
    ]
    .concat();
    (unit(&entries), abbrev)
}

#[test]
fn names_siblings_and_blocks() {
    let (info, abbrev) = indexed();
    let dwarf = open(info, abbrev);
    let types: &dyn TypeSource = &dwarf;
    let sizes = [("other_struct", 40), ("struct", 41), ("line_named", 42), ("whole", 44), ("last", 45)];
    for (name, size) in sizes {
        assert_eq!(types.struct_size(name), Ok(size), "{name}");
        let id = types.find(Tag::Struct, name).unwrap();
        let crate::types::Type::Aggregate(aggregate) = types.get(id).unwrap() else { panic!("{name}") };
        assert_eq!(aggregate.name.as_deref(), Some(name));
    }
    for name in ["maybe", "hid", "deep", "absent"] {
        assert!(matches!(types.struct_size(name), Err(TypeError::NoType { .. })), "{name}");
    }
}

#[test]
fn cut_off_anywhere_it_is_damaged_or_absent() {
    let (info, abbrev) = indexed();
    for len in 12..info.len() {
        let dwarf = open(unit(&info[12..len]), abbrev.clone());
        let types: &dyn TypeSource = &dwarf;
        let last = types.struct_size("last");
        assert!(last.is_err() || len == info.len() - 1, "{len}");
    }
    for len in 1..abbrev.len() {
        let dwarf = open(info.clone(), abbrev[..len].to_vec());
        let types: &dyn TypeSource = &dwarf;
        assert!(matches!(types.struct_size("last"), Err(TypeError::Damaged { .. })), "{len}");
    }
}

#[test]
fn what_cannot_be_stepped_over() {
    let root = abbreviation(1, dw::DW_TAG_compile_unit, true, &[]);
    let reason = |abbrev: &[u8], entries: &[u8]| {
        let dwarf = open(unit(entries), [&root[..], abbrev, &[0]].concat());
        match (&dwarf as &dyn TypeSource).struct_size("absent") {
            Err(TypeError::Damaged { place, reason, .. }) => (place, reason),
            other => panic!("{other:?}"),
        }
    };
    let unknown = abbreviation(2, dw::DW_TAG_typedef, false, &[(dw::DW_AT_name, DwForm(0x7f))]);
    assert_eq!(reason(&unknown, &[1, 0]), (0, "an attribute has an unknown form".to_owned()));
    assert_eq!(reason(&[], &[1, 9, 0]), (13, "unknown abbreviation".to_owned()));
    let huge = [0xff, 0xff, 0xff, 0x7f, 0x16, 0, 0, 0];
    assert_eq!(reason(&huge, &[1, 0]), (0, "an abbreviation code is impossibly large".to_owned()));
    let block = abbreviation(2, dw::DW_TAG_typedef, false, &[(dw::DW_AT_location, dw::DW_FORM_block4)]);
    let cut = "an attribute is cut off or of an unknown form".to_owned();
    assert_eq!(reason(&block, &[1, 2, 0xff, 0xff, 0xff, 0xff, 0]), (13, cut));
}

#[test]
fn leb128() {
    let read = |bytes: &[u8]| {
        let mut cursor = Cursor { data: bytes, at: 0 };
        cursor.leb128().map(|value| (value, cursor.at))
    };
    assert_eq!(read(&[0x7f]), Some((0x7f, 1)));
    assert_eq!(read(&[0xe5, 0x8e, 0x26]), Some((624_485, 3)));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Some((u64::MAX, 10)));
    assert_eq!(read(&[0x80; 20]), None);
    assert_eq!(
        read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 0x55]),
        Some((0, 11))
    );
}
