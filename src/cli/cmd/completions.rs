//! `completions`: a script for the user's shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, Outcome, out};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The shell
    shell: Shell,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nettlp-gdb", &mut script);
    out::bytes(&script)?;
    Ok(Outcome::Done)
}
