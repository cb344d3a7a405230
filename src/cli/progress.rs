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

/// A bar for bytes on their way, with rate and time left; gone when the work is done.
pub(super) struct Transfer {
    bar: ProgressBar,
    before: u64,
}

impl Transfer {
    /// Of `total` bytes, `before` of which were there before.
    pub(super) fn new(quiet: bool, total: u64, before: u64) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), before };
        }
        let bar = ProgressBar::new(total).with_position(before);
        let template =
            "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, before }
    }

    /// `done` more bytes are there.
    pub(super) fn show(&self, done: u64) {
        self.bar.set_position(self.before + done);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
