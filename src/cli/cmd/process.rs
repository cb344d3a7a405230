//! `process`: everything known of one process.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::{pid, process},
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
    let found = process::read(kernel, &pid::find(kernel, args.pid)?)?;
    if args.listing.json {
        out::json_lines([&found])?;
    } else {
        out::rendered(|text| render::process(text, &found))?;
    }
    args.listing.report(&session);
    Ok(Outcome::Done)
}
