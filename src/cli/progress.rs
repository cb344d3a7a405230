//! Progress of long work, on stderr, when that is a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::ProgressBar;

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
