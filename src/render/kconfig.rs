//! A recovered configuration: the comment above it, and its figures.

use std::fmt::{self, Write};

use super::printable;
use crate::kernel::kconfig::{
    Report,
    assemble::{Conflict, Sequence},
};

/// Of each kind of exception, as many are listed; JSON has all.
const MAX_LISTED: usize = 40;

/// The comment that says where a configuration file is from.
///
/// # Errors
/// The writer's own.
pub fn kconfig_head(out: &mut dyn Write, release: &str, report: &Report) -> fmt::Result {
    writeln!(out, "# Configuration of {}, recovered by nettlp-gdb", printable(release))?;
    writeln!(out, "# from memory: {}", printable(&report.detail))?;
    writeln!(out, "# {}", completeness(report))?;
    writeln!(out, "# {}", sequence(report.sequence))?;
    for limit in &report.limits {
        writeln!(out, "# INCOMPLETE: {limit}")?;
    }
    for conflict in report.conflicts.iter().filter(|conflict| !conflict.written).take(MAX_LISTED) {
        writeln!(out, "# Left out, memory has different values: {}", values(conflict))?;
    }
    for cut in report.cut.iter().take(MAX_LISTED) {
        writeln!(out, "# Left out, half a line: {}", printable(cut))?;
    }
    Ok(())
}

fn completeness(report: &Report) -> String {
    let options = report.options;
    if report.is_complete() {
        format!("All {options} options, from the first line of the file to its last")
    } else if report.interrupted {
        format!("INCOMPLETE: {options} options; the search was interrupted")
    } else if !report.limits.is_empty() {
        format!("INCOMPLETE: {options} options; not all text in memory was looked at")
    } else {
        format!("INCOMPLETE: {options} options; others are missing")
    }
}

const fn sequence(sequence: Sequence) -> &'static str {
    match sequence {
        Sequence::File => "In the order of the file",
        Sequence::Menus => "In the order of the source tree's menus",
        Sequence::Sorted => "In the order of names: the file's own is not known",
    }
}

fn values(conflict: &Conflict) -> String {
    conflict.values.iter().map(|value| printable(value)).collect::<Vec<_>>().join(" / ")
}

/// The figures, a line each, and every exception.
///
/// # Errors
/// The writer's own.
pub fn kconfig(out: &mut dyn Write, report: &Report) -> fmt::Result {
    let conflicts = |written| report.conflicts.iter().filter(move |conflict| conflict.written == written);
    let (stale, open) = (conflicts(true).count(), conflicts(false).count());
    let missing = match (report.whole, report.cut.len()) {
        (true, _) => "none: from the header to the end of the file without a gap".to_owned(),
        (false, 0) => "unknown: not all of the file was seen".to_owned(),
        (false, cut) => {
            format!("at least {} ({cut} halves of lines without the other half)", cut.div_ceil(2))
        }
    };
    let mut rows = vec![
        ("how", printable(&report.detail)),
        ("header", report.version.as_deref().map_or_else(|| "none seen".to_owned(), printable)),
        ("options", report.options.to_string()),
        ("found", format!("{} whole in one page", report.found)),
        (
            "stitched",
            format!(
                "{} by the page cache's order, {} by the order of options, {} with only one ending",
                report.stitched_by_page_cache, report.stitched_by_order, report.completed
            ),
        ),
        ("missing", missing),
        ("conflicting", format!("{open} left out, {stale} in stale copies")),
        ("order", sequence(report.sequence).to_owned()),
    ];
    let others = report
        .others
        .iter()
        .map(|other| format!("{} ({} options)", printable(&other.version), other.options));
    let others: Vec<String> = others.collect();
    let mut row_if = |when: bool, name, value: String| {
        if when {
            rows.push((name, value));
        }
    };
    row_if(!others.is_empty(), "not ours", others.join(", "));
    row_if(report.unattributed > 0, "left out", format!("{} options of unknown files", report.unattributed));
    row_if(report.stray > 0, "stray", format!("{} lines in other text", report.stray));
    row_if(report.unreadable > 0, "unreadable", format!("{} bytes of RAM", report.unreadable));
    row_if(report.interrupted, "interrupted", "RAM was not searched to its end".to_owned());
    for (name, value) in rows {
        writeln!(out, "{name:<13}{value}")?;
    }
    for conflict in report.conflicts.iter().take(MAX_LISTED) {
        writeln!(out, "  conflict: {}", values(conflict))?;
    }
    for cut in report.cut.iter().take(MAX_LISTED) {
        writeln!(out, "  cut: {}", printable(cut))?;
    }
    Ok(())
}
