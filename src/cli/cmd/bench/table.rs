//! The rows of a bench, as text.

use std::fmt;

/// One thing measured: ours against another way, in the same unit.
#[derive(Debug, serde::Serialize)]
pub(super) struct Row {
    /// What the adapter adds, in microseconds.
    pub(super) latency_us: u64,
    /// What was measured.
    pub(super) what: &'static str,
    /// The unit of both figures.
    pub(super) unit: &'static str,
    /// This program's figure.
    pub(super) ours: f64,
    /// What it is compared with.
    pub(super) against: &'static str,
    /// Its figure.
    pub(super) theirs: f64,
    /// How many times as good ours is.
    pub(super) ratio: f64,
    /// What else there is to know.
    pub(super) note: String,
}

impl Row {
    /// Of rates: more is better.
    pub(super) fn rates(latency_us: u64, what: &'static str, unit: &'static str, ours: f64) -> Self {
        let (against, note) = ("", String::new());
        Self { latency_us, what, unit, ours, against, theirs: f64::NAN, ratio: f64::NAN, note }
    }

    pub(super) fn against(self, against: &'static str, theirs: f64) -> Self {
        Self { against, theirs, ratio: self.ours / theirs, ..self }
    }

    /// Of times: less is better.
    pub(super) fn times(
        latency_us: u64,
        what: &'static str,
        ours: f64,
        against: &'static str,
        theirs: f64,
    ) -> Self {
        let row = Self::rates(latency_us, what, "ms", ours);
        Self { against, theirs, ratio: theirs / ours, ..row }
    }
}

/// Writes a table.
pub(super) fn write(out: &mut dyn fmt::Write, rows: &[Row]) -> fmt::Result {
    writeln!(out, "{:>10}  {:<20} {:>10} {:<8} {:>7}  against", "latency us", "what", "ours", "", "ratio")?;
    for row in rows {
        let Row { latency_us, what, unit, ours, against, theirs, ratio, note } = row;
        write!(
            out,
            "{latency_us:>10}  {what:<20} {ours:>10.2} {unit:<8} {ratio:>7.2}  {theirs:.2} {against}"
        )?;
        if !note.is_empty() {
            write!(out, "; {note}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
