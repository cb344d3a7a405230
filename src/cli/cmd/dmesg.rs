//! `dmesg`: the kernel log.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::dmesg,
    render,
};

pub(in crate::cli) fn run(listing: &Listing, quiet: bool) -> anyhow::Result<Outcome> {
    let session = listing.open(quiet)?;
    let log = dmesg::read(&session.kernel)?;
    listing.print(&session, log.messages(), |text| render::dmesg(text, log.messages()))?;
    let Some(loss) = log.loss() else { return Ok(Outcome::Done) };
    out::notice(&format!("nettlp-gdb: {loss}"));
    Ok(Outcome::Partial)
}
