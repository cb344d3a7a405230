//! Loaded modules: the list `modules` (`kernel/module/main.c`).

use std::collections::HashSet;

use super::{Kernel, KernelError};
use crate::{
    addr::VirtAddr,
    types::{Field, FieldInfo, TypeError, TypeSource, field::member_bytes},
};

/// No kernel has more: bounds a walk over a damaged list.
const MAX_MODULES: usize = 65_536;
/// Nor is a `struct module` larger.
pub(super) const MAX_STRUCT: u64 = 64 << 10;

const STEP: &str = "walking the module list";

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Module {
    /// Address of its `struct module`.
    pub addr: VirtAddr,
    /// Its name.
    pub name: String,
    /// Where its code is.
    pub base: VirtAddr,
    /// Bytes of all it keeps in memory.
    pub size: u64,
    /// `live`, `coming`, `going`, `unformed`, or the number when it is none of these.
    pub state: String,
    /// References, its own base count taken off; `None` for a kernel without module unloading.
    pub references: Option<i64>,
}

/// Where the sections of a module are said to be.
enum Placement {
    /// `core_layout` and `init_layout` (to 6.3).
    Core { base: Field<VirtAddr>, size: Field<u64> },
    /// `mem[]`, the first one text (since ac3b43283923, 6.4).
    Mem { element: u64, count: u64, array: u64, base: u64, size: u64 },
}

struct Layout {
    bytes: usize,
    next: Field<VirtAddr>,
    name: FieldInfo,
    state: Field<u32>,
    refcnt: Option<Field<i32>>,
    placement: Placement,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let placement = match types.field("module", "mem") {
            Ok(array) => {
                let element = types.struct_size("module_memory")?;
                Placement::Mem {
                    element,
                    count: array.size.checked_div(element).unwrap_or(0),
                    array: array.offset,
                    base: types.field("module_memory", "base")?.offset,
                    size: types.field("module_memory", "size")?.offset,
                }
            }
            Err(_) => Placement::Core {
                base: Field::resolve(types, "module", "core_layout.base")?,
                size: Field::resolve(types, "module", "core_layout.size")?,
            },
        };
        Ok(Self {
            bytes: types.struct_size("module")?.min(MAX_STRUCT) as usize,
            next: Field::resolve(types, "module", "list.next")?,
            name: types.field("module", "name")?,
            state: Field::resolve(types, "module", "state")?,
            refcnt: Field::resolve(types, "module", "refcnt").ok(),
            placement,
        })
    }

    fn place(&self, bytes: &[u8]) -> Option<(VirtAddr, u64)> {
        match &self.placement {
            Placement::Core { base, size } => Some((base.get(bytes)?, size.get(bytes)?)),
            Placement::Mem { element, count, array, base, size } => {
                let word = |at: u64, len: usize| {
                    let start = usize::try_from(at).ok()?;
                    let bytes = bytes.get(start..start.checked_add(len)?)?;
                    Some(bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
                };
                let mut total = 0_u64;
                for index in 0..*count {
                    total = total.checked_add(word(array + index * element + size, 4)?)?;
                }
                Some((VirtAddr::new(word(array + base, 8)?), total))
            }
        }
    }

    fn parse(&self, states: &[(String, i128)], addr: VirtAddr, bytes: &[u8]) -> Option<Module> {
        let name = member_bytes(bytes, &self.name)?.split(|byte| *byte == 0).next()?;
        let (base, size) = self.place(bytes)?;
        let state = self.state.get(bytes)?;
        let named = states.iter().find(|(_, value)| *value == i128::from(state));
        Some(Module {
            addr,
            name: String::from_utf8_lossy(name).into_owned(),
            base,
            size,
            state: named.map_or_else(
                || state.to_string(),
                |(name, _)| name.trim_start_matches("MODULE_STATE_").to_lowercase(),
            ),
            // The module loader holds one reference itself (`MODULE_REF_BASE`).
            references: match &self.refcnt {
                Some(refcnt) => Some(i64::from(refcnt.get(bytes)?) - 1),
                None => None,
            },
        })
    }
}

/// The modules, in list order (newest first).
///
/// # Errors
/// [`KernelError`]: a list that is damaged or changes under the walk is an error too, there is no half of it.
pub fn list(kernel: &Kernel) -> Result<Vec<Module>, KernelError> {
    let types = kernel.types("the list of modules")?;
    let head = kernel.symbols("the list of modules")?.addr("modules")?;
    let layout = Layout::resolve(types)?;
    let states = match types.find(crate::types::Tag::Enum, "module_state").and_then(|id| types.get(id)) {
        Ok(crate::types::Type::Enum { values, .. }) => values,
        _ => Vec::new(),
    };
    let read = |source| KernelError::Read { step: STEP, source };
    let (mut modules, mut seen) = (Vec::new(), HashSet::new());
    let mut next = kernel.memory.read_ptr(head).map_err(read)?;
    while next != head {
        let addr = next.wrapping_sub(layout.next.offset());
        let wrong = |reason: &str| KernelError::Inconsistent { step: STEP, addr, reason: reason.to_owned() };
        if !seen.insert(next) || seen.len() > MAX_MODULES {
            return Err(wrong("the list leads back into itself"));
        }
        let bytes = kernel.memory.read_vec(addr, layout.bytes).map_err(read)?;
        modules.push(layout.parse(&states, addr, &bytes).ok_or_else(|| wrong("struct module ends early"))?);
        next = layout.next.get(&bytes).ok_or_else(|| wrong("struct module ends early"))?;
    }
    Ok(modules)
}
