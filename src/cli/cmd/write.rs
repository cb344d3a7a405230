//! `write`: changes memory of the target, where the operator and the profile allow it.

use anyhow::Context;

use crate::{
    addr::{Hex, PAGE_SIZE, PhysAddr, VirtAddr},
    audit::{Event, Space},
    cli::{
        Outcome, UsageError,
        target::{Listing, address},
    },
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// Really write: this changes a machine that may be in use
    #[arg(long)]
    allow_write: bool,

    /// The address is physical
    #[arg(long)]
    phys: bool,

    /// First address, or a symbol of the kernel
    addr: String,

    /// The bytes, in the order of memory, two hexadecimal digits each
    #[arg(value_parser = bytes)]
    hex: Bytes,
}

#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

fn bytes(text: &str) -> Result<Bytes, String> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let digits = std::str::from_utf8(pair).ok().filter(|digits| !digits.contains('+'))?;
        u8::from_str_radix(digits, 16).ok()
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    match bytes.filter(|_| rest.is_empty()) {
        Some(bytes) if (1..=PAGE_SIZE).contains(&(bytes.len() as u64)) => Ok(Bytes(bytes)),
        Some(bytes) => Err(format!("a write takes 1 to {PAGE_SIZE} bytes, not {}", bytes.len())),
        None => Err("two hexadecimal digits for each byte, without 0x or blanks: 2a000000".to_owned()),
    }
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    if !args.allow_write {
        let why = "a write changes a machine that may be in use: say --allow-write";
        return Err(UsageError(why.to_owned()).into());
    }
    let mut session = args.listing.open(quiet)?;
    args.listing.allow_writes(&mut session)?;
    let addr = address(&session, &args.addr, args.phys)?;
    let data = &args.hex.0;
    let space = if args.phys { Space::Physical } else { Space::Virtual };
    let allowed = if args.phys {
        session.may_write_phys(PhysAddr::new(addr), data.len())
    } else {
        session.may_write(VirtAddr::new(addr), data.len())
    };
    let range = format!("{}-{}", Hex(addr), Hex(addr.saturating_add(data.len() as u64)));
    args.listing.note(&Event::Write { space, ranges: std::slice::from_ref(&range), allowed })?;
    let written = if args.phys {
        session.write_phys(PhysAddr::new(addr), data)
    } else {
        session.write(VirtAddr::new(addr), data)
    };
    written.with_context(|| format!("cannot write {range}"))?;
    let object =
        serde_json::json!({ "addr": Hex(addr), "phys": args.phys, "len": data.len(), "verified": true });
    args.listing.print(&session, [object], |text| {
        writeln!(text, "{} bytes written at {}, read back and equal", data.len(), Hex(addr))
    })?;
    Ok(Outcome::Done)
}
