//! `read`: memory, as a dump, raw or JSON.

use std::iter;

use crate::{
    addr::{Hex, PhysAddr, VirtAddr, hex_bytes, parse_size},
    audit::{Event, Space},
    cli::{
        Outcome, out,
        target::{Listing, address},
    },
    kernel::{mm, pid, poison::Unpoisoned, user},
    mem::PhysMem,
    render,
    session::Session,
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

    /// The address is of this process' memory
    #[arg(long, value_name = "PID", conflicts_with = "phys")]
    pid: Option<i32>,

    /// Raw bytes instead of a dump
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    /// First address, or a symbol of the kernel
    addr: String,

    /// Bytes, at most 64 MiB
    #[arg(value_parser = len)]
    len: u64,
}

fn len(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|error| error.to_string())? {
        len @ 1..=MAX_LEN => Ok(len),
        _ => Err(format!("a read takes 1 byte to {} MiB", MAX_LEN >> 20)),
    }
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let addr = address(&session, &args.addr, args.phys || args.pid.is_some())?;
    let space = match (args.phys, args.pid) {
        (true, _) => Space::Physical,
        (false, Some(_)) => Space::User,
        (false, None) => Space::Virtual,
    };
    let range = format!("{}-{}", Hex(addr), Hex(addr.saturating_add(args.len)));
    args.listing.note(&Event::Read { space, task: args.pid, ranges: &[range] })?;
    let bytes = read(args, &session, addr)?;
    if args.raw {
        out::bytes(&bytes)?;
        args.listing.report(&session);
        return Ok(Outcome::Done);
    }
    let object = || {
        serde_json::json!({
            "addr": Hex(addr), "phys": args.phys, "pid": args.pid, "len": args.len, "bytes": hex_bytes(&bytes),
        })
    };
    args.listing.print(&session, iter::once_with(object), |text| render::hex_dump(text, addr, &bytes))?;
    Ok(Outcome::Done)
}

fn read(args: &Args, session: &Session, addr: u64) -> anyhow::Result<Vec<u8>> {
    let (kernel, len) = (&session.kernel, usize::try_from(args.len)?);
    if let Some(pid) = args.pid {
        let mm = mm::of(kernel, pid::find(kernel, pid)?.addr, pid)?;
        return Ok(user::read_vec(kernel, &mm, VirtAddr::new(addr), len)?);
    }
    if args.phys {
        kernel.user_memory("physical memory, which holds that of processes,")?;
        let mut bytes = vec![0; len];
        Unpoisoned::new(kernel, &*session.phys).read(PhysAddr::new(addr), &mut bytes)?;
        return Ok(bytes);
    }
    Ok(kernel.memory.read_vec(VirtAddr::new(addr), len)?)
}
