//! `dmesg`: the kernel log.

use crate::{
    cli::{Outcome, target::Listing},
    kernel::dmesg,
    render,
};

pub(in crate::cli) fn run(listing: &Listing, quiet: bool) -> anyhow::Result<Outcome> {
    let session = listing.open(quiet)?;
    let records = dmesg::read(&session.kernel)?;
    listing.print(&session, &records, |text| render::dmesg(text, &records))?;
    Ok(Outcome::Done)
}
