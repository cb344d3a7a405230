//! Registers that memory remembers: those of a task that does not run.
//!
//! Whoever leaves a CPU pushes `struct inactive_task_frame` on its own stack and puts the address into `thread.sp`
//! (`arch/x86/entry/entry_64.S`, `__switch_to_asm`; `arch/x86/include/asm/switch_to.h`). So the instruction and stack
//! pointers and the registers a callee preserves are known; what the caller may lose is lost, and unknown here. The
//! place of each is taken from the target's own types. Two batches, whatever the number of tasks.

use super::{Kernel, KernelError, structure::present};
use crate::{
    addr::{VirtAddr, little_endian},
    paging::VirtError,
    types::{Field, FieldInfo, Tag, TypeError, TypeSource, field::Scalar},
};

/// `THREAD_SIZE` of a kernel whose types do not say it (`arch/x86/include/asm/page_64_types.h`, without KASAN).
const USUAL_STACK: u64 = 16 << 10;
/// Nor is one larger: KASAN doubles it, and debugging it doubles it again.
const MAX_STACK: u64 = 128 << 10;
/// `struct inactive_task_frame` has seven or eight words; bounds a read that damaged types ask for.
const MAX_FRAME: u64 = 1024;

const STEP: &str = "reading the registers of a sleeping task";

/// What is known of the registers of one context. A register that nothing says is `None`, never zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own names")]
pub struct Registers {
    pub rax: Option<u64>,
    pub rbx: Option<u64>,
    pub rcx: Option<u64>,
    pub rdx: Option<u64>,
    pub rsi: Option<u64>,
    pub rdi: Option<u64>,
    pub rbp: Option<u64>,
    pub rsp: Option<u64>,
    pub r8: Option<u64>,
    pub r9: Option<u64>,
    pub r10: Option<u64>,
    pub r11: Option<u64>,
    pub r12: Option<u64>,
    pub r13: Option<u64>,
    pub r14: Option<u64>,
    pub r15: Option<u64>,
    pub rip: Option<u64>,
    pub orig_rax: Option<u64>,
    pub eflags: Option<u64>,
    pub cs: Option<u64>,
    pub ss: Option<u64>,
}

impl Registers {
    /// Names and values of the registers that are known, in the processor's order of numbering, then the others.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let all = [
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rbp", self.rbp),
            ("rsp", self.rsp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
            ("rip", self.rip),
            ("eflags", self.eflags),
            ("cs", self.cs),
            ("ss", self.ss),
            ("orig_rax", self.orig_rax),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

impl serde::Serialize for Registers {
    /// The registers that are known, as `0x...`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.known().map(|(name, value)| (name, VirtAddr::new(value))))
    }
}

/// A task that left its CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asleep {
    /// rip, rsp, rbp, rbx and r12 to r15.
    pub registers: Registers,
    /// Lowest address of its kernel stack.
    pub stack: VirtAddr,
}

/// Reads registers of tasks: where they are, resolved once.
pub struct SavedRegisters {
    sp: Field<VirtAddr>,
    stack: Field<VirtAddr>,
    /// Absent on a uniprocessor kernel.
    on_cpu: Option<FieldInfo>,
    stack_len: u64,
    frame: SwitchFrame,
}

/// `struct inactive_task_frame`.
struct SwitchFrame {
    bytes: u64,
    ret_addr: Field<u64>,
    bp: Field<u64>,
    bx: Field<u64>,
    r12: Field<u64>,
    r13: Field<u64>,
    r14: Field<u64>,
    r15: Field<u64>,
}

impl SavedRegisters {
    /// Resolves the members that lead to the registers.
    ///
    /// # Errors
    /// [`KernelError`] when there are no types, or they lack `thread.sp` or `struct inactive_task_frame`.
    pub fn resolve(kernel: &Kernel) -> Result<Self, KernelError> {
        let types = kernel.types("registers of sleeping tasks")?;
        let sp = Field::resolve(types, "task_struct", "thread.sp")?;
        let stack = Field::resolve(types, "task_struct", "stack")?;
        let on_cpu = present(types.field("task_struct", "on_cpu"))?.filter(|info| info.size <= 8);
        Ok(Self { sp, stack, on_cpu, stack_len: stack_len(types)?, frame: SwitchFrame::resolve(types)? })
    }

    /// Bytes of a kernel stack (`THREAD_SIZE`).
    #[must_use]
    pub fn stack_len(&self) -> u64 {
        self.stack_len
    }

    /// The registers of the tasks at `tasks` (addresses of `task_struct`), each with its own outcome; `None` for one
    /// that is on a CPU (`on_cpu`), where what it left when it last slept is history.
    ///
    /// [`KernelError::Inconsistent`] of one says that its stack pointer leads outside its stack, or that its return
    /// address is not in the kernel's image: the task woke up between the reads, or its memory is damaged.
    pub fn of(&self, kernel: &Kernel, tasks: &[VirtAddr]) -> Vec<Result<Option<Asleep>, KernelError>> {
        // The members alone: they lie kilobytes apart, and there may be ten thousand tasks.
        // `on_cpu` was an int, and is a byte among others in 7.2.
        let on_cpu = self.on_cpu.as_ref().map_or((self.stack.offset(), 8), |info| (info.offset, info.size));
        let members = [(self.sp.offset(), 8), (self.stack.offset(), 8), on_cpu];
        let wanted = |task: &VirtAddr| members.map(|(offset, len)| (task.wrapping_add(offset), len as usize));
        let ranges: Vec<(VirtAddr, usize)> = tasks.iter().flat_map(wanted).collect();
        let mut words = kernel.memory.read_ranges(&ranges).into_iter();
        let mut places = Vec::with_capacity(tasks.len());
        for task in tasks {
            let [sp, stack, on_cpu] = std::array::from_fn(|_| words.next());
            places.push(self.place(*task, sp, stack, on_cpu));
        }
        let frame = self.frame.bytes as usize;
        let wanted = places.iter().filter_map(|place| Some(place.as_ref().ok()?.as_ref()?.sp));
        let mut frames = kernel.memory.read_vecs(&wanted.collect::<Vec<_>>(), frame).into_iter();
        places
            .into_iter()
            .map(|place| {
                let Some(place) = place? else { return Ok(None) };
                let early = || inconsistent(place.sp, "it was not read".to_owned());
                let bytes = frames.next().ok_or_else(early)?.map_err(read_error)?;
                let registers = self.frame.registers(place.sp, &bytes).ok_or_else(early)?;
                check_return(kernel, place.sp, &registers)?;
                Ok(Some(Asleep { registers, stack: place.stack }))
            })
            .collect()
    }

    /// `None` for a task that is on a CPU.
    fn place(
        &self,
        task: VirtAddr,
        sp: Option<Word>,
        stack: Option<Word>,
        on_cpu: Option<Word>,
    ) -> Result<Option<Place>, KernelError> {
        let value = |word: Option<Word>| -> Result<u64, KernelError> {
            let early = || inconsistent(task, "it was not read".to_owned());
            let bytes = word.ok_or_else(early)?.map_err(read_error)?;
            Ok(little_endian(&bytes))
        };
        if value(on_cpu)? != 0 && self.on_cpu.is_some() {
            return Ok(None);
        }
        let (sp, stack) = (VirtAddr::new(value(sp)?), VirtAddr::new(value(stack)?));
        let depth = sp.wrapping_offset_from(stack);
        let within = depth.checked_add(self.frame.bytes).is_some_and(|end| end <= self.stack_len);
        if !within || sp.offset_in(8) != 0 {
            let reason = format!("thread.sp is {sp}, which is not in the task's stack at {stack}");
            return Err(inconsistent(task, reason));
        }
        Ok(Some(Place { sp, stack }))
    }
}

/// A member that was read, or could not be.
type Word = Result<Vec<u8>, VirtError>;

/// Where a task's registers are.
struct Place {
    sp: VirtAddr,
    stack: VirtAddr,
}

impl SwitchFrame {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let word = |name| Field::resolve(types, "inactive_task_frame", name);
        Ok(Self {
            bytes: types.struct_size("inactive_task_frame")?.min(MAX_FRAME),
            ret_addr: word("ret_addr")?,
            bp: word("bp")?,
            bx: word("bx")?,
            r12: word("r12")?,
            r13: word("r13")?,
            r14: word("r14")?,
            r15: word("r15")?,
        })
    }

    /// The registers as they are when `__switch_to_asm` returns.
    fn registers(&self, sp: VirtAddr, bytes: &[u8]) -> Option<Registers> {
        Some(Registers {
            rip: Some(self.ret_addr.get(bytes)?),
            rsp: Some(sp.raw().wrapping_add(self.frame_end())),
            rbp: Some(self.bp.get(bytes)?),
            rbx: Some(self.bx.get(bytes)?),
            r12: Some(self.r12.get(bytes)?),
            r13: Some(self.r13.get(bytes)?),
            r14: Some(self.r14.get(bytes)?),
            r15: Some(self.r15.get(bytes)?),
            ..Registers::default()
        })
    }

    /// The return address is the last that is popped.
    fn frame_end(&self) -> u64 {
        self.ret_addr.offset().saturating_add(u64::SIZE)
    }
}

/// A task that sleeps returns into the scheduler, one that never ran into `ret_from_fork`: both in the image.
fn check_return(kernel: &Kernel, sp: VirtAddr, registers: &Registers) -> Result<(), KernelError> {
    let rip = registers.rip.unwrap_or_default();
    if rip.wrapping_sub(kernel.map.text.raw()) < kernel.map.image.len() {
        return Ok(());
    }
    Err(inconsistent(sp, format!("its return address {rip:#x} is not in the kernel's image")))
}

/// `sizeof(union thread_union)`, where the types have it.
fn stack_len(types: &dyn TypeSource) -> Result<u64, TypeError> {
    let size = present(types.find(Tag::Union, "thread_union").and_then(|id| types.size_of(id)))?;
    Ok(size.filter(|size| size.is_power_of_two() && *size <= MAX_STACK).unwrap_or(USUAL_STACK))
}

fn read_error(source: VirtError) -> KernelError {
    KernelError::Read { step: STEP, source }
}

fn inconsistent(addr: VirtAddr, reason: String) -> KernelError {
    KernelError::Inconsistent { step: STEP, addr, reason }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        kernel::testing::{Flat, Structs, kernel},
        machine::{Description, Machine},
    };

    const TASK: u64 = 0xffff_8880_0000_0000;
    const STACK: u64 = TASK + 0x1000;
    const SP: u64 = STACK + 0x3f00;

    /// A task and its stack as the words say, in a kernel whose image is at `text`.
    fn saved(words: &[(u64, u64)], text: u64) -> Result<Option<Asleep>, KernelError> {
        let mut bytes = vec![0; 0x5000];
        for (addr, word) in words {
            let at = (addr - TASK) as usize;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let frame = ["r15", "r14", "r13", "r12", "bx", "bp", "ret_addr"];
        let frame: Vec<(&str, u64, u64)> =
            frame.into_iter().zip((0..).step_by(8)).map(|(n, o)| (n, o, 8)).collect();
        let types = Structs::new()
            .add("task_struct", 0x40, &[("stack", 8, 8), ("on_cpu", 16, 1), ("thread.sp", 24, 8)])
            .add("inactive_task_frame", 56, &frame);
        let memory = Arc::new(Flat { start: VirtAddr::new(TASK), bytes });
        let mut kernel = kernel(memory, Arc::new(types), VirtAddr::new(TASK));
        kernel.map.text = VirtAddr::new(text);
        let reader = SavedRegisters::resolve(&kernel).unwrap();
        reader.of(&kernel, &[VirtAddr::new(TASK)]).pop().unwrap()
    }

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const ASLEEP: &[(u64, u64)] =
        &[(TASK + 8, STACK), (TASK + 24, SP), (SP, 15), (SP + 32, 0xb), (SP + 40, 0xbb), (SP + 48, TEXT + 5)];

    #[test]
    fn what_a_callee_preserves_is_known_and_nothing_else() {
        let Asleep { registers, stack } = saved(ASLEEP, TEXT).unwrap().unwrap();
        let expected = Registers {
            rip: Some(TEXT + 5),
            rsp: Some(SP + 56),
            rbp: Some(0xbb),
            rbx: Some(0xb),
            r12: Some(0),
            r13: Some(0),
            r14: Some(0),
            r15: Some(15),
            ..Registers::default()
        };
        assert_eq!(registers, expected);
        assert_eq!(stack, VirtAddr::new(STACK));
    }

    /// The byte behind it is another member's.
    #[test]
    fn only_on_cpu_itself_says_that_a_task_runs() {
        assert!(saved(&[ASLEEP, &[(TASK + 16, 0xffff_ff00)]].concat(), TEXT).unwrap().is_some());
        assert!(saved(&[ASLEEP, &[(TASK + 16, 0xffff_ff01)]].concat(), TEXT).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let with = |words: &[(u64, u64)]| saved(&[ASLEEP, words].concat(), TEXT);
        assert_eq!(with(&[(TASK + 16, 1)]).unwrap(), None);
        for (words, said) in [
            ((TASK + 24, STACK - 8), "not in the task's stack"),
            ((TASK + 24, STACK + 0x4000 - 48), "not in the task's stack"),
            ((TASK + 24, SP + 4), "not in the task's stack"),
            ((SP + 48, TEXT - 1), "not in the kernel's image"),
            ((SP + 48, 0), "not in the kernel's image"),
        ] {
            let error = with(&[words]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(matches!(
            with(&[(TASK + 8, TASK + 0x8000), (TASK + 24, TASK + 0x9000)]),
            Err(KernelError::Read { .. })
        ));
    }

    #[test]
    fn every_sleeping_task_of_a_machine() {
        let machine = Machine::build(&Description::demo()).unwrap();
        let truth = machine.truth();
        let root = truth.root;
        let memory = crate::paging::AddressSpace::new(machine.memory(), root, truth.levels, 0);
        let mut kernel = kernel(Arc::new(memory), Arc::new(machine.types().clone()), truth.tasks[0].addr);
        (kernel.map.text, kernel.map.image) = (truth.text, truth.image);
        let addrs: Vec<VirtAddr> = truth.tasks.iter().map(|task| task.addr).collect();
        let switch = machine.symbol("__schedule").unwrap().raw();
        for (task, saved) in
            truth.tasks.iter().zip(SavedRegisters::resolve(&kernel).unwrap().of(&kernel, &addrs))
        {
            match (saved.unwrap(), task.sp) {
                (None, None) => {}
                (Some(Asleep { registers, stack }), Some(sp)) => {
                    assert_eq!(stack, task.stack);
                    assert_eq!(registers.rsp, Some(sp.raw() + 56));
                    assert_eq!(registers.rip.unwrap() & !0x3f, switch & !0x3f, "{}", task.comm);
                }
                (saved, sp) => panic!("{}: {saved:?} at {sp:?}", task.comm),
            }
        }
    }
}
