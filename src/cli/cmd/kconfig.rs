//! `kconfig`: the running kernel's configuration.

use std::{
    fs,
    ops::ControlFlow,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Context;
use signal_hook::{consts::SIGINT, flag};

use crate::{
    addr::PhysRange,
    audit::{Event, Space},
    cli::{Outcome, UsageError, file, out, progress, target::Target},
    kernel::{
        kconfig::{self, ConfigError, Report, order},
        poison::Unpoisoned,
    },
    render,
};

/// A Kconfig file has some thousand lines.
const MAX_KCONFIG: u64 = 4 << 20;

/// Without CONFIG_IKCONFIG all RAM is searched for the file, which somebody must have read on the host:
/// `cat /boot/config-*`. Ctrl-C ends the search with what was found.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// Where to write it; standard output otherwise
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The kernel's source tree: its Kconfig files prove names and order of options
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,

    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    if args.json && args.output.is_none() {
        return Err(UsageError("--json needs -o FILE: both would go to standard output".to_owned()).into());
    }
    if let Some(output) = &args.output {
        args.target.refuse_own(output)?;
        file::check(output)?;
    }
    let names = args.source.as_deref().map(names).transpose()?.unwrap_or_default();
    let quiet = quiet || args.json;
    let session = args.target.open(quiet)?;

    let ranges: Vec<String> = session.kernel.map.ram.iter().map(PhysRange::to_string).collect();
    args.target.note(&Event::Read { space: Space::Physical, task: None, ranges: &ranges })?;

    let stop = Arc::new(AtomicBool::new(false));
    // The second Ctrl-C ends the program.
    flag::register_conditional_default(SIGINT, Arc::clone(&stop)).context("cannot catch Ctrl-C")?;
    flag::register(SIGINT, Arc::clone(&stop)).context("cannot catch Ctrl-C")?;
    let phys = Unpoisoned::new(&session.kernel, &*session.phys);
    let bar = progress::Bytes::new(quiet, "searching RAM", 0);
    let recovered = kconfig::recover(&session.kernel, &phys, &names, &mut |done, total| {
        bar.show(done, total);
        if stop.load(Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(bar);
    let recovered = match recovered {
        Err(ConfigError::None(nothing)) if nothing.report.interrupted => {
            out::notice(&format!("nettlp-gdb: {nothing}"));
            return Ok(Outcome::Interrupted);
        }
        recovered => recovered?,
    };

    let mut text = String::new();
    let release = session.kernel.map.release.as_deref().unwrap_or("an unknown kernel");
    render::kconfig_head(&mut text, release, &recovered.report)?;
    text.push_str(&recovered.text);
    match &args.output {
        Some(path) => file::write(path, text.as_bytes())?,
        None => out::text(&text)?,
    }
    if args.json {
        out::json_lines([&recovered.report])?;
    } else if !quiet || !recovered.report.is_complete() {
        let mut figures = String::new();
        render::kconfig(&mut figures, &recovered.report)?;
        out::notice(figures.trim_end());
    }
    for limit in &recovered.report.limits {
        out::notice(&format!("nettlp-gdb: the configuration is incomplete: {limit}"));
    }
    if args.stats {
        out::notice(&session.stats());
    }
    Ok(outcome(&recovered.report))
}

fn outcome(report: &Report) -> Outcome {
    match report {
        Report { interrupted: true, .. } => Outcome::Interrupted,
        report if report.is_complete() => Outcome::Done,
        _ => Outcome::Partial,
    }
}

/// The names of options in the source tree at `directory`, in the order of its menus.
fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let names = order::names_in_tree("x86", &mut |path| {
        let path = Path::new(path);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let file = inside.then(|| directory.join(path))?;
        let small = fs::metadata(&file).is_ok_and(|data| data.is_file() && data.len() <= MAX_KCONFIG);
        small.then(|| fs::read_to_string(file).ok()).flatten()
    });
    if names.is_empty() {
        let sentence = format!("{} is no kernel source tree: no Kconfig with options", directory.display());
        return Err(UsageError(sentence).into());
    }
    Ok(names)
}
