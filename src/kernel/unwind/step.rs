//! One step: from a frame to its caller.

use super::{
    End, FoundBy, Frame, FrameRegs, StackKind, Stacks,
    frame_regs::{is_plausible, is_user},
};
use crate::{
    addr::VirtAddr,
    kernel::{
        Kernel,
        orc::{Base, FrameKind, FramePointer, Rule},
        registers::Registers,
    },
};

/// Where the kernel's image and its modules are (Documentation/arch/x86/x86_64/mm.rst).
const CODE: std::ops::Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_ff00_0000;

/// Where a step leads.
pub(super) enum Step {
    Caller(Box<Frame>),
    End(End),
}

/// What steps are made with.
pub(super) struct Machine<'m> {
    pub(super) kernel: &'m Kernel,
    pub(super) regs: &'m FrameRegs,
}

fn broken(reason: String) -> Step {
    Step::End(End::Broken(reason))
}

impl Machine<'_> {
    pub(super) fn step(&self, frame: &Frame, rule: Rule, stacks: &Stacks) -> Step {
        match rule {
            Rule::End => Step::End(End::Outermost),
            Rule::Undefined => {
                broken(format!("the ORC table has no rule for the code at {}", frame.lookup()))
            }
            Rule::Unknown => self.by_frame_pointer(frame, stacks),
            Rule::Frame { kind, signal, base, offset, frame_pointer } => {
                let Some(register) = base_of(base, &frame.registers) else {
                    return broken(format!(
                        "the ORC rule for the code at {} starts from {base:?}, which is not known there",
                        frame.lookup()
                    ));
                };
                match kind {
                    FrameKind::Call => {
                        let place = place(base, register, offset, stacks);
                        place.map_or_else(broken, |place| {
                            self.call(frame, place, signal, frame_pointer, stacks)
                        })
                    }
                    FrameKind::Registers => {
                        let places = places_of_registers(base, register, offset, stacks);
                        self.registers(&places, frame, stacks)
                    }
                    FrameKind::InterruptFrame => {
                        let place = place(base, register, offset, stacks);
                        place.map_or_else(broken, |place| self.interrupt_frame(frame, place, stacks))
                    }
                }
            }
        }
    }

    /// `place` is the caller's stack pointer.
    fn call(
        &self,
        frame: &Frame,
        place: VirtAddr,
        signal: bool,
        rule: FramePointer,
        stacks: &Stacks,
    ) -> Step {
        let slot = place.wrapping_sub(8);
        let Some(rip) = stacks.word(slot) else {
            return broken(format!("the return address would be at {slot}, on no stack that was read"));
        };
        if !self.is_code(rip) {
            return broken(format!("the return address at {slot} is {rip:#x}, which is not kernel code"));
        }
        let rbp = match rule {
            FramePointer::Unchanged => frame.registers.rbp,
            FramePointer::AtFrame(offset) => stacks.word(place.wrapping_add(offset as u64)),
            FramePointer::AtFramePointer(offset) => frame
                .registers
                .rbp
                .and_then(|rbp| stacks.word(VirtAddr::new(rbp.wrapping_add(offset as u64)))),
        };
        let registers = Registers { rip: Some(rip), rsp: Some(place.raw()), rbp, ..Registers::default() };
        Step::Caller(Box::new(caller(registers, signal, FoundBy::Orc)))
    }

    /// The first of `places` that holds a `pt_regs` an entry may have written.
    fn registers(&self, places: &[VirtAddr], frame: &Frame, stacks: &Stacks) -> Step {
        let at = |place: &VirtAddr| {
            let bytes = stacks.get(*place, self.regs.len())?;
            let registers = self.regs.all(bytes)?;
            is_plausible(&registers).then_some((*place, registers, self.regs.event(bytes)))
        };
        match places.iter().find_map(at) {
            Some((place, registers, event)) => interrupted(place, registers, event),
            None if places.iter().any(|place| self.is_blank(*place, stacks)) => Step::End(End::Outermost),
            None => broken(format!(
                "the code at {} was entered with registers saved at {}, where there are none",
                frame.lookup(),
                places.first().copied().unwrap_or_default()
            )),
        }
    }

    /// A kernel thread's stack ends with a `pt_regs` of zeros.
    fn is_blank(&self, place: VirtAddr, stacks: &Stacks) -> bool {
        let bytes = stacks.get(place, self.regs.len()).unwrap_or_default();
        !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0)
    }

    fn interrupt_frame(&self, frame: &Frame, place: VirtAddr, stacks: &Stacks) -> Step {
        // Only what the processor pushed is there: the bytes before it are whatever they are.
        let from = self.regs.interrupt_frame() as usize;
        let len = self.regs.len().saturating_sub(from);
        let mut bytes = vec![0; from];
        bytes.extend(stacks.get(place, len).unwrap_or_default());
        let Some(Registers { rip, cs, eflags, rsp, ss, .. }) = self.regs.all(&bytes) else {
            return broken(format!("an interrupt frame would be at {place}, on no stack that was read"));
        };
        // General registers were not saved yet, or are restored already.
        let registers = Registers { rip, cs, eflags, rsp, ss, ..frame.registers };
        if !is_plausible(&registers) {
            return broken(format!("there is no interrupt frame at {place}"));
        }
        interrupted(self.regs.start_of(place), registers, self.regs.event(&bytes))
    }

    /// Without a rule: the frame pointer leads to the caller's, and the return address is above it.
    fn by_frame_pointer(&self, frame: &Frame, stacks: &Stacks) -> Step {
        let rbp = frame.registers.rbp.unwrap_or(0);
        let lost = |reason: &str| {
            let at = frame.lookup();
            broken(format!("no table says how the code at {at} is left, and {reason}"))
        };
        // `ENCODE_FRAME_POINTER`: an entry marks its `pt_regs` by an odd frame pointer.
        if rbp & 1 == 1 && rbp >= 1 << 63 {
            return self.registers(&[VirtAddr::new(rbp & !1)], frame, stacks);
        }
        let at = VirtAddr::new(rbp);
        let (Some(saved), Some(rip)) = (stacks.word(at), stacks.word(at.wrapping_add(8))) else {
            return lost("its frame pointer leads to no stack that was read");
        };
        if rip == 0 {
            return Step::End(End::Outermost);
        }
        if rbp & 7 != 0 || rbp < frame.registers.rsp.unwrap_or(u64::MAX) || !self.is_code(rip) {
            return lost("its frame pointer is none");
        }
        let rsp = Some(rbp.wrapping_add(16));
        let registers = Registers { rip: Some(rip), rsp, rbp: Some(saved), ..Registers::default() };
        Step::Caller(Box::new(caller(registers, false, FoundBy::FramePointer)))
    }

    /// The kernel's image, and where its modules and what it generates are.
    fn is_code(&self, rip: u64) -> bool {
        let map = &self.kernel.map;
        rip.wrapping_sub(map.text.raw()) < map.image.len() || CODE.contains(&rip)
    }
}

fn interrupted(at: VirtAddr, registers: Registers, event: Option<(u8, u8)>) -> Step {
    if is_user(&registers) {
        return Step::End(End::User { at, registers: Box::new(registers), event });
    }
    Step::Caller(Box::new(caller(registers, true, FoundBy::PtRegs)))
}

/// Its stack is found out when it is entered.
fn caller(registers: Registers, exact: bool, found_by: FoundBy) -> Frame {
    let address = VirtAddr::new(registers.rip.unwrap_or_default());
    Frame { address, exact, found_by, registers, stack: StackKind::Task }
}

fn base_of(base: Base, registers: &Registers) -> Option<u64> {
    match base {
        Base::Rsp | Base::RspIndirect => registers.rsp,
        Base::Rbp | Base::RbpIndirect => registers.rbp,
        Base::Rax => registers.rax,
        Base::Rdx => registers.rdx,
        Base::Rdi => registers.rdi,
        Base::R10 => registers.r10,
        Base::R13 => registers.r13,
    }
}

/// Where a rule leads. Its offset is added to the word that an indirect one points to (87ccc826bf1c, 5.12), but for
/// [`Base::RbpIndirect`].
fn place(base: Base, register: u64, offset: i64, stacks: &Stacks) -> Result<VirtAddr, String> {
    let word = |addr: u64| {
        let addr = VirtAddr::new(addr);
        stacks
            .word(addr)
            .ok_or_else(|| format!("the next stack is named at {addr}, on no stack that was read"))
    };
    let place = match base {
        Base::RspIndirect => word(register)?.wrapping_add(offset as u64),
        Base::RbpIndirect => word(register.wrapping_add(offset as u64))?,
        Base::Rax | Base::Rdx | Base::Rdi | Base::R10 | Base::R13 => register,
        Base::Rsp | Base::Rbp => register.wrapping_add(offset as u64),
    };
    Ok(VirtAddr::new(place))
}

/// Where a rule may lead to a `pt_regs`. Before 87ccc826bf1c the word that points to it was at the offset; the registers
/// themselves show which is meant.
fn places_of_registers(base: Base, register: u64, offset: i64, stacks: &Stacks) -> Vec<VirtAddr> {
    let mut places: Vec<VirtAddr> = place(base, register, offset, stacks).into_iter().collect();
    if base == Base::RspIndirect {
        places.extend(stacks.word(VirtAddr::new(register.wrapping_add(offset as u64))).map(VirtAddr::new));
    }
    places
}
