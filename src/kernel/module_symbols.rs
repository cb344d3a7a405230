//! Symbols of what was added to a running kernel: its modules', and those of generated code (BPF programs, ftrace
//! trampolines).
//!
//! A module keeps the part of its ELF symbol table that `/proc/kallsyms` shows: `module.kallsyms` points at symbols,
//! names and types (`struct mod_kallsyms`). Four batches per module, every count bounded; needs types. Order, types and
//! names are those of `/proc/kallsyms`. Source: `kernel/module/kallsyms.c`, `kernel/bpf/core.c` (`bpf_get_kallsym`),
//! `kernel/trace/ftrace.c` (`ftrace_get_trampoline_kallsym`).

mod generated;
mod layout;

pub use generated::{Trampoline, generated, trampolines};

use std::cell::Cell;

use super::{
    Kernel, KernelError,
    module::{self, Module},
};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    paging::{VirtMem, VirtOp},
};
use layout::{Exports, Layout, Tables};

/// The largest modules have some 30,000 symbols, all that are ever loaded together some 100,000.
const MAX_SYMBOLS: u64 = 1 << 19;
/// A module's names take a few MiB.
const MAX_NAMES: u64 = 16 << 20;
/// `KSYM_NAME_LEN`; without it, every symbol could have all of the names for its own.
const MAX_NAME: usize = 512;
/// Bytes of an `Elf64_Sym` (System V ABI, chapter 4).
const SYMBOL_LEN: usize = 24;

const STEP: &str = "reading a module's symbols";

/// A symbol of something loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LoadedSymbol {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub addr: VirtAddr,
    /// Bytes; 0 if not known.
    pub size: u64,
    /// Type as `/proc/kallsyms` shows it: upper case if exported to other modules.
    pub letter: char,
    /// Its module; `bpf` and `__builtin__ftrace` for generated code.
    pub module: String,
}

/// The symbols of all modules and of generated code, as `/proc/kallsyms` lists them after the kernel's own.
///
/// # Errors
/// [`KernelError`] when types are missing, the list of modules is damaged, or a module's symbols cannot be read.
pub fn list(kernel: &Kernel) -> Result<Vec<LoadedSymbol>, KernelError> {
    let reader = ModuleSymbols::resolve(kernel)?;
    let mut all = Vec::new();
    for module in module::list(kernel)?.iter().filter(|module| module.is_formed()) {
        all.extend(reader.of(module)?);
    }
    all.extend(generated(kernel)?);
    Ok(all)
}

/// Reads the symbols of modules.
pub struct ModuleSymbols<'k> {
    kernel: &'k Kernel,
    layout: Layout,
    /// Of how many symbols it is still to be believed.
    left: Cell<u64>,
}

impl<'k> ModuleSymbols<'k> {
    /// Resolves the members that lead to a module's symbols.
    ///
    /// # Errors
    /// [`KernelError`] when there are no types, or they know no `mod_kallsyms`.
    pub fn resolve(kernel: &'k Kernel) -> Result<Self, KernelError> {
        let types = kernel.types("listing the symbols of modules")?;
        Ok(Self { kernel, layout: Layout::resolve(types)?, left: MAX_SYMBOLS.into() })
    }

    /// The symbols of `module`, in the order of its table.
    ///
    /// # Errors
    /// [`KernelError`] when something cannot be read, or is of an impossible size, alone or with the modules before it.
    pub fn of(&self, module: &Module) -> Result<Vec<LoadedSymbol>, KernelError> {
        let memory = &*self.kernel.memory;
        let inconsistent = |addr, reason: &str| KernelError::Inconsistent {
            step: STEP,
            addr,
            reason: format!("{reason} of module {}", module.name),
        };
        let structure = read(memory, module.addr, self.layout.module_len)?;
        let early = || inconsistent(module.addr, "struct module ends early: that");
        let (kallsyms, exports) = self.layout.of_module(&structure).ok_or_else(early)?;
        let tables = read(memory, kallsyms, self.layout.kallsyms_len)?;
        let Tables { symtab, count, strtab, typetab } = self.layout.tables(&tables).ok_or_else(early)?;
        let left = self.left.get().checked_sub(count).filter(|_| exports.count <= MAX_SYMBOLS);
        self.left.set(left.ok_or_else(|| inconsistent(kallsyms, "an impossible number of symbols"))?);

        let mut symbols = vec![0; count as usize * SYMBOL_LEN];
        let mut types = vec![0; if typetab.is_some() { count as usize } else { 0 }];
        let mut exported = vec![0; exports.count as usize * self.layout.export_len()];
        let mut ops = vec![VirtOp::new(symtab, &mut symbols), VirtOp::new(exports.at, &mut exported)];
        ops.extend(typetab.map(|typetab| VirtOp::new(typetab, &mut types)));
        ops.retain(|op| !op.buf.is_empty());
        memory.read_batch(&mut ops);
        for op in ops {
            op.result.map_err(|source| KernelError::Read { step: STEP, source })?;
        }

        let rows: Vec<ElfSymbol> = symbols.as_chunks::<SYMBOL_LEN>().0.iter().map(ElfSymbol::of).collect();
        let names = Strings::read(memory, rows.iter().map(|row| strtab.wrapping_add(u64::from(row.name))))?;
        let exported = self.exported(exports, &exported)?;
        let letters = types.into_iter().map(Some).chain(std::iter::repeat(None));
        let symbol = |(row, letter): (ElfSymbol, Option<u8>)| {
            let name = names.at(strtab.wrapping_add(u64::from(row.name)))?;
            let is_exported = exported.binary_search(&(row.value, name.clone())).is_ok();
            let letter_of = if is_exported { char::to_ascii_uppercase } else { char::to_ascii_lowercase };
            Some(LoadedSymbol {
                addr: VirtAddr::new(row.value),
                size: if letter.is_some() { row.size } else { 0 },
                letter: letter_of(&char::from(letter.unwrap_or_else(|| row.letter()))),
                module: module.name.clone(),
                name,
            })
        };
        // What has no name is not listed: the first entry of an ELF symbol table never has.
        Ok(rows
            .into_iter()
            .zip(letters)
            .filter_map(symbol)
            .filter(|symbol| !symbol.name.is_empty())
            .collect())
    }

    /// Addresses and names of what a module exports (`EXPORT_SYMBOL`), ascending.
    fn exported(&self, exports: Exports, bytes: &[u8]) -> Result<Vec<(u64, String)>, KernelError> {
        let entries = self.layout.exports(exports.at, bytes);
        let names = Strings::read(&*self.kernel.memory, entries.iter().map(|(_, name)| *name))?;
        let mut exported: Vec<(u64, String)> =
            entries.into_iter().filter_map(|(value, name)| Some((value.raw(), names.at(name)?))).collect();
        exported.sort_unstable();
        Ok(exported)
    }
}

/// What is used of an `Elf64_Sym`.
struct ElfSymbol {
    name: u32,
    info: u8,
    value: u64,
    size: u64,
}

impl ElfSymbol {
    fn of(bytes: &[u8; SYMBOL_LEN]) -> Self {
        let [n0, n1, n2, n3, info, _, _, _, rest @ ..] = *bytes;
        let [v0, v1, v2, v3, v4, v5, v6, v7, size @ ..] = rest;
        Self {
            name: u32::from_le_bytes([n0, n1, n2, n3]),
            info,
            value: u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]),
            size: u64::from_le_bytes(size),
        }
    }

    /// Where there is no table of types (before 5.2), the loader wrote the letter over `st_info`, for a while over
    /// `st_size`. No `st_info` is a letter.
    fn letter(&self) -> u8 {
        if self.info.is_ascii_alphabetic() { self.info } else { self.size as u8 }
    }
}

/// A stretch of memory with strings in it.
struct Strings {
    start: VirtAddr,
    bytes: Vec<u8>,
}

impl Strings {
    /// Reads from the first to the end of the last of the strings that begin at `starts`.
    fn read(
        memory: &dyn VirtMem,
        starts: impl Iterator<Item = VirtAddr> + Clone,
    ) -> Result<Self, KernelError> {
        let (Some(start), Some(last)) = (starts.clone().min(), starts.max()) else {
            return Ok(Self { start: VirtAddr::NULL, bytes: Vec::new() });
        };
        let distance = last.wrapping_offset_from(start);
        if distance > MAX_NAMES {
            let reason = format!("names that lie {distance:#x} bytes apart");
            return Err(KernelError::Inconsistent { step: STEP, addr: start, reason });
        }
        let len = distance + (PAGE_SIZE - last.offset_in(PAGE_SIZE));
        let mut bytes = read(memory, start, len as usize)?;
        let tail = bytes.get(distance as usize..).unwrap_or_default();
        if !tail.contains(&0) {
            // The last string goes on in the next page; `KSYM_NAME_LEN` is 512.
            bytes.extend(read(memory, start.wrapping_add(len), 512)?);
        }
        Ok(Self { start, bytes })
    }

    fn at(&self, addr: VirtAddr) -> Option<String> {
        let start = usize::try_from(addr.wrapping_offset_from(self.start)).ok()?;
        let text = self.bytes.get(start..)?;
        let text = text.get(..MAX_NAME).unwrap_or(text);
        let text = text.get(..memchr::memchr(0, text)?)?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

fn read(memory: &dyn VirtMem, addr: VirtAddr, len: usize) -> Result<Vec<u8>, KernelError> {
    memory.read_vec(addr, len).map_err(|source| KernelError::Read { step: STEP, source })
}

#[cfg(test)]
mod tests;
