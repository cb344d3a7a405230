//! Loaded modules: the list `modules` (`kernel/module/main.c`).

use super::{
    Kernel, KernelError,
    list::{self, List},
    structure::{Structure, present},
};
use crate::{
    addr::{VirtAddr, little_endian},
    types::{Field, FieldInfo, Tag, Type, TypeError, TypeSource, field::member_bytes},
};

/// No kernel has more: bounds a walk over a damaged list.
const MAX_MODULES: usize = 16_384;
/// Nor are the kinds of a module's memory more (`MOD_MEM_NUM_TYPES` is 7).
const MAX_PARTS: u64 = 16;
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
    /// What it keeps in memory, code first.
    pub parts: Vec<Part>,
    /// Its per-CPU variables, as an address that an element of `__per_cpu_offset[]` is added to.
    #[serde(skip)]
    pub percpu: Option<Part>,
}

impl Module {
    /// Whether all of it is there: one that is just being loaded has no symbols yet.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.state != "unformed"
    }
}

/// A stretch of memory with one kind of a module's sections.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// `text`, `rodata`, `data`...; `init_` before it for what goes once the module is live.
    pub name: String,
    /// Where it is.
    pub start: VirtAddr,
    /// Bytes.
    pub size: u64,
}

impl Part {
    /// Whether it holds code.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.name.ends_with("text")
    }
}

/// Where the sections of a module are said to be.
enum Placement {
    /// `core_layout` and `init_layout` (to 6.3).
    Areas(Vec<Area>),
    /// `mem[]`, the first one text (since ac3b43283923, 6.4), with the names of its elements.
    Mem { element: u64, count: u64, array: u64, base: u64, size: u64, names: Vec<(String, i128)> },
}

/// A `struct module_layout`: code, then what is only read, then the rest.
struct Area {
    prefix: &'static str,
    base: Field<VirtAddr>,
    size: Field<u64>,
    text_size: Option<Field<u64>>,
    ro_size: Option<Field<u64>>,
}

impl Area {
    fn resolve(module: &mut Structure<'_>, member: &str, prefix: &'static str) -> Result<Self, TypeError> {
        let name = |name: &str| format!("{member}.{name}");
        Ok(Self {
            prefix,
            base: module.field(&[&name("base")])?,
            size: module.field(&[&name("size")])?,
            text_size: module.optional(&[&name("text_size")])?,
            ro_size: module.optional(&[&name("ro_size")])?,
        })
    }

    fn parts(&self, module: &[u8]) -> Option<[Part; 3]> {
        let (base, size) = (self.base.get(module)?, self.size.get(module)?);
        let bound = |field: &Option<Field<u64>>, least: u64| match field {
            Some(field) => Some(field.get(module)?.clamp(least, size)),
            None => Some(least),
        };
        let text = bound(&self.text_size, 0)?;
        let ro = bound(&self.ro_size, text)?;
        let part = |name: &str, start: u64, end: u64| Part {
            name: format!("{}{name}", self.prefix),
            start: base.wrapping_add(start),
            size: end - start,
        };
        Some([part("text", 0, text), part("rodata", text, ro), part("data", ro, size)])
    }
}

/// Values of an enum by name; none in a kernel that does not have it.
fn enumerators(types: &dyn TypeSource, name: &str) -> Vec<(String, i128)> {
    match types.find(Tag::Enum, name).and_then(|id| types.get(id)) {
        Ok(Type::Enum { values, .. }) => values,
        _ => Vec::new(),
    }
}

struct Layout {
    bytes: usize,
    next: Field<VirtAddr>,
    name: FieldInfo,
    state: Field<u32>,
    refcnt: Option<Field<i32>>,
    percpu: Option<(Field<VirtAddr>, Field<u64>)>,
    placement: Placement,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut module = Structure::new(types, "module");
        let placement = match present(types.field("module", "mem"))? {
            Some(array) => {
                let element = types.struct_size("module_memory")?;
                let count = array.size.checked_div(element).unwrap_or(0);
                if count > MAX_PARTS {
                    return Err(TypeError::Damaged {
                        source_name: types.source_name().to_owned(),
                        place: array.ty.0,
                        reason: format!("`module.mem` has {count} elements, and no kernel has so many"),
                    });
                }
                Placement::Mem {
                    element,
                    count,
                    array: array.offset,
                    base: types.field("module_memory", "base")?.offset,
                    size: types.field("module_memory", "size")?.offset,
                    names: enumerators(types, "mod_mem_type"),
                }
            }
            None => {
                let core = Area::resolve(&mut module, "core_layout", "")?;
                let init = present(Area::resolve(&mut module, "init_layout", "init_"))?;
                Placement::Areas(std::iter::once(core).chain(init).collect())
            }
        };
        Ok(Self {
            bytes: types.struct_size("module")?.min(MAX_STRUCT) as usize,
            next: module.field(&["list.next"])?,
            name: module.member(&["name"])?,
            state: module.field(&["state"])?,
            refcnt: module.optional(&["refcnt"])?,
            percpu: module.optional(&["percpu"])?.zip(module.optional(&["percpu_size"])?),
            placement,
        })
    }

    /// What the module keeps in memory.
    fn parts(&self, bytes: &[u8]) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        match &self.placement {
            Placement::Areas(areas) => {
                for area in areas {
                    parts.extend(area.parts(bytes)?);
                }
            }
            Placement::Mem { element, count, array, base, size, names } => {
                let word = |at: u64, len: usize| {
                    let start = usize::try_from(at).ok()?;
                    let bytes = bytes.get(start..start.checked_add(len)?)?;
                    Some(little_endian(bytes))
                };
                for index in 0..*count {
                    let at = array.checked_add(index.checked_mul(*element)?)?;
                    let named = names.iter().find(|(_, value)| *value == i128::from(index));
                    parts.push(Part {
                        name: named.map_or_else(
                            || format!("mem{index}"),
                            |(name, _)| name.trim_start_matches("MOD_").to_lowercase(),
                        ),
                        start: VirtAddr::new(word(at.checked_add(*base)?, 8)?),
                        size: word(at.checked_add(*size)?, 4)?,
                    });
                }
            }
        }
        parts.retain(|part| part.size > 0);
        Some(parts)
    }

    fn parse(&self, states: &[(String, i128)], addr: VirtAddr, bytes: &[u8]) -> Option<Module> {
        let name = member_bytes(bytes, &self.name)?.split(|byte| *byte == 0).next()?;
        let parts = self.parts(bytes)?;
        let state = self.state.get(bytes)?;
        let named = states.iter().find(|(_, value)| *value == i128::from(state));
        Some(Module {
            addr,
            name: String::from_utf8_lossy(name).into_owned(),
            base: parts.first().map_or_else(VirtAddr::default, |part| part.start),
            size: parts.iter().map(|part| part.size).sum(),
            state: named.map_or_else(
                || state.to_string(),
                |(name, _)| name.trim_start_matches("MODULE_STATE_").to_lowercase(),
            ),
            // The module loader holds one reference itself (`MODULE_REF_BASE`).
            references: match &self.refcnt {
                Some(refcnt) => Some(i64::from(refcnt.get(bytes)?) - 1),
                None => None,
            },
            percpu: match &self.percpu {
                Some((start, size)) => {
                    Some(Part { name: "percpu".to_owned(), start: start.get(bytes)?, size: size.get(bytes)? })
                        .filter(|part| part.size > 0)
                }
                None => None,
            },
            parts,
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
    let states = enumerators(types, "module_state");
    let mut modules = Vec::new();
    let (link, bytes) = (&layout.next, layout.bytes);
    let list = List { head, link, bytes, most: MAX_MODULES, them: "modules", step: STEP };
    list::walk(kernel, &list, |addr, bytes| {
        let early = || KernelError::Inconsistent { step: STEP, addr, reason: "it ends early".to_owned() };
        modules.push(layout.parse(&states, addr, bytes).ok_or_else(early)?);
        Ok(())
    })?;
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::Structs;

    #[test]
    fn a_module_has_few_kinds_of_memory() {
        let resolved = |count: u64| {
            let members = [("list.next", 8, 8), ("name", 24, 8), ("state", 0, 4), ("mem", 32, count * 16)];
            let types = Structs::new().add("module", 32 + count * 16, &members).add(
                "module_memory",
                16,
                &[("base", 0, 8), ("size", 8, 4)],
            );
            Layout::resolve(&types).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(resolved(7), Ok(()));
        let error = resolved(4000).unwrap_err();
        assert!(error.contains("`module.mem` has 4000 elements"), "{error}");
    }
}
