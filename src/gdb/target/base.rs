//! Memory and registers. Both kinds of access go to the [`Host`](crate::gdb::host::Host), which refuses writes unless
//! told otherwise.

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
    addr::VirtAddr,
    gdb::{errno, host::TaskId},
    paging::VirtError,
    session::writing::WriteError,
};

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
    /// The number that says why none could.
    pub(in crate::gdb) fn read(
        &mut self,
        selected: Option<Tid>,
        addr: VirtAddr,
        buf: &mut [u8],
    ) -> Result<usize, u8> {
        let task = if addr.is_upper_half() { None } else { self.task_of(selected) };
        let read = match task {
            Some(task) => {
                let read = self.host.read_user(task, addr, buf);
                read.map_err(|error| (errno::of_kernel(&error), error.to_string()))
            }
            None => self.read_memory(addr, buf).map_err(|error| (errno::of(&error), error.to_string())),
        };
        match read {
            Ok(0) if !buf.is_empty() => Err(errno::EFAULT),
            Ok(len) => Ok(len),
            Err((number, error)) => {
                log::debug!("{error}");
                Err(number)
            }
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
