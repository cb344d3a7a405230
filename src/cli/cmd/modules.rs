//! `modules`: loaded modules.

use crate::{
    cli::{Outcome, out, target::Target},
    kernel::module,
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.target.open(quiet || args.json)?;
    let modules = module::list(&session.kernel)?;
    if args.json {
        out::json_lines(&modules)?;
    } else {
        out::rendered(|text| render::modules(text, &modules))?;
    }
    Ok(Outcome::Done)
}
