//! `files`: the open files of a process.

use super::ps::finished;
use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::{files, pid},
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
    let files = files::read(kernel, task.addr)?;
    if args.listing.json {
        out::json_lines(&files.files)?;
    } else {
        out::rendered(|text| render::files(text, &files.files))?;
    }
    args.listing.report(&session);
    Ok(finished(files.torn))
}
