//! The address space of a process: `mm_struct` (`include/linux/mm_types.h`), which every thread of it shares.
//!
//! Input: a task. Output: where its top-level page table is and where what `/proc` shows of it lies, plain data.
//! [`super::vma`] lists its mappings, [`super::user`] reads its memory. With page-table isolation `pgd` is the kernel's
//! half of a pair and maps user space too; the processor's own user half lies 4 KiB above and is not needed: the two differ
//! in the NX bit of their entries alone, which translation knows.

use super::{
    Kernel, KernelError,
    structure::{Structure, present},
    task::is_kernel_thread,
};
use crate::{
    addr::{VirtAddr, little_endian},
    types::{Field, FieldInfo, TypeError, TypeSource},
};

const STEP: &str = "reading mm_struct";

/// An address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mm {
    /// Address of the `mm_struct`.
    pub addr: VirtAddr,
    /// Its top-level page table, in the direct map.
    pub pgd: VirtAddr,
    /// Where its mappings hang.
    pub areas: Areas,
    /// Mappings it says it has.
    pub map_count: u32,
    /// Start and end of the heap.
    pub brk: [VirtAddr; 2],
    /// Where its first stack began.
    pub start_stack: VirtAddr,
    /// Start and end of its arguments.
    pub arguments: [VirtAddr; 2],
    /// Start and end of its environment.
    pub environment: [VirtAddr; 2],
    /// It may use the page of vsyscalls, if there is one.
    pub has_vsyscall: bool,
}

/// What holds the mappings of an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Areas {
    /// A maple tree, since d4af56c5c7c6 (6.1): its `ma_root`.
    Maple(u64),
    /// A red-black tree: its root, and the first mapping of the list that links them.
    RedBlack {
        /// `mm_rb.rb_node`
        root: VirtAddr,
        /// `mmap`
        first: VirtAddr,
    },
}

/// The address space of the task at `task`; `pid` is its number, for messages. What a kernel thread has is not its own:
/// some (vhost's workers until 6.3) borrow a process' for life, and `/proc` shows nothing of it (`get_task_mm`).
///
/// # Errors
/// [`KernelError::NoTask`] when another task is there meanwhile; [`KernelError::NoUserSpace`] of a kernel thread and of a
/// process that has ended; [`KernelError`] naming the read that failed or the member that is missing.
pub fn of(kernel: &Kernel, task: VirtAddr, pid: i32) -> Result<Mm, KernelError> {
    let types = kernel.types("an address space")?;
    let mut members = vec![types.field("task_struct", "mm")?, types.field("task_struct", "pid")?];
    members.extend(present(types.field("task_struct", "flags"))?);
    let place = |member: &FieldInfo| (task.wrapping_add(member.offset), member.size.min(8) as usize);
    let places: Vec<(VirtAddr, usize)> = members.iter().map(place).collect();
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(kernel.memory.read_ranges(&places)) {
        let bytes = bytes.map_err(|source| KernelError::Read { step: "reading task_struct.mm", source })?;
        *word = little_endian(&bytes);
    }
    let [mm, number, flags] = words;
    // The structure of a task that has exited becomes another's.
    if number as i32 != pid {
        return Err(KernelError::NoTask { pid });
    }
    let own = VirtAddr::new(mm).non_null().filter(|_| !is_kernel_thread(flags as u32));
    at(kernel, own.ok_or(KernelError::NoUserSpace { pid })?)
}

/// The address space whose `mm_struct` is at `addr`.
///
/// # Errors
/// As [`of`].
pub fn at(kernel: &Kernel, addr: VirtAddr) -> Result<Mm, KernelError> {
    let layout = Layout::resolve(kernel.types("an address space")?)?;
    let bytes = kernel.memory.read_vec(addr, layout.bytes);
    let bytes = bytes.map_err(|source| KernelError::Read { step: STEP, source })?;
    let reason = || "it ends early".to_owned();
    layout.parse(addr, &bytes).ok_or_else(|| KernelError::Inconsistent { step: STEP, addr, reason: reason() })
}

struct Layout {
    bytes: usize,
    pgd: Field<VirtAddr>,
    areas: AreasLayout,
    map_count: Field<u32>,
    start_brk: Field<VirtAddr>,
    brk: Field<VirtAddr>,
    start_stack: Field<VirtAddr>,
    arguments: [Field<VirtAddr>; 2],
    environment: [Field<VirtAddr>; 2],
    flags: Option<Field<u64>>,
    is_compatible: Option<Field<u16>>,
}

enum AreasLayout {
    Maple(Field<u64>),
    RedBlack { root: Field<VirtAddr>, first: Field<VirtAddr> },
}

/// `MM_CONTEXT_HAS_VSYSCALL` (`arch/x86/include/asm/mmu.h`): bit 1 wherever there are such flags.
const HAS_VSYSCALL: u64 = 1 << 1;

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut mm = Structure::new(types, "mm_struct");
        let areas = match mm.optional(&["mm_mt.ma_root"])? {
            Some(root) => AreasLayout::Maple(root),
            None => {
                AreasLayout::RedBlack { root: mm.field(&["mm_rb.rb_node"])?, first: mm.field(&["mmap"])? }
            }
        };
        Ok(Self {
            pgd: mm.field(&["pgd"])?,
            areas,
            map_count: mm.field(&["map_count"])?,
            start_brk: mm.field(&["start_brk"])?,
            brk: mm.field(&["brk"])?,
            start_stack: mm.field(&["start_stack"])?,
            arguments: [mm.field(&["arg_start"])?, mm.field(&["arg_end"])?],
            environment: [mm.field(&["env_start"])?, mm.field(&["env_end"])?],
            flags: mm.optional(&["context.flags"])?,
            is_compatible: mm.optional(&["context.ia32_compat"])?,
            bytes: mm.bytes()?,
        })
    }

    fn parse(&self, addr: VirtAddr, bytes: &[u8]) -> Option<Mm> {
        let areas = match &self.areas {
            AreasLayout::Maple(root) => Areas::Maple(root.get(bytes)?),
            AreasLayout::RedBlack { root, first } => {
                Areas::RedBlack { root: root.get(bytes)?, first: first.get(bytes)? }
            }
        };
        let has_vsyscall = match (&self.flags, &self.is_compatible) {
            (Some(flags), _) => flags.get(bytes)? & HAS_VSYSCALL != 0,
            (None, Some(compatible)) => compatible.get(bytes)? == 0,
            (None, None) => true,
        };
        let pair = |[start, end]: &[Field<VirtAddr>; 2]| Some([start.get(bytes)?, end.get(bytes)?]);
        Some(Mm {
            addr,
            pgd: self.pgd.get(bytes)?,
            areas,
            map_count: self.map_count.get(bytes)?,
            brk: [self.start_brk.get(bytes)?, self.brk.get(bytes)?],
            start_stack: self.start_stack.get(bytes)?,
            arguments: pair(&self.arguments)?,
            environment: pair(&self.environment)?,
            has_vsyscall,
        })
    }
}
