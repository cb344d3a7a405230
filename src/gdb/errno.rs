//! The error numbers GDB gets for a failed read (GDB manual, "Errno Values").
//!
//! GDB 13 shows none of them: it prints its own "Cannot access memory at address". They are for clients that
//! look, and for the packet log.

use crate::{
    kernel::KernelError,
    mem::{Fault, MemError},
    paging::{VirtError, VirtFault},
};

/// The operation is not allowed.
pub(super) const EPERM: u8 = 1;
/// No such thread.
pub(super) const ESRCH: u8 = 3;
/// The link failed, or answered with an error.
pub(super) const EIO: u8 = 5;
/// No memory at that address.
pub(super) const EFAULT: u8 = 14;
/// The packet asks for what does not exist.
pub(super) const EINVAL: u8 = 22;
/// No room for more.
pub(super) const ENOSPC: u8 = 28;

/// The number that says why a read failed.
#[must_use]
pub(super) fn of(error: &VirtError) -> u8 {
    match &error.fault {
        VirtFault::NonCanonical | VirtFault::NotPresent { .. } | VirtFault::Malformed { .. } => EFAULT,
        VirtFault::NotAttempted => EIO,
        VirtFault::Table { source, .. } | VirtFault::Data(source) => of_physical(source),
    }
}

/// The number that says why user memory could not be read.
#[must_use]
pub(super) fn of_kernel(error: &KernelError) -> u8 {
    match error {
        KernelError::KernelOnly { .. } => EPERM,
        KernelError::NoTask { .. } => ESRCH,
        KernelError::Read { source, .. } => of(source),
        KernelError::NoUserSpace { .. } | KernelError::Absent(_) | KernelError::Inconsistent { .. } => EFAULT,
        _ => EIO,
    }
}

fn of_physical(error: &MemError) -> u8 {
    match error.fault {
        Fault::Refused(_) | Fault::Forbidden(_) | Fault::Poisoned(_) => EPERM,
        Fault::Hole | Fault::NotInImage(_) => EFAULT,
        Fault::NotAttempted | Fault::Link(_) | Fault::Io(_) => EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PhysAddr, VirtAddr};

    #[test]
    fn each_kind_of_failure_has_its_number() {
        let virt = |fault| VirtError { addr: VirtAddr::new(8), len: 8, fault };
        let phys = |fault| MemError { addr: PhysAddr::new(8), len: 8, fault };
        assert_eq!(of(&virt(VirtFault::NonCanonical)), EFAULT);
        assert_eq!(of(&virt(VirtFault::Data(phys(Fault::Refused("not RAM"))))), EPERM);
        assert_eq!(of(&virt(VirtFault::Data(phys(Fault::Hole)))), EFAULT);
        let read = KernelError::Read { step: "", source: virt(VirtFault::NonCanonical) };
        assert_eq!(of_kernel(&read), EFAULT);
        assert_eq!(of_kernel(&KernelError::NoUserSpace { pid: 2 }), EFAULT);
        assert_eq!(of_kernel(&KernelError::KernelOnly { what: "" }), EPERM);
        let link = phys(Fault::NotAttempted);
        assert_eq!(of(&virt(VirtFault::Table { level: 1, source: link })), EIO);
    }
}
