//! `emulate`: an adapter and root complex in software, over a memory image or a synthetic machine.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    cli::{Outcome, UsageError, file, out, target::port},
    emulator::{self, Backing, Emulator, EmulatorError, Faults, Holes, ReadOnly, Writable},
    link::Requester,
    machine::{Description, Machine as Built, MachineError},
    mem::file::{ImageFile, ImageSpec},
};

/// Faults are probabilities from 0 to 1 per datagram, drawn from a seeded generator: the same seed gives the
/// same faults for the same requests.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The host's RAM: `FILE[@PHYS[,offset=N][,len=N]]`; repeat for several
    #[arg(long, value_name = "IMAGE", required_unless_present = "machine")]
    image: Vec<ImageSpec>,

    /// A synthetic host instead of an image
    #[arg(long, value_enum, conflicts_with_all = ["image", "writable"])]
    machine: Option<Machine>,

    /// Where to write the synthetic host's vmlinux
    #[arg(long, value_name = "FILE", requires = "machine")]
    write_vmlinux: Option<PathBuf>,

    /// IP address to answer on; the client needs another one
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    ip: IpAddr,

    /// The adapter's requester ID
    #[arg(long, value_name = "BB:DD.F", default_value = "1b:00.0")]
    requester: Requester,

    /// UDP port of tag 0
    #[arg(long, value_name = "PORT", default_value = "0x3000", value_parser = port)]
    port_base: u16,

    /// Bits of the tag that are added to the port
    #[arg(long, value_name = "MASK", default_value = "0xff", value_parser = port)]
    port_mask: u16,

    /// Time before each completion, in microseconds; hardware takes 12
    #[arg(long, value_name = "N", default_value_t = 0)]
    latency_us: u64,

    /// Share of datagrams lost
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    loss: f64,

    /// Share of completions held back behind the next one
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    reorder: f64,

    /// Share of completions sent twice
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    dup: f64,

    /// Share of completions with a damaged header, length or end
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    corrupt: f64,

    /// Share of completions that come after the client gave up on them
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    late: f64,

    /// How late a late completion is, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 150)]
    late_ms: u64,

    /// Answer requests outside the images with Unsupported Request (the default)
    #[arg(long, conflicts_with = "silent_holes")]
    ur_holes: bool,

    /// Do not answer requests outside the images
    #[arg(long)]
    silent_holes: bool,

    /// Let the client write to the images
    #[arg(long)]
    writable: bool,

    /// Seed of the faults
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("it is a probability from 0 to 1".to_owned()),
    }
}

/// A synthetic host.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Machine {
    /// What `nettlp-gdb demo` serves: 6 GiB, KASLR, five levels
    Demo,
    /// The host of the thesis on reading processes through NetTLP: Linux 4.15, 70 processes of its first table
    ThesisRunning,
    /// The same after its panic: the 128 processes of its second table
    ThesisPanic,
}

impl Machine {
    fn build(self) -> Result<Built, MachineError> {
        Built::build(&match self {
            Self::Demo => Description::demo(),
            Self::ThesisRunning => Description::thesis_running()?,
            Self::ThesisPanic => Description::thesis_panic()?,
        })
    }
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let memory: Arc<dyn Backing> = if let Some(machine) = args.machine {
        let machine = machine.build()?;
        if let Some(path) = &args.write_vmlinux {
            file::write(path, &machine.vmlinux()?)?;
        }
        Arc::new(ReadOnly(machine.memory()))
    } else if args.writable {
        Arc::new(Writable(ImageFile::open_writable(&args.image)?))
    } else {
        Arc::new(ReadOnly(ImageFile::open(&args.image)?))
    };
    let faults = Faults {
        latency: Duration::from_micros(args.latency_us),
        loss: args.loss,
        reorder: args.reorder,
        dup: args.dup,
        corrupt: args.corrupt,
        late: args.late,
        late_by: Duration::from_millis(args.late_ms),
        holes: if args.silent_holes { Holes::Silent } else { Holes::UnsupportedRequest },
        seed: args.seed,
    };
    let config = emulator::Config {
        ip: args.ip,
        port_base: args.port_base,
        port_mask: args.port_mask,
        requester: args.requester,
        faults,
        ..emulator::Config::default()
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let adapter = Emulator::start(config, memory).map_err(|error| match error {
        EmulatorError::Config(why) => anyhow::Error::from(UsageError(why.to_owned())),
        error => error.into(),
    })?;
    out::notice(&format!(
        "adapter {} answers on {}, ports {:#x} and up",
        args.requester, args.ip, args.port_base
    ));
    signals.forever().next();
    out::notice(&adapter.stats().to_string());
    Ok(Outcome::Done)
}
