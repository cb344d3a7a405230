//! Symbols and types out of memory: of a kernel that carries them, and `symbols` on one that does not.

use std::process::Command;

use assert_cmd::prelude::*;
use nettlp_gdb::{
    kernel::task::{Scope, Tasks},
    machine::{Description, Machine, PerCpu},
    session::Session,
    types::{Tag, Type, TypeSource, dwarf::Dwarf},
    vmlinux::Vmlinux,
};

use crate::{
    corpus::targets::machine::{Mutating, options, small},
    recording::images,
};

/// Layouts are the source's, one level deep, whatever they were read from.
#[track_caller]
fn check_types(machine: &Machine, types: &dyn TypeSource) {
    let mut structs = 0;
    for (_, ty) in machine.types().iter() {
        let Type::Aggregate(declared) = ty else { continue };
        let Some(name) = &declared.name else { continue };
        let id = types.find(declared.tag, name).unwrap();
        let Ok(Type::Aggregate(read)) = types.get(id) else { panic!("{name}") };
        assert_eq!(
            (read.tag, read.size, read.members.len()),
            (declared.tag, declared.size, declared.members.len())
        );
        for (read, declared) in read.members.iter().zip(&declared.members) {
            let place = |member: &nettlp_gdb::types::Member| {
                (member.name.clone(), member.bit_offset, member.bit_size)
            };
            assert_eq!(place(read), place(declared), "{name}");
        }
        structs += 1;
    }
    assert!(structs > 50, "{structs}");
}

#[test]
fn a_kernel_that_describes_itself_needs_no_file() {
    for (percpu, vmcoreinfo) in
        [PerCpu::ZeroBased, PerCpu::Ordinary].into_iter().flat_map(|percpu| [(percpu, true), (percpu, false)])
    {
        let description = Description { describes_itself: true, percpu, vmcoreinfo, ..small() };
        let machine = Machine::build(&description).unwrap();
        let memory = std::sync::Arc::new(Mutating::new(machine.memory()));
        let session = Session::open(options(memory, None), &|_| ()).unwrap();
        let kernel = &*session.kernel;
        let symbols = kernel.symbols("a test").unwrap();
        for name in ["_text", "init_task", "runqueues", "schedule", "modules", "prb", "_end"] {
            assert_eq!(symbols.find(name), machine.symbol(name), "{name}, {percpu:?}, {vmcoreinfo}");
        }
        check_types(&machine, kernel.types.as_deref().unwrap());

        let list = Tasks::resolve(kernel).unwrap().list(kernel, Scope::Threads).unwrap();
        let mut listed: Vec<_> = list.tasks.iter().map(|task| (task.addr, task.comm.clone())).collect();
        let mut expected: Vec<_> =
            machine.truth().tasks.iter().map(|task| (task.addr, task.comm.clone())).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);

        let made = Vmlinux::from_bytes("made", session.synthesize().unwrap().bytes).unwrap();
        assert_eq!(made.build_id(), kernel.map.build_id.as_deref());
        let types = Dwarf::new(made).unwrap();
        assert!(types.find(Tag::Struct, "task_struct").is_ok());
        check_types(&machine, &types);
    }
}

#[test]
fn a_kernel_without_kallsyms_is_told_from_one_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    command.args(["symbols", "--list"]).env_remove("RUST_LOG");
    command.args(images(&Machine::build(&small()).unwrap(), &directory));
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("no kallsyms tables in") && said.contains("(0 bytes could not be read)"), "{said}");
}
