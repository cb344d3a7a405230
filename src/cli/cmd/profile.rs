//! `profile`: write a target profile, check some, or print one.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    cli::{Outcome, UsageError, out, target::Target},
    link::Requester,
    profile::Profile,
};

/// What `new` writes without a target: every key, each as a comment.
const TEMPLATE: &str = include_str!("../../../target-profiles/template.toml");

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write a profile: a commented template, or what is found of a target
    New {
        /// Read the target and write down what it is; without this, a template
        #[arg(long)]
        from_target: bool,
        /// Where to write it; standard output otherwise. A file that exists is not replaced
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        target: Box<Target>,
    },
    /// Say whether profiles are valid, and whether the files they name are there
    Check {
        /// The profiles
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print every value as it takes effect, and where it comes from: profile, command line or default
    Show {
        /// The profile
        file: Option<PathBuf>,
        /// One JSON object per key
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Box<Target>,
    },
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::New { from_target, output, target } => new(*from_target, output.as_deref(), target, quiet),
        Action::Check { files } => check(files),
        Action::Show { file, json, target } => show(&target.with_profile(file.as_deref())?, *json),
    }
}

fn new(from_target: bool, output: Option<&Path>, target: &Target, quiet: bool) -> anyhow::Result<Outcome> {
    if let Some(path) = output
        && path.exists()
    {
        bail!("{} exists: choose another file", path.display());
    }
    let (text, outcome) = match (from_target, target.is_given()) {
        (true, _) => {
            let session = target.open(quiet)?;
            let known = session.kernel.map.ram_shortfall.is_none();
            (target.found(&session)?, if known { Outcome::Done } else { Outcome::Partial })
        }
        (false, false) => (TEMPLATE.to_owned(), Outcome::Done),
        (false, true) => {
            return Err(UsageError("to read the target, give --from-target".to_owned()).into());
        }
    };
    let Some(path) = output else {
        out::text(&text)?;
        return Ok(outcome);
    };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    match file.and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists: choose another file", path.display())
        }
        outcome => outcome.with_context(|| format!("cannot write {}", path.display()))?,
    }
    Ok(outcome)
}

fn check(files: &[PathBuf]) -> anyhow::Result<Outcome> {
    let (mut outcome, mut invalid) = (Outcome::Done, Vec::new());
    for file in files {
        match check_one(file) {
            Ok(missing) => {
                out::text(&format!("{}: valid\n", file.display()))?;
                for path in missing {
                    out::notice(&format!("nettlp-gdb: {}: there is no {}", file.display(), path.display()));
                    outcome = Outcome::Partial;
                }
            }
            Err(error) => invalid.push(error),
        }
    }
    let last = invalid.pop();
    invalid.iter().for_each(out::complain);
    last.map_or(Ok(outcome), Err)
}

/// The files that the profile names and that are not there.
fn check_one(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let profile = Profile::load(file)?;
    if let Some(requester) = profile.link.and_then(|link| link.requester) {
        let parsed = requester.parse::<Requester>();
        parsed.with_context(|| format!("the profile {} is not valid: `link.requester`", file.display()))?;
    }
    let named = profile.kernel.vmlinux.into_iter().chain(profile.kernel.types);
    Ok(named.filter(|path| !path.exists()).collect())
}

fn show(target: &Target, json: bool) -> anyhow::Result<Outcome> {
    let settings = target.settings()?;
    if json {
        out::json_lines(&settings)?;
        return Ok(Outcome::Done);
    }
    let width = |text: fn(&crate::cli::target::Setting) -> &str| {
        settings.iter().map(|setting| text(setting).len()).max().unwrap_or(0)
    };
    let (key, value) = (width(|setting| &setting.key), width(|setting| &setting.value).min(40));
    let line = |setting: &crate::cli::target::Setting| {
        format!("{:key$}  {:value$}  {}\n", setting.key, setting.value, setting.from)
    };
    out::text(&settings.iter().map(line).collect::<String>())?;
    Ok(Outcome::Done)
}
