//! `dmesg`: the kernel log.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::dmesg,
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let records = dmesg::read(&session.kernel)?;
    if args.listing.json {
        out::json_lines(&records)?;
    } else {
        out::rendered(|text| render::dmesg(text, &records))?;
    }
    args.listing.report(&session);
    Ok(Outcome::Done)
}
