//! `profile`: check a target profile, or print it.

use std::path::PathBuf;

use crate::{
    cli::{Outcome, out},
    profile::Profile,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say whether profiles are valid
    Check {
        /// The profiles
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print a profile as it was understood
    Show {
        /// The profile
        file: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Check { files } => {
            for file in files {
                Profile::load(file)?;
                out::text(&format!("{}: valid\n", file.display()))?;
            }
        }
        Action::Show { file, json: true } => out::json_lines([Profile::load(file)?])?,
        Action::Show { file, json: false } => out::text(&toml::to_string(&Profile::load(file)?)?)?,
    }
    Ok(Outcome::Done)
}
