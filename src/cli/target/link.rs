//! The arguments that say how an adapter is talked to.

use std::{net::IpAddr, time::Duration};

use clap::Args;

use crate::{
    addr::{parse_number, parse_size},
    cli::UsageError,
    link::{self, Requester},
    profile,
};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Link")]
pub(super) struct LinkArgs {
    /// Our own IP address on the adapter's network
    #[arg(long, value_name = "IP")]
    pub(super) local: Option<IpAddr>,

    /// Requester ID of the adapter
    #[arg(long, value_name = "BB:DD.F")]
    pub(super) requester: Option<Requester>,

    /// IP address of the host's own operating system, to ask its NetTLP driver for the requester ID
    #[arg(long, value_name = "IP")]
    pub(super) driver_host: Option<IpAddr>,

    /// Reads in flight at once [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) tags: Option<u16>,

    /// Maximum read request size in bytes [default: 512]
    #[arg(long, value_name = "BYTES", value_parser = mrrs)]
    pub(super) mrrs: Option<u32>,

    /// UDP port of tag 0 [default: 0x3000]
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub(super) port_base: Option<u16>,

    /// Bits of the tag that are added to the port (0xf for adapters before v0.22) [default: 0xff]
    #[arg(long, value_name = "MASK", value_parser = port)]
    pub(super) port_mask: Option<u16>,

    /// Milliseconds to wait for a completion [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(super) timeout_ms: Option<u64>,

    /// Attempts after the first [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(super) retries: Option<u32>,
}

impl LinkArgs {
    /// The link to `adapter`: these arguments, then what the profile says, then what is usual.
    pub(super) fn config(
        &self,
        adapter: IpAddr,
        profile: Option<&profile::Link>,
    ) -> anyhow::Result<link::Config> {
        let requester = match profile.and_then(|link| link.requester.as_deref()) {
            Some(text) if self.requester.is_none() => Some(text.parse()?),
            _ => self.requester,
        };
        let mut config = link::Config::new(adapter);
        config.local = self.local.or(profile.and_then(|link| link.local));
        config.requester = requester;
        config.driver_host = self.driver_host.or(profile.and_then(|link| link.driver_host));
        let set = |to: &mut u16, given: Option<u16>, profile: Option<u16>| {
            *to = given.or(profile).unwrap_or(*to);
        };
        set(&mut config.tags, self.tags, profile.and_then(|link| link.tags));
        set(&mut config.port_base, self.port_base, profile.and_then(|link| link.port_base));
        set(&mut config.port_mask, self.port_mask, profile.and_then(|link| link.port_mask));
        config.mrrs = self.mrrs.or(profile.and_then(|link| link.mrrs)).unwrap_or(config.mrrs);
        config.retries = self.retries.or(profile.and_then(|link| link.retries)).unwrap_or(config.retries);
        let timeout = self.timeout_ms.or(profile.and_then(|link| link.timeout_ms));
        config.timeout = timeout.map_or(config.timeout, Duration::from_millis);
        config.check().map_err(|error| UsageError(error.to_string()))?;
        Ok(config)
    }
}

/// A port, or bits of one.
pub(in crate::cli) fn port(text: &str) -> Result<u16, String> {
    let number = parse_number(text).map_err(|error| error.to_string())?;
    u16::try_from(number).map_err(|_| format!("`{text}` has more than 16 bits"))
}

fn mrrs(text: &str) -> Result<u32, String> {
    match parse_size(text).map_err(|error| error.to_string())? {
        size @ (128 | 256 | 512 | 1024 | 2048 | 4096) => Ok(size as u32),
        _ => Err("it is 128, 256, 512, 1024, 2048 or 4096".to_owned()),
    }
}
