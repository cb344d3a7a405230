//! From registers to callers, over stacks that were read once.
//!
//! A [`Walk`] starts with registers and goes from frame to frame by the rules of [`super::orc`]; where no table says
//! anything, by the frame pointer, and each frame says which it was ([`FoundBy`]). `pt_regs` on the way are shown as
//! what they are: the place where user mode, or other kernel code on another stack, was left. Many walks go side by
//! side, one frame of each with a batch.
//!
//! The stacks are hostile: a walk has [`MAX_FRAMES`] frames, goes up within a stack and never enters one twice, and
//! ends with a reason where it cannot go on. What was traced by ftrace or probed by kretprobes shows the tracer's return
//! address in place of the caller's, and ends there.
//!
//! Source: `arch/x86/kernel/unwind_orc.c`, `arch/x86/kernel/unwind_frame.c`, `arch/x86/entry/entry_64.S`.

mod frame_regs;
mod stacks;
mod step;

pub use frame_regs::FrameRegs;
pub use stacks::{Stack, StackKind, Stacks};

use self::step::{Machine, Step};
use super::{
    Kernel, KernelError,
    orc::{Orc, Rule},
    registers::Registers,
};
use crate::addr::VirtAddr;

/// Frames of one stack: those of 16 bytes that fit into 16 KiB, which a recursion may have filled.
pub const MAX_FRAMES: usize = 1024;

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// Its registers were saved.
    Registers,
    /// By the ORC rule of the frame it called.
    Orc,
    /// By the frame pointer of the frame it called.
    FramePointer,
    /// It was interrupted, and its registers stand on the stack of what interrupted it.
    PtRegs,
    /// Its return address was found on the stack, and everything outside of it was proved to the stack's end.
    Scan,
}

/// A place in code, and the registers there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where execution goes on in this function.
    pub address: VirtAddr,
    /// Whether `address` is where it was interrupted; else a return address, behind the call.
    pub exact: bool,
    /// How it was found.
    pub found_by: FoundBy,
    /// The registers in this frame, as far as they are known.
    pub registers: Registers,
    /// The stack this frame is on.
    pub stack: StackKind,
}

impl Frame {
    /// An address inside the instruction that this frame is at.
    #[must_use]
    pub fn lookup(&self) -> VirtAddr {
        if self.exact { self.address } else { self.address.wrapping_sub(1) }
    }
}

/// How a stack ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// User mode was left.
    User {
        /// Where on the stack its registers are.
        at: VirtAddr,
        /// The registers.
        registers: Box<Registers>,
        /// As [`FrameRegs::event`].
        event: Option<(u8, u8)>,
    },
    /// The outermost frame of a kernel thread or of an idle task.
    Outermost,
    /// The walk could not go on: why.
    Broken(String),
}

/// The frames of one stack, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The frames.
    pub frames: Vec<Frame>,
    /// What is outside of the last.
    pub end: End,
}

/// Where a walk starts, and over which stacks it may go.
pub struct Start {
    /// At least `rip` and `rsp`.
    pub registers: Registers,
    /// Whether `rip` is where execution was interrupted, and not a return address.
    pub exact: bool,
    /// How the first frame was found.
    pub found_by: FoundBy,
    /// The stacks.
    pub stacks: std::sync::Arc<Stacks>,
}

/// Walks stacks of one kernel.
pub struct Unwinder<'k> {
    kernel: &'k Kernel,
    orc: Option<Orc<'k>>,
    frame_regs: FrameRegs,
}

impl<'k> Unwinder<'k> {
    /// Finds the kernel's ORC tables and the layout of `pt_regs`.
    ///
    /// # Errors
    /// [`KernelError`] when symbols or types are missing, or the tables are damaged.
    pub fn new(kernel: &'k Kernel) -> Result<Self, KernelError> {
        let frame_regs = FrameRegs::resolve(kernel.types("unwinding stacks")?)?;
        Ok(Self { kernel, orc: Orc::find(kernel)?, frame_regs })
    }

    /// How `pt_regs` is laid out.
    #[must_use]
    pub fn frame_regs(&self) -> &FrameRegs {
        &self.frame_regs
    }

    /// As [`Orc::rules`]; [`Rule::Unknown`] of a kernel without tables.
    #[must_use]
    pub fn rules(&self, addrs: &[VirtAddr]) -> Vec<Result<Rule, String>> {
        match &self.orc {
            Some(orc) => orc.rules(addrs),
            None => vec![Ok(Rule::Unknown); addrs.len()],
        }
    }

    /// Walks from each of `starts`, side by side. The caller bounds their number: a walk takes up to 400 KiB.
    #[must_use]
    pub fn walk(&self, starts: Vec<Start>) -> Vec<Trace> {
        let machine = Machine { kernel: self.kernel, regs: &self.frame_regs };
        let mut walks: Vec<Walk> = starts.into_iter().map(Walk::begin).collect();
        for _ in 0..MAX_FRAMES {
            let at: Vec<VirtAddr> = walks.iter().filter_map(Walk::place).collect();
            if at.is_empty() {
                break;
            }
            let mut rules = self.rules(&at).into_iter();
            for walk in walks.iter_mut().filter(|walk| walk.end.is_none()) {
                walk.go(&machine, rules.next().unwrap_or(Ok(Rule::Unknown)));
            }
        }
        walks.into_iter().map(Walk::finish).collect()
    }
}

/// One walk on its way.
struct Walk {
    stacks: std::sync::Arc<Stacks>,
    frames: Vec<Frame>,
    /// Stacks entered so far, by position in `stacks`.
    entered: Vec<usize>,
    end: Option<End>,
}

impl Walk {
    fn begin(start: Start) -> Self {
        let Start { registers, exact, found_by, stacks } = start;
        let mut walk = Self { frames: Vec::new(), entered: Vec::new(), end: None, stacks };
        let on = |rsp| walk.stacks.position(rsp).or_else(|| walk.stacks.overflowed(rsp).filter(|_| exact));
        match (registers.rip, registers.rsp.and_then(|rsp| on(VirtAddr::new(rsp)))) {
            (Some(rip), Some(at)) => {
                walk.entered.push(at);
                let (address, stack) = (VirtAddr::new(rip), walk.stacks.kind(at));
                walk.frames.push(Frame { address, exact, found_by, registers, stack });
            }
            (None, _) => walk.end = Some(End::Broken("where it executes is not known".to_owned())),
            (_, None) => {
                let rsp = registers.rsp.map_or_else(|| "unknown".to_owned(), |rsp| format!("{rsp:#x}"));
                walk.end =
                    Some(End::Broken(format!("the stack pointer is {rsp}, on no stack that was read")));
            }
        }
        walk
    }

    /// What a rule is needed for; `None` when this walk is at its end.
    fn place(&self) -> Option<VirtAddr> {
        if self.end.is_some() { None } else { self.frames.last().map(Frame::lookup) }
    }

    fn go(&mut self, machine: &Machine<'_>, rule: Result<Rule, String>) {
        let Some(frame) = self.frames.last() else { return };
        match rule.map(|rule| machine.step(frame, rule, &self.stacks)) {
            Ok(Step::Caller(caller)) => self.enter(*caller),
            Ok(Step::End(end)) => self.end = Some(end),
            Err(reason) => self.end = Some(End::Broken(reason)),
        }
    }

    /// Takes `caller` in when it is further up the same stack, or on a stack not entered yet.
    fn enter(&mut self, mut caller: Frame) {
        let Some(frame) = self.frames.last() else { return };
        let (old, new) = (frame.registers.rsp.unwrap_or(0), caller.registers.rsp.unwrap_or(0));
        let broken = |reason: &str| Some(End::Broken(format!("{reason} (its stack pointer is {new:#x})")));
        // The place behind a stack's last byte still is of this stack: what was called from there used all of it.
        let current = self.entered.last().copied();
        let at = self.stacks.position_or_end(VirtAddr::new(new), current);
        match at.or_else(|| self.stacks.overflowed(VirtAddr::new(new)).filter(|_| caller.exact)) {
            None => self.end = broken("the caller is on no stack that was read"),
            Some(at) if Some(at) == current && new <= old => self.end = broken("the stack does not go up"),
            Some(at) if Some(at) != current && self.entered.contains(&at) => {
                self.end = broken("a stack would be entered twice");
            }
            Some(at) => {
                if Some(at) != current {
                    self.entered.push(at);
                }
                caller.stack = self.stacks.kind(at);
                self.frames.push(caller);
            }
        }
    }

    fn finish(self) -> Trace {
        let too_many = || End::Broken(format!("{MAX_FRAMES} frames, and no end"));
        Trace { frames: self.frames, end: self.end.unwrap_or_else(too_many) }
    }
}

#[cfg(test)]
mod tests;
