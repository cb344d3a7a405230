//! `process`: everything known of one process.

use crate::{
    cli::{Outcome, target::OneProcess},
    kernel::process,
    render,
};

pub(in crate::cli) fn run(args: &OneProcess, quiet: bool) -> anyhow::Result<Outcome> {
    let (session, task) = args.open(quiet)?;
    let kernel = &session.kernel;
    let found = process::read(kernel, &task)?;
    args.listing.print(&session, [&found], |text| render::process(text, &found))?;
    Ok(args.listing.finished(found.torn))
}
