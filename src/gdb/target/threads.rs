//! The threads as they were when last looked at, so that a question about them can neither fail nor contradict
//! the answer before it.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

use super::GdbTarget;
use crate::{
    gdb::{
        host::{Host, Thread},
        tid::{self, Tid},
    },
    render,
};

/// A snapshot of the threads, in GDB's order.
pub(super) struct Threads {
    list: Vec<Thread>,
    by_tid: HashMap<Tid, usize>,
}

impl Threads {
    /// Looks at the threads now. GDB needs at least one: a machine that shows none is shown as a nameless CPU.
    pub(super) fn take(host: &dyn Host) -> Self {
        let mut seen = HashSet::new();
        let mut list = host.threads();
        list.retain(|thread| seen.insert(thread.tid));
        if list.is_empty() {
            list.push(Thread {
                tid: tid::of_cpu(0),
                name: String::new(),
                detail: "the tasks could not be read".to_owned(),
                cpu: None,
                registers: super::Registers::default(),
            });
        }
        let by_tid = list.iter().enumerate().map(|(at, thread)| (thread.tid, at)).collect();
        Self { list, by_tid }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Thread> {
        self.list.iter()
    }

    pub(super) fn get(&self, tid: Tid) -> Option<&Thread> {
        self.by_tid.get(&tid).and_then(|at| self.list.get(*at))
    }

    /// The thread GDB selects when it has no reason to choose another.
    pub(super) fn first(&self) -> Tid {
        self.list.first().map_or(tid::of_cpu(0), |thread| thread.tid)
    }
}

impl GdbTarget {
    /// The threads as `qXfer:threads:read` describes them (GDB manual, "Thread List Format"): all names and
    /// details in one answer, where [`gdbstub`] would be asked once per thread.
    #[must_use]
    pub fn threads_xml(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\"?>\n<threads>\n");
        for Thread { tid, name, detail, cpu, .. } in self.threads.iter() {
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
