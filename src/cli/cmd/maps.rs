//! `maps`: the mappings of a process.

use super::ps::finished;
use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::{maps, mm, pid},
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// The process, by its pid or that of one of its threads
    pid: i32,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let kernel = &session.kernel;
    let task = pid::find(kernel, args.pid)?;
    let maps = maps::read(kernel, &mm::of(kernel, task.addr, task.pid)?)?;
    if args.listing.json {
        out::json_lines(&maps.maps)?;
    } else {
        out::rendered(|text| render::maps(text, &maps.maps))?;
    }
    args.listing.report(&session);
    Ok(finished(maps.torn))
}
