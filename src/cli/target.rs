//! The arguments that say which host, and what is known of it.

use std::{
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::UsageError;
use crate::{
    addr::{PhysRange, parse_number},
    link::{self, Requester},
    mem::{cache::Validity, file::ImageSpec},
    profile::{self, Profile},
    session::{self, Session, Source},
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

    #[command(flatten)]
    link: LinkArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Link")]
struct LinkArgs {
    /// Our own IP address on the adapter's network
    #[arg(long, value_name = "IP")]
    local: Option<IpAddr>,

    /// Requester ID of the adapter
    #[arg(long, value_name = "BB:DD.F")]
    requester: Option<Requester>,

    /// IP address of the host's own operating system, to ask its NetTLP driver for the requester ID
    #[arg(long, value_name = "IP")]
    driver_host: Option<IpAddr>,

    /// Reads in flight at once [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    tags: Option<u16>,

    /// Maximum read request size in bytes [default: 512]
    #[arg(long, value_name = "BYTES", value_parser = mrrs)]
    mrrs: Option<u32>,

    /// UDP port of tag 0 [default: 0x3000]
    #[arg(long, value_name = "PORT", value_parser = port)]
    port_base: Option<u16>,

    /// Bits of the tag that are added to the port (0xf for adapters before v0.22) [default: 0xff]
    #[arg(long, value_name = "MASK", value_parser = port)]
    port_mask: Option<u16>,

    /// Milliseconds to wait for a completion [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: Option<u64>,

    /// Attempts after the first [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: Option<u32>,
}

fn port(text: &str) -> Result<u16, String> {
    let number = parse_number(text).map_err(|error| error.to_string())?;
    u16::try_from(number).map_err(|_| format!("`{text}` has more than 16 bits"))
}

fn mrrs(text: &str) -> Result<u32, String> {
    match crate::addr::parse_size(text).map_err(|error| error.to_string())? {
        size @ (128 | 256 | 512 | 1024 | 2048 | 4096) => Ok(size as u32),
        _ => Err("it is 128, 256, 512, 1024, 2048 or 4096".to_owned()),
    }
}

impl Target {
    /// What the arguments and the profile say together.
    pub(super) fn options(&self, validity: Validity) -> anyhow::Result<session::Options> {
        let profile = match &self.profile {
            Some(path) => Profile::load(path)?,
            None => Profile::default(),
        };
        let source = if self.image.is_empty() {
            Source::Adapter(self.link_config(profile.link)?)
        } else {
            Source::Images(self.image.clone())
        };
        let ram = if self.ram.is_empty() { profile.memory.ram } else { self.ram.clone() };
        Ok(session::Options {
            source,
            vmlinux: self.vmlinux.clone().or(profile.kernel.vmlinux),
            ram,
            force: self.force,
            validity,
        })
    }

    fn link_config(&self, profile: Option<profile::Link>) -> anyhow::Result<link::Config> {
        let Some(adapter) = self.adapter.or(profile.as_ref().map(|link| link.adapter)) else {
            let which =
                "which host? Give --adapter IP, --image FILE or --profile FILE (or try `nettlp-gdb demo`)";
            return Err(UsageError(which.to_owned()).into());
        };
        let profile = profile.as_ref();
        let args = &self.link;
        let requester = match profile.and_then(|link| link.requester.as_deref()) {
            Some(text) if args.requester.is_none() => Some(text.parse()?),
            _ => args.requester,
        };
        let mut config = link::Config::new(adapter);
        config.local = args.local.or(profile.and_then(|link| link.local));
        config.requester = requester;
        config.driver_host = args.driver_host.or(profile.and_then(|link| link.driver_host));
        let set = |to: &mut u16, given: Option<u16>, profile: Option<u16>| {
            *to = given.or(profile).unwrap_or(*to);
        };
        set(&mut config.tags, args.tags, profile.and_then(|link| link.tags));
        set(&mut config.port_base, args.port_base, profile.and_then(|link| link.port_base));
        set(&mut config.port_mask, args.port_mask, profile.and_then(|link| link.port_mask));
        config.mrrs = args.mrrs.or(profile.and_then(|link| link.mrrs)).unwrap_or(config.mrrs);
        config.retries = args.retries.or(profile.and_then(|link| link.retries)).unwrap_or(config.retries);
        let timeout = args.timeout_ms.or(profile.and_then(|link| link.timeout_ms));
        config.timeout = timeout.map_or(config.timeout, Duration::from_millis);
        Ok(config)
    }

    /// Opens the host for one command: what is read once stays read.
    pub(super) fn open(&self, quiet: bool) -> anyhow::Result<Session> {
        self.open_with(Validity::Stop, quiet)
    }

    /// Opens the host; what is read holds for `validity`.
    pub(super) fn open_with(&self, validity: Validity, quiet: bool) -> anyhow::Result<Session> {
        let progress = super::progress::Scan::new(quiet);
        Ok(Session::open(self.options(validity)?, &|step| progress.show(&step))?)
    }

    /// Whether `path` is one of the files the target is read from.
    pub(super) fn names(&self, path: &Path) -> bool {
        let identity = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
        let sources = self.image.iter().map(|image| &image.path).chain(&self.vmlinux).chain(&self.profile);
        identity(path).is_some_and(|wanted| sources.filter_map(|path| identity(path)).any(|it| it == wanted))
    }

    /// The vmlinux given, for showing a gdb command.
    pub(super) fn vmlinux(&self) -> Option<&std::path::Path> {
        self.vmlinux.as_deref()
    }
}

/// What every command takes that reads a host and prints something about it.
#[derive(Debug, Clone, Args)]
pub(super) struct Listing {
    #[command(flatten)]
    target: Target,

    /// JSON, one object per line
    #[arg(long)]
    pub(super) json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

impl Listing {
    /// Opens the host.
    pub(super) fn open(&self, quiet: bool) -> anyhow::Result<Session> {
        self.target.open(quiet || self.json)
    }

    /// Whether `path` is one of the files the target is read from.
    pub(super) fn names(&self, path: &Path) -> bool {
        self.target.names(path)
    }

    /// Prints what reading it cost, if that was asked for.
    pub(super) fn report(&self, session: &Session) {
        if self.stats {
            super::out::notice(&session.stats());
        }
    }
}
