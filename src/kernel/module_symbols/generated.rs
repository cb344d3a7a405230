//! Symbols of code that the kernel generated: two lists, each of structures that say where the code is.
//!
//! Not covered, as `/proc/kallsyms` makes them up from state of its own: slots of kprobes and freed `__init` functions
//! that ftrace remembers.

use super::LoadedSymbol;
use crate::{
    addr::VirtAddr,
    kernel::{
        Kernel, KernelError,
        list::{self, List},
        structure::{Structure, present},
    },
    types::{Field, field::member_bytes},
};

/// A host with this many BPF programs has other problems.
const MAX_ENTRIES: usize = 1 << 16;
/// Nor is either structure larger.
const MAX_STRUCT: u64 = 64 << 10;

/// The member that says how long the code is.
#[derive(Clone, Copy)]
enum Extent {
    Size(&'static str),
    End(&'static str),
}

/// A list of structures, and where they say what.
struct Source {
    head: &'static str,
    /// What walking it is called in messages.
    step: &'static str,
    structure: &'static str,
    link: &'static str,
    addr: &'static str,
    extent: Extent,
    /// The member with the name, or the name of them all.
    name: Result<&'static str, &'static str>,
    module: &'static str,
}

/// In the order of `/proc/kallsyms`. Members: `struct ftrace_ops` since fc0ea795f53c (5.8), `struct bpf_ksym` since
/// ca4424c920f5 (5.7).
const SOURCES: [Source; 2] = [
    Source {
        head: "ftrace_ops_trampoline_list",
        step: "walking ftrace_ops_trampoline_list",
        structure: "ftrace_ops",
        link: "list.next",
        addr: "trampoline",
        extent: Extent::Size("trampoline_size"),
        name: Err("ftrace_trampoline"),
        module: "__builtin__ftrace",
    },
    Source {
        head: "bpf_kallsyms",
        step: "walking bpf_kallsyms",
        structure: "bpf_ksym",
        link: "lnode.next",
        addr: "start",
        extent: Extent::End("end"),
        name: Ok("name"),
        module: "bpf",
    },
];

/// The symbols of generated code, as `/proc/kallsyms` lists them; a kernel without one of the lists has none there.
///
/// # Errors
/// [`KernelError`] when types are missing or a list is damaged.
pub fn generated(kernel: &Kernel) -> Result<Vec<LoadedSymbol>, KernelError> {
    let types = kernel.types("listing the symbols of generated code")?;
    let symbols = kernel.symbols("listing the symbols of generated code")?;
    let mut found = Vec::new();
    for source in &SOURCES {
        let Some(head) = symbols.find(source.head) else { continue };
        let mut structure = Structure::new(types, source.structure);
        let (link, start) = (structure.optional(&[source.link])?, structure.optional(&[source.addr])?);
        if let Some(places) = link.zip(start) {
            source.walk(kernel, head, places, &mut found)?;
        }
    }
    Ok(found)
}

impl Source {
    fn walk(
        &self,
        kernel: &Kernel,
        head: VirtAddr,
        (link, start): (Field<VirtAddr>, Field<VirtAddr>),
        to: &mut Vec<LoadedSymbol>,
    ) -> Result<(), KernelError> {
        let types = kernel.types("listing the symbols of generated code")?;
        let bytes = types.struct_size(self.structure)?.min(MAX_STRUCT) as usize;
        let (Extent::Size(extent) | Extent::End(extent)) = self.extent;
        let extent: Option<Field<u64>> = present(Field::resolve(types, self.structure, extent))?;
        let name = self.name.ok().map(|member| types.field(self.structure, member)).transpose()?;
        let step = self.step;
        let list = List { head, link: &link, bytes, most: MAX_ENTRIES, them: "entries", step };
        list::walk(kernel, &list, |addr, bytes| {
            let early = || KernelError::Inconsistent { step, addr, reason: "it ends early".to_owned() };
            let text = match (&name, self.name) {
                (Some(info), _) => member_bytes(bytes, info).ok_or_else(early)?,
                (None, name) => name.unwrap_or_else(|name| name).as_bytes(),
            };
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let addr = start.get(bytes).ok_or_else(early)?;
            let extent = extent.as_ref().and_then(|extent| extent.get(bytes));
            to.push(LoadedSymbol {
                name: String::from_utf8_lossy(text).into_owned(),
                addr,
                size: match self.extent {
                    Extent::Size(_) => extent.unwrap_or(0),
                    Extent::End(_) => extent.map_or(0, |end| end.saturating_sub(addr.raw())),
                },
                letter: 't',
                module: self.module.to_owned(),
            });
            Ok(())
        })
    }
}
