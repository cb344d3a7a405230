//! `ps`: processes and threads.

use crate::{
    cli::{Outcome, out, target::Listing},
    kernel::{
        KernelError, cross_view, family,
        task::{self, Details, Scope, Task, Tasks},
    },
    render,
    session::Session,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// Only tasks of this name
    #[arg(long, value_name = "NAME")]
    comm: Option<String>,

    /// Children under their parents
    #[arg(long, conflicts_with = "json")]
    tree: bool,

    /// Threads too, behind the process they belong to
    #[arg(long)]
    threads: bool,

    /// Also who owns it, the threads of its process, its start and its command line (from its own memory)
    #[arg(long, short, conflicts_with = "json")]
    long: bool,

    /// Only tasks that one of the kernel's records of them has and another lacks (task list, pid IDR, children, run
    /// queues, CPUs): what hides from one shows in the others
    #[arg(long, conflicts_with_all = ["tree", "threads", "long", "comm"])]
    cross_view: bool,

    /// Columns of libtlp's process-list, depth first; the states are those of ps where libtlp's are not: an idle kworker
    /// is I and not D, a zombie Z, a traced task t, a parked one P
    #[arg(long, value_enum, conflicts_with_all = ["json", "tree", "threads", "long", "cross_view"])]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    ProcessList,
}

/// A line of JSON.
#[derive(serde::Serialize)]
struct Object<'t> {
    #[serde(flatten)]
    task: &'t Task,
    #[serde(flatten)]
    details: Details,
}

/// Physical addresses come first; a task that cannot be read is left out and makes the list incomplete.
fn process_list(args: &Args, session: &Session) -> anyhow::Result<Option<KernelError>> {
    let kernel = &session.kernel;
    let (addrs, mut torn) = family::depth_first(kernel)?;
    let step = "reading task_struct";
    let mut rows = Vec::with_capacity(addrs.len());
    for (addr, task) in addrs.iter().zip(Tasks::resolve(kernel)?.at(kernel, &addrs)) {
        let place = kernel.memory.translate(*addr).map_err(|source| KernelError::Read { step, source });
        match place.and_then(|place| Ok((place.phys, task?))) {
            Ok(row) => rows.push(row),
            Err(error) => torn = torn.or(Some(error)),
        }
    }
    if let Some(name) = &args.comm {
        rows.retain(|(_, task)| task.comm == *name);
    }
    out::rendered(|text| render::process_list(text, &rows))?;
    Ok(torn)
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    if args.format.is_some() {
        let torn = process_list(args, &session)?;
        args.listing.report(&session);
        return Ok(args.listing.finished(torn));
    }
    if args.cross_view {
        return cross_view(args, &session);
    }
    let scope = if args.threads { Scope::Threads } else { Scope::Processes };
    let mut list = Tasks::resolve(&session.kernel)?.list(&session.kernel, scope)?;
    if let Some(name) = &args.comm {
        list.tasks.retain(|task| task.comm == *name);
    }
    if args.listing.json {
        let details = task::details(&session.kernel, &list.tasks)?;
        let objects = list.tasks.iter().zip(details).map(|(task, details)| Object { task, details });
        out::json_lines(objects)?;
    } else if args.long {
        let details = task::details(&session.kernel, &list.tasks)?;
        out::rendered(|text| render::tasks_long(text, &list.tasks, &details, args.tree))?;
    } else if args.tree {
        out::rendered(|text| render::task_tree(text, &list.tasks))?;
    } else {
        out::rendered(|text| render::tasks(text, &list.tasks))?;
    }
    args.listing.report(&session);
    Ok(args.listing.finished(list.torn))
}

fn cross_view(args: &Args, session: &Session) -> anyhow::Result<Outcome> {
    let found = cross_view::settled(&session.kernel, &|| session.refresh())?;
    args.listing.print(session, &found.differences, |text| render::cross_view(text, &found))?;
    for (view, error) in &found.incomplete {
        out::notice(&format!("nettlp-gdb: the {view} view is incomplete: {error}"));
    }
    Ok(if found.incomplete.is_empty() { Outcome::Done } else { Outcome::Partial })
}
