//! `dump`: the host's RAM in a file.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    addr::PhysRange,
    audit::{Event, Space},
    cli::{Outcome, out, progress::Bytes, target::Target},
    dump::{self, Dump, Existing, Report, unreadable},
    kernel::{locate::Shortfall, poison::Unpoisoned},
    session::Session,
};

/// Only RAM is read, as the target's own map has it, without pages that have memory errors. Pages of zeros become holes
/// of the file. Ctrl-C ends it cleanly (exit code 130), and so does SIGTERM; killed in any other way, it can be resumed as
/// well. On a running host memory changes while it is read: the dump is no snapshot.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// What to make
    #[arg(long, value_name = "FORMAT", default_value = "elf")]
    format: Format,

    /// Continue an interrupted dump: what is stored is not read again
    #[arg(long)]
    resume: bool,

    /// Replace a file that exists
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,

    /// One JSON object
    #[arg(long)]
    json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Byte N of the file is physical address N
    Raw,
    /// An ELF core (vmcore) as drgn and crash open it
    Elf,
}

/// What the command says in the end; in JSON as it is.
#[derive(Debug, Serialize)]
struct Summary {
    file: PathBuf,
    complete: bool,
    interrupted: bool,
    ram_bytes: u64,
    kept_bytes: u64,
    damaged_bytes: u64,
    read_bytes: u64,
    zero_bytes: u64,
    unreadable_bytes: u64,
    unreadable_ranges: usize,
    missing_bytes: u64,
    /// Why there may be more RAM than the target's map has.
    ram_shortfall: Option<String>,
    /// What crossed the link beyond the bytes read and those that cannot be.
    asked_twice_bytes: u64,
    requests: u64,
    seconds: f64,
    mib_per_second: f64,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    args.target.refuse_own(&args.output)?;
    let quiet = quiet || args.json;
    let mut session = args.target.open(quiet)?;
    session.mark_boot();
    let session = session;
    session.kernel.user_memory("a dump of RAM, which holds the memory of processes,")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop)).context("cannot wait for signals")?;
    }
    let format = match args.format {
        Format::Raw => dump::Format::Raw,
        Format::Elf => dump::Format::Elf,
    };
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };
    let dump = Dump::open(&args.output, format, &session.kernel.map, existing)?;
    let ranges: Vec<String> = session.kernel.map.ram.iter().map(PhysRange::to_string).collect();
    args.target.note(&Event::Read { space: Space::Physical, task: None, ranges: &ranges })?;
    let phys = Unpoisoned::new(&session.kernel, &*session.phys);
    let (before, start) = (session.counts(), Instant::now());
    let (ram, progress) = (dump.ram(), Bytes::new(quiet, "copying RAM", dump.kept()));
    let looked = Cell::new(0);
    let booted_anew = || {
        let before = session.counts().bytes;
        let anew = session.booted_anew();
        looked.set(looked.get() + session.counts().bytes - before);
        anew
    };
    let report = dump.run(&phys, &stop, &booted_anew, &|done| progress.show(done, ram))?;
    drop(progress);
    let shortfall = session.kernel.map.ram_shortfall;
    let mut after = session.counts();
    after.bytes -= looked.get();
    let summary = Summary::new(&args.output, &report, shortfall, start.elapsed(), [before, after]);
    finish(args, &session, &report, &summary)
}

impl Summary {
    fn new(
        file: &Path,
        report: &Report,
        shortfall: Option<Shortfall>,
        took: Duration,
        [before, after]: [crate::mem::stats::Counts; 2],
    ) -> Self {
        let asked = after.bytes - before.bytes;
        Self {
            file: file.to_owned(),
            complete: report.is_complete() && shortfall.is_none(),
            interrupted: report.interrupted,
            ram_bytes: report.ram,
            kept_bytes: report.kept,
            damaged_bytes: report.damaged,
            read_bytes: report.read,
            zero_bytes: report.zeros,
            unreadable_bytes: report.unreadable_bytes(),
            unreadable_ranges: report.unreadable.len(),
            missing_bytes: report.ram - report.kept - report.read,
            ram_shortfall: shortfall.map(|shortfall| shortfall.to_string()),
            asked_twice_bytes: asked.saturating_sub(report.read + report.unreadable_bytes()),
            requests: after.requests - before.requests,
            seconds: took.as_secs_f64(),
            mib_per_second: report.read as f64 / took.as_secs_f64().max(1e-6) / f64::from(1 << 20),
        }
    }

    fn text(&self) -> String {
        let Self { ram_bytes, kept_bytes, read_bytes, missing_bytes, requests, asked_twice_bytes, .. } = self;
        let mut text = format!(
            "{}: {ram_bytes} bytes of RAM = {kept_bytes} kept + {read_bytes} read + {missing_bytes} missing\n\
             {requests} requests, {asked_twice_bytes} bytes asked for twice, {} bytes in pages of zeros; \
             {:.1} s, {:.1} MiB/s\n",
            self.file.display(),
            self.zero_bytes,
            self.seconds,
            self.mib_per_second,
        );
        if self.damaged_bytes > 0 {
            text.push_str(&format!(
                "{} bytes of an earlier run were not in the file as its journal says: read anew\n",
                self.damaged_bytes
            ));
        }
        text
    }
}

fn finish(args: &Args, session: &Session, report: &Report, summary: &Summary) -> anyhow::Result<Outcome> {
    if args.json {
        out::json_lines([summary])?;
    } else {
        out::text(&summary.text())?;
    }
    if args.stats {
        out::notice(&session.stats());
    }
    if !report.unreadable.is_empty() {
        tell_unreadable(args, report);
    }
    if let Some(shortfall) = &summary.ram_shortfall {
        out::notice(&format!(
            "nettlp-gdb: there may be RAM that is not in the dump: {shortfall}; dump it again to another file, or give \
             --vmlinux, with which the kernel's own list of RAM is read"
        ));
    }
    if report.interrupted {
        out::notice(&format!(
            "nettlp-gdb: interrupted; run it again with --resume to read the {} bytes that are missing",
            summary.missing_bytes
        ));
        return Ok(Outcome::Interrupted);
    }
    Ok(if summary.complete { Outcome::Done } else { Outcome::Partial })
}

/// Ranges that go to the terminal; the file lists them all.
const SHOWN: usize = 10;

fn tell_unreadable(args: &Args, report: &Report) {
    let absent = match args.format {
        Format::Raw => "holes in the file, and look like zeros",
        Format::Elf => "not in the core",
    };
    out::notice(&format!(
        "nettlp-gdb: {} bytes in {} ranges could not be read; they are {absent}; {} lists them:",
        report.unreadable_bytes(),
        report.unreadable.len(),
        unreadable::path(&args.output).display()
    ));
    for unreadable in report.unreadable.iter().take(SHOWN) {
        out::notice(&format!("  {unreadable}"));
    }
    if report.unreadable.len() > SHOWN {
        out::notice(&format!("  and {} more", report.unreadable.len() - SHOWN));
    }
}
