//! The running kernel's configuration (`.config`), from its memory.
//!
//! A kernel built with `CONFIG_IKCONFIG=y` has it in its image ([`embedded`]). Otherwise somebody may have read
//! `/boot/config-*`, whose pages are then in the page cache, anywhere in RAM: [`scan`] finds [`run`]s of its lines,
//! [`owner`] and [`order`] say which page follows which, `chain` joins the lines that were cut by a page's edge, and
//! [`assemble`] tells the running kernel's text from other kernels'. No value is written that is not in memory, whole or
//! in two proved halves.

pub mod assemble;
mod chain;
mod embedded;
mod forced;
mod identity;
pub mod line;
pub mod order;
pub mod owner;
pub mod run;
pub mod scan;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use serde::Serialize;

pub use identity::Identity;

use self::{
    assemble::{Assembly, Conflict, Other, Sequence},
    order::Order,
    owner::Owners,
    scan::Scan,
};
use super::{Kernel, KernelError, page_array::PageArray};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange},
    mem::PhysMem,
};

/// Where a configuration is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// From the kernel image.
    Embedded,
    /// From text in RAM.
    Search,
}

/// What was found, and what was not.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it is from.
    pub method: Method,
    /// How it was found, for a person.
    pub detail: String,
    /// The version in the file's header.
    pub version: Option<String>,
    /// Options written.
    pub options: usize,
    /// Of them, those that stand whole in one page.
    pub found: usize,
    /// Of them, those joined from pages that are neighbours in the page cache.
    pub stitched_by_page_cache: usize,
    /// Of them, those joined because of the order of options.
    pub stitched_by_order: usize,
    /// Of them, those of which half was seen, and the other half could not be another one.
    pub completed: usize,
    /// Nothing is missing: the text goes from the header to the end of the file without a gap.
    pub whole: bool,
    /// Halves of lines whose other half is not proved: at least so many options are missing.
    pub cut: Vec<String>,
    /// Options on which texts disagree.
    pub conflicts: Vec<Conflict>,
    /// Other kernels' configurations in memory; nothing of them was written.
    pub others: Vec<Other>,
    /// Options only in text that nothing ties to the running kernel; not written.
    pub unattributed: usize,
    /// Options that stand alone in other text; not looked at.
    pub stray: usize,
    /// The order of the lines.
    pub sequence: Sequence,
    /// Pages with different text of configuration files.
    pub pages: usize,
    /// Bytes searched.
    pub bytes: u64,
    /// Bytes of RAM that could not be read.
    pub unreadable: u64,
    /// Whether the search was stopped before its end.
    pub interrupted: bool,
    /// What was left out because memory has more text than any host, a sentence each.
    pub limits: Vec<String>,
}

impl Report {
    /// Whether the configuration is known to have everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.whole && self.limits.is_empty() && self.conflicts.iter().all(|conflict| conflict.written)
    }
}

/// A configuration and how it was come by.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The lines.
    pub text: String,
    /// The figures.
    pub report: Report,
}

const READ_FIRST: &str = "it has to be read on the host first, as by `cat /boot/config-$(uname -r)`";

/// There is nothing of the running kernel's configuration.
#[derive(Debug, thiserror::Error)]
#[error(
    "no configuration of the running kernel in {} MiB of RAM{}{}: {}",
    report.bytes >> 20,
    others(&report.others),
    report.limits.iter().map(|limit| format!(" ({limit})")).collect::<String>(),
    if report.interrupted { "the search was interrupted" } else { READ_FIRST }
)]
pub struct NoConfig {
    /// What was seen instead.
    pub report: Box<Report>,
}

/// There is no configuration to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// RAM has none.
    #[error(transparent)]
    None(#[from] NoConfig),
    /// The kernel's read-only data has none, and RAM is not to be searched.
    #[error("the kernel image has no configuration (CONFIG_IKCONFIG), and searching RAM for one is {0}")]
    Unsearched(#[source] KernelError),
}

fn others(others: &[Other]) -> String {
    let versions: Vec<&str> = others.iter().map(|other| other.version.as_str()).collect();
    if versions.is_empty() { String::new() } else { format!(" (but of {})", versions.join(", ")) }
}

/// Finds the configuration of `kernel`. `names` are those of its source tree in order ([`order::names_in_tree`]), or
/// none. `step` is told the bytes done and in all, and may end the search: what was found by then is returned.
///
/// # Errors
/// [`ConfigError`].
pub fn recover(
    kernel: &Kernel,
    phys: &dyn PhysMem,
    names: &[String],
    step: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Recovered, ConfigError> {
    if let Some((text, detail)) = embedded::find(kernel, phys) {
        return Ok(embedded_report(text, detail));
    }
    kernel
        .user_memory("all of RAM, which holds the memory of processes,")
        .map_err(ConfigError::Unsearched)?;
    let identity = Identity { release: kernel.map.release.as_deref(), banner: kernel.map.banner.as_deref() };
    Ok(match PageArray::of(kernel) {
        Some(owners) => search(phys, &kernel.map.ram, &owners, identity, names, step)?,
        None => search(phys, &kernel.map.ram, &owner::Unknown, identity, names, step)?,
    })
}

fn embedded_report(text: String, detail: &str) -> Recovered {
    let lines = text.lines().map(str::as_bytes);
    let options = lines.filter_map(|line| line::Line::parse(line)?.setting()).count();
    let version =
        text.lines().take(4).find_map(|line| line::header_version(line.as_bytes())).map(str::to_owned);
    let assembly =
        Assembly { version, found: options, whole: true, sequence: Sequence::File, ..Assembly::default() };
    let mut report = report(assembly, &Scan::default());
    report.method = Method::Embedded;
    report.detail = format!("CONFIG_IKCONFIG, by {detail}");
    Recovered { text, report }
}

/// Searches `ram` for text of the configuration of the kernel that `identity` describes.
///
/// # Errors
/// [`NoConfig`].
pub fn search(
    phys: &dyn PhysMem,
    ram: &[PhysRange],
    owners: &dyn Owners,
    identity: Identity<'_>,
    names: &[String],
    step: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Recovered, NoConfig> {
    let scan = scan::scan(phys, ram, step);
    let pages: Vec<PhysAddr> = scan.pieces.iter().flat_map(|piece| piece.pages.iter().copied()).collect();
    let mut answers = owners.owners(&pages).into_iter();
    let owners: Vec<_> =
        scan.pieces.iter().map(|piece| answers.by_ref().take(piece.pages.len()).collect()).collect();
    let order = Order::new(names, &scan.pieces);
    let mut limits: Vec<String> = scan.limit().into_iter().collect();
    let chains = chain::chains(&scan.pieces, &owners, &order, &mut limits);
    let mut assembly = assemble::assemble(&scan.pieces, &chains, identity, &order, &mut limits);
    let lines = std::mem::take(&mut assembly.lines);
    let report = Report { limits, ..report(assembly, &scan) };
    if report.options == 0 {
        return Err(NoConfig { report: Box::new(report) });
    }
    let mut text = lines.join("\n");
    text.push('\n');
    Ok(Recovered { text, report })
}

fn report(assembly: Assembly, scan: &Scan) -> Report {
    let pages = scan.pieces.len();
    let options =
        assembly.found + assembly.stitched_by_page_cache + assembly.stitched_by_order + assembly.completed;
    Report {
        method: Method::Search,
        detail: format!("text in {pages} pages of {} searched", scan.bytes / PAGE_SIZE),
        version: assembly.version,
        options,
        found: assembly.found,
        stitched_by_page_cache: assembly.stitched_by_page_cache,
        stitched_by_order: assembly.stitched_by_order,
        completed: assembly.completed,
        whole: assembly.whole,
        cut: assembly.cut,
        conflicts: assembly.conflicts,
        others: assembly.others,
        unattributed: assembly.unattributed,
        stray: scan.stray,
        sequence: assembly.sequence,
        pages,
        bytes: scan.bytes,
        unreadable: scan.unreadable,
        interrupted: scan.interrupted,
        limits: Vec::new(),
    }
}
