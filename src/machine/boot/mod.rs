//! Bringing the kernel up: fills physical memory with what a running kernel leaves there.
//!
//! One file per subsystem, each an `impl Boot`. A value is written by struct and member name through the page
//! tables built here, so that memory and debug information cannot disagree.

mod firmware;
mod identity;
mod module;
mod mount;
mod paging;
mod percpu;
mod pid;
mod poison;
mod printk;
mod process;
mod stack;
mod task;
mod trampoline;

pub(super) use identity::notes;
use std::{cell::RefCell, collections::HashMap, sync::Arc};

use super::{
    MachineError,
    c::Declarations,
    description::{Bases, Description, State},
    heap::Heap,
    link::{Image, KERNEL_MAP, TEXT},
    tables::Tables,
    truth::{TrueTask, Truth},
};
use crate::{
    addr::{LinkAddr, PhysAddr, PhysRange, VirtAddr},
    mem::{PhysWrite, sparse::Sparse},
    types::{FieldInfo, TypeSource},
};

/// A machine while its kernel boots.
pub(super) struct Boot<'d> {
    description: &'d Description,
    declarations: &'d Declarations,
    image: &'d Image,
    build_id: [u8; 20],
    memory: Arc<Sparse>,
    heap: Heap,
    tables: Tables,
    bases: Bases,
    vmalloc_next: VirtAddr,
    module_next: VirtAddr,
    fields: RefCell<HashMap<(&'static str, String), FieldInfo>>,
    per_cpu_offsets: Vec<u64>,
    idle: Vec<TrueTask>,
    spaces: Vec<process::Space>,
    mounted: Vec<mount::Mounted>,
    truth: Truth,
}

/// A struct in the machine's memory.
#[derive(Debug, Clone, Copy)]
struct Object {
    ty: &'static str,
    addr: VirtAddr,
}

/// A value for a member: whatever has 64 bits or fewer.
struct Word(u64);

macro_rules! word {
    ($($ty:ty),*) => {
        $(impl From<$ty> for Word {
            fn from(value: $ty) -> Self {
                Self(value as u64)
            }
        })*
    };
}
word!(bool, u8, u16, u32, i32, u64, i64, usize);

impl From<VirtAddr> for Word {
    fn from(addr: VirtAddr) -> Self {
        Self(addr.raw())
    }
}

impl From<PhysAddr> for Word {
    fn from(addr: PhysAddr) -> Self {
        Self(addr.raw())
    }
}

/// Boots `image`: the machine's memory, and what is in it.
pub(super) fn boot(
    description: &Description,
    declarations: &Declarations,
    image: &Image,
    build_id: [u8; 20],
) -> Result<(Arc<Sparse>, Truth), MachineError> {
    let memory = Arc::new(Sparse::new(description.ram.iter().copied()));
    let loaded = PhysRange::with_len(description.text_phys, image.len);
    let loaded = loaded.ok_or_else(|| wrong("the image ends past the address space"))?;
    let types: &dyn TypeSource = &declarations.types;
    let task_len = types.struct_size("task_struct")?;
    let placed = description.tasks.iter().filter_map(|task| PhysRange::with_len(task.phys?, task_len));
    let heap = Heap::new(free_memory(description, loaded)?, placed.collect());
    let bases = description.bases.unwrap_or_else(|| Bases::usual(description.levels, description.slide != 0));
    let root_offset = image.symbol("init_top_pgt")?.addr.wrapping_offset_from(TEXT);
    let root = description.text_phys.wrapping_add(root_offset);
    let mut boot = Boot {
        description,
        declarations,
        image,
        build_id,
        tables: Tables::new(Arc::clone(&memory), root, description.levels),
        heap,
        bases,
        vmalloc_next: bases.vmalloc,
        module_next: VirtAddr::new(0xffff_ffff_c000_0000 + description.slide % (1 << 29)),
        fields: RefCell::default(),
        per_cpu_offsets: Vec::new(),
        idle: Vec::new(),
        spaces: Vec::new(),
        mounted: Vec::new(),
        truth: Truth::new(description, bases, root, build_id, loaded),
        memory,
    };
    boot.run()?;
    Ok((boot.memory, boot.truth))
}

/// The last range of RAM, without the image.
fn free_memory(description: &Description, loaded: PhysRange) -> Result<PhysRange, MachineError> {
    let holds = |range: &&PhysRange| range.contains(loaded.start, loaded.len());
    let aligned = (loaded.start.raw() | description.slide).is_multiple_of(2 << 20);
    let below = description.slide < (1 << 30) - (TEXT.raw() - KERNEL_MAP) - loaded.len();
    if description.ram.iter().find(holds).is_none() || !aligned || !below {
        return Err(wrong(format!(
            "no place for the image at {loaded} with a slide of {:#x}",
            description.slide
        )));
    }
    let last = description.ram.last().copied().ok_or_else(|| wrong("no RAM"))?;
    let start = if holds(&&last) { loaded.end } else { last.start };
    PhysRange::new(start, last.end).ok_or_else(|| wrong("no RAM above the image"))
}

/// A description that cannot be built.
fn wrong(reason: impl Into<String>) -> MachineError {
    MachineError::Description { reason: reason.into() }
}

impl Boot<'_> {
    fn run(&mut self) -> Result<(), MachineError> {
        self.map_kernel()?;
        self.load_image()?;
        self.set_identity()?;
        self.set_up_firmware_map()?;
        self.set_up_cpus()?;
        self.start_tasks()?;
        self.number_tasks()?;
        self.load_modules()?;
        self.mount_all()?;
        self.run_processes()?;
        self.write_log()?;
        self.fail_memory()?;
        self.write_vmcoreinfo()?;
        self.start_processors()
    }

    fn panicked(&self) -> Option<usize> {
        match self.description.state {
            State::Running => None,
            State::Panicked { cpu } => Some(cpu),
        }
    }

    /// Run-time address of a symbol; for a zero-based per-CPU one, its offset.
    fn symbol(&self, name: &str) -> Result<VirtAddr, MachineError> {
        let symbol = self.image.symbol(name)?;
        let zero_based = symbol.addr < TEXT;
        Ok(VirtAddr::new(symbol.addr.raw().wrapping_add(if zero_based { 0 } else { self.description.slide })))
    }

    /// Run-time address of a place in the image.
    fn run_time(&self, addr: LinkAddr) -> VirtAddr {
        VirtAddr::new(addr.raw().wrapping_add(self.description.slide))
    }

    fn global(&self, ty: &'static str, name: &str) -> Result<Object, MachineError> {
        Ok(Object { ty, addr: self.symbol(name)? })
    }

    /// Sets a scalar variable.
    fn set_global(&self, name: &str, value: impl Into<Word>) -> Result<(), MachineError> {
        let size = self.image.symbol(name)?.size;
        self.write_word(self.symbol(name)?, value.into(), size)
    }

    /// Address in the direct map of a physical address.
    fn direct(&self, phys: PhysAddr) -> VirtAddr {
        self.bases.page_offset.wrapping_add(phys.raw())
    }

    /// Memory from the heap, seen through the direct map.
    fn alloc(&mut self, len: u64, align: u64) -> Result<VirtAddr, MachineError> {
        let phys = self.heap.take(len, align)?;
        Ok(self.direct(phys))
    }

    fn alloc_object(&mut self, ty: &'static str) -> Result<Object, MachineError> {
        let size = (&self.declarations.types as &dyn TypeSource).struct_size(ty)?;
        Ok(Object { ty, addr: self.alloc(size, 64)? })
    }

    /// A NUL-terminated string of its own.
    fn alloc_string(&mut self, text: &str) -> Result<VirtAddr, MachineError> {
        let addr = self.alloc(text.len() as u64 + 1, 8)?;
        self.write(addr, text.as_bytes())?;
        Ok(addr)
    }

    fn write(&self, addr: VirtAddr, bytes: &[u8]) -> Result<(), MachineError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = addr.wrapping_add(done as u64);
            let len = rest.len().min(4096 - at.offset_in(4096) as usize);
            let piece = rest.get(..len).unwrap_or(rest);
            self.memory.write(self.tables.lookup(at)?, piece)?;
            done += piece.len();
        }
        Ok(())
    }

    fn write_word(&self, addr: VirtAddr, value: Word, size: u64) -> Result<(), MachineError> {
        let bytes = value.0.to_le_bytes();
        let len = usize::try_from(size).unwrap_or(bytes.len());
        self.write(addr, bytes.get(..len).unwrap_or(&bytes))
    }

    fn field(&self, ty: &'static str, path: &str) -> Result<FieldInfo, MachineError> {
        if let Some(info) = self.fields.borrow().get(&(ty, path.to_owned())) {
            return Ok(info.clone());
        }
        let info = (&self.declarations.types as &dyn TypeSource).field(ty, path)?;
        self.fields.borrow_mut().insert((ty, path.to_owned()), info.clone());
        Ok(info)
    }

    /// Address of the element behind this one in an array.
    fn after(&self, object: Object) -> Result<VirtAddr, MachineError> {
        let size = (&self.declarations.types as &dyn TypeSource).struct_size(object.ty)?;
        Ok(object.addr.wrapping_add(size))
    }

    fn has(&self, ty: &'static str, path: &str) -> bool {
        self.field(ty, path).is_ok()
    }

    fn at(&self, object: Object, path: &str) -> Result<VirtAddr, MachineError> {
        Ok(object.addr.wrapping_add(self.field(object.ty, path)?.offset))
    }

    /// Sets a scalar member (of a bit-field: the bits, the rest of whose byte is still zero or set by this).
    fn set(&self, object: Object, path: &str, value: impl Into<Word>) -> Result<(), MachineError> {
        let info = self.field(object.ty, path)?;
        let addr = object.addr.wrapping_add(info.offset);
        let Some((shift, width)) = info.bits else { return self.write_word(addr, value.into(), info.size) };
        let mask = ((1_u64 << width) - 1) << shift;
        let mut bytes = [0; 8];
        let len = usize::try_from((shift + width).div_ceil(8)).unwrap_or(8);
        let window = bytes.get_mut(..len).unwrap_or_default();
        crate::mem::PhysMem::read(&*self.memory, self.tables.lookup(addr)?, window)?;
        let merged = u64::from_le_bytes(bytes) & !mask | value.into().0 << shift & mask;
        self.write_word(addr, Word(merged), len as u64)
    }

    /// Sets a member that only some kernels have.
    fn set_if(&self, object: Object, path: &str, value: impl Into<Word>) -> Result<(), MachineError> {
        if self.has(object.ty, path) { self.set(object, path, value) } else { Ok(()) }
    }

    /// Writes text into an array of `char`, cut so that a NUL follows it.
    fn set_text(&self, object: Object, path: &str, text: &str) -> Result<(), MachineError> {
        let info = self.field(object.ty, path)?;
        let len = usize::try_from(info.size).unwrap_or(0).saturating_sub(1).min(text.len());
        self.write(object.addr.wrapping_add(info.offset), text.as_bytes().get(..len).unwrap_or_default())
    }

    /// Links `list_head`s into a ring, in order.
    fn ring(&self, heads: &[VirtAddr]) -> Result<(), MachineError> {
        for (at, next) in heads.iter().zip(heads.iter().cycle().skip(1)) {
            self.set(Object { ty: "list_head", addr: *at }, "next", *next)?;
            self.set(Object { ty: "list_head", addr: *next }, "prev", *at)?;
        }
        Ok(())
    }

    /// Puts `len` bytes, whole pages of the heap that are not contiguous, into the vmalloc area.
    fn vmalloc(&mut self, len: u64) -> Result<VirtAddr, MachineError> {
        let addr = self.vmalloc_next;
        self.vmalloc_next = addr.wrapping_add(len + 4096);
        self.map_pages(addr, len, super::tables::DATA)?;
        Ok(addr)
    }
}
