//! What commands have in common that read a host and print something about it, or about one process of it.

use std::{fmt, path::Path};

use clap::Args;
use serde::Serialize;

use super::Target;
use crate::{
    audit::Event,
    cli::{Outcome, out},
    kernel::{KernelError, pid, task::Task},
    paging::VirtFault,
    session::Session,
};

/// What every command takes that reads a host and prints something about it.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Listing {
    #[command(flatten)]
    target: Target,

    /// JSON, one object per line
    #[arg(long)]
    pub(in crate::cli) json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

impl Listing {
    /// Opens the host.
    pub(in crate::cli) fn open(&self, quiet: bool) -> anyhow::Result<Session> {
        self.target.open(quiet || self.json)
    }

    /// Refuses to write `path` where it is one of the files the target is read from.
    pub(in crate::cli) fn refuse_own(&self, path: &Path) -> anyhow::Result<()> {
        self.target.refuse_own(path)
    }

    /// Lets `session` write what the profile allows.
    pub(in crate::cli) fn allow_writes(&self, session: &mut Session) -> anyhow::Result<String> {
        self.target.allow_writes(session)
    }

    /// Writes down in the audit file what is about to happen.
    pub(in crate::cli) fn note(&self, event: &Event<'_>) -> anyhow::Result<()> {
        self.target.note(event)
    }

    /// Prints what was read, as `json` or as `text`, and what reading it cost, if that was asked for.
    pub(in crate::cli) fn print<T: Serialize>(
        &self,
        session: &Session,
        json: impl IntoIterator<Item = T>,
        text: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result,
    ) -> anyhow::Result<()> {
        if self.json {
            out::json_lines(json)?;
        } else {
            out::rendered(text)?;
        }
        self.report(session);
        Ok(())
    }

    /// Says what is missing of a list, if anything is.
    pub(in crate::cli) fn finished(&self, torn: Option<KernelError>) -> Outcome {
        let Some(error) = torn else { return Outcome::Done };
        let again = if self.target.image.is_empty() && may_have_changed(&error) {
            "; the host may have changed while it was read: run it again"
        } else {
            ""
        };
        out::notice(&format!("nettlp-gdb: the list is incomplete: {error}{again}"));
        Outcome::Partial
    }

    /// Prints what reading it cost, if that was asked for.
    pub(in crate::cli) fn report(&self, session: &Session) {
        if self.stats {
            out::notice(&session.stats());
        }
    }
}

/// Whether `error` is what a list looks like that changes while it is read: contradictions, and pointers to nothing.
fn may_have_changed(error: &KernelError) -> bool {
    match error {
        KernelError::Inconsistent { .. } => true,
        KernelError::Read { source, .. } => matches!(
            source.fault,
            VirtFault::NonCanonical | VirtFault::NotPresent { .. } | VirtFault::Malformed { .. }
        ),
        _ => false,
    }
}

/// What every command takes that is about one process.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct OneProcess {
    #[command(flatten)]
    pub(in crate::cli) listing: Listing,

    /// The process, by its pid or that of one of its threads
    pid: i32,
}

impl OneProcess {
    /// Opens the host and finds the process there.
    pub(in crate::cli) fn open(&self, quiet: bool) -> anyhow::Result<(Session, Task)> {
        let session = self.listing.open(quiet)?;
        let task = pid::find(&session.kernel, self.pid)?;
        Ok((session, task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::{PhysAddr, VirtAddr},
        mem::{Fault, MemError},
        paging::VirtError,
    };

    #[test]
    fn only_what_may_be_otherwise_next_time_is_worth_another_run() {
        let (addr, len, step) = (VirtAddr::new(0x1000), 8, "reading task_struct");
        let read = |fault| KernelError::Read { step, source: VirtError { addr, len, fault } };
        let torn = KernelError::Inconsistent { step, addr, reason: "a loop".to_owned() };
        assert!(may_have_changed(&torn) && may_have_changed(&read(VirtFault::NonCanonical)));
        let hole = MemError { addr: PhysAddr::new(0x1000), len, fault: Fault::Hole };
        for lasting in [read(VirtFault::Data(hole)), KernelError::KernelOnly { what: "user memory" }] {
            assert!(!may_have_changed(&lasting), "{lasting}");
        }
    }
}
