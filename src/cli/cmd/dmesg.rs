//! `dmesg`: the kernel log.

use crate::{
    cli::{Outcome, out, target::Target},
    kernel::dmesg,
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// One JSON object per line
    #[arg(long)]
    json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.target.open(quiet || args.json)?;
    let records = dmesg::read(&session.kernel)?;
    if args.json {
        out::json_lines(&records)?;
    } else {
        out::rendered(|text| render::dmesg(text, &records))?;
    }
    if args.stats {
        out::notice(&session.stats());
    }
    Ok(Outcome::Done)
}
