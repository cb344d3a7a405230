//! A small pahole: the layout of types named on standard input (`struct NAME`, `union NAME`, `enum NAME`), one line
//! for each type and each of its members, fields separated by tabs. The QEMU ring compares it with drgn's.
//!
//! `echo struct task_struct | cargo run --release --example layout VMLINUX`

use std::{
    io::{self, BufRead, BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use nettlp_gdb::{
    types::{Tag, Type, TypeError, TypeSource, dwarf::Dwarf},
    vmlinux::Vmlinux,
};

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).context("usage: layout VMLINUX < NAMES")?;
    let dwarf = Dwarf::new(Vmlinux::open(Path::new(&path))?)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (keyword, name) = line.split_once(' ').context("a line is not `struct NAME`")?;
        let tag = match keyword {
            "struct" => Tag::Struct,
            "union" => Tag::Union,
            "enum" => Tag::Enum,
            _ => anyhow::bail!("`{keyword}` is not struct, union or enum"),
        };
        match dwarf.find(tag, name) {
            Ok(id) => print(&mut out, &dwarf, &line, dwarf.get(id)?)?,
            Err(TypeError::NoType { .. }) => writeln!(out, "{line}\tabsent")?,
            Err(error) => return Err(error.into()),
        }
    }
    out.flush()?;
    Ok(())
}

fn print(out: &mut impl Write, types: &dyn TypeSource, line: &str, ty: Type) -> anyhow::Result<()> {
    match ty {
        Type::Aggregate(aggregate) => {
            writeln!(out, "{line}\t{}", aggregate.size)?;
            for member in aggregate.members {
                let (name, bits) = (member.name.unwrap_or_default(), member.bit_size.unwrap_or(0));
                writeln!(
                    out,
                    "{line}\t{name}\t{}\t{bits}\t{}",
                    member.bit_offset,
                    types.size_of(member.ty)?
                )?;
            }
        }
        Type::Enum { size, values, .. } => {
            writeln!(out, "{line}\t{size}")?;
            for (name, value) in values {
                writeln!(out, "{line}\t{name}\t{value}")?;
            }
        }
        other => anyhow::bail!("{line} is {other:?}"),
    }
    Ok(())
}
