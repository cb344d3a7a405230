//! How values look, to a person and in JSON: the same text from a command and from `monitor`.

mod backtraces;
mod kconfig;
mod maps;
mod process;
mod symbols;
mod tasks;

pub use backtraces::{backtraces, no_such_task};
pub use kconfig::{kconfig, kconfig_head};
pub use maps::{files, maps, strings};
pub use process::{cross_view, process};
pub use symbols::{SymbolRow, symbols};
pub use tasks::{process_list, task_tree, tasks, tasks_long};

use std::fmt;

use crate::{
    addr::{Hex, VirtAddr},
    kernel::{dmesg::Message, info::Info, module::Module},
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
    if let Some(pages) = info.poisoned_pages.filter(|pages| *pages > 0) {
        writeln!(
            out,
            "{:<13}pages that the kernel took out of use after memory errors: {pages}",
            "bad memory"
        )?;
    }
    for cpu in &info.cpus {
        let online = if cpu.online { "online" } else { "offline" };
        let runs = cpu.current.map_or("was never started".to_owned(), |task| format!("runs task {task}"));
        writeln!(out, "CPU {:<9}{online}, per-CPU offset {}, {runs}", cpu.cpu, cpu.per_cpu_offset)?;
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

/// The kernel log as `dmesg` prints it.
///
/// # Errors
/// The writer's own.
pub fn dmesg<'l>(out: &mut dyn fmt::Write, messages: impl Iterator<Item = Message<'l>>) -> fmt::Result {
    for message in messages {
        match message {
            Message::Logged(record) => {
                for line in record.lines() {
                    writeln!(out, "{}", printable(&line))?;
                }
            }
            Message::Unlogged(line) => {
                writeln!(out, "[CPU {}, not in the log yet] {}", line.cpu, printable(&line.text))?;
            }
        }
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

    fn shown(render: impl Fn(&mut dyn fmt::Write) -> fmt::Result) -> String {
        let mut text = String::new();
        render(&mut text).unwrap();
        text
    }

    #[test]
    fn dumps() {
        assert_eq!(
            shown(|out| hex_dump(out, 0x1000, b"Linux\0")),
            format!("0x0000000000001000  {:<48} Linux.\n", "4c 69 6e 75 78 00 ")
        );
    }
}
