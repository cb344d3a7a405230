//! CPUs of a small kernel that died.

use super::*;
use crate::kernel::{
    testing::orc_kernel::{
        FORMATS, OrcKernel, Outside, RETURN, STACK_LEN, STACKS, TASKS, TEXT, VARIABLES, function,
    },
    unwind::Frame,
};

const ABORT: &[&str] = &["entry_SYSCALL_64", "do_syscall_64", "ksys_read", "vfs_read", "panic"];

/// The walk of a task whose stack is number `number`, as if CPU 0 had died running it.
pub(crate) fn recover(kernel: &Kernel, unwinder: &Unwinder<'_>, number: u64) -> Result<Trace, String> {
    let task = Task {
        addr: VirtAddr::new(TEXT + TASKS + number * 0x100),
        pid: number as i32,
        tgid: None,
        ppid: None,
        comm: String::new(),
        state: 'R',
        cpu: Some(0),
        parent: VirtAddr::NULL,
        kernel_thread: None,
    };
    let cpu = Cpu { number: 0, offset: 0, current: Some(task.addr), online: true };
    let halted = Halted { kernel, panicked: Some(0), notes: None };
    let (start, reason) = halted.start(unwinder, &cpu, &task, STACK_LEN)?;
    assert!(reason.unwrap().contains("found by scan"));
    Ok(unwinder.walk(vec![start]).remove(0))
}

fn dead() -> OrcKernel {
    let mut made = OrcKernel::new(FORMATS[2]);
    die(&mut made);
    made
}

/// Puts the stack of a task that panicked in place of stack number 2.
pub(crate) fn die(made: &mut OrcKernel) {
    let sp = made.stack(2, Outside::User, ABORT);
    made.word(TEXT + TASKS + 0x200 + 8, TEXT + STACKS + 2 * STACK_LEN);
    // What `panic` called last.
    made.word(sp - 8, function("panic") + RETURN);
}

fn recovered(made: &OrcKernel) -> Result<Trace, String> {
    let kernel = made.kernel();
    let unwinder = Unwinder::new(&kernel).unwrap();
    recover(&kernel, &unwinder, 2)
}

fn frames(trace: &Trace) -> Vec<u64> {
    trace.frames.iter().map(|frame: &Frame| frame.address.raw()).collect()
}

#[test]
fn the_way_out_of_panic_is_proved() {
    let trace = recovered(&dead()).unwrap();
    let path: Vec<u64> = ABORT.iter().rev().map(|name| function(name) + RETURN).collect();
    assert_eq!(frames(&trace), path);
    assert!(matches!(trace.end, End::User { .. }));
    assert_eq!(trace.frames[0].found_by, FoundBy::Scan);
}

#[test]
fn what_is_left_over_below_does_not_matter() {
    let mut made = dead();
    let expected = recovered(&made).unwrap();
    let bottom = TEXT + STACKS + 2 * STACK_LEN;
    for at in (0..0x3000).step_by(8) {
        made.word(bottom + at, function("schedule") + RETURN);
    }
    assert_eq!(frames(&recovered(&made).unwrap()), frames(&expected));
}

#[test]
fn a_chain_that_is_not_proved_is_not_shown() {
    // Without the registers of user mode the stack does not end.
    let mut no_end = dead();
    no_end.word(TEXT + STACKS + 3 * STACK_LEN - 168 + 136, 0x1234);
    let error = recovered(&no_end).unwrap_err();
    assert!(error.contains("nothing on the stacks of CPU 0 proves"), "{error}");
    // Without a call before it an address is just a number, and what is inside of it is not shown.
    let mut no_call = dead();
    no_call.bytes[(function("ksys_read") + RETURN - 5 - TEXT) as usize] = 0x90;
    let outside = ["do_syscall_64", "entry_SYSCALL_64"].map(|name| function(name) + RETURN);
    assert_eq!(frames(&recovered(&no_call).unwrap()), outside);
}

#[test]
fn of_a_running_machine_nothing_is_said() {
    let made = dead();
    let kernel = made.kernel();
    let halted = Halted::find(&kernel).unwrap();
    assert_eq!(halted.panicked(), None);
    let mut panicked = made.clone();
    panicked.put(VARIABLES, &1_u32.to_le_bytes());
    assert_eq!(Halted::find(&panicked.kernel()).unwrap().panicked(), Some(1));
}
