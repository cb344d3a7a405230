use super::*;
use crate::types::{Tag, Type, TypeSource};

fn constants() -> Constants {
    [("N", 3), ("YES", 1)].into_iter().collect()
}

fn layout(text: &'static str, paths: &[&str]) -> String {
    let declarations = read(&[("test.c", text)], &constants()).unwrap();
    let types: &dyn TypeSource = &declarations.types;
    let mut out = format!("{}", types.struct_size("s").unwrap());
    for path in paths {
        let field = types.field("s", path).unwrap();
        out += &format!(" {path}:{}+{}", field.offset, field.size);
        if let Some((shift, width)) = field.bits {
            out += &format!("[{shift}+{width}]");
        }
    }
    out
}

fn failure(text: &'static str) -> String {
    read(&[("test.c", text)], &constants()).unwrap_err().to_string()
}

#[test]
fn members_are_aligned_and_anonymous_ones_are_transparent() {
    let text = "typedef unsigned char u8;
        struct s { char a; int b; char c[N]; struct { u8 *p; short d; }; union { long e; char f; }; };";
    assert_eq!(
        layout(text, &["a", "b", "c", "p", "d", "e", "f"]),
        "40 a:0+1 b:4+4 c:8+3 p:16+8 d:24+2 e:32+8 f:32+1"
    );
}

#[test]
fn bit_fields_share_units_of_their_type() {
    let text = "struct s { unsigned char facility, flags : 5, level : 3; unsigned x : 30, y : 4; unsigned : 0; unsigned z : 1; };";
    assert_eq!(
        layout(text, &["facility", "flags", "level", "x", "y", "z"]),
        "16 facility:0+1 flags:1+1[0+5] level:1+1[5+3] x:4+4[0+30] y:8+1[0+4] z:12+1[0+1]"
    );
}

#[test]
fn attributes_override_the_natural_layout() {
    assert_eq!(layout("struct s { char a; long b; } __packed;", &["b"]), "9 b:1+8");
    assert_eq!(
        layout("struct s { int pid __at(2216); char comm[16] __at(2640); } __size(9088);", &["pid", "comm"]),
        "9088 pid:2216+4 comm:2640+16"
    );
    assert_eq!(layout("struct s { char a; int b __aligned(64); };", &["b"]), "128 b:64+4");
}

#[test]
fn branches_follow_the_constants() {
    let text = "struct s {\n#ifdef NO\nlong a;\n#else\nint a;\n#endif\n#ifndef YES\nlong b;\n#endif\n};";
    assert_eq!(layout(text, &["a"]), "4 a:0+4");
}

#[test]
fn variables_and_functions() {
    let text = "struct later; extern struct later *p[2 * N] __rodata; static char b[N] __bss __aligned(8);
        void leaf(void) { } void root(void) { leaf(); leaf(); }
        enum e { A, B = 5, C, D = -1, };";
    let declarations = read(&[("empty.c", ""), ("test.c", text)], &constants()).unwrap();
    let described: Vec<_> = declarations
        .variables
        .iter()
        .map(|v| (v.name.as_str(), declarations.types.size_of(v.ty).unwrap(), v.section, v.external, v.file))
        .collect();
    assert_eq!(described, [("p", 48, Section::RoData, true, 1), ("b", 3, Section::Bss, false, 1)]);
    assert_eq!(declarations.functions[1].calls, ["leaf", "leaf"]);
    assert!(declarations.types.find(Tag::Struct, "later").is_err());
    let Type::Enum { values, .. } =
        declarations.types.get(declarations.types.find(Tag::Enum, "e").unwrap()).unwrap()
    else {
        panic!("e is not an enum")
    };
    assert_eq!(values.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [0, 5, 6, -1]);
}

#[test]
fn mistakes_name_file_and_line() {
    assert_eq!(failure("struct s {\nint a\n};"), "test.c:3: `;` expected, not Punct('}')");
    assert_eq!(failure("extern wrong x;"), "test.c:1: unknown type `wrong`");
    assert_eq!(failure("extern int x[M];"), "test.c:1: no constant `M`");
    assert_eq!(
        failure("struct s { struct t a; };"),
        "test.c:1: the synthetic kernel's source has no complete `struct t`"
    );
    assert_eq!(failure("#ifdef A"), "test.c:0: the file ends inside #ifdef or a comment");
}
