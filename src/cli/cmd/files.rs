//! `files`: the open files of a process.

use crate::{
    cli::{Outcome, target::OneProcess},
    kernel::files,
    render,
};

pub(in crate::cli) fn run(args: &OneProcess, quiet: bool) -> anyhow::Result<Outcome> {
    let (session, task) = args.open(quiet)?;
    let kernel = &session.kernel;
    let files = files::read(kernel, task.addr)?;
    args.listing.print(&session, &files.files, |text| render::files(text, &files.files))?;
    Ok(args.listing.finished(files.torn))
}
