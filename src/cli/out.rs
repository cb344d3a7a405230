//! The only writer to stdout.

use std::io::{self, Write};

use serde::Serialize;

/// Whoever read our output stopped reading: no failure of ours.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output went away")]
pub struct BrokenPipe;

fn explain(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => BrokenPipe.into(),
        _ => anyhow::Error::from(error).context("cannot write to standard output"),
    }
}

/// Writes `text` as it is.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Writes raw bytes.
pub(super) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(explain)
}

/// Writes one JSON object per line.
pub(super) fn json_lines<T: Serialize>(values: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for value in values {
        serde_json::to_writer(&mut lines, &value)?;
        lines.push(b'\n');
    }
    bytes(&lines)
}

/// Writes what `render` renders.
pub(super) fn rendered(
    render: impl FnOnce(&mut dyn std::fmt::Write) -> std::fmt::Result,
) -> anyhow::Result<()> {
    let mut rendered = String::new();
    render(&mut rendered)?;
    text(&rendered)
}

/// Writes an error and what led to it to stderr, as one line.
pub(super) fn complain(error: &anyhow::Error) {
    let mut sentence = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if sentence.contains(&cause) {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&cause);
    }
    notice(&format!("nettlp-gdb: {sentence}"));
}

/// Writes a line to stderr; a closed stderr is not worth failing for.
pub(super) fn notice(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
