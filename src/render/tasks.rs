//! Tasks as tables.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::printable;
use crate::{
    addr::{PhysAddr, VirtAddr},
    kernel::task::{Details, Task},
};

/// Deeper levels of a tree are not indented further: a hostile family may be as deep as it is large.
const MAX_INDENT: usize = 40;

/// Where a task stands in a table: its depth, and its index in the list.
type Row = (usize, usize);

/// A table of tasks.
///
/// # Errors
/// The writer's own.
pub fn tasks(out: &mut dyn fmt::Write, tasks: &[Task]) -> fmt::Result {
    table(out, tasks, &flat(tasks))
}

/// A table of tasks, each under its parent and indented; threads under their process.
///
/// # Errors
/// The writer's own.
pub fn task_tree(out: &mut dyn fmt::Write, tasks: &[Task]) -> fmt::Result {
    table(out, tasks, &tree(tasks))
}

/// A table of tasks with what [`Details`] add, flat or as a tree.
///
/// # Errors
/// The writer's own.
pub fn tasks_long(
    out: &mut dyn fmt::Write,
    tasks: &[Task],
    details: &[Details],
    as_tree: bool,
) -> fmt::Result {
    writeln!(
        out,
        "{:<18} {:>7} {:>7} {:>6} {:>7} {:>4} S {:<20} {:<15} CMDLINE",
        "TASK", "PID", "PPID", "UID", "THREADS", "CPU", "START", "COMM"
    )?;
    let rows = if as_tree { tree(tasks) } else { flat(tasks) };
    for (depth, index) in rows {
        let (Some(task), Some(more)) = (tasks.get(index), details.get(index)) else { continue };
        write!(
            out,
            "{:#018x} {:>7} {:>7} {:>6} {:>7} {:>4} {} {:<20} ",
            task.addr,
            task.pid,
            dash(task.ppid),
            dash(more.uid),
            dash(more.threads),
            dash(task.cpu),
            task.state,
            start(more),
        )?;
        let comm = format!("{:indent$}{}", "", printable(&task.comm), indent = depth * 2);
        writeln!(out, "{comm:<15} {}", cmdline(task, more))?;
    }
    Ok(())
}

/// Tasks as libtlp's `process-list` prints them, with the physical address of each `task_struct`.
///
/// # Errors
/// The writer's own.
pub fn process_list(out: &mut dyn fmt::Write, tasks: &[(PhysAddr, Task)]) -> fmt::Result {
    writeln!(out, "PhyAddr             PID STAT COMMAND")?;
    for (phys, task) in tasks {
        let (pid, state, comm) = (task.pid, task.state, printable(&task.comm));
        writeln!(out, "0x{:014x} {pid:>6} {state}    {comm}", phys.raw())?;
    }
    Ok(())
}

fn table(out: &mut dyn fmt::Write, tasks: &[Task], rows: &[Row]) -> fmt::Result {
    writeln!(out, "{:<18} {:>7} {:>7} {:>4} S COMM", "TASK", "PID", "PPID", "CPU")?;
    for (depth, index) in rows {
        let Some(task) = tasks.get(*index) else { continue };
        writeln!(
            out,
            "{:#018x} {:>7} {:>7} {:>4} {} {:indent$}{}",
            task.addr,
            task.pid,
            dash(task.ppid),
            dash(task.cpu),
            task.state,
            "",
            printable(&task.comm),
            indent = depth * 2,
        )?;
    }
    Ok(())
}

fn flat(tasks: &[Task]) -> Vec<Row> {
    (0..tasks.len()).map(|index| (0, index)).collect()
}

/// Depth first, in list order. A task whose parent is not listed stands at the left, as does the first met of tasks
/// that are each other's ancestors.
fn tree(tasks: &[Task]) -> Vec<Row> {
    let by_addr: HashMap<VirtAddr, usize> =
        tasks.iter().enumerate().map(|(index, task)| (task.addr, index)).collect();
    let is_leader = |task: &Task| task.tgid.is_none_or(|tgid| tgid == task.pid);
    let leaders: HashMap<i32, usize> = tasks
        .iter()
        .enumerate()
        .filter(|(_, task)| is_leader(task))
        .map(|(index, task)| (task.pid, index))
        .collect();
    // A child of another thread than the first is its process' child, whether that thread is listed or not.
    let above = |task: &Task| {
        let process = if is_leader(task) { task.ppid } else { task.tgid };
        process.and_then(|pid| leaders.get(&pid)).or_else(|| by_addr.get(&task.parent)).copied()
    };
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        match above(task).filter(|parent| *parent != index) {
            Some(parent) => children.entry(parent).or_default().push(index),
            None => roots.push(index),
        }
    }
    let (mut rows, mut shown) = (Vec::with_capacity(tasks.len()), HashSet::new());
    for root in roots.into_iter().chain(0..tasks.len()) {
        let mut stack = vec![(0, root)];
        while let Some((depth, index)) = stack.pop() {
            if !shown.insert(index) {
                continue;
            }
            rows.push((depth, index));
            let own = children.remove(&index).unwrap_or_default();
            stack.extend(own.into_iter().rev().map(|child| ((depth + 1).min(MAX_INDENT), child)));
        }
    }
    rows
}

fn dash(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// By the wall clock, or else in seconds since boot.
fn start(details: &Details) -> String {
    match (&details.started, details.start_nsec) {
        (Some(time), _) => time.clone(),
        (None, Some(nsec)) => format!("+{}.{:02}s", nsec / 1_000_000_000, nsec / 10_000_000 % 100),
        (None, None) => "-".to_owned(),
    }
}

/// As `ps` shows it: what has no arguments by its name in brackets; a dash for what could not be read.
fn cmdline(task: &Task, details: &Details) -> String {
    match &details.cmdline {
        None => "-".to_owned(),
        Some(arguments) if arguments.is_empty() => format!("[{}]", printable(&task.comm)),
        Some(arguments) => {
            let cut = if details.cmdline_cut { "..." } else { "" };
            printable(&arguments.join(" ")) + cut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(addr: u64, pid: i32, parent: u64, comm: &str) -> Task {
        Task {
            addr: VirtAddr::new(addr),
            pid,
            tgid: Some(pid),
            ppid: None,
            comm: comm.to_owned(),
            state: 'S',
            cpu: Some(0),
            parent: VirtAddr::new(parent),
            kernel_thread: Some(false),
        }
    }

    fn shown(render: impl Fn(&mut dyn fmt::Write) -> fmt::Result) -> String {
        let mut text = String::new();
        render(&mut text).unwrap();
        text
    }

    /// Depth and pid of each row.
    fn pids(tasks: &[Task]) -> Vec<(usize, i32)> {
        tree(tasks).into_iter().map(|(depth, index)| (depth, tasks[index].pid)).collect()
    }

    #[test]
    fn trees_are_indented() {
        let tasks =
            [task(0x10, 0, 0x10, "swapper/0"), task(0x20, 1, 0x10, "init"), task(0x30, 7, 0x20, "sh\x1b[2J")];
        assert_eq!(
            shown(|out| task_tree(out, &tasks)),
            "TASK                   PID    PPID  CPU S COMM\n\
             0x0000000000000010       0       -    0 S swapper/0\n\
             0x0000000000000020       1       -    0 S   init\n\
             0x0000000000000030       7       -    0 S     sh\\u{1b}[2J\n"
        );
    }

    #[test]
    fn nobody_is_lost_in_a_tree() {
        let cycle = [task(0x10, 1, 0x20, "a"), task(0x20, 2, 0x10, "b"), task(0x30, 3, 0x30, "c")];
        assert_eq!(pids(&cycle), [(0, 3), (0, 1), (1, 2)]);
        let orphan = [task(0x10, 1, 0x900, "a"), task(0x20, 2, 0x10, "b")];
        assert_eq!(pids(&orphan), [(0, 1), (1, 2)]);
        let chain: Vec<Task> = (1..=100_000).map(|n| task(n, n as i32, n - 1, "x")).collect();
        let rows = tree(&chain);
        assert_eq!((rows.len(), rows.last()), (100_000, Some(&(MAX_INDENT, 99_999))));
    }

    #[test]
    fn threads_stand_under_their_process_and_so_do_their_children() {
        let process = task(0x10, 5, 0x10, "server");
        let thread = Task { tgid: Some(5), ..task(0x20, 6, 0x10, "worker") };
        let child = Task { ppid: Some(5), ..task(0x30, 7, 0x20, "forked") };
        assert_eq!(pids(&[process.clone(), thread, child.clone()]), [(0, 5), (1, 6), (1, 7)]);
        assert_eq!(pids(&[process, child]), [(0, 5), (1, 7)]);
    }

    #[test]
    fn process_lists_have_the_columns_of_libtlp() {
        let rows = [
            (PhysAddr::new(0x341_1740), task(0x10, 0, 0x10, "swapper/0")),
            (PhysAddr::new(0x8_7c33_0000), task(0x20, 1, 0x10, "systemd")),
        ];
        assert_eq!(
            shown(|out| process_list(out, &rows)),
            "PhyAddr             PID STAT COMMAND\n\
             0x00000003411740      0 S    swapper/0\n\
             0x0000087c330000      1 S    systemd\n"
        );
    }

    #[test]
    fn what_is_unknown_is_a_dash() {
        let known = Details {
            uid: Some(1000),
            threads: Some(3),
            start_nsec: Some(12_340_000_000),
            started: Some("2026-01-02T03:04:05Z".to_owned()),
            cmdline: Some(vec!["sh".to_owned(), "-c\n".to_owned()]),
            cmdline_cut: true,
        };
        let kernels =
            Details { started: None, cmdline: Some(Vec::new()), cmdline_cut: false, ..known.clone() };
        let tasks = [task(1, 1, 1, "sh"), task(2, 2, 2, "kthreadd"), task(3, 3, 3, "gone")];
        assert_eq!(
            shown(|out| tasks_long(
                out,
                &tasks,
                &[known.clone(), kernels.clone(), Details::default()],
                false
            )),
            "TASK                   PID    PPID    UID THREADS  CPU S START                COMM            CMDLINE\n\
             0x0000000000000001       1       -   1000       3    0 S 2026-01-02T03:04:05Z sh              sh -c\\n...\n\
             0x0000000000000002       2       -   1000       3    0 S +12.34s              kthreadd        [kthreadd]\n\
             0x0000000000000003       3       -      -       -    0 S -                    gone            -\n"
        );
    }
}
