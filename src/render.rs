//! How values look, to a person and in JSON: the same text from a command and from `monitor`.

mod kconfig;

pub use kconfig::{kconfig, kconfig_head};

use std::fmt;

use crate::{
    addr::{Hex, PhysAddr, VirtAddr},
    kernel::{dmesg::Record, info::Info, module::Module, task::Task},
    paging::Translation,
};

/// Text of a target as a terminal may show it: control characters, which could drive it, are escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => shown.push(character),
            _ if character.is_control() => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

/// `info` as text.
///
/// # Errors
/// The writer's own.
pub fn info(out: &mut dyn fmt::Write, info: &Info) -> fmt::Result {
    let unknown = || "unknown".to_owned();
    let text = |value: &Option<String>| value.as_deref().map_or_else(unknown, printable);
    let number = |value: &Option<Hex>| value.map_or_else(unknown, |value| value.to_string());
    let ram = info.ram.iter().map(|[start, end]| format!("{start}-{end}")).collect::<Vec<_>>().join(" ");
    let rows: [(&str, String); 14] = [
        ("release", text(&info.release)),
        ("distribution", text(&info.distribution)),
        ("banner", text(&info.banner).trim_end_matches("\\n").to_owned()),
        ("build id", text(&info.build_id)),
        ("_text", format!("{} at physical {}", info.text, info.text_phys)),
        ("phys_base", info.phys_base.to_string()),
        ("KASLR slide", number(&info.slide)),
        ("page tables", format!("{} levels, root at physical {}", info.levels, info.root)),
        ("page_offset", number(&info.page_offset_base)),
        ("vmalloc_base", number(&info.vmalloc_base)),
        ("vmemmap_base", number(&info.vmemmap_base)),
        ("sme_mask", info.sme_mask.to_string()),
        ("init_task", number(&info.init_task)),
        ("RAM", if ram.is_empty() { unknown() } else { ram }),
    ];
    for (name, value) in rows {
        writeln!(out, "{name:<13}{value}")?;
    }
    for cpu in &info.cpus {
        let online = if cpu.online { "online" } else { "offline" };
        writeln!(
            out,
            "CPU {:<9}{online}, per-CPU offset {}, runs task {}",
            cpu.cpu, cpu.per_cpu_offset, cpu.current
        )?;
    }
    writeln!(out, "how it was found")?;
    for evidence in &info.evidence {
        let confidence = format!("{:?}", evidence.confidence).to_lowercase();
        writeln!(
            out,
            "  {:<17}{confidence:<8} {}: {}",
            evidence.what,
            evidence.method,
            printable(&evidence.detail)
        )?;
    }
    Ok(())
}

/// A table of tasks.
///
/// # Errors
/// The writer's own.
pub fn tasks(out: &mut dyn fmt::Write, tasks: &[Task]) -> fmt::Result {
    task_rows(out, tasks.iter().map(|task| (0, task)))
}

/// A table of tasks, each under its parent and indented.
///
/// # Errors
/// The writer's own.
pub fn task_tree(out: &mut dyn fmt::Write, tasks: &[Task]) -> fmt::Result {
    let mut children: std::collections::HashMap<VirtAddr, Vec<&Task>> = std::collections::HashMap::new();
    for task in tasks {
        children.entry(task.parent).or_default().push(task);
    }
    let known: std::collections::HashSet<VirtAddr> = tasks.iter().map(|task| task.addr).collect();
    let is_root = |task: &&Task| task.parent == task.addr || !known.contains(&task.parent);
    let mut stack: Vec<(usize, &Task)> = tasks.iter().filter(is_root).map(|task| (0, task)).collect();
    stack.reverse();
    let mut rows = Vec::with_capacity(tasks.len());
    while let Some((depth, task)) = stack.pop() {
        rows.push((depth, task));
        let own = children.remove(&task.addr).unwrap_or_default();
        stack.extend(
            own.into_iter().rev().filter(|child| child.addr != task.addr).map(|child| (depth + 1, child)),
        );
    }
    task_rows(out, rows.into_iter())
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

fn task_rows<'t>(out: &mut dyn fmt::Write, rows: impl Iterator<Item = (usize, &'t Task)>) -> fmt::Result {
    writeln!(out, "{:<18} {:>7} {:>7} {:>4} S COMM", "TASK", "PID", "PPID", "CPU")?;
    let dash = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    for (depth, task) in rows {
        writeln!(
            out,
            "{:#018x} {:>7} {:>7} {:>4} {} {:indent$}{}",
            task.addr,
            task.pid,
            dash(task.ppid.map(|pid| pid.to_string())),
            dash(task.cpu.map(|cpu| cpu.to_string())),
            task.state,
            "",
            printable(&task.comm),
            indent = depth * 2,
        )?;
    }
    Ok(())
}

/// The kernel log as `dmesg` prints it.
///
/// # Errors
/// The writer's own.
pub fn dmesg(out: &mut dyn fmt::Write, records: &[Record]) -> fmt::Result {
    for line in records.iter().flat_map(Record::lines) {
        writeln!(out, "{}", printable(&line))?;
    }
    Ok(())
}

/// A table of modules.
///
/// # Errors
/// The writer's own.
pub fn modules(out: &mut dyn fmt::Write, modules: &[Module]) -> fmt::Result {
    writeln!(out, "{:<18} {:<24} {:>9} {:>4} STATE", "BASE", "MODULE", "SIZE", "REFS")?;
    for module in modules {
        let references = module.references.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let (name, state) = (printable(&module.name), printable(&module.state));
        writeln!(out, "{:#018x} {name:<24} {:>9} {references:>4} {state}", module.base, module.size)?;
    }
    Ok(())
}

/// Where a virtual address lies.
///
/// # Errors
/// The writer's own.
pub fn translation(out: &mut dyn fmt::Write, addr: VirtAddr, found: &Translation) -> fmt::Result {
    let size = match found.page_size {
        size if size >= 1 << 30 => format!("{} GiB", size >> 30),
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size => format!("{} KiB", size >> 10),
    };
    let flag = |set, letter| if set { letter } else { '-' };
    let (w, x) = (flag(found.writable, 'w'), flag(found.executable, 'x'));
    let mode = if found.user { "user" } else { "kernel" };
    writeln!(out, "{addr} -> physical {} ({size} page, r{w}{x}, {mode})", found.phys)
}

/// Bytes in rows of sixteen, with their addresses and as text.
///
/// # Errors
/// The writer's own.
pub fn hex_dump(out: &mut dyn fmt::Write, start: u64, bytes: &[u8]) -> fmt::Result {
    for (row, index) in bytes.chunks(16).zip(0_u64..) {
        let digits = row.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
        let text: String = row
            .iter()
            .map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' })
            .collect();
        writeln!(out, "{:#018x}  {digits:<48} {text}", start.wrapping_add(index * 16))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(addr: u64, pid: i32, parent: u64, comm: &str) -> Task {
        Task {
            addr: VirtAddr::new(addr),
            pid,
            tgid: Some(pid),
            ppid: Some(0),
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

    #[test]
    fn trees_survive_cycles() {
        let tasks =
            [task(0x10, 0, 0x10, "swapper/0"), task(0x20, 1, 0x10, "init"), task(0x30, 7, 0x20, "sh\x1b[2J")];
        assert_eq!(
            shown(|out| task_tree(out, &tasks)),
            "TASK                   PID    PPID  CPU S COMM\n\
             0x0000000000000010       0       0    0 S swapper/0\n\
             0x0000000000000020       1       0    0 S   init\n\
             0x0000000000000030       7       0    0 S     sh\\u{1b}[2J\n"
        );
        let cycle = [task(0x10, 1, 0x20, "a"), task(0x20, 2, 0x10, "b")];
        assert_eq!(shown(|out| task_tree(out, &cycle)).lines().count(), 1);
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
    fn dumps() {
        assert_eq!(
            shown(|out| hex_dump(out, 0x1000, b"Linux\0")),
            format!("0x0000000000001000  {:<48} Linux.\n", "4c 69 6e 75 78 00 ")
        );
    }
}
