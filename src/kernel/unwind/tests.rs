//! Walks over the stacks of a small kernel, sound and damaged.

use std::sync::Arc;

use super::*;
use crate::kernel::{
    registers::SavedRegisters,
    testing::orc_kernel::{
        ENTRIES, FORMATS, FUNCTIONS, Format, MODULE, OrcKernel, Outside, RETURN, STACK_LEN, STACKS, TASKS,
        TEXT, TRAMPOLINE, function,
    },
};
use crate::paging::{Translation, VirtError, VirtFault, VirtMem, VirtOp};

const READER: &[&str] = &["entry_SYSCALL_64", "do_syscall_64", "ksys_read", "vfs_read", "schedule"];
const THREAD: &[&str] = &["ret_from_fork", "kthread", "schedule"];

fn start(kernel: &Kernel, task: VirtAddr) -> Option<Start> {
    let saved = SavedRegisters::resolve(kernel).unwrap();
    let asleep = saved.of(kernel, &[task]).pop()?.ok()??;
    let from = VirtAddr::new(asleep.registers.rsp?);
    let len = asleep.stack.wrapping_add(STACK_LEN).wrapping_offset_from(from);
    let bytes = kernel.memory.read_vec(from, len.min(STACK_LEN) as usize).ok()?;
    let stacks = Arc::new(Stacks::new(vec![Stack { kind: StackKind::Task, start: from, bytes }]));
    Some(Start { registers: asleep.registers, exact: false, found_by: FoundBy::Registers, stacks })
}

fn walk(kernel: &Kernel, task: VirtAddr) -> Trace {
    let unwinder = Unwinder::new(kernel).unwrap();
    unwinder.walk(vec![start(kernel, task).unwrap()]).pop().unwrap()
}

fn names(trace: &Trace) -> Vec<&'static str> {
    let name = |frame: &Frame| FUNCTIONS[((frame.lookup().raw() - TEXT) / 0x100) as usize];
    trace.frames.iter().map(name).collect()
}

fn reversed<'p>(path: &[&'p str]) -> Vec<&'p str> {
    path.iter().rev().copied().collect()
}

#[test]
fn every_format_leads_to_user_mode() {
    for format in FORMATS {
        let mut made = OrcKernel::new(format);
        let task = made.sleeper(0, Outside::User, READER);
        let trace = walk(&made.kernel(), task);
        assert_eq!(names(&trace), reversed(READER), "{format:?}: {:?}", trace.end);
        let End::User { at, registers, event: None } = &trace.end else {
            panic!("{format:?}: {:?}", trace.end)
        };
        assert_eq!(at.raw(), TEXT + STACKS + STACK_LEN - 168);
        assert_eq!((registers.rip, registers.rax), (Some(0x40_1000), Some(7)));
        let found: Vec<FoundBy> = trace.frames.iter().map(|frame| frame.found_by).collect();
        assert_eq!(found[..2], [FoundBy::Registers, FoundBy::Orc]);
        assert!(trace.frames.iter().all(|frame| !frame.exact));
    }
}

#[test]
fn a_kernel_thread_ends_where_it_began() {
    for format in FORMATS {
        let mut made = OrcKernel::new(format);
        let task = made.sleeper(1, Outside::Thread, THREAD);
        let trace = walk(&made.kernel(), task);
        assert_eq!((names(&trace), &trace.end), (reversed(THREAD), &End::Outermost), "{format:?}");
    }
}

#[test]
fn a_module_has_a_table_of_its_own() {
    for format in FORMATS {
        let mut made = OrcKernel::new(format);
        let (last, path) = READER.split_last().unwrap();
        let task = made.sleeper_in_module(Outside::User, path, last);
        let trace = walk(&made.kernel(), task);
        assert!(matches!(trace.end, End::Broken(_)), "{format:?}: not loaded yet, {:?}", trace.end);

        for starting in [false, true] {
            let mut made = made.clone();
            made.load_module(starting);
            leads_out_through(TEXT + MODULE, &walk(&made.kernel(), task));
        }
    }
}

/// A walk from [`READER`]'s last function through `code` to the others, each by a rule.
#[track_caller]
fn leads_out_through(code: u64, trace: &Trace) {
    let (last, path) = READER.split_last().unwrap();
    assert!(matches!(trace.end, End::User { .. }), "{:?}", trace.end);
    let places: Vec<u64> = trace.frames.iter().map(|frame| frame.address.raw() - RETURN).collect();
    let mut expected = vec![function(last), code];
    expected.extend(path.iter().rev().map(|name| function(name)));
    assert_eq!(places, expected);
    assert!(trace.frames[1..].iter().all(|frame| frame.found_by == FoundBy::Orc));
}

#[test]
fn a_trampoline_of_ftrace_is_left_like_the_code_it_is_a_copy_of() {
    for format in FORMATS {
        let mut made = OrcKernel::new(format);
        let (last, path) = READER.split_last().unwrap();
        let task = made.sleeper_traced(Outside::User, path, last);
        let trace = walk(&made.kernel(), task);
        assert!(matches!(trace.end, End::Broken(_)), "{format:?}: there is none yet, {:?}", trace.end);
        made.trace();
        leads_out_through(TEXT + TRAMPOLINE, &walk(&made.kernel(), task));
    }
}

#[test]
fn before_ends_were_marked_a_stack_leads_out_too() {
    let mut made = OrcKernel::new(Format::First);
    let (reader, thread) = (made.sleeper(0, Outside::User, READER), made.sleeper(1, Outside::Thread, THREAD));
    let trace = walk(&made.kernel(), reader);
    assert!(matches!(trace.end, End::User { .. }), "{:?}", trace.end);
    let trace = walk(&made.kernel(), thread);
    assert_eq!(names(&trace), reversed(THREAD));
    let no_rule = |reason: &str| reason.starts_with("the ORC table has no rule");
    assert!(matches!(&trace.end, End::Broken(reason) if no_rule(reason)), "{:?}", trace.end);
}

/// A recursion that used all of its stack, and was interrupted as it wanted more.
#[test]
fn a_stack_that_overflowed_is_walked_from_the_guard_page_on() {
    let mut made = OrcKernel::new(FORMATS[2]);
    let mut path = READER[..4].to_vec();
    let room = made.stack(0, Outside::User, &path) - (TEXT + STACKS);
    // The frame of `schedule` takes 32 bytes, its return address among them.
    path.resize(path.len() + (room / 32) as usize - 1, "schedule");
    let task = TEXT + STACKS;
    assert_eq!(made.stack(0, Outside::User, &path), task + 32);
    let exception = TEXT + STACKS + STACK_LEN;
    let kernel = {
        let regs = exception + STACK_LEN - 168;
        for (offset, value) in [(128, function("vfs_read") + 0x20), (136, 0x10), (152, task - 8), (160, 0x18)]
        {
            made.word(regs + offset, value);
        }
        // The frame that was being made, of 40 bytes, begins in the guard page and ends on the stack.
        made.word(task + 24, function("schedule") + RETURN);
        made.kernel()
    };
    let stack = |kind, start: u64| {
        let bytes = kernel.memory.read_vec(VirtAddr::new(start), STACK_LEN as usize).unwrap();
        Stack { kind, start: VirtAddr::new(start), bytes }
    };
    let stacks =
        Arc::new(Stacks::new(vec![stack(StackKind::Task, task), stack(StackKind::Exception, exception)]));
    let registers = Registers {
        rip: Some(function("asm_sysvec_reboot") + RETURN),
        rsp: Some(exception + STACK_LEN - 168 - 16),
        ..Registers::default()
    };
    let start = Start { registers, exact: false, found_by: FoundBy::Registers, stacks };
    let trace = Unwinder::new(&kernel).unwrap().walk(vec![start]).pop().unwrap();
    assert!(matches!(trace.end, End::User { .. }), "{} frames, {:?}", trace.frames.len(), trace.end);
    assert_eq!(trace.frames.len(), 2 + path.len());
    assert!(trace.frames[1].exact && trace.frames[1].stack == StackKind::Task);
}

#[test]
fn a_table_that_contradicts_itself_is_refused() {
    let mut made = OrcKernel::new(FORMATS[0]);
    made.sleeper(0, Outside::User, READER);
    let entries = crate::kernel::testing::orc_kernel::ENTRIES as usize;
    made.bytes[entries..entries + 0x100].fill(0xff);
    let error = Unwinder::new(&made.kernel()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("of no well-known function"), "{error}");
}

/// A stack that says so ends with a reason, never with a frame that is none.
#[test]
fn a_walk_that_cannot_go_on_says_why() {
    let return_into = |made: &mut OrcKernel, value: u64| {
        let task = made.sleeper(0, Outside::User, READER);
        let schedule = TEXT + TASKS + 24;
        let sp = u64::from_le_bytes(made.bytes[(schedule - TEXT) as usize..][..8].try_into().unwrap());
        // The return address of `schedule` is above its switch frame and its own frame of 24 bytes.
        made.word(sp + 56 + 24, value);
        walk(&made.kernel(), task)
    };
    for (value, said) in
        [(0, "is not kernel code"), (0x1234, "is not kernel code"), (TEXT + 0x7000, "no table says")]
    {
        let mut made = OrcKernel::new(FORMATS[2]);
        let trace = return_into(&mut made, value);
        match &trace.end {
            End::Broken(reason) => assert!(reason.contains(said), "{reason}"),
            end => panic!("{end:?}"),
        }
    }
}

#[test]
fn a_stack_is_never_entered_twice() {
    let mut made = OrcKernel::new(FORMATS[2]);
    // The interrupt that entered claims to have interrupted code on its own stack, below itself.
    let top = TEXT + STACKS + STACK_LEN;
    let regs = top - 168;
    let sp = regs - 16;
    for (offset, value) in [(128, function("vfs_read") + RETURN), (136, 0x10), (152, sp - 64), (160, 0x18)] {
        made.word(regs + offset, value);
    }
    let kernel = made.kernel();
    let stack = Stack {
        kind: StackKind::Task,
        start: VirtAddr::new(top - STACK_LEN),
        bytes: kernel.memory.read_vec(VirtAddr::new(top - STACK_LEN), STACK_LEN as usize).unwrap(),
    };
    let registers = Registers {
        rip: Some(function("asm_sysvec_reboot") + RETURN),
        rsp: Some(sp),
        ..Registers::default()
    };
    let stacks = Arc::new(Stacks::new(vec![stack]));
    let unwinder = Unwinder::new(&kernel).unwrap();
    let trace = unwinder
        .walk(vec![Start { registers, exact: false, found_by: FoundBy::Scan, stacks }])
        .pop()
        .unwrap();
    assert!(
        matches!(&trace.end, End::Broken(reason) if reason.contains("does not go up")),
        "{:?}",
        trace.end
    );
    assert_eq!(trace.frames.len(), 1);
}

/// Memory of which some cannot be read.
struct Hole(Arc<dyn VirtMem>, std::ops::Range<VirtAddr>);

impl VirtMem for Hole {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        self.0.read_batch(ops);
        for op in ops {
            let end = op.addr.wrapping_add(op.buf.len() as u64);
            if op.addr < self.1.end && self.1.start < end {
                let fault = VirtFault::NonCanonical;
                op.result = Err(VirtError { addr: op.addr, len: op.buf.len(), fault });
            }
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        self.0.translate(addr)
    }
}

/// That a table was not read does not say that there is none.
#[test]
fn a_walk_ends_where_a_table_cannot_be_read() {
    let mut made = OrcKernel::new(FORMATS[2]);
    let (last, path) = READER.split_last().unwrap();
    let task = made.sleeper_in_module(Outside::User, path, last);
    made.load_module(false);
    let module = TEXT + MODULE;
    // The module's table of entries; its struct, where the arguments of its table are; the list of modules.
    for (hole, len, frames, said) in [
        (module + 0x110, 1, 2, "reading the ORC table for the code at 0xffffffff8100403f: cannot read"),
        (module + 0x120 + 0x28, 1, 2, "is not known: walking the module list: cannot read"),
        (TEXT + ENTRIES, 0x100, 0, "telling the format of the ORC tables: cannot read"),
    ] {
        let mut kernel = made.kernel();
        kernel.memory = Arc::new(Hole(kernel.memory, VirtAddr::new(hole)..VirtAddr::new(hole + len)));
        let reason = match Unwinder::new(&kernel) {
            Ok(unwinder) => {
                let trace = unwinder.walk(vec![start(&kernel, task).unwrap()]).pop().unwrap();
                assert_eq!(trace.frames.len(), frames, "{:?}", trace.end);
                let End::Broken(reason) = trace.end else { panic!("{:?}", trace.end) };
                reason
            }
            Err(error) => error.to_string(),
        };
        assert!(reason.contains(said), "{reason}");
    }
}

mod damaged;
