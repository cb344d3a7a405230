//! The members that lead to a module's symbols.

use crate::{
    addr::VirtAddr,
    kernel::{module::MAX_STRUCT, structure::Structure},
    types::{Field, TypeError, TypeSource},
};

/// How an entry of a module's exports says its address and its name.
enum Export {
    /// Distances from the members themselves (7290d5809571, 4.19).
    Relative { value: Field<i32>, name: Field<i32> },
    /// Pointers.
    Absolute { value: Field<u64>, name: Field<u64> },
}

/// Where the exports of a module are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exports {
    pub(super) at: VirtAddr,
    pub(super) count: u64,
}

/// `struct mod_kallsyms`.
pub(super) struct Tables {
    pub(super) symtab: VirtAddr,
    pub(super) count: u64,
    pub(super) strtab: VirtAddr,
    /// Since 1c7651f43777 (5.2).
    pub(super) typetab: Option<VirtAddr>,
}

/// Members of `module`, `mod_kallsyms` and `kernel_symbol`.
pub(super) struct Layout {
    pub(super) module_len: usize,
    pub(super) kallsyms_len: usize,
    kallsyms: Field<VirtAddr>,
    exports: (Field<VirtAddr>, Field<u32>),
    symtab: Field<VirtAddr>,
    count: Field<u32>,
    strtab: Field<VirtAddr>,
    typetab: Option<Field<VirtAddr>>,
    export: Export,
    export_len: usize,
}

impl Layout {
    pub(super) fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let len = |name| Ok::<_, TypeError>(types.struct_size(name)?.min(MAX_STRUCT) as usize);
        let [mut module, mut kallsyms, mut symbol] =
            ["module", "mod_kallsyms", "kernel_symbol"].map(|name| Structure::new(types, name));
        let export = match symbol.optional(&["value_offset"])? {
            Some(value) => Export::Relative { value, name: symbol.field(&["name_offset"])? },
            None => Export::Absolute { value: symbol.field(&["value"])?, name: symbol.field(&["name"])? },
        };
        Ok(Self {
            module_len: len("module")?,
            kallsyms_len: len("mod_kallsyms")?,
            kallsyms: module.field(&["kallsyms"])?,
            exports: (module.field(&["syms"])?, module.field(&["num_syms"])?),
            symtab: kallsyms.field(&["symtab"])?,
            count: kallsyms.field(&["num_symtab"])?,
            strtab: kallsyms.field(&["strtab"])?,
            typetab: kallsyms.optional(&["typetab"])?,
            export,
            export_len: len("kernel_symbol")?.max(1),
        })
    }

    /// Address of the module's `mod_kallsyms`, and its exports.
    pub(super) fn of_module(&self, module: &[u8]) -> Option<(VirtAddr, Exports)> {
        let (at, count) = &self.exports;
        let exports = Exports { at: at.get(module)?, count: u64::from(count.get(module)?) };
        Some((self.kallsyms.get(module)?, exports))
    }

    pub(super) fn tables(&self, kallsyms: &[u8]) -> Option<Tables> {
        let typetab = match &self.typetab {
            Some(typetab) => Some(typetab.get(kallsyms)?),
            None => None,
        };
        Some(Tables {
            symtab: self.symtab.get(kallsyms)?,
            count: u64::from(self.count.get(kallsyms)?),
            strtab: self.strtab.get(kallsyms)?,
            typetab,
        })
    }

    /// Bytes of an entry of the exports.
    pub(super) fn export_len(&self) -> usize {
        self.export_len
    }

    /// Addresses of the exported things and of their names, from the entries that begin at `at`.
    pub(super) fn exports(&self, at: VirtAddr, bytes: &[u8]) -> Vec<(VirtAddr, VirtAddr)> {
        let entries = (0..).zip(bytes.chunks_exact(self.export_len));
        let entry = |(index, bytes): (u64, &[u8])| {
            let place = at.wrapping_add(index * self.export_len as u64);
            match &self.export {
                Export::Relative { value, name } => {
                    let target = |field: &Field<i32>| {
                        let distance = i64::from(field.get(bytes)?).cast_unsigned();
                        Some(place.wrapping_add(field.offset()).wrapping_add(distance))
                    };
                    Some((target(value)?, target(name)?))
                }
                Export::Absolute { value, name } => {
                    Some((VirtAddr::new(value.get(bytes)?), VirtAddr::new(name.get(bytes)?)))
                }
            }
        };
        entries.filter_map(entry).collect()
    }
}
