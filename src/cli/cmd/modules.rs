//! `modules`: loaded modules.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::module,
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let modules = module::list(&session.kernel)?;
    if args.listing.json {
        out::json_lines(&modules)?;
    } else {
        out::rendered(|text| render::modules(text, &modules))?;
    }
    args.listing.report(&session);
    Ok(Outcome::Done)
}
