//! Loaded modules (kernel/module/main.c): `struct module` and its memory, in the module area.

use super::{Boot, Object};
use crate::{
    addr::VirtAddr,
    machine::{MachineError, tables::DATA, truth::TrueModule},
};

const PAGE: u64 = 4096;
/// `MODULE_REF_BASE`: what a module that nobody uses has as its count.
const REF_BASE: usize = 1;
/// `TAINT_OOT_MODULE`
const OUT_OF_TREE: u64 = 1 << 12;

impl Boot<'_> {
    pub(super) fn load_modules(&mut self) -> Result<(), MachineError> {
        let head = self.symbol("modules")?;
        let mut objects = Vec::new();
        for module in &self.description.modules {
            let object = self.load_module(&module.name, module.size, module.used_by.len())?;
            objects.push((object, module));
        }
        let mut ring = vec![head];
        let mut sources: Vec<_> = objects.iter().map(|(object, _)| (*object, Vec::new())).collect();
        for (object, module) in &objects {
            ring.push(self.at(*object, "list")?);
            let mut users = vec![self.at(*object, "source_list")?];
            for user in &module.used_by {
                let user = objects.iter().position(|(_, other)| other.name == *user);
                let Some((user, targets)) = user.and_then(|index| sources.get_mut(index)) else {
                    return Err(super::wrong(format!("{} is used by a module not loaded", module.name)));
                };
                let link = self.alloc_object("module_use")?;
                self.set(link, "source", user.addr)?;
                self.set(link, "target", object.addr)?;
                targets.push(self.at(link, "target_list")?);
                users.push(self.at(link, "source_list")?);
            }
            self.ring(&users)?;
        }
        for (object, targets) in sources {
            self.ring(&[vec![self.at(object, "target_list")?], targets].concat())?;
        }
        self.ring(&ring)?;
        self.set_global("tainted_mask", if objects.is_empty() { 0 } else { OUT_OF_TREE })
    }

    /// A module's memory: the struct in its first page, then its text.
    fn load_module(&mut self, name: &str, size: u32, users: usize) -> Result<Object, MachineError> {
        let len = u64::from(size).next_multiple_of(PAGE) + PAGE;
        let addr = self.module_next;
        self.module_next = addr.wrapping_add(len + PAGE);
        self.map_pages(addr, len, DATA)?;
        let (object, base) = (Object { ty: "module", addr }, addr.wrapping_add(PAGE));
        self.set_text(object, "name", name)?;
        self.set(object, "refcnt.counter", REF_BASE + users)?;
        if self.has("module", "core_layout") {
            self.set_memory(object, "core_layout", base, size)?;
            self.set(object, "core_layout.text_size", size)?;
        } else {
            // The first of mem[] is MOD_TEXT.
            let memory = Object { ty: "module_memory", addr: self.at(object, "mem")? };
            self.set(memory, "base", base)?;
            self.set(memory, "size", size)?;
        }
        self.truth.modules.push(TrueModule { addr, name: name.to_owned(), base, size, users });
        Ok(object)
    }

    fn set_memory(&self, module: Object, path: &str, base: VirtAddr, size: u32) -> Result<(), MachineError> {
        self.set(module, &format!("{path}.base"), base)?;
        self.set(module, &format!("{path}.size"), size)
    }
}
