//! `info`: which kernel, where, and how that was found.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::info::Info,
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let info = Info::of(&session.kernel);
    if args.listing.json {
        out::json_lines([&info])?;
    } else {
        out::rendered(|text| render::info(text, &info))?;
    }
    args.listing.report(&session);
    Ok(Outcome::Done)
}
