//! `read`: memory, as a dump, raw or JSON.

use anyhow::ensure;

use crate::{
    addr::{Hex, PhysAddr, VirtAddr, hex_bytes, parse_size},
    audit::{Event, Space},
    cli::{Outcome, out, target::Listing},
    mem::PhysMem,
    render,
};

/// What one read may ask for: it is held in memory and printed.
const MAX_LEN: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// The address is physical
    #[arg(long)]
    phys: bool,

    /// Raw bytes instead of a dump
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    /// First address, or a symbol of the vmlinux
    addr: String,

    /// Bytes
    #[arg(value_parser = parse_size)]
    len: u64,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    ensure!((1..=MAX_LEN).contains(&args.len), "a read is of 1 byte to {} MiB", MAX_LEN >> 20);
    let session = args.listing.open(quiet)?;
    let addr = match session.kernel.symbols.as_ref().and_then(|symbols| symbols.find(&args.addr)) {
        Some(symbol) if !args.phys => symbol.raw(),
        _ => parse_size(&args.addr)?,
    };
    let space = if args.phys { Space::Physical } else { Space::Virtual };
    let range = format!("{}-{}", Hex(addr), Hex(addr.saturating_add(args.len)));
    args.listing.note(&Event::Read { space, ranges: &[range] })?;
    let mut bytes = vec![0; usize::try_from(args.len)?];
    if args.phys {
        session.phys.read(PhysAddr::new(addr), &mut bytes)?;
    } else {
        session.kernel.memory.read(VirtAddr::new(addr), &mut bytes)?;
    }
    if args.raw {
        out::bytes(&bytes)?;
    } else if args.listing.json {
        out::json_lines([serde_json::json!({
            "addr": Hex(addr), "phys": args.phys, "len": args.len, "bytes": hex_bytes(&bytes),
        })])?;
    } else {
        out::rendered(|text| render::hex_dump(text, addr, &bytes))?;
    }
    args.listing.report(&session);
    Ok(Outcome::Done)
}
