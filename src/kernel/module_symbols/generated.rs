//! Symbols of code that the kernel generated: two lists, each of structures that say where the code is.
//!
//! Not covered, as `/proc/kallsyms` makes them up from state of its own: slots of kprobes and freed `__init` functions
//! that ftrace remembers.

use std::ops::Range;

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

/// Since fc0ea795f53c (5.8).
const FTRACE: Source = Source {
    head: "ftrace_ops_trampoline_list",
    step: "walking ftrace_ops_trampoline_list",
    structure: "ftrace_ops",
    link: "list.next",
    addr: "trampoline",
    extent: Extent::Size("trampoline_size"),
    name: Err("ftrace_trampoline"),
    module: "__builtin__ftrace",
};
/// Since ca4424c920f5 (5.7).
const BPF: Source = Source {
    head: "bpf_kallsyms",
    step: "walking bpf_kallsyms",
    structure: "bpf_ksym",
    link: "lnode.next",
    addr: "start",
    extent: Extent::End("end"),
    name: Ok("name"),
    module: "bpf",
};

/// `FTRACE_OPS_FL_SAVE_REGS` (`include/linux/ftrace.h`), of kernels that have the list.
const SAVES_REGISTERS: u64 = 1 << 2;

/// The symbols of generated code, as `/proc/kallsyms` lists them; a kernel without one of the lists has none there.
///
/// # Errors
/// [`KernelError`] when types are missing or a list is damaged.
pub fn generated(kernel: &Kernel) -> Result<Vec<LoadedSymbol>, KernelError> {
    let mut found = Vec::new();
    // In the order of `/proc/kallsyms`.
    for source in [FTRACE, BPF] {
        source.walk(kernel, |symbol, _| found.push(symbol))?;
    }
    Ok(found)
}

/// A trampoline of ftrace: a copy of the beginning of one of its two entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trampoline {
    /// Where it is.
    pub code: Range<VirtAddr>,
    /// Whether it is a copy of `ftrace_regs_caller`, and not of `ftrace_caller` (`create_trampoline`).
    pub saves_registers: bool,
}

/// The trampolines of ftrace; none of a kernel without a list of them.
///
/// # Errors
/// [`KernelError`] when types are missing or the list is damaged.
pub fn trampolines(kernel: &Kernel) -> Result<Vec<Trampoline>, KernelError> {
    let types = kernel.types("listing the trampolines of ftrace")?;
    let flags: Option<Field<u64>> = present(Field::resolve(types, FTRACE.structure, "flags"))?;
    let mut found = Vec::new();
    FTRACE.walk(kernel, |symbol, bytes| {
        if let Some(flags) = flags.as_ref().and_then(|flags| flags.get(bytes)) {
            let code = symbol.addr..symbol.addr.wrapping_add(symbol.size);
            found.push(Trampoline { code, saves_registers: flags & SAVES_REGISTERS != 0 });
        }
    })?;
    Ok(found)
}

impl Source {
    /// Gives `visit` the symbol and the bytes of each structure of the list, if the kernel has it.
    fn walk(&self, kernel: &Kernel, mut visit: impl FnMut(LoadedSymbol, &[u8])) -> Result<(), KernelError> {
        let types = kernel.types("listing the symbols of generated code")?;
        let symbols = kernel.symbols("listing the symbols of generated code")?;
        let Some(head) = symbols.find(self.head) else { return Ok(()) };
        let mut structure = Structure::new(types, self.structure);
        let link = structure.optional::<VirtAddr>(&[self.link])?;
        let start = structure.optional::<VirtAddr>(&[self.addr])?;
        let Some((link, start)) = link.zip(start) else { return Ok(()) };
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
            let symbol = LoadedSymbol {
                name: String::from_utf8_lossy(text).into_owned(),
                addr,
                size: match self.extent {
                    Extent::Size(_) => extent.unwrap_or(0),
                    Extent::End(_) => extent.map_or(0, |end| end.saturating_sub(addr.raw())),
                },
                letter: 't',
                module: self.module.to_owned(),
            };
            visit(symbol, bytes);
            Ok(())
        })
    }
}
