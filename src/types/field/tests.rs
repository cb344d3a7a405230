use std::collections::HashMap;

use super::*;

/// Each of the nested structs is read whole.
#[test]
fn anonymous_members_are_counted_with_those_in_them() {
    let nested = |depth: usize, width: usize| {
        let mut table = Table::default();
        let int = table.base("int", 4, Encoding::Signed);
        let mut inner = int;
        for level in 0..depth {
            let mut members = vec![("m", 0, None, int); width];
            members.push(("", 0, None, inner));
            let name = if level + 1 == depth { "outer" } else { "" };
            inner = table.aggregate(Tag::Struct, name, 8, &members);
        }
        (&table as &dyn TypeSource).field("outer", "n")
    };
    assert!(matches!(nested(20, 1000), Err(TypeError::NoMember { .. })));
    let error = nested(20, 10_000).unwrap_err().to_string();
    assert!(error.contains("too many anonymous members"), "{error}");
}

/// Types by hand: a [`TypeId`] is a position.
#[derive(Default)]
struct Table {
    types: Vec<Type>,
    names: HashMap<(Tag, String), TypeId>,
}

impl Table {
    fn push(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        TypeId(self.types.len() as u64 - 1)
    }

    fn base(&mut self, name: &str, size: u64, encoding: Encoding) -> TypeId {
        self.push(Type::Base { name: name.to_owned(), size, encoding })
    }

    /// Members are (name, bit offset, bit size, type).
    fn aggregate(
        &mut self,
        tag: Tag,
        name: &str,
        size: u64,
        members: &[(&str, u64, Option<u64>, TypeId)],
    ) -> TypeId {
        let text = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let members = members.iter().map(|(own, bit_offset, bit_size, ty)| Member {
            name: text(own),
            bit_offset: *bit_offset,
            bit_size: *bit_size,
            ty: *ty,
        });
        let members = members.collect();
        let id = self.push(Type::Aggregate(Aggregate { tag, name: text(name), size, members }));
        self.names.insert((tag, name.to_owned()), id);
        id
    }
}

impl TypeSource for Table {
    fn source_name(&self) -> &str {
        "table"
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        self.names.get(&(tag, name.to_owned())).copied().ok_or_else(|| TypeError::NoType {
            source_name: "table".to_owned(),
            tag: tag.keyword(),
            name: name.to_owned(),
        })
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        self.types
            .get(id.0 as usize)
            .cloned()
            .ok_or_else(|| (self as &dyn TypeSource).damaged(id, "no such type"))
    }
}

/// `struct task { int pid; union { long usage; struct { short low; u8 flags:3; int odd:5; }; }; char comm[4];
/// struct later *next; later_t nested; const struct list nodes[2][3]; u32 tail[]; }`, with a bit-field at its very end.
fn task() -> Table {
    let mut table = Table::default();
    let int = table.base("int", 4, Encoding::Signed);
    let long = table.base("long", 8, Encoding::Signed);
    let short = table.base("short", 2, Encoding::Signed);
    let byte = table.base("unsigned char", 1, Encoding::Char);
    let char = table.base("char", 1, Encoding::Char);
    let inner = table.aggregate(
        Tag::Struct,
        "",
        8,
        &[("low", 0, None, short), ("flags", 16, Some(3), byte), ("odd", 21, Some(5), int)],
    );
    let outer = table.aggregate(Tag::Union, "", 8, &[("usage", 0, None, long), ("", 0, None, inner)]);
    let comm = table.push(Type::Array { element: char, count: Some(4) });
    let later = table.push(Type::Forward { tag: Tag::Union, name: "later".to_owned() });
    let next = table.push(Type::Pointer(later));
    table.aggregate(Tag::Union, "later", 4, &[("value", 0, None, int)]);
    let nested = table.push(Type::Typedef { name: "later_t".to_owned(), target: later });
    let list =
        table.aggregate(Tag::Struct, "list", 16, &[("first", 0, None, next), ("last", 64, None, next)]);
    let row = table.push(Type::Array { element: list, count: Some(3) });
    let rows = table.push(Type::Array { element: row, count: Some(2) });
    let nodes = table.push(Type::Qualified(rows));
    let tail = table.push(Type::Array { element: int, count: None });
    table.aggregate(
        Tag::Struct,
        "task",
        136,
        &[
            ("pid", 0, None, int),
            ("", 64, None, outer),
            ("comm", 128, None, comm),
            ("next", 192, None, next),
            ("nested", 256, None, nested),
            ("nodes", 320, None, nodes),
            ("last_bits", 1084, Some(4), int),
            ("tail", 1088, None, tail),
        ],
    );
    table
}

fn place(types: &dyn TypeSource, path: &str) -> (u64, u64, Option<(u32, u32)>) {
    let info = types.field("task", path).unwrap();
    (info.offset, info.size, info.bits)
}

#[test]
fn members_by_path() {
    let table = task();
    let types: &dyn TypeSource = &table;
    assert_eq!(place(types, "pid"), (0, 4, None));
    assert_eq!(place(types, "usage"), (8, 8, None), "in an anonymous union");
    assert_eq!(place(types, "low"), (8, 2, None), "in an anonymous struct in an anonymous union");
    assert_eq!(place(types, "comm"), (16, 4, None));
    assert_eq!(place(types, "nested.value"), (32, 4, None), "through a typedef of a forward declaration");
    assert_eq!(place(types, "nodes"), (40, 96, None));
    assert_eq!(place(types, "nodes.last"), (48, 8, None), "of the first element");
    assert_eq!(place(types, "tail"), (136, 0, None));
    assert_eq!(types.struct_size("task"), Ok(136));
}

#[test]
fn bit_fields() {
    let table = task();
    let types: &dyn TypeSource = &table;
    assert_eq!(place(types, "flags"), (10, 1, Some((0, 3))));
    assert_eq!(place(types, "odd"), (10, 2, Some((5, 5))), "crosses a byte");
    assert_eq!(place(types, "last_bits"), (135, 1, Some((4, 4))), "in the struct's last byte");
    let bytes: Vec<u8> = (0..136).map(|at| if at == 10 { 0b0110_1101 } else { 0xfe }).collect();
    assert_eq!(Field::<u8>::resolve(types, "task", "flags").unwrap().get(&bytes), Some(0b101));
    assert_eq!(Field::<u8>::resolve(types, "task", "odd").unwrap().get(&bytes), Some(0b10011));
    assert_eq!(Field::<i32>::resolve(types, "task", "odd").unwrap().get(&bytes), Some(-13));
    assert_eq!(Field::<u32>::resolve(types, "task", "last_bits").unwrap().get(&bytes), Some(15));
    assert_eq!(Field::<u32>::resolve(types, "task", "last_bits").unwrap().get(&bytes[..135]), None);
}

#[test]
fn signs_and_widths() {
    let table = task();
    let types: &dyn TypeSource = &table;
    let mut bytes = vec![0; 136];
    bytes[..4].copy_from_slice(&(-2_i32).to_le_bytes());
    bytes[8..10].copy_from_slice(&(-3_i16).to_le_bytes());
    bytes[24..32].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
    assert_eq!(Field::<i64>::resolve(types, "task", "pid").unwrap().get(&bytes), Some(-2));
    assert_eq!(Field::<u64>::resolve(types, "task", "pid").unwrap().get(&bytes), Some(0xffff_fffe));
    assert_eq!(Field::<i32>::resolve(types, "task", "low").unwrap().get(&bytes), Some(-3));
    let next = Field::<VirtAddr>::resolve(types, "task", "next").unwrap();
    assert_eq!(next.get(&bytes), Some(VirtAddr::new(0xffff_ffff_8100_0000)));
    assert_eq!((next.offset(), next.get(&bytes[..31])), (24, None));
}

#[test]
fn what_is_refused() {
    let table = task();
    let types: &dyn TypeSource = &table;
    let no_member = |result: Result<FieldInfo, TypeError>| matches!(result, Err(TypeError::NoMember { .. }));
    for path in ["", ".", "pidx", "pid.x", "next.value", "comm.x", "pid.", "usage.low"] {
        assert!(no_member(types.field("task", path)), "{path}");
    }
    assert!(matches!(types.field("nothing", "pid"), Err(TypeError::NoType { .. })));
    let refused = |path| match Field::<u32>::resolve(types, "task", path) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{path} was taken"),
    };
    assert_eq!(refused("usage"), "`task` has no member `usage of 1 to 32 bits (it has 64)`");
    assert_eq!(refused("tail"), "`task` has no member `tail of 1 to 32 bits (it has 0)`");
}

#[test]
fn circles_and_fans_end() {
    let mut table = Table::default();
    let circle = TypeId(1);
    table.push(Type::Qualified(circle));
    table.push(Type::Typedef { name: "circle".to_owned(), target: TypeId(0) });
    let own = TypeId(2);
    table.push(Type::Array { element: own, count: Some(1) });
    let mut fan = table.aggregate(Tag::Struct, "", 8, &[]);
    for _ in 0..60 {
        fan = table.aggregate(Tag::Struct, "", 8, &[("", 0, None, fan), ("", 0, None, fan)]);
    }
    let selfish = TypeId(table.types.len() as u64);
    table.aggregate(Tag::Struct, "selfish", 8, &[("", 0, None, selfish)]);
    let huge = table.push(Type::Array { element: fan, count: Some(u64::MAX) });
    let types: &dyn TypeSource = &table;
    let damaged = |result: Result<u64, TypeError>| matches!(result, Err(TypeError::Damaged { .. }));
    assert!(damaged(types.size_of(circle)));
    assert!(damaged(types.size_of(own)));
    assert!(damaged(types.size_of(huge)));
    assert!(damaged(types.size_of(TypeId(9999))));
    for id in [circle, own, fan, selfish] {
        assert!(damaged(types.field_of(id, "it", "absent").map(|info| info.offset)), "{id:?}");
    }
}

#[test]
fn enumerators() {
    let mut table = Table::default();
    let values = vec![("LIVE".to_owned(), 0), ("GONE".to_owned(), -2)];
    let id = table.push(Type::Enum { name: Some("state".to_owned()), size: 4, values });
    table.names.insert((Tag::Enum, "state".to_owned()), id);
    table.aggregate(Tag::Struct, "module", 4, &[("state", 0, None, id)]);
    let types: &dyn TypeSource = &table;
    assert_eq!(types.enumerator("state", "GONE"), Ok(-2));
    assert!(matches!(types.enumerator("state", "NONE"), Err(TypeError::NoMember { .. })));
    assert!(matches!(types.enumerator("states", "GONE"), Err(TypeError::NoType { .. })));
    let field = Field::<i32>::resolve(types, "module", "state").unwrap();
    assert_eq!(field.get(&(-2_i32).to_le_bytes()), Some(-2));
}
