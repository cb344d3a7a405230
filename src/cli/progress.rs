//! Progress of long work, on stderr, when that is a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::kernel::locate::Progress;

/// A line that says what is being looked for; gone when the work is done.
pub(super) struct Scan(ProgressBar);

impl Scan {
    pub(super) fn new(quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    pub(super) fn show(&self, progress: &Progress) {
        let Progress { step, done, total } = progress;
        self.0.set_message(format!("{step}: {done} of {total}"));
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar over a known number of bytes, with rate and time left; gone when the work is done.
pub(super) struct Bytes(ProgressBar);

impl Bytes {
    pub(super) fn new(quiet: bool, what: &'static str) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0).with_message(what);
        let style = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn show(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
