//! `bt`: backtraces of tasks.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::bt::{self, Backtrace, Which},
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// The thread with this id; 0 for the idle tasks. Without it, what the CPUs run
    #[arg(value_name = "PID", conflicts_with_all = ["cpu", "all"])]
    pid: Option<i32>,

    /// What this CPU runs
    #[arg(long, value_name = "N", conflicts_with = "all")]
    cpu: Option<u32>,

    /// Every thread
    #[arg(long)]
    all: bool,
}

impl Args {
    fn which(&self) -> Which {
        match (self.pid, self.cpu) {
            (Some(pid), _) => Which::Pid(pid),
            (None, Some(cpu)) => Which::Cpu(cpu),
            (None, None) if self.all => Which::All,
            (None, None) => Which::Cpus,
        }
    }
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let which = args.which();
    let found = bt::read(&session.kernel, which, session.lines())?;
    if found.tasks.is_empty() && found.torn.is_none() {
        anyhow::bail!("{}", render::no_such_task(which));
    }
    args.listing.print(&session, &found.tasks, |text| render::backtraces(text, &found.tasks))?;
    if found.torn.is_some() {
        return Ok(args.listing.finished(found.torn));
    }
    let lost = |task: &&Backtrace| task.incomplete.is_some();
    Ok(match found.tasks.iter().filter(lost).count() {
        0 => Outcome::Done,
        lost => {
            let all = found.tasks.len();
            out::notice(&format!("nettlp-gdb: {lost} of {all} backtraces are incomplete, each says why"));
            Outcome::Partial
        }
    })
}
