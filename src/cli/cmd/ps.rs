//! `ps`: processes and threads.

use crate::{
    cli::{Outcome, out, target::Target},
    kernel::task::{Scope, Tasks},
    render,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// Only tasks of this name
    #[arg(long, value_name = "NAME")]
    comm: Option<String>,

    /// Children under their parents
    #[arg(long, conflicts_with = "json")]
    tree: bool,

    /// Threads too, behind the process they belong to
    #[arg(long)]
    threads: bool,

    /// One JSON object per line
    #[arg(long)]
    json: bool,

    /// Also print on stderr what it cost
    #[arg(long)]
    stats: bool,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.target.open(quiet || args.json)?;
    let scope = if args.threads { Scope::Threads } else { Scope::Processes };
    let mut list = Tasks::resolve(&session.kernel)?.list(&session.kernel, scope)?;
    if let Some(name) = &args.comm {
        list.tasks.retain(|task| task.comm == *name);
    }
    if args.json {
        out::json_lines(&list.tasks)?;
    } else if args.tree {
        out::rendered(|text| render::task_tree(text, &list.tasks))?;
    } else {
        out::rendered(|text| render::tasks(text, &list.tasks))?;
    }
    if args.stats {
        out::notice(&session.stats());
    }
    Ok(match list.torn {
        None => Outcome::Done,
        Some(error) => {
            out::notice(&format!("nettlp-gdb: the list is incomplete: {error}; run it again on a live host"));
            Outcome::Partial
        }
    })
}
