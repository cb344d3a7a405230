use nettlp_gdb::{
    types::{Tag, Type, TypeSource, dwarf::Dwarf},
    vmlinux::Vmlinux,
};
use std::{
    io::{self, BufRead, Write},
    path::Path,
};
fn main() {
    let v = Vmlinux::open(Path::new(&std::env::args().nth(1).unwrap())).unwrap();
    let d = Dwarf::new(v).unwrap();
    let t: &dyn TypeSource = &d;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let (kind, name) = line.split_once(' ').unwrap();
        let tag = match kind {
            "struct" => Tag::Struct,
            "union" => Tag::Union,
            "enum" => Tag::Enum,
            "typedef" => Tag::Typedef,
            _ => Tag::Base,
        };
        let id = match t.find(tag, name) {
            Ok(id) => id,
            Err(e) => {
                writeln!(out, "{line}\tERR {e}").unwrap();
                continue;
            }
        };
        match t.get(id) {
            Ok(Type::Aggregate(a)) => {
                writeln!(out, "{line}\t{}", a.size).unwrap();
                for m in &a.members {
                    writeln!(
                        out,
                        "{line}\t{}\t{}\t{}\t{}",
                        m.name.as_deref().unwrap_or("-"),
                        m.bit_offset,
                        m.bit_size.unwrap_or(0),
                        t.size_of(m.ty).map_or_else(|e| e.to_string(), |s| s.to_string())
                    )
                    .unwrap();
                }
            }
            Ok(Type::Enum { size, values, .. }) => {
                writeln!(out, "{line}\t{size}").unwrap();
                for (n, v) in values {
                    writeln!(out, "{line}\t{n}\t{v}").unwrap();
                }
            }
            Ok(_) => {
                writeln!(out, "{line}\t{}", t.size_of(id).map_or_else(|e| e.to_string(), |s| s.to_string()))
                    .unwrap()
            }
            Err(e) => writeln!(out, "{line}\tERR {e}").unwrap(),
        }
    }
}
