//! Mappings and open files of a process.

use std::fmt::{self, Write as _};

use crate::kernel::{files::Descriptor, maps::Map};

/// Where the name of a mapping begins (`fs/proc/task_mmu.c`, `show_vma_header_prefix`, 25 + 6 * 8 columns).
const NAME_COLUMN: usize = 73;

/// Mappings, line for line as `/proc/PID/maps` prints them.
///
/// # Errors
/// The writer's own.
pub fn maps(out: &mut dyn fmt::Write, maps: &[Map]) -> fmt::Result {
    for map in maps {
        let mut line = format!(
            "{:08x}-{:08x} {} {:08x} {:02x}:{:02x} {} ",
            map.start, map.end, map.permissions, map.offset.0, map.file.major, map.file.minor, map.file.inode
        )
        .replace("0x", "");
        if let Some(path) = &map.path {
            line = format!("{line:<NAME_COLUMN$}{}", escaped(path));
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Open files: descriptor, access, flags as `fdinfo` prints them, position, and where the descriptor leads.
///
/// # Errors
/// The writer's own.
pub fn files(out: &mut dyn fmt::Write, files: &[Descriptor]) -> fmt::Result {
    writeln!(out, "{:>5} RW {:>9} {:>10} PATH", "FD", "FLAGS", "POS")?;
    for file in files {
        let flags = file.flags.map_or_else(|| "-".to_owned(), |flags| format!("0{flags:o}"));
        let position = file.position.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let (access, path) = (file.access.as_deref().unwrap_or("--"), file.path.as_deref().unwrap_or("-"));
        writeln!(out, "{:>5} {access} {flags:>9} {position:>10} {}", file.fd, escaped(path))?;
    }
    Ok(())
}

/// Strings, a line each.
///
/// # Errors
/// The writer's own.
pub fn strings(out: &mut dyn fmt::Write, strings: &[String]) -> fmt::Result {
    strings.iter().try_for_each(|string| writeln!(out, "{}", escaped(string)))
}

/// Control characters as `\\ooo`, which is what the kernel makes of a newline in a path (`seq_path`).
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                let _ = write!(shown, "\\{byte:03o}");
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::{Hex, VirtAddr},
        kernel::open_file::Inode,
    };

    fn map(start: u64, end: u64, path: Option<&str>) -> Map {
        Map {
            start: VirtAddr::new(start),
            end: VirtAddr::new(end),
            permissions: "r-xp".to_owned(),
            offset: Hex(0x1000),
            file: Inode { inode: 24, major: 0, minor: 2 },
            path: path.map(str::to_owned),
        }
    }

    #[test]
    fn lines_are_those_of_proc() {
        let maps = [
            map(0x40_1000, 0x58_5000, Some("/bin/busybox")),
            map(0x7ffc_4bf9_5000, 0x7ffc_4bfb_6000, Some("[stack]")),
            map(0x40_1000, 0x58_5000, None),
            map(0x40_1000, 0x58_5000, Some("/new\nline\u{1b}[2J (deleted)")),
        ];
        let mut text = String::new();
        super::maps(&mut text, &maps).unwrap();
        assert_eq!(
            text,
            "00401000-00585000 r-xp 00001000 00:02 24                                 /bin/busybox\n\
             7ffc4bf95000-7ffc4bfb6000 r-xp 00001000 00:02 24                         [stack]\n\
             00401000-00585000 r-xp 00001000 00:02 24 \n\
             00401000-00585000 r-xp 00001000 00:02 24                                 /new\\012line\\033[2J (deleted)\n"
        );
    }
}
