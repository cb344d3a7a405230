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

/// Modules whose structs are read at once.
const AT_ONCE: usize = 256;

/// What the kernel knows of its code, as far as somebody asked.
pub struct Orc<'k> {
    kernel: &'k Kernel,
    format: Format,
    image: Table,
    /// What `image` is about: the kernel's text, and that of its start.
    code: Vec<Range<VirtAddr>>,
    modules: Vec<ModuleTable>,
    copies: Vec<Copied>,
    /// Why a module or trampoline may be missing from these.
    unlisted: Option<String>,
    rules: Mutex<HashMap<VirtAddr, Rule>>,
}

/// A module's code, that of its start among it, and its one table.
struct ModuleTable {
    code: Vec<Range<VirtAddr>>,
    /// Or why it is not known where that is.
    table: Result<Table, String>,
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
        let (mut known, mut unread) = (Vec::new(), None);
        for entry in entries {
            match entry {
                Ok(entry) => known.extend(entry),
                Err(error) => unread = Some(error),
            }
        }
        let step = "telling the format of the ORC tables";
        let format = layout.calibrate(known.into_iter()).ok_or_else(|| match unread {
            Some(source) => KernelError::Read { step, source },
            None => KernelError::Inconsistent {
                step,
                addr: image.entries,
                reason: "of no well-known function do they say that its caller's stack is 8 bytes up"
                    .to_owned(),
            },
        })?;
        let mut unlisted = None;
        let modules = listed(module_tables(kernel, types), "ORC tables of modules", &mut unlisted);
        let copies = listed(copies(kernel), "trampolines of ftrace", &mut unlisted);
        Ok(Some(Self { kernel, format, image, code, modules, copies, unlisted, rules: Mutex::default() }))
    }

    /// The rules for the code at `addrs`, in their order: [`Rule::Unknown`] where no table says anything, an error that
    /// says what failed where it is not known whether one does. What failed is tried again the next time.
    pub fn rules(&self, addrs: &[VirtAddr]) -> Vec<Result<Rule, String>> {
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<VirtAddr> =
            addrs.iter().copied().filter(|addr| !known.contains_key(addr)).collect();
        missing.sort_unstable();
        missing.dedup();
        if known.len().saturating_add(missing.len()) > MAX_REMEMBERED {
            known.clear();
        }
        let (mut wanted, mut failed) = (Vec::new(), HashMap::new());
        for addr in missing {
            match self.place_of(addr) {
                Ok(Some(place)) => wanted.push((addr, place)),
                Ok(None) => {}
                Err(reason) => _ = failed.insert(addr, reason),
            }
        }
        let places = wanted.iter().map(|(_, place)| *place);
        let found = table::find(&*self.kernel.memory, self.format.entry_len(), places);
        // No table is about address 0, but a call through a null pointer was just made there (`null_orc_entry`).
        known.insert(VirtAddr::NULL, format::ENTERED);
        for ((addr, _), entry) in wanted.iter().zip(found) {
            let rule = match entry {
                Ok(Some(bytes)) => self.format.rule(&bytes),
                Ok(None) => Rule::Unknown,
                Err(error) => {
                    failed.insert(*addr, format!("reading the ORC table for the code at {addr}: {error}"));
                    continue;
                }
            };
            known.insert(*addr, rule);
        }
        let rule = |addr: &VirtAddr| match failed.get(addr) {
            Some(reason) => Err(reason.clone()),
            None => Ok(known.get(addr).copied().unwrap_or(Rule::Unknown)),
        };
        addrs.iter().map(rule).collect()
    }

    /// The table that is about the code at `addr`, and the address to look for: that of the original, if it is a copy
    /// (`orc_ftrace_find`).
    fn place_of(&self, addr: VirtAddr) -> Result<Option<(&Table, VirtAddr)>, String> {
        if let Some(table) = self.table_of(addr)? {
            return Ok(Some((table, addr)));
        }
        match (self.copies.iter().find(|copy| copy.code.contains(&addr)), &self.unlisted) {
            (Some(copy), _) => {
                let original = copy.original.wrapping_add(addr.wrapping_offset_from(copy.code.start));
                Ok(self.table_of(original)?.map(|table| (table, original)))
            }
            (None, Some(reason)) => Err(format!("whose code is at {addr} is not known: {reason}")),
            (None, None) => Ok(None),
        }
    }

    /// The code a table is about: the kernel's own text, or a module's.
    fn table_of(&self, addr: VirtAddr) -> Result<Option<&Table>, String> {
        if self.code.iter().any(|code| code.contains(&addr)) {
            return Ok(Some(&self.image));
        }
        let holds = |module: &&ModuleTable| module.code.iter().any(|code| code.contains(&addr));
        match self.modules.iter().find(holds) {
            Some(module) => module.table.as_ref().map(Some).map_err(Clone::clone),
            None => Ok(None),
        }
    }
}

/// What was listed; none where there is no such list, which is noted in `unlisted` if it could not be read.
fn listed<T>(outcome: Result<Vec<T>, KernelError>, what: &str, unlisted: &mut Option<String>) -> Vec<T> {
    outcome.unwrap_or_else(|error| {
        log::warn!("no {what}: {error}");
        if matches!(error, KernelError::Read { .. }) {
            unlisted.get_or_insert(error.to_string());
        }
        Vec::new()
    })
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
    let len = module.bytes()?.min(module::MAX_STRUCT as usize);
    let table = |bytes: &[u8]| {
        let count = u64::from(count.get(bytes)?).min(table::MAX_ENTRIES);
        Some(Table { ips: ips.get(bytes)?, entries: entries.get(bytes)?, count, blocks: None })
    };
    let mut tables = Vec::new();
    for modules in module::list(kernel)?.chunks(AT_ONCE) {
        let addrs: Vec<VirtAddr> = modules.iter().map(|module| module.addr).collect();
        for (Module { addr, parts, .. }, bytes) in modules.iter().zip(kernel.memory.read_vecs(&addrs, len)) {
            let text = parts.iter().filter(|part| part.is_text());
            let code = text.map(|part| part.start..part.start.wrapping_add(part.size)).collect();
            let table = match bytes {
                Ok(bytes) => table(&bytes).ok_or_else(|| format!("the struct module at {addr} ends early")),
                Err(error) => Err(format!("reading the struct module at {addr} for its ORC table: {error}")),
            };
            tables.push(ModuleTable { code, table });
        }
    }
    Ok(tables)
}
