//! `read`: memory, as a dump, raw or JSON.

use std::iter;

use anyhow::ensure;

use crate::{
    addr::{Hex, PhysAddr, VirtAddr, hex_bytes, parse_size},
    audit::{Event, Space},
    cli::{Outcome, out, target::Listing},
    kernel::{mm, pid, user},
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
        Some(symbol) if !args.phys && args.pid.is_none() => symbol.raw(),
        _ => parse_size(&args.addr)?,
    };
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
        kernel.user_memory("user memory")?;
        let mm = mm::of(kernel, pid::find(kernel, pid)?.addr, pid)?;
        return Ok(user::read_vec(kernel, &mm, VirtAddr::new(addr), len)?);
    }
    if args.phys {
        kernel.user_memory("physical memory, which holds that of processes,")?;
        let mut bytes = vec![0; len];
        session.phys.read(PhysAddr::new(addr), &mut bytes)?;
        return Ok(bytes);
    }
    Ok(kernel.memory.read_vec(VirtAddr::new(addr), len)?)
}
