//! `modules`: loaded modules.

use crate::{
    cli::{Outcome, target::Listing},
    kernel::module,
    render,
};

pub(in crate::cli) fn run(listing: &Listing, quiet: bool) -> anyhow::Result<Outcome> {
    let session = listing.open(quiet)?;
    let modules = module::list(&session.kernel)?;
    listing.print(&session, &modules, |text| render::modules(text, &modules))?;
    Ok(Outcome::Done)
}
