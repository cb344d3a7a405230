//! A small pahole: the layout of types named on standard input (`struct NAME`, `union NAME`, `enum NAME`), one line
//! for each type and each of its members, fields separated by tabs. The QEMU ring compares it with drgn's.
//!
//! `echo struct task_struct | cargo run --release --example layout VMLINUX`, from its DWARF; with `--btf VMLINUX` from its
//! `.BTF` section (or from a file that is one), and the name `*` stands for every definition there.

use std::{
    io::{self, BufRead, BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use nettlp_gdb::{
    types::{
        Tag, Type, TypeError, TypeId, TypeSource,
        btf::{self, Btf, Kind},
        dwarf::Dwarf,
    },
    vmlinux::Vmlinux,
};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    let lines = io::stdin().lock().lines();
    match arguments.as_slice() {
        [path] => {
            let types = Dwarf::new(Vmlinux::open(Path::new(path))?)?;
            lines.into_iter().try_for_each(|line| named(&mut out, &types, &line?))?;
        }
        [option, path] if option == "--btf" => {
            let btf = open_btf(Path::new(path))?;
            for line in lines {
                match line?.as_str() {
                    "*" => every(&mut out, &btf)?,
                    line => named(&mut out, &btf, line)?,
                }
            }
        }
        _ => anyhow::bail!("usage: layout [--btf] VMLINUX < NAMES"),
    }
    out.flush()?;
    Ok(())
}

fn open_btf(path: &Path) -> anyhow::Result<Btf> {
    let mut bytes = std::fs::read(path)?;
    if !bytes.starts_with(&btf::MAGIC) {
        bytes = Vmlinux::open(path)?.section(".BTF").context("there is no .BTF section")?.to_vec();
    }
    Ok(Btf::parse(&path.display().to_string(), bytes)?)
}

fn every(out: &mut impl Write, btf: &Btf) -> anyhow::Result<()> {
    for id in btf.ids().map(|id| TypeId(u64::from(id))) {
        let record = btf.record(id)?;
        let keyword = match record.kind {
            Kind::Struct { union: false, .. } => "struct",
            Kind::Struct { union: true, .. } => "union",
            Kind::Enum { .. } => "enum",
            _ => continue,
        };
        if !record.name.is_empty() {
            print(out, btf, &format!("{keyword} {}", record.name), btf.get(id)?)?;
        }
    }
    Ok(())
}

fn named(out: &mut impl Write, types: &dyn TypeSource, line: &str) -> anyhow::Result<()> {
    let (keyword, name) = line.split_once(' ').context("a line is not `struct NAME`")?;
    let tag = match keyword {
        "struct" => Tag::Struct,
        "union" => Tag::Union,
        "enum" => Tag::Enum,
        _ => anyhow::bail!("`{keyword}` is not struct, union or enum"),
    };
    match types.find(tag, name) {
        Ok(id) => print(out, types, line, types.get(id)?),
        Err(TypeError::NoType { .. }) => Ok(writeln!(out, "{line}\tabsent")?),
        Err(error) => Err(error.into()),
    }
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
