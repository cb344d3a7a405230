//! `struct pt_regs`: the registers that entry code leaves on a stack.

use crate::{
    addr::VirtAddr,
    kernel::{registers::Registers, structure::present},
    types::{Field, TypeError, TypeSource},
};

/// No `pt_regs` is longer; bounds what damaged types ask for.
const MAX_BYTES: u64 = 1024;

/// The members of `struct pt_regs`.
pub struct FrameRegs {
    len: usize,
    members: [Field<u64>; 21],
    /// All of the word whose lowest bits are `ss`, since FRED describes the event in it (6.9).
    ssx: Option<Field<u64>>,
}

const NAMES: [&str; 21] = [
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
];

impl FrameRegs {
    /// Resolves the members.
    ///
    /// # Errors
    /// [`TypeError`] naming what is missing.
    pub fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut members = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            members.push(Field::resolve(types, "pt_regs", name)?);
        }
        let len = types.struct_size("pt_regs")?.min(MAX_BYTES) as usize;
        let few = |_| TypeError::NoMember { container: "pt_regs".to_owned(), member: NAMES.join("` or `") };
        let ssx = present(Field::resolve(types, "pt_regs", "ssx"))?;
        Ok(Self { len, members: members.try_into().map_err(few)?, ssx })
    }

    /// Bytes of a `pt_regs`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a `pt_regs` has members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes from its start to what the processor itself pushes.
    #[must_use]
    pub fn interrupt_frame(&self) -> u64 {
        let [.., ip, _, _, _, _] = &self.members;
        ip.offset()
    }

    /// The registers in the bytes of a `pt_regs`.
    #[must_use]
    pub fn all(&self, bytes: &[u8]) -> Option<Registers> {
        let [
            r15,
            r14,
            r13,
            r12,
            bp,
            bx,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            orig_ax,
            ip,
            cs,
            flags,
            sp,
            ss,
        ] = &self.members;
        Some(Registers {
            rax: Some(ax.get(bytes)?),
            rbx: Some(bx.get(bytes)?),
            rcx: Some(cx.get(bytes)?),
            rdx: Some(dx.get(bytes)?),
            rsi: Some(si.get(bytes)?),
            rdi: Some(di.get(bytes)?),
            rbp: Some(bp.get(bytes)?),
            rsp: Some(sp.get(bytes)?),
            r8: Some(r8.get(bytes)?),
            r9: Some(r9.get(bytes)?),
            r10: Some(r10.get(bytes)?),
            r11: Some(r11.get(bytes)?),
            r12: Some(r12.get(bytes)?),
            r13: Some(r13.get(bytes)?),
            r14: Some(r14.get(bytes)?),
            r15: Some(r15.get(bytes)?),
            rip: Some(ip.get(bytes)?),
            orig_rax: Some(orig_ax.get(bytes)?),
            eflags: Some(flags.get(bytes)?),
            cs: Some(cs.get(bytes)?),
            ss: Some(ss.get(bytes)?),
        })
    }

    /// What FRED's entry code was entered by, in the bytes of the `pt_regs` it left (`struct fred_ss`): an `EVENT_TYPE_`
    /// of `arch/x86/include/asm/trapnr.h`, and the vector.
    #[must_use]
    pub fn event(&self, bytes: &[u8]) -> Option<(u8, u8)> {
        let ssx = self.ssx.as_ref()?.get(bytes)?;
        Some(((ssx >> 48 & 0xf) as u8, (ssx >> 32) as u8))
    }

    /// Where a whole `pt_regs` begins whose interrupt frame is at `addr`.
    #[must_use]
    pub fn start_of(&self, addr: VirtAddr) -> VirtAddr {
        addr.wrapping_sub(self.interrupt_frame())
    }
}

/// The two lowest bits of a code segment are the privilege level; user mode is 3 (Intel SDM volume 3, 3.4.2).
#[must_use]
pub(super) fn is_user(registers: &Registers) -> bool {
    registers.cs.is_some_and(|cs| cs & 3 == 3)
}

/// `__KERNEL_CS`, `__USER_CS` and `__USER32_CS` (`arch/x86/include/asm/segment.h`): whether registers may be what an
/// entry saved.
#[must_use]
pub(super) fn is_plausible(registers: &Registers) -> bool {
    let Registers { cs: Some(cs), ss: Some(ss), rip: Some(rip), .. } = registers else { return false };
    match cs {
        // A kernel that jumped through a bad pointer may have been interrupted anywhere.
        0x10 => matches!(ss, 0 | 0x18),
        0x33 | 0x23 => *ss & 3 == 3 && *rip < 1 << 63,
        _ => is_of_xen(*cs, *ss, *rip),
    }
}

/// What Xen saves of its paravirtual guests: `FLAT_RING3_CS64`, whose privilege level it clears where the guest's kernel
/// was left, `FLAT_RING3_CS32` and `FLAT_RING3_SS64` (`arch/x86/include/asm/xen/interface_64.h`). Above `cs` is the byte
/// `saved_upcall_mask` of `struct cpu_user_regs`.
fn is_of_xen(cs: u64, ss: u64, rip: u64) -> bool {
    match (cs & u64::from(u32::MAX), cs >> 32) {
        (0xe030, 0 | 1) => matches!(ss, 0 | 0x18 | 0xe02b),
        (0xe033 | 0xe023, 0 | 1) => ss & 3 == 3 && rip < 1 << 63,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_those_of_the_machine_or_of_xen() {
        let (kernel, user) = (0xffff_ffff_8100_0000, 0x40_0000);
        for (cs, ss, rip, expected) in [
            (0x10, 0x18, kernel, Some(false)),
            (0x33, 0x2b, user, Some(true)),
            (0x23, 0x2b, kernel, None),
            (0x1_0000_0010, 0x18, kernel, None),
            (0xe030, 0xe02b, kernel, Some(false)),
            (0x1_0000_e030, 0xe02b, kernel, Some(false)),
            (0xe033, 0xe02b, user, Some(true)),
            (0xe033, 0xe02b, kernel, None),
            (0xe031, 0xe02b, kernel, None),
            (0xff_0000_e030, 0xe02b, kernel, None),
        ] {
            let registers = Registers { cs: Some(cs), ss: Some(ss), rip: Some(rip), ..Registers::default() };
            let found = is_plausible(&registers).then(|| is_user(&registers));
            assert_eq!(found, expected, "{cs:#x}:{rip:#x}");
        }
    }
}
