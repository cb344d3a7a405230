//! The threads as they were when last looked at, so that a question about them can neither fail nor contradict
//! the answer before it.
//!
//! Registers of tasks that sleep are read for all of them at once, when those of one are first asked for: GDB goes
//! through all threads for `info threads` or `thread apply all bt`, and 10,000 tasks must not be 10,000 round trips.
//! After a pause in the questions they are read again, and whatever has exited since is gone: a thread of a live
//! machine is an error then, not a picture of what it was.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{GdbTarget, Registers};
use crate::{
    gdb::{
        host::{Gone, Host, TaskId, Thread},
        thread_filter::ThreadFilter,
        tid::{self, Tid},
    },
    render,
};

/// Questions about threads that follow each other faster than this are one: they are answered from one look.
const PAUSE: Duration = Duration::from_secs(1);

/// Why nothing can be said of a thread.
#[derive(Debug, thiserror::Error)]
pub(super) enum ThreadError {
    #[error("there is no thread {0} among the tasks last looked at; `monitor refresh` looks again")]
    Unknown(Tid),
    #[error("thread {tid} ({name}) has exited; `monitor refresh` looks at the tasks again")]
    Exited { tid: Tid, name: String },
}

/// A snapshot of the threads, in GDB's order.
pub(super) struct Threads {
    list: Vec<Thread>,
    by_tid: HashMap<Tid, usize>,
    /// What was found by place in the list of those that sleep, once their registers have been read.
    asleep: Option<HashMap<usize, Result<Registers, Gone>>>,
    /// When the last question was.
    asked: Instant,
}

impl Threads {
    /// Looks at the threads now. GDB needs at least one: a machine that shows none is shown as a nameless CPU.
    pub(super) fn take(host: &dyn Host, filter: &ThreadFilter) -> Self {
        let mut seen = HashSet::new();
        let mut list = host.threads(filter);
        list.retain(|thread| seen.insert(thread.tid));
        if list.is_empty() {
            list.push(Thread {
                tid: tid::of_cpu(0),
                name: String::new(),
                detail: "the tasks could not be read".to_owned(),
                cpu: None,
                registers: Registers::default(),
                asleep: None,
                task: None,
            });
        }
        let by_tid = list.iter().enumerate().map(|(at, thread)| (thread.tid, at)).collect();
        Self { list, by_tid, asleep: None, asked: Instant::now() }
    }

    /// The threads of the snapshot, whether they are still there or not.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Thread> {
        self.list.iter()
    }

    /// The threads of the snapshot that are still there.
    pub(super) fn there(&mut self, host: &dyn Host) -> impl Iterator<Item = &Thread> {
        if self.asked.elapsed() > PAUSE {
            self.look(host);
        }
        self.asked = Instant::now();
        let asleep = &self.asleep;
        let is_gone =
            move |at| asleep.as_ref().and_then(|asleep| asleep.get(&at)).is_some_and(Result::is_err);
        self.list.iter().enumerate().filter(move |(at, _)| !is_gone(*at)).map(|(_, thread)| thread)
    }

    pub(super) fn get(&self, tid: Tid) -> Option<&Thread> {
        self.by_tid.get(&tid).and_then(|at| self.list.get(*at))
    }

    /// What is known of a thread's registers.
    pub(super) fn registers(&mut self, host: &dyn Host, tid: Tid) -> Result<&Registers, ThreadError> {
        let unknown = ThreadError::Unknown(tid);
        let Some(at) = self.by_tid.get(&tid).copied() else { return Err(unknown) };
        let is_asleep = self.list.get(at).is_some_and(|thread| thread.asleep.is_some());
        if is_asleep && (self.asleep.is_none() || self.asked.elapsed() > PAUSE) {
            self.look(host);
        }
        self.asked = Instant::now();
        let Some(thread) = self.list.get(at) else { return Err(unknown) };
        match self.asleep.as_ref().and_then(|asleep| asleep.get(&at)) {
            Some(Ok(registers)) => Ok(registers),
            Some(Err(Gone)) => Err(ThreadError::Exited { tid, name: thread.name.clone() }),
            None => Ok(&thread.registers),
        }
    }

    /// Reads the registers of all tasks that sleep, and finds out which are no more.
    fn look(&mut self, host: &dyn Host) {
        let (places, tasks): (Vec<usize>, Vec<TaskId>) =
            self.list.iter().enumerate().filter_map(|(at, thread)| Some((at, thread.asleep?))).unzip();
        self.asleep = Some(places.into_iter().zip(host.registers(&tasks)).collect());
    }

    /// The thread GDB selects when it has no reason to choose another.
    pub(super) fn first(&self) -> Tid {
        self.list.first().map_or(tid::of_cpu(0), |thread| thread.tid)
    }
}

impl GdbTarget {
    /// The thread a client is shown before it has selected one.
    pub(in crate::gdb) fn first_thread(&mut self) -> Tid {
        self.threads().0.first()
    }

    /// The threads as `qXfer:threads:read` describes them (GDB manual, "Thread List Format"): all names and
    /// details in one answer, where [`gdbstub`] would be asked once per thread.
    #[must_use]
    pub(in crate::gdb) fn threads_xml(&mut self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\"?>\n<threads>\n");
        let (threads, host) = self.threads();
        for Thread { tid, name, detail, cpu, .. } in threads.there(host) {
            let _ = write!(xml, "<thread id=\"{tid:x}\"");
            if let Some(cpu) = cpu {
                let _ = write!(xml, " core=\"{cpu}\"");
            }
            if !name.is_empty() {
                let _ = write!(xml, " name=\"{}\"", text(name));
            }
            let _ = writeln!(xml, ">{}</thread>", text(detail));
        }
        xml.push_str("</threads>\n");
        xml
    }
}

/// `raw`, which the target's own users chose, as the text of an XML element or attribute.
fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for character in render::printable(raw).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_document() {
        assert_eq!(text("a\"/><x\u{1b}&"), r"a&quot;/&gt;&lt;x\u{1b}&amp;");
    }
}
