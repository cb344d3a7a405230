//! The arguments that say which host, and what is known of it.

mod link;
mod listing;
mod settings;

use std::{
    ffi::OsStr,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::ensure;
use clap::Args;

use self::link::LinkArgs;
pub(super) use self::{
    link::port,
    listing::{Listing, OneProcess},
    settings::Setting,
};
use super::UsageError;
use crate::{
    addr::{PhysRange, VirtAddr, hex_bytes, parse_address},
    audit::{Audit, Event, Trail},
    kernel::{KernelMap, UserMemory},
    mem::{cache::Validity, file::ImageSpec},
    profile::{self, Policy, Profile, ProfileError},
    session::{
        self, Session, Source,
        handout::{Origin, Places},
    },
    symbols::place,
};

/// Which host.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Target")]
pub(super) struct Target {
    /// A target profile (TOML); the other options go before what it says
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// IP address of the NetTLP adapter
    #[arg(long, value_name = "IP", conflicts_with = "image")]
    adapter: Option<IpAddr>,

    /// A memory image instead of a host: `FILE[@PHYS[,offset=N][,len=N]]`, repeat for several; or an ELF core (vmcore)
    #[arg(long, value_name = "IMAGE")]
    image: Vec<ImageSpec>,

    /// The kernel's own vmlinux, with symbols and debug information; one without symbols gives types alone
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,

    /// RAM of the host, START-END; no read leaves these ranges; repeat for several
    #[arg(long, value_name = "RANGE")]
    ram: Vec<PhysRange>,

    /// Go on when the vmlinux is of another build than the running kernel
    #[arg(long)]
    force: bool,

    /// Append to FILE who looked at what and when, a JSON line each, before the answer is given
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,

    /// This program's lines in that file.
    #[arg(skip)]
    trail: OnceLock<Arc<Trail>>,

    #[command(flatten)]
    link: LinkArgs,
}

/// The kernel in memory is not the profile's.
#[derive(Debug, thiserror::Error)]
#[error(
    "`kernel.{key}` of the profile is {expected}, the kernel in memory has {found}: correct the profile, or --force to \
     go on"
)]
struct OtherKernel {
    key: &'static str,
    expected: String,
    found: String,
}

impl Target {
    fn profile(&self) -> Result<Profile, ProfileError> {
        self.profile.as_deref().map_or_else(|| Ok(Profile::default()), Profile::load)
    }

    /// What the arguments and the profile say together.
    pub(super) fn options(&self, validity: Validity) -> anyhow::Result<session::Options> {
        let profile = self.profile()?;
        let source = if self.image.is_empty() {
            Source::Adapter(self.link_config(profile.link.as_ref())?)
        } else {
            Source::Images(self.image.clone())
        };
        let ram = if self.ram.is_empty() { profile.memory.ram } else { self.ram.clone() };
        Ok(session::Options {
            source,
            vmlinux: self.vmlinux.clone().or(profile.kernel.file().cloned()),
            known: profile.kernel,
            ram,
            forbidden: profile.memory.forbidden,
            user_memory: match profile.memory.policy {
                Policy::All => UserMemory::All,
                Policy::KernelOnly => UserMemory::KernelOnly,
            },
            force: self.force,
            validity,
        })
    }

    /// Lets `session` write what the profile allows; returns that, for people.
    pub(super) fn allow_writes(&self, session: &mut Session) -> anyhow::Result<String> {
        let ranges = self.profile()?.memory.write;
        let shown: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        session.allow_writes(ranges).map_err(|error| UsageError(error.to_string()))?;
        Ok(shown.join(", "))
    }

    fn link_config(&self, profile: Option<&profile::Link>) -> anyhow::Result<crate::link::Config> {
        let Some(adapter) = self.adapter.or(profile.map(|link| link.adapter)) else {
            let which =
                "which host? Give --adapter IP, --image FILE or --profile FILE (or try `nettlp-gdb demo`)";
            return Err(UsageError(which.to_owned()).into());
        };
        self.link.config(adapter, profile)
    }

    /// Opens the host for one command: what is read once stays read.
    pub(super) fn open(&self, quiet: bool) -> anyhow::Result<Session> {
        self.open_with(Validity::Stop, quiet)
    }

    /// Opens the host; what is read holds for `validity`.
    pub(super) fn open_with(&self, validity: Validity, quiet: bool) -> anyhow::Result<Session> {
        let places = Places { debug: Vec::new(), cache: None };
        self.open_with_symbols(validity, Origin::None, &places, quiet)
    }

    /// Opens the host and, when no vmlinux is given, finds symbols for it.
    pub(super) fn open_with_symbols(
        &self,
        validity: Validity,
        origin: Origin,
        places: &Places,
        quiet: bool,
    ) -> anyhow::Result<Session> {
        self.trail()?;
        let progress = super::progress::Scan::new(quiet);
        let options = self.options(validity)?;
        let session = Session::open_with_symbols(options, origin, places, &|step| progress.show(&step))?;
        self.check_kernel(&session.kernel.map)?;
        Ok(session)
    }

    /// Refuses a kernel that is not the one the profile is of.
    fn check_kernel(&self, map: &KernelMap) -> anyhow::Result<()> {
        let expected = self.profile()?.kernel;
        let checks = [
            ("release", expected.release, map.release.clone()),
            ("build-id", expected.build_id.as_deref().map(hex_bytes), map.build_id.as_deref().map(hex_bytes)),
        ];
        for (key, expected, found) in checks {
            match (expected, found) {
                (Some(expected), Some(found)) if expected != found => {
                    let error = OtherKernel { key, expected, found };
                    if !self.force {
                        return Err(error.into());
                    }
                    log::warn!("{error}");
                }
                (Some(expected), None) => {
                    log::warn!("the target does not say whether its {key} is {expected}")
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// This program's lines in the audit file, the command line being the first; `None` without `--audit`.
    fn trail(&self) -> anyhow::Result<Option<&Trail>> {
        let Some(path) = &self.audit else { return Ok(None) };
        if self.trail.get().is_none() {
            let trail = Audit::open(path, self.description()?)?.begin(None)?;
            trail.append(&Event::Command { command: &command_line() })?;
            // Whoever came first; there is one thread yet.
            let _ = self.trail.set(Arc::new(trail));
        }
        Ok(self.trail.get().map(|trail| &**trail))
    }

    /// The audit file, for a server's clients.
    pub(super) fn audit(&self) -> anyhow::Result<Option<Audit>> {
        Ok(self.trail()?.map(|trail| trail.audit().clone()))
    }

    /// Writes down what is about to happen.
    pub(super) fn note(&self, event: &Event<'_>) -> anyhow::Result<()> {
        self.trail()?.map_or(Ok(()), |trail| Ok(trail.append(event)?))
    }

    /// Which target this is, for people who were not there.
    fn description(&self) -> anyhow::Result<String> {
        let profile = self.profile()?;
        let place = match (self.image.is_empty(), self.adapter.or(profile.link.map(|link| link.adapter))) {
            (true, Some(adapter)) => format!("adapter {adapter}"),
            (true, None) => "none".to_owned(),
            (false, _) => {
                let path = |image: &ImageSpec| {
                    let path = std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
                    path.display().to_string()
                };
                format!("image {}", self.image.iter().map(path).collect::<Vec<_>>().join(", "))
            }
        };
        Ok(profile.name.map_or(place.clone(), |name| format!("{name} ({place})")))
    }

    /// Whether the arguments name a target.
    pub(super) fn is_given(&self) -> bool {
        self.profile.is_some() || self.adapter.is_some() || !self.image.is_empty()
    }

    /// Refuses to write `path` where it is one of the files the target is read from.
    pub(super) fn refuse_own(&self, path: &Path) -> anyhow::Result<()> {
        let taken = self.names(path);
        ensure!(!taken, "{} is what the target is read from: choose another file", path.display());
        Ok(())
    }

    fn names(&self, path: &Path) -> bool {
        let sources = self
            .image
            .iter()
            .map(|image| &image.path)
            .chain([&self.vmlinux, &self.profile, &self.audit].into_iter().flatten());
        identity(path).is_some_and(|wanted| sources.filter_map(|path| identity(path)).any(|it| it == wanted))
    }

    /// The vmlinux given, for showing a gdb command.
    pub(super) fn vmlinux(&self) -> Option<&std::path::Path> {
        self.vmlinux.as_deref()
    }
}

/// What tells a file from others: device and inode; of one that is not there yet those of its directory, and its name.
fn identity(path: &Path) -> Option<(u64, u64, Option<&OsStr>)> {
    let of = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    if let Some((device, inode)) = of(path) {
        return Some((device, inode, None));
    }
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    of(parent).map(|(device, inode)| (device, inode, path.file_name()))
}

/// The command line as one line of text; arguments that would not be read as they were are quoted.
fn command_line() -> String {
    let quoted = |argument: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if argument.chars().all(plain) && !argument.is_empty() { argument } else { format!("{argument:?}") }
    };
    let arguments = std::env::args_os().map(|argument| quoted(argument.to_string_lossy().into_owned()));
    arguments.collect::<Vec<_>>().join(" ")
}

/// The address that `text` names: a symbol's too, unless the address is of another space than the kernel's own.
pub(super) fn address(session: &Session, text: &str, other_space: bool) -> Result<u64, UsageError> {
    if other_space {
        return parse_address(text).map_err(|error| UsageError(error.to_string()));
    }
    let found = place::find(session.kernel.symbols.as_ref(), text);
    found.map(VirtAddr::raw).map_err(|error| UsageError(error.to_string()))
}
