//! `translate`: from a virtual to a physical address.

use crate::{
    addr::VirtAddr,
    audit::Event,
    cli::{
        Outcome,
        target::{Listing, address},
    },
    kernel::{mm, pid, user},
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// The address is of this process' memory
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,

    /// A virtual address, or a symbol of the kernel
    addr: String,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let addr = VirtAddr::new(address(&session, &args.addr, args.pid.is_some())?);
    args.listing.note(&Event::Translate { address: &addr.to_string() })?;
    let kernel = &session.kernel;
    let found = match args.pid {
        None => kernel.memory.translate(addr)?,
        Some(pid) => {
            let mm = mm::of(kernel, pid::find(kernel, pid)?.addr, pid)?;
            user::translate(kernel, &mm, addr)?
        }
    };
    let object = serde_json::json!({
        "virt": addr, "pid": args.pid, "phys": found.phys, "page_size": found.page_size,
        "writable": found.writable, "user": found.user, "executable": found.executable,
    });
    args.listing.print(&session, [object], |text| render::translation(text, addr, &found))?;
    Ok(Outcome::Done)
}
