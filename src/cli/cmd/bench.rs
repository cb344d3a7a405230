//! `bench`: what reading a host costs over this machine's network stack, as ratios of one run.
//!
//! A second process of this program is the adapter ([`emulate`](super::emulate)), or a bare loop that answers datagrams
//! ([`echo`]): what the link reaches is measured against what two processes that do nothing else reach. The sides of a
//! ratio take turns, round by round, and medians are compared, so that what else the machine does meets both.

mod attached;
mod child;
mod echo;
mod table;
mod transfer;

use std::{net::IpAddr, path::PathBuf};

use crate::{
    addr::parse_size,
    cli::{Outcome, out},
    mem::file::{ImageError, ImageSpec},
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The RAM of a Linux host: `FILE[@PHYS[,offset=N][,len=N]]`; repeat for several
    #[arg(long, value_name = "IMAGE", required_unless_present = "echo", value_parser = image)]
    image: Vec<String>,

    /// The kernel's own vmlinux
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,

    /// Microseconds an adapter takes to answer; repeat for several
    #[arg(long, value_name = "N", default_values_t = [0, 12, 100, 1000])]
    latency_us: Vec<u64>,

    /// Reads in flight at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=256))]
    tags: u16,

    /// Bytes read for a rate
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = size)]
    transfer: u64,

    /// Measurements of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// JSON, one object per line
    #[arg(long)]
    json: bool,

    /// Answer datagrams at this address instead
    #[arg(long, value_name = "IP", hide = true)]
    echo: Option<IpAddr>,
}

/// The text as it is, for the other process, once it is known to be an image's.
fn image(text: &str) -> Result<String, ImageError> {
    text.parse::<ImageSpec>().map(|_| text.to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|error| error.to_string())? {
        ..512 => Err("a rate needs a whole request: 512 bytes or more".to_owned()),
        size => Ok(size),
    }
}

/// The middle of `values`, which are not empty.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(ip) = args.echo {
        return echo::answer(ip).map(|()| Outcome::Done);
    }
    let images = args.image.iter().map(|image| image.parse::<ImageSpec>()).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    for latency in &args.latency_us {
        rows.extend(transfer::measure(args, &images, *latency)?);
        rows.extend(attached::measure(args, *latency)?);
    }
    if args.json {
        out::json_lines(&rows)?;
    } else {
        out::rendered(|text| table::write(text, &rows))?;
    }
    Ok(Outcome::Done)
}
