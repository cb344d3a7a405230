//! ORC: the kernel's own tables of how to get from a code address to its caller (`arch/x86/include/asm/orc_types.h`).
//!
//! Two tables run side by side, `.orc_unwind_ip` (addresses, ascending) and `.orc_unwind` (one `struct orc_entry`
//! each); a module brings its own. They are megabytes, and a lookup takes what it needs of them: for the kernel's text
//! the block that `orc_lookup` names, elsewhere a search that narrows the range 64-fold with each batch. Many addresses
//! are looked up side by side, and each once.
//!
//! The format changed three times (`signal` came, `end` went and the types were renumbered, the registers were
//! renumbered). It is told by the members of `struct orc_entry`; the numbers of the registers, which no type names, by
//! what the table says of the first instruction of functions everybody has, where the caller's stack is 8 bytes above
//! the stack pointer.

mod format;
mod table;

pub use format::{Base, FrameKind, FramePointer, Rule};

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use self::{format::Format, table::Table};
use super::{
    Kernel, KernelError,
    module::{self, Module},
    module_symbols::{self, Trampoline},
    structure::Structure,
};
use crate::{addr::VirtAddr, types::TypeSource};

/// Rules remembered; an address is looked up once, and no kernel sleeps in so many places.
const MAX_REMEMBERED: usize = 1 << 20;

/// What the kernel knows of its code, as far as somebody asked.
pub struct Orc<'k> {
    kernel: &'k Kernel,
    format: Format,
    image: Table,
    /// What `image` is about: the kernel's text, and that of its start.
    code: Vec<Range<VirtAddr>>,
    modules: Vec<ModuleTable>,
    copies: Vec<Copied>,
    rules: Mutex<HashMap<VirtAddr, Rule>>,
}

/// A module's code, that of its start among it, and its one table.
struct ModuleTable {
    code: Vec<Range<VirtAddr>>,
    table: Table,
}

/// Generated code that is a copy of the kernel's own, and has no table: trampolines of ftrace.
struct Copied {
    code: Range<VirtAddr>,
    /// What `code` begins like.
    original: VirtAddr,
}

impl<'k> Orc<'k> {
    /// Finds the tables of the kernel and of its modules; `None` for a kernel that has none.
    ///
    /// # Errors
    /// [`KernelError`] when there are no symbols or types, or a table that contradicts itself.
    pub fn find(kernel: &'k Kernel) -> Result<Option<Self>, KernelError> {
        let symbols = kernel.symbols("unwinding stacks")?;
        let types = kernel.types("unwinding stacks")?;
        if symbols.find("__start_orc_unwind").is_none() {
            return Ok(None);
        }
        let bounds = [("_stext", "_etext"), ("_sinittext", "_einittext")];
        let code = bounds.iter().filter_map(|(start, end)| Some(symbols.find(start)?..symbols.find(end)?));
        let code = code.collect();
        let layout = format::Layout::resolve(types)?;
        let image = Table::of_image(symbols, layout.entry_len())?;
        let starts = format::KNOWN_FUNCTIONS.iter().filter_map(|name| symbols.find(name));
        let starts: Vec<VirtAddr> = starts.collect();
        let entries = table::find(&*kernel.memory, layout.entry_len(), starts.iter().map(|at| (&image, *at)));
        let entries = entries.into_iter().map(|entry| entry.ok().flatten());
        let format = layout.calibrate(entries.flatten()).ok_or_else(|| KernelError::Inconsistent {
            step: "telling the format of the ORC tables",
            addr: image.entries,
            reason: "of no well-known function do they say that its caller's stack is 8 bytes up".to_owned(),
        })?;
        let modules = module_tables(kernel, types).unwrap_or_else(|error| {
            log::warn!("no ORC tables of modules: {error}");
            Vec::new()
        });
        let copies = copies(kernel).unwrap_or_else(|error| {
            log::warn!("no trampolines of ftrace: {error}");
            Vec::new()
        });
        Ok(Some(Self { kernel, format, image, code, modules, copies, rules: Mutex::default() }))
    }

    /// The rules for the code at `addrs`, in their order: [`Rule::Unknown`] where no table says anything, or what it
    /// says cannot be read.
    pub fn rules(&self, addrs: &[VirtAddr]) -> Vec<Rule> {
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<VirtAddr> =
            addrs.iter().copied().filter(|addr| !known.contains_key(addr)).collect();
        missing.sort_unstable();
        missing.dedup();
        if known.len().saturating_add(missing.len()) > MAX_REMEMBERED {
            known.clear();
        }
        let wanted: Vec<(VirtAddr, (&Table, VirtAddr))> =
            missing.iter().filter_map(|addr| Some((*addr, self.place_of(*addr)?))).collect();
        let places = wanted.iter().map(|(_, place)| *place);
        let found = table::find(&*self.kernel.memory, self.format.entry_len(), places);
        // No table is about address 0, but a call through a null pointer was just made there (`null_orc_entry`).
        known.insert(VirtAddr::NULL, format::ENTERED);
        for ((addr, _), entry) in wanted.iter().zip(found) {
            let rule = match entry {
                Ok(Some(bytes)) => self.format.rule(&bytes),
                Ok(None) => Rule::Unknown,
                Err(error) => {
                    log::debug!("the ORC table at {addr}: {error}");
                    Rule::Unknown
                }
            };
            known.insert(*addr, rule);
        }
        addrs.iter().map(|addr| known.get(addr).copied().unwrap_or(Rule::Unknown)).collect()
    }

    /// The table that is about the code at `addr`, and the address to look for: that of the original, if it is a copy
    /// (`orc_ftrace_find`).
    fn place_of(&self, addr: VirtAddr) -> Option<(&Table, VirtAddr)> {
        if let Some(table) = self.table_of(addr) {
            return Some((table, addr));
        }
        let copy = self.copies.iter().find(|copy| copy.code.contains(&addr))?;
        let original = copy.original.wrapping_add(addr.wrapping_offset_from(copy.code.start));
        Some((self.table_of(original)?, original))
    }

    /// The code a table is about: the kernel's own text, or a module's.
    fn table_of(&self, addr: VirtAddr) -> Option<&Table> {
        if self.code.iter().any(|code| code.contains(&addr)) {
            return Some(&self.image);
        }
        let holds = |module: &&ModuleTable| module.code.iter().any(|code| code.contains(&addr));
        self.modules.iter().find(holds).map(|module| &module.table)
    }
}

fn copies(kernel: &Kernel) -> Result<Vec<Copied>, KernelError> {
    let symbols = kernel.symbols("unwinding stacks")?;
    let copy = |trampoline: Trampoline| {
        let entry = if trampoline.saves_registers { "ftrace_regs_caller" } else { "ftrace_caller" };
        Some(Copied { code: trampoline.code, original: symbols.find(entry)? })
    };
    Ok(module_symbols::trampolines(kernel)?.into_iter().filter_map(copy).collect())
}

/// `module.arch` of every module (`struct mod_arch_specific`).
fn module_tables(kernel: &Kernel, types: &dyn TypeSource) -> Result<Vec<ModuleTable>, KernelError> {
    let mut module = Structure::new(types, "module");
    let count = module.field::<u32>(&["arch.num_orcs"])?;
    let ips = module.field::<VirtAddr>(&["arch.orc_unwind_ip"])?;
    let entries = module.field::<VirtAddr>(&["arch.orc_unwind"])?;
    let len = types.struct_size("module")?.min(module::MAX_STRUCT) as usize;
    let modules = module::list(kernel)?;
    let addrs: Vec<VirtAddr> = modules.iter().map(|module| module.addr).collect();
    let table = |module: &Module, bytes: &[u8]| {
        let count = u64::from(count.get(bytes)?).min(table::MAX_ENTRIES);
        let table = Table { ips: ips.get(bytes)?, entries: entries.get(bytes)?, count, blocks: None };
        let text = module.parts.iter().filter(|part| part.is_text());
        let code = text.map(|part| part.start..part.start.wrapping_add(part.size)).collect();
        Some(ModuleTable { code, table })
    };
    let read = modules.iter().zip(kernel.memory.read_vecs(&addrs, len));
    Ok(read.filter_map(|(module, bytes)| table(module, &bytes.ok()?)).collect())
}
