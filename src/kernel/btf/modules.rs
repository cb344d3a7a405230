//! The types of modules: the kernel's list `btf_modules`, and for each the `.BTF` it keeps a copy of.
//!
//! A module's BTF goes on where the kernel's ends. Source: `kernel/bpf/btf.c`, since 36e68442d1af (5.11).

use std::sync::Arc;

use super::{CHUNK, read_at};
use crate::{
    addr::VirtAddr,
    kernel::{
        Kernel, KernelError,
        list::{self, List},
    },
    types::{
        Field, FieldInfo, TypeError, TypeSource,
        btf::{Btf, HEADER_LEN},
        field::member_bytes,
    },
};

/// No kernel has more modules: bounds a walk over a damaged list.
const MAX_MODULES: usize = 16_384;
/// Nor is one's BTF longer: the largest, of graphics drivers, have 2 MiB.
const MAX_MODULE: u32 = 8 << 20;
/// Nor are all that are ever loaded together.
const MAX_TOTAL: u64 = 32 << 20;
/// Nor are `struct btf` and `struct btf_module`.
const MAX_STRUCT: u64 = CHUNK as u64;

const STEP: &str = "walking the list of modules' BTF";

/// A module's own types.
#[derive(Debug)]
pub struct ModuleBtf {
    /// Its name.
    pub module: String,
    /// Its types, and through them the kernel's; or why they make no sense.
    pub types: Result<Btf, TypeError>,
}

struct Layout {
    entry_bytes: usize,
    next: Field<VirtAddr>,
    btf: Field<VirtAddr>,
    bytes: usize,
    data: Field<VirtAddr>,
    size: Field<u32>,
    name: FieldInfo,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        Ok(Self {
            entry_bytes: types.struct_size("btf_module")?.min(MAX_STRUCT) as usize,
            next: Field::resolve(types, "btf_module", "list.next")?,
            btf: Field::resolve(types, "btf_module", "btf")?,
            bytes: types.struct_size("btf")?.min(MAX_STRUCT) as usize,
            data: Field::resolve(types, "btf", "data")?,
            size: Field::resolve(types, "btf", "data_size")?,
            name: types.field("btf", "name")?,
        })
    }
}

/// The modules that have types, in the order they were loaded; none in a kernel that keeps no such list.
///
/// # Errors
/// [`KernelError`]: a list that is damaged or changes under the walk is an error, there is no half of it.
pub fn modules(kernel: &Kernel, base: &Arc<Btf>) -> Result<Vec<ModuleBtf>, KernelError> {
    let types: &dyn TypeSource = &**base;
    let Some(head) = kernel.symbols(STEP)?.find("btf_modules") else { return Ok(Vec::new()) };
    let layout = match Layout::resolve(types) {
        Ok(layout) => layout,
        Err(TypeError::NoType { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let failed = |source| KernelError::Read { step: STEP, source };
    let (mut found, mut total) = (Vec::new(), 0_u64);
    let (link, bytes) = (&layout.next, layout.entry_bytes);
    let list = List { head, link, bytes, most: MAX_MODULES, them: "modules", step: STEP };
    list::walk(kernel, &list, |addr, entry| {
        let wrong = |reason: &str| KernelError::Inconsistent { step: STEP, addr, reason: reason.to_owned() };
        let early = || wrong("a struct ends early");
        let btf = layout.btf.get(entry).ok_or_else(early)?;
        let btf = kernel.memory.read_vec(btf, layout.bytes).map_err(failed)?;
        let (data, size) = layout.data.get(&btf).zip(layout.size.get(&btf)).ok_or_else(early)?;
        let name = member_bytes(&btf, &layout.name).ok_or_else(early)?;
        let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or(name)).into_owned();
        total += u64::from(size);
        if !(HEADER_LEN as u32..=MAX_MODULE).contains(&size) || total > MAX_TOTAL {
            return Err(wrong("a module's BTF has an impossible size"));
        }
        let bytes = read_at(&*kernel.memory, data, size as usize).map_err(failed)?;
        let types = Btf::parse_split(&format!("the BTF of module {name}"), bytes, Arc::clone(base));
        found.push(ModuleBtf { module: name, types });
        Ok(())
    })?;
    Ok(found)
}
