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
pub(super) struct Bytes {
    bar: ProgressBar,
    before: u64,
}

impl Bytes {
    /// `before` bytes were there when the work began: they count as done, not for the rate.
    pub(super) fn new(quiet: bool, what: &'static str, before: u64) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), before };
        }
        let bar = ProgressBar::new(before).with_message(what).with_position(before);
        let style =
            "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, before }
    }

    /// `done` bytes more are there, of `total` in all.
    pub(super) fn show(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(self.before.saturating_add(done));
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
