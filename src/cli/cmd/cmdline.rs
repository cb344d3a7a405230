//! `cmdline` and `environ`: the arguments and the environment of a process, from its own memory.

use serde_json::json;

use crate::{
    audit::{Event, Space},
    cli::{Outcome, out, target::OneProcess},
    kernel::{Kernel, KernelError, cmdline, mm, mm::Mm},
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    process: OneProcess,

    /// The bytes as /proc has them, each string ended by a NUL, instead of a line each
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

type Read = fn(&Kernel, &Mm) -> Result<Vec<u8>, KernelError>;

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    print(args, quiet, "cmdline", |mm| mm.arguments, cmdline::cmdline)
}

pub(in crate::cli) fn run_environ(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    print(args, quiet, "environ", |mm| mm.environment, cmdline::environ)
}

fn print(
    args: &Args,
    quiet: bool,
    name: &str,
    place: fn(&Mm) -> [crate::addr::VirtAddr; 2],
    read: Read,
) -> anyhow::Result<Outcome> {
    let (session, task) = args.process.open(quiet)?;
    let (kernel, listing) = (&session.kernel, &args.process.listing);
    let bytes = match mm::of(kernel, task.addr, task.pid) {
        // As an empty file, which is what /proc has of a kernel thread.
        Err(KernelError::NoUserSpace { .. }) => Vec::new(),
        mm => {
            let mm = mm?;
            let [start, end] = place(&mm);
            let range = format!("{start}-{end}");
            listing.note(&Event::Read { space: Space::User, task: Some(task.pid), ranges: &[range] })?;
            read(kernel, &mm)?
        }
    };
    if args.raw {
        out::bytes(&bytes)?;
        listing.report(&session);
    } else {
        let strings = cmdline::strings(&bytes);
        let object = json!({ "pid": task.pid, "comm": task.comm, name: strings });
        listing.print(&session, [object], |text| render::strings(text, &strings))?;
    }
    Ok(Outcome::Done)
}
