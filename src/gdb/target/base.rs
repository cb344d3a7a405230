//! Memory and registers. Both kinds of access go to the [`Host`](crate::gdb::host::Host), which refuses writes unless
//! told otherwise.

use std::fmt;

use gdbstub::{
    common::Tid,
    target::{
        TargetError, TargetResult,
        ext::{
            base::multithread::{MultiThreadBase, MultiThreadResumeOps},
            thread_extra_info::ThreadExtraInfoOps,
        },
    },
};

use super::{GdbTarget, RebaseState, Registers};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    gdb::{
        errno,
        host::{MonitorError, TaskId},
        packet,
    },
    kernel::KernelError,
    paging::{VirtError, VirtFault},
    session::writing::WriteError,
};

/// With four levels, an address is canonical or not as all are up to the next multiple of this.
const CANONICAL: u64 = 1 << 47;

/// All that is a process' own: the lower half.
const USER: u64 = 1 << 63;

/// Why memory could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gdb) struct Unread {
    /// As GDB numbers errors.
    number: u8,
    sentence: String,
    /// How far the same is sure to be true: to the next multiple of this many bytes.
    reach: u64,
}

impl Unread {
    /// The number, and the reason as a sentence.
    #[must_use]
    pub(in crate::gdb) fn new(number: u8, sentence: &dyn fmt::Display) -> Self {
        Self { number, sentence: sentence.to_string(), reach: 1 }
    }

    fn of_kernel_memory(error: &VirtError) -> Self {
        let reach = match error.fault {
            VirtFault::NonCanonical => CANONICAL,
            // An entry of a table reaches 512 times as far as one of the next.
            VirtFault::NotPresent { level, .. } | VirtFault::Malformed { level, .. } => {
                PAGE_SIZE << (9 * (level.clamp(1, 5) - 1))
            }
            _ => PAGE_SIZE,
        };
        Self { reach, ..Self::new(errno::of(error), error) }
    }

    fn of_user_memory(error: &KernelError) -> Self {
        let reach = match error {
            KernelError::KernelOnly { .. } | KernelError::NoTask { .. } | KernelError::NoUserSpace { .. } => {
                USER
            }
            _ => PAGE_SIZE,
        };
        Self { reach, ..Self::new(errno::of_kernel(error), error) }
    }

    /// As GDB numbers errors.
    #[must_use]
    pub(in crate::gdb) fn number(&self) -> u8 {
        self.number
    }

    /// Up to the next multiple of this many bytes, a power of two, nothing can be read either.
    #[must_use]
    pub(in crate::gdb) fn reach(&self) -> u64 {
        self.reach
    }
}

impl GdbTarget {
    /// The task of the thread `selected`, or before anybody selected one, of the first: whose memory addresses of
    /// processes are of.
    pub(in crate::gdb) fn task_of(&mut self, selected: Option<Tid>) -> Option<TaskId> {
        let threads = self.threads().0;
        let thread = match selected {
            Some(tid) => threads.get(tid),
            None => threads.iter().next(),
        };
        thread?.task
    }

    /// Reads memory, that of a process if it is one's, as the thread `selected` sees it; gives how many bytes could be
    /// read.
    ///
    /// # Errors
    /// Why none could.
    pub(in crate::gdb) fn read(
        &mut self,
        selected: Option<Tid>,
        addr: VirtAddr,
        buf: &mut [u8],
    ) -> Result<usize, Unread> {
        if self.booted_anew {
            return Err(Unread::new(errno::EIO, &MonitorError::BootedAnew));
        }
        let task = if addr.is_upper_half() { None } else { self.task_of(selected) };
        let read = match task {
            Some(task) => {
                let read = self.host.read_user(task, addr, buf);
                read.map_err(|error| Unread::of_user_memory(&error))
            }
            None => self.read_memory(addr, buf).map_err(|error| Unread::of_kernel_memory(&error)),
        };
        match read {
            Ok(0) if !buf.is_empty() => Err(Unread::new(errno::EFAULT, &"there is nothing")),
            Ok(len) => Ok(len),
            Err(unread) => {
                log::debug!("{}", unread.sentence);
                Err(unread)
            }
        }
    }

    /// The reply to a packet that reads what is `unread`: its number, or the sentence for a client that takes one.
    #[must_use]
    pub(in crate::gdb) fn no_memory(&self, unread: &Unread) -> Vec<u8> {
        match self.takes_sentences {
            true => packet::error_text(&unread.sentence),
            false => format!("E{:02x}", unread.number).into_bytes(),
        }
    }

    /// Reads as [`Host::read`](crate::gdb::host::Host::read), with per-CPU offsets as this client needs them.
    fn read_memory(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, VirtError> {
        let len = self.host.read(addr, buf)?.min(buf.len());
        let RebaseState::Asked(Some(rebase)) = self.rebase else { return Ok(len) };
        let Some(bytes) = buf.get_mut(..len) else { return Ok(len) };
        if let Some(words) = rebase.words(addr, len) {
            let mut elements = vec![0; words.len];
            let read = self.host.read(words.start, &mut elements)?.min(words.len);
            if read < words.len {
                // A word that is only half readable cannot be rebased: show nothing of it, rather than a wrong half.
                let whole = words.start.wrapping_add(read as u64).align_down(8).raw();
                return Ok(usize::try_from(whole.saturating_sub(addr.raw())).unwrap_or(0).min(len));
            }
            rebase.apply(addr, bytes, words, &elements);
        }
        Ok(len)
    }
}

/// Why a client's write did not happen.
#[derive(Debug, thiserror::Error)]
pub(in crate::gdb) enum ClientWriteError {
    /// The host's reason.
    #[error(transparent)]
    Host(#[from] WriteError),
    /// What the client sees there is not what is there.
    #[error(
        "refused: what gdb sees of __per_cpu_offset[] is reduced by the KASLR slide, and would be written back so; write \
         it with `nettlp-gdb write`, or serve with --percpu-rebase=off"
    )]
    Rebased,
}

impl GdbTarget {
    /// Writes as [`Host::write`](crate::gdb::host::Host::write), except where this client sees other bytes than there
    /// are.
    ///
    /// # Errors
    /// [`ClientWriteError`].
    pub(in crate::gdb) fn write_memory(&self, addr: VirtAddr, data: &[u8]) -> Result<(), ClientWriteError> {
        if self.is_rebased(addr, data.len()) {
            return Err(ClientWriteError::Rebased);
        }
        Ok(self.host.write(addr, data)?)
    }

    /// Whether a write of `len` bytes at `addr` would be let through to the machine.
    #[must_use]
    pub(in crate::gdb) fn may_write(&self, addr: VirtAddr, len: usize) -> bool {
        !self.is_rebased(addr, len) && self.host.may_write(addr, len)
    }

    fn is_rebased(&self, addr: VirtAddr, len: usize) -> bool {
        matches!(self.rebase, RebaseState::Asked(Some(rebase)) if rebase.words(addr, len).is_some())
    }
}

impl MultiThreadBase for GdbTarget {
    fn read_registers(&mut self, regs: &mut Registers, tid: Tid) -> TargetResult<(), Self> {
        if self.booted_anew {
            self.refusal = Some(MonitorError::BootedAnew.to_string());
            return Err(TargetError::Errno(errno::EIO));
        }
        let (threads, host) = self.threads();
        match threads.registers(host, tid) {
            Ok(known) => {
                regs.clone_from(known);
                Ok(())
            }
            Err(error) => {
                self.refusal = Some(error.to_string());
                Err(TargetError::Errno(errno::ESRCH))
            }
        }
    }

    fn write_registers(&mut self, _: &Registers, _: Tid) -> TargetResult<(), Self> {
        Err(TargetError::Errno(errno::EPERM))
    }

    /// Never asked: `m` is answered before, faster.
    fn read_addrs(&mut self, _: u64, _: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        Err(TargetError::Errno(errno::EPERM))
    }

    /// Never asked: `M` and `X` are answered before, with a sentence.
    fn write_addrs(&mut self, _: u64, _: &[u8], _: Tid) -> TargetResult<(), Self> {
        Err(TargetError::Errno(errno::EPERM))
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Self::Error> {
        let (threads, host) = self.threads();
        threads.there(host).for_each(|thread| thread_is_active(thread.tid));
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, Self::Error> {
        let (threads, host) = self.threads();
        Ok(threads.registers(host, tid).is_ok())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl gdbstub::target::ext::thread_extra_info::ThreadExtraInfo for GdbTarget {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let detail =
            self.threads.as_ref().and_then(|threads| threads.get(tid)).map_or("", |thread| &thread.detail);
        let copied = buf.iter_mut().zip(detail.as_bytes()).map(|(to, from)| *to = *from).count();
        Ok(copied)
    }
}
