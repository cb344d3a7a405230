//! One process, and tasks that hide.

use std::fmt;

use super::printable;
use crate::kernel::{
    cross_view::{CrossView, View},
    process::Process,
};

/// Everything known of a process, a line each.
///
/// # Errors
/// The writer's own.
pub fn process(out: &mut dyn fmt::Write, process: &Process) -> fmt::Result {
    let Process { task, details, .. } = process;
    let unknown = || "-".to_owned();
    let number = |value: Option<String>| value.unwrap_or_else(unknown);
    let text = |value: &Option<String>| value.as_deref().map_or_else(unknown, printable);
    let ids = |ids: &Option<[u32; 4]>| ids.map_or_else(unknown, |ids| list(&ids));
    let seconds = |nsec: Option<u64>| {
        nsec.map_or_else(unknown, |nsec| format!("{}.{:03} s", nsec / 1_000_000_000, nsec / 1_000_000 % 1000))
    };
    let cmdline = details.cmdline.as_ref().map_or_else(unknown, |args| printable(&args.join(" ")));
    let rows = [
        ("pid", task.pid.to_string()),
        ("comm", printable(&task.comm)),
        ("task", task.addr.to_string()),
        ("state", task.state.to_string()),
        ("process", number(task.tgid.map(|tgid| tgid.to_string()))),
        ("parent", number(task.ppid.map(|ppid| ppid.to_string()))),
        ("children", list(&process.children)),
        ("threads", list(&process.thread_ids)),
        ("cpu", number(task.cpu.map(|cpu| cpu.to_string()))),
        ("uid", ids(&process.uids)),
        ("gid", ids(&process.gids)),
        (
            "started",
            details.started.clone().unwrap_or_else(|| format!("{} after boot", seconds(details.start_nsec))),
        ),
        ("CPU time", seconds(process.cpu_nsec)),
        ("  user", seconds(process.user_nsec)),
        ("  system", seconds(process.system_nsec)),
        ("cwd", text(&process.cwd)),
        ("root", text(&process.root)),
        ("exe", text(&process.exe)),
        ("cmdline", cmdline),
    ];
    rows.into_iter().try_for_each(|(name, value)| writeln!(out, "{name:<10}{value}"))
}

fn list(numbers: &[impl ToString]) -> String {
    match numbers {
        [] => "-".to_owned(),
        numbers => numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Tasks that one record of the kernel has and another lacks.
///
/// # Errors
/// The writer's own.
pub fn cross_view(out: &mut dyn fmt::Write, found: &CrossView) -> fmt::Result {
    if found.differences.is_empty() {
        let lacking: Vec<View> = found.incomplete.iter().map(|(view, _)| *view).collect();
        let which = match views(&lacking) {
            lacking if lacking.is_empty() => "the kernel's records of them".to_owned(),
            lacking => format!("those records that could be read whole (not: {lacking})"),
        };
        return writeln!(out, "{} tasks, no difference between {which}", found.tasks);
    }
    writeln!(
        out,
        "{:<18} {:>7} {:>7} S {:<15} {:<28} SEEN BY",
        "TASK", "PID", "TGID", "COMM", "MISSING FROM"
    )?;
    for difference in &found.differences {
        let task = &difference.task;
        let tgid = task.tgid.map_or_else(|| "-".to_owned(), |tgid| tgid.to_string());
        writeln!(
            out,
            "{:#018x} {:>7} {tgid:>7} {} {:<15} {:<28} {}",
            task.addr,
            task.pid,
            task.state,
            printable(&task.comm),
            views(&difference.missing_from),
            views(&difference.seen_by),
        )?;
    }
    Ok(())
}

fn views(views: &[View]) -> String {
    views.iter().map(View::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelError;

    #[test]
    fn no_difference_is_said_only_of_records_that_were_read() {
        let said = |incomplete: &[View]| {
            let error =
                |view: &View| (*view, KernelError::NeedsVmlinux { what: "it", needs: "types", reason: None });
            let incomplete = incomplete.iter().map(error).collect();
            let mut out = String::new();
            cross_view(&mut out, &CrossView { differences: Vec::new(), tasks: 70, incomplete }).unwrap();
            out
        };
        assert_eq!(said(&[]), "70 tasks, no difference between the kernel's records of them\n");
        assert_eq!(
            said(&[View::PidIdr, View::Cpu]),
            "70 tasks, no difference between those records that could be read whole (not: pid-idr cpu)\n"
        );
    }
}
