//! `maps`: the mappings of a process.

use crate::{
    cli::{Outcome, target::OneProcess},
    kernel::{maps, mm},
    render,
};

pub(in crate::cli) fn run(args: &OneProcess, quiet: bool) -> anyhow::Result<Outcome> {
    let (session, task) = args.open(quiet)?;
    let kernel = &session.kernel;
    let maps = maps::read(kernel, &mm::of(kernel, task.addr, task.pid)?)?;
    args.listing.print(&session, &maps.maps, |text| render::maps(text, &maps.maps))?;
    Ok(args.listing.finished(maps.torn))
}
