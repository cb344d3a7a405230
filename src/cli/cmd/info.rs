//! `info`: which kernel, where, and how that was found.

use crate::{
    cli::{Outcome, out, target::Target},
    kernel::info::Info,
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// One JSON object
    #[arg(long)]
    json: bool,

    /// Also print on stderr what finding it cost
    #[arg(long)]
    stats: bool,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.target.open(quiet || args.json)?;
    let info = Info::of(&session.kernel);
    if args.json {
        out::json_lines([&info])?;
    } else {
        out::rendered(|text| render::info(text, &info))?;
    }
    if args.stats {
        out::notice(&session.stats());
    }
    Ok(Outcome::Done)
}
