//! Kernel stacks of tasks that sleep: the frames of the functions they are in, and what `__switch_to_asm`
//! pushes last (`struct inactive_task_frame`).

use super::{Boot, Object};
use crate::{addr::VirtAddr, machine::MachineError};

/// Bytes of a kernel stack.
pub(super) const STACK_LEN: u64 = 16 << 10;

/// Where a task was in user mode.
const USER_IP: u64 = 0x7f3c_5a11_4d3e;
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;
const USER_FLAGS: u64 = 0x246;

impl Boot<'_> {
    /// Fills the stack that ends at `top` as if each function of `path` had called the next. A task that
    /// sleeps also called `__switch_to_asm`: returns what its `thread.sp` is then.
    pub(super) fn fill_stack(
        &self,
        top: VirtAddr,
        path: &[&str],
        user_sp: Option<VirtAddr>,
        asleep: bool,
    ) -> Result<VirtAddr, MachineError> {
        let mut sp = self.entry_regs(top, user_sp)?;
        let mut push = |value: u64| {
            sp = sp.wrapping_sub(8);
            self.write_word(sp, value.into(), 8).map(|()| sp)
        };
        push(0)?;
        let mut bp = push(0)?;
        for (caller, callee) in path.iter().zip(path.iter().skip(1)) {
            push(self.run_time(self.image.return_addr(caller, callee)?).raw())?;
            bp = push(bp.raw())?;
        }
        let (Some(last), true) = (path.last(), asleep) else { return Ok(bp) };
        let frame = Object { ty: "inactive_task_frame", addr: bp };
        let size = self.after(frame)?.wrapping_offset_from(bp);
        let frame = Object { addr: bp.wrapping_sub(size), ..frame };
        self.set(frame, "bp", bp)?;
        self.set(frame, "ret_addr", self.run_time(self.image.return_addr(last, "__switch_to_asm")?))?;
        Ok(frame.addr)
    }

    /// The registers saved on entry to the kernel, at the very top: of a kernel thread, zeros.
    fn entry_regs(&self, top: VirtAddr, user_sp: Option<VirtAddr>) -> Result<VirtAddr, MachineError> {
        let regs = Object { ty: "pt_regs", addr: top };
        let size = self.after(regs)?.wrapping_offset_from(top);
        let regs = Object { addr: top.wrapping_sub(size), ..regs };
        let Some(user_sp) = user_sp else { return Ok(regs.addr) };
        for (member, value) in
            [("ip", USER_IP), ("cs", USER_CS), ("flags", USER_FLAGS), ("sp", user_sp.raw()), ("ss", USER_SS)]
        {
            self.set(regs, member, value)?;
        }
        Ok(regs.addr)
    }
}
