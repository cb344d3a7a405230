//! Which function an address of code is in: the kernel's, a module's, or generated code's.

use std::sync::OnceLock;

use super::{
    Kernel,
    module::{self, Module},
    module_symbols::{self, LoadedSymbol, ModuleSymbols},
};
use crate::addr::{PAGE_SIZE, VirtAddr};

/// A place in code, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The function.
    pub function: String,
    /// Bytes from its start.
    pub offset: u64,
    /// The module it is of, `bpf` or `__builtin__ftrace`; `None` for the kernel's own.
    pub module: Option<String>,
}

/// Names places in code. Symbols of modules are read when an address of theirs is first asked for.
pub struct Code<'k> {
    kernel: &'k Kernel,
    loaded: OnceLock<Vec<LoadedSymbol>>,
}

impl<'k> Code<'k> {
    /// The code of `kernel`.
    #[must_use]
    pub fn new(kernel: &'k Kernel) -> Self {
        Self { kernel, loaded: OnceLock::new() }
    }

    /// The function that holds `addr`; `None` when no symbol says.
    #[must_use]
    pub fn place(&self, addr: VirtAddr) -> Option<Place> {
        let map = &self.kernel.map;
        if addr.wrapping_offset_from(map.text) < map.image.len() {
            let (symbol, offset) = self.kernel.symbols.as_ref()?.containing(addr)?;
            return Some(Place { function: symbol.name, offset, module: None });
        }
        let loaded = self.loaded.get_or_init(|| self.read_loaded());
        let at = loaded.partition_point(|symbol| symbol.addr <= addr).checked_sub(1)?;
        let symbol = loaded.get(at)?;
        let offset = addr.wrapping_offset_from(symbol.addr);
        // One without a size ends with the next one, or soon.
        let size = if symbol.size == 0 { PAGE_SIZE } else { symbol.size };
        (offset < size).then(|| Place {
            function: symbol.name.clone(),
            offset,
            module: Some(symbol.module.clone()),
        })
    }

    /// Functions of all modules and generated code, ascending; what cannot be read is left out, its addresses nameless.
    fn read_loaded(&self) -> Vec<LoadedSymbol> {
        let kernel = self.kernel;
        let modules = module::list(kernel).unwrap_or_else(|error| {
            log::warn!("functions of modules have no names: {error}");
            Vec::new()
        });
        let mut all = module_symbols::generated(kernel).unwrap_or_else(|error| {
            log::debug!("generated code has no names: {error}");
            Vec::new()
        });
        match ModuleSymbols::resolve(kernel) {
            Ok(reader) => {
                let of = |module: &Module| {
                    reader.of(module).unwrap_or_else(|error| {
                        log::warn!("functions of module {} have no names: {error}", module.name);
                        Vec::new()
                    })
                };
                all.extend(modules.iter().filter(|module| module.is_formed()).flat_map(of));
            }
            Err(error) => log::warn!("functions of modules have no names: {error}"),
        }
        all.retain(|symbol| matches!(symbol.letter, 't' | 'T' | 'w' | 'W'));
        all.sort_by_key(|symbol| symbol.addr);
        all
    }
}
