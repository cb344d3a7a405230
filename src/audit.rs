//! Who asked for what, when, of which target: one JSON line per session, command, range read and write.
//!
//! Input: what a front end is about to do. Output: lines appended to one file (`--audit`), each written before the
//! answer leaves and, for writes, on the disk before. A line that cannot be appended is an error, and whoever was about
//! to act must not. This module does not know what a command does; it cannot tell whether a file is enough evidence.
//!
//! Several programs may append to one file: a line is one `write` to a file opened with `O_APPEND`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

/// A line could not be appended, so that what it was about must not happen.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to the audit file {}: {source}; nothing is done that is not written there", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// What is about to happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// A program starts to look at the target, or a debugger attaches.
    SessionStart,
    /// It has ended.
    SessionEnd,
    /// A debugger was turned away, because there is one already.
    TurnedAway,
    /// A command line, or one of `monitor`.
    Command {
        /// As it was typed.
        command: &'a str,
    },
    /// Memory is read.
    Read {
        /// In which address space.
        space: Space,
        /// The task whose address space it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        task: Option<i32>,
        /// `START-END` each, ascending.
        ranges: &'a [String],
    },
    /// An address is translated.
    Translate {
        /// The virtual address.
        address: &'a str,
    },
    /// Memory or registers are to be written.
    Write {
        /// What is written.
        space: Space,
        /// `START-END` each; none for registers.
        ranges: &'a [String],
        /// Whether it is allowed.
        allowed: bool,
    },
}

/// What an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// Physical memory.
    Physical,
    /// The kernel's virtual memory.
    Virtual,
    /// A process' virtual memory.
    User,
    /// A CPU's registers.
    Registers,
}

/// Who runs this program, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Who {
    uid: u32,
    /// The name of `uid`, if it is a local one.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Who logged in, when that was another one (`sudo`).
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    pid: u32,
}

impl Who {
    fn now() -> io::Result<Self> {
        let uid = fs::metadata("/proc/self")?.uid();
        let names = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let login = fs::read_to_string("/proc/self/loginuid").ok();
        // -1: nobody logged in.
        let login_uid = login.and_then(|uid| uid.trim().parse().ok()).filter(|uid| *uid != u32::MAX);
        Ok(Self {
            uid,
            user: name_of(uid, &names),
            login_uid: login_uid.filter(|login| *login != uid),
            pid: std::process::id(),
        })
    }
}

/// The name of `uid` in the text of `/etc/passwd`.
fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[derive(Debug)]
struct Book {
    path: PathBuf,
    file: File,
    who: Who,
    target: String,
    sessions: AtomicU64,
}

/// An open audit file and what is the same in all our lines.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Book>);

impl Audit {
    /// Opens the file at `path`, or makes it, readable for its owner only. `target` says what is looked at.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(path: &Path, target: String) -> Result<Self, AuditError> {
        let failed = |source| AuditError { path: path.to_owned(), source };
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let who = Who::now().map_err(failed)?;
        Ok(Self(Arc::new(Book { path: path.to_owned(), file, who, target, sessions: AtomicU64::new(0) })))
    }

    /// Begins a session: this program's own, or that of the debugger at `peer`.
    ///
    /// # Errors
    /// [`AuditError`]; then there must be no session.
    pub fn begin(&self, peer: Option<String>) -> Result<Trail, AuditError> {
        let number = self.0.sessions.fetch_add(1, Relaxed);
        let session = format!("{}.{number}", self.0.who.pid);
        self.append(&session, peer.as_deref(), &Event::SessionStart)?;
        Ok(Trail { audit: self.clone(), session, peer })
    }

    /// Writes down that a debugger at `peer` got no session, because another one has it.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn turned_away(&self, peer: &str) -> Result<(), AuditError> {
        let number = self.0.sessions.fetch_add(1, Relaxed);
        self.append(&format!("{}.{number}", self.0.who.pid), Some(peer), &Event::TurnedAway)
    }

    fn append(&self, session: &str, peer: Option<&str>, event: &Event<'_>) -> Result<(), AuditError> {
        let book = &*self.0;
        let time = format!("{:.3}", jiff::Timestamp::now());
        let line = Line { time, session, event, who: &book.who, peer, target: &book.target };
        let write = || {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            (&book.file).write_all(&text)?;
            match event {
                Event::Write { .. } => book.file.sync_data(),
                _ => (&book.file).flush(),
            }
        };
        write().map_err(|source| AuditError { path: book.path.clone(), source })
    }
}

/// The lines of one session; the last one is written when it is dropped.
#[derive(Debug)]
pub struct Trail {
    audit: Audit,
    session: String,
    peer: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    session: &'a str,
    #[serde(flatten)]
    event: &'a Event<'a>,
    #[serde(flatten)]
    who: &'a Who,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    target: &'a str,
}

impl Trail {
    /// The file, for further sessions.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Writes down what is about to happen.
    ///
    /// # Errors
    /// [`AuditError`]; then it must not happen.
    pub fn append(&self, event: &Event<'_>) -> Result<(), AuditError> {
        self.audit.append(&self.session, self.peer.as_deref(), event)
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Err(error) = self.append(&Event::SessionEnd) {
            log::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_line_per_event() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let audit = Audit::open(&path, "rack 4".to_owned()).unwrap();
        let trail = audit.begin(None).unwrap();
        trail.append(&Event::Command { command: "nettlp-gdb read 0x10 8" }).unwrap();
        let ranges = ["0x10-0x18".to_owned()];
        trail.append(&Event::Read { space: Space::Physical, task: None, ranges: &ranges }).unwrap();
        let client = trail.audit().begin(Some("127.0.0.1:4".to_owned())).unwrap();
        client.append(&Event::Write { space: Space::Registers, ranges: &[], allowed: false }).unwrap();
        drop(client);
        drop(trail);
        drop(Audit::open(&path, "another".to_owned()).unwrap().begin(None).unwrap());

        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        let first =
            ["session-start", "command", "read", "session-start", "write", "session-end", "session-end"];
        assert_eq!(events[..7], first);
        assert_eq!(events[7..], ["session-start", "session-end"], "appended");
        assert_eq!(lines[2]["ranges"], serde_json::json!(["0x10-0x18"]));
        assert_eq!((&lines[4]["peer"], &lines[4]["allowed"]), (&"127.0.0.1:4".into(), &false.into()));
        assert_eq!((&lines[4]["space"], &lines[0]["target"]), (&"registers".into(), &"rack 4".into()));
        assert_ne!(lines[0]["session"], lines[3]["session"]);
        assert_eq!(lines[0]["session"], lines[6]["session"]);
        for line in &lines {
            let time = line["time"].as_str().unwrap();
            assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
            assert_eq!(line["uid"], fs::metadata(&path).unwrap().uid());
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_written_down_is_an_error() {
        let error = Audit::open(Path::new("/nonexistent/audit"), String::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/audit: No such file"), "{error}");
        let full = Audit::open(Path::new("/dev/full"), String::new()).unwrap();
        let error = full.begin(None).unwrap_err();
        assert!(error.to_string().contains("/dev/full: No space left"), "{error}");
    }

    #[test]
    fn names_of_users() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_of(1000, passwd).as_deref(), Some("ada"));
        assert_eq!(name_of(1, passwd), None);
    }
}
