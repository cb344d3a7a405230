//! `symbols`: a vmlinux made from the target's own memory.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::{
    cli::{Outcome, out, target::Target},
    kernel::btf,
    synth::vmlinux::{self, Input},
};

/// The file has the kernel's symbols, all its types and the prototypes of its functions, as gdb, drgn and pahole read
/// them, at the addresses it was linked at: use it in place of the distribution's vmlinux.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// One JSON object
    #[arg(long)]
    json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

/// What the command says in the end; in JSON as it is.
#[derive(Debug, Serialize)]
struct Summary {
    file: PathBuf,
    bytes: usize,
    symbols: usize,
    types: usize,
    functions: usize,
    variables: usize,
    seconds: f64,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    ensure!(
        !args.target.names(&args.output),
        "{} is what the target is read from: choose another file",
        args.output.display()
    );
    let start = Instant::now();
    let session = args.target.open(quiet || args.json)?;
    let kernel = &session.kernel;
    let symbols = kernel.symbols("a vmlinux")?;
    let types = btf::read(&*kernel.memory, &btf::Place::of(&kernel.map, Some(symbols)))
        .context("a vmlinux needs the types the kernel carries")?;
    let made = vmlinux::write(&Input {
        symbols: symbols.table(),
        btf: &types,
        build_id: kernel.map.build_id.as_deref(),
        release: kernel.map.release.as_deref(),
    })?;
    fs::write(&args.output, &made.bytes)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let summary = Summary {
        file: args.output.clone(),
        bytes: made.bytes.len(),
        symbols: made.symbols,
        types: made.types,
        functions: made.functions,
        variables: made.variables,
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json {
        out::json_lines([&summary])?;
    } else {
        out::text(&format!(
            "{}: {} symbols, {} types, {} functions and {} variables with their types; {} bytes, {:.1} s\n",
            summary.file.display(),
            summary.symbols,
            summary.types,
            summary.functions,
            summary.variables,
            summary.bytes,
            summary.seconds,
        ))?;
    }
    if args.stats {
        out::notice(&session.stats());
    }
    Ok(Outcome::Done)
}
