//! `info`: which kernel, where, and how that was found.

use crate::{
    cli::{Outcome, target::Listing},
    kernel::info::Info,
    render,
};

pub(in crate::cli) fn run(listing: &Listing, quiet: bool) -> anyhow::Result<Outcome> {
    let session = listing.open(quiet)?;
    let info = Info::of(&session.kernel);
    listing.print(&session, [&info], |text| render::info(text, &info))?;
    Ok(Outcome::Done)
}
