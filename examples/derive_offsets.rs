//! Times what an attach derives from a vmlinux: the symbol table, and every member of the structs the commands read.
//!
//! `cargo run --release --example derive_offsets VMLINUX [STRUCT...]`; `scripts/bench-types` sets it beside drgn.

use std::{
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use nettlp_gdb::{
    symbols::{SymbolTable, elf::ElfSymbols},
    types::{Tag, Type, TypeError, TypeSource, dwarf::Dwarf},
    vmlinux::Vmlinux,
};

/// What the commands and the scripts read.
const STRUCTS: &str = "task_struct signal_struct mm_struct vm_area_struct file path dentry inode super_block vfsmount \
    mount mnt_namespace nsproxy uts_namespace new_utsname cred list_head hlist_node rb_node printk_ringbuffer \
    prb_desc_ring prb_desc printk_info prb_data_ring prb_data_block module module_layout module_use rq cfs_rq \
    resource e820_table e820_entry memblock memblock_type memblock_region cpumask pid upid pt_regs files_struct \
    fdtable inactive_task_frame kobject page vm_struct irq_desc timekeeper";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments.next().context("usage: derive_offsets VMLINUX [STRUCT...]")?;
    let named: Vec<String> = arguments.map(|name| name.to_string_lossy().into_owned()).collect();
    let names: Vec<&str> = match &named[..] {
        [] => STRUCTS.split_whitespace().collect(),
        named => named.iter().map(String::as_str).collect(),
    };

    let start = Instant::now();
    let vmlinux = Vmlinux::open(Path::new(&path))?;
    let symbols = ElfSymbols::new(vmlinux.clone())?;
    let init_task = symbols.lookup("init_task").context("no init_task")?;
    let symbols_done = start.elapsed();
    let types = Dwarf::new(vmlinux)?;
    let (mut found, mut members, mut absent) = (0, 0, Vec::new());
    for name in names {
        match derive(&types, name) {
            Ok(count) => (found, members) = (found + 1, members + count),
            // The next name, and this one in another kernel, may be there: a search of the whole file is part of it.
            Err(TypeError::NoType { .. }) => absent.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    let done = start.elapsed();

    let mut out = io::stdout().lock();
    writeln!(out, "symbols_ms {:.1}\ntypes_ms {:.1}", ms(symbols_done), ms(done - symbols_done))?;
    writeln!(out, "total_ms {:.1}\nstructs {found}\nmembers {members}", ms(done))?;
    writeln!(out, "absent {}\ninit_task {}", absent.join(","), init_task.addr)?;
    Ok(())
}

/// Resolves every named member of a struct by its name, as an attach does, and counts them.
fn derive(types: &dyn TypeSource, name: &str) -> Result<usize, TypeError> {
    let Type::Aggregate(aggregate) = types.get(types.find(Tag::Struct, name)?)? else { return Ok(0) };
    let names: Vec<&str> = aggregate.members.iter().filter_map(|member| member.name.as_deref()).collect();
    for member in &names {
        types.field(name, member)?;
    }
    Ok(names.len())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
