//! Open files of a process: its table of descriptors (`include/linux/fdtable.h`), as `/proc/PID/fd` and `fdinfo` show it.

use super::{Kernel, KernelError, maps, open_file, structure::Structure};
use crate::addr::VirtAddr;

const STEP: &str = "reading the table of open files";

/// Descriptors of one process: `fs.nr_open` allows four times as many, which nobody opens; larger tables are cut.
const MAX_FILES: u64 = 1 << 18;

/// `O_CLOEXEC` (`include/uapi/asm-generic/fcntl.h`), which is the descriptor's and not the file's.
const CLOSE_ON_EXEC: u32 = 0o200_0000;

/// An open file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// Address of the `struct file`, which several descriptors may share.
    pub file: VirtAddr,
    /// As opened, `O_*` of `open(2)`; `None` when the file could not be read.
    pub flags: Option<u32>,
    /// `r` and `w` as far as allowed.
    pub access: Option<String>,
    /// Where the next read or write begins.
    pub position: Option<u64>,
    /// Inode number.
    pub inode: Option<u64>,
    /// As `readlink /proc/PID/fd/N` prints it: a path, `socket:[inode]`, `pipe:[inode]`, `anon_inode:...`.
    pub path: Option<String>,
}

/// Open files by number, and why some of them or of what is said of them is missing.
#[derive(Debug)]
pub struct Files {
    /// What was read.
    pub files: Vec<Descriptor>,
    /// Set when the list is not complete.
    pub torn: Option<KernelError>,
}

/// The open files of the task at `task`; none of one that has ended.
///
/// # Errors
/// [`KernelError`] when a type or member is missing or the table cannot be read.
pub fn read(kernel: &Kernel, task: VirtAddr) -> Result<Files, KernelError> {
    let (numbers, mut torn) = numbers(kernel, task)?;
    let files = open_file::read(kernel, numbers.iter().map(|entry| entry.file))?;
    let inodes = open_file::inodes(kernel, &files)?;
    let mut paths = maps::file_paths(kernel, &files)?;
    let mut note = |error: Option<String>, file| {
        if let Some(reason) = error {
            let step = "reading an open file";
            torn.get_or_insert(KernelError::Inconsistent { step, addr: file, reason });
        }
    };
    let mut descriptors = Vec::with_capacity(numbers.len());
    for Number { fd, file, closes } in numbers {
        let (open, inode, path) = (files.get(&file), inodes.get(&file), paths.say(file));
        let said = KernelError::to_string;
        note(open.and_then(|open| open.as_ref().err()).map(said), file);
        note(inode.and_then(|inode| inode.as_ref().err()).map(said), file);
        note(path.as_ref().err().cloned(), file);
        let open = open.and_then(|open| open.as_ref().ok());
        let letter = |set, letter| if set { letter } else { '-' };
        descriptors.push(Descriptor {
            fd,
            file,
            flags: open.map(|open| open.flags | if closes { CLOSE_ON_EXEC } else { 0 }),
            access: open
                .map(|open| [letter(open.readable, 'r'), letter(open.writable, 'w')].iter().collect()),
            position: open.map(|open| open.position),
            inode: inode.and_then(|inode| Some(inode.as_ref().ok()?.inode)),
            path: path.ok().flatten(),
        });
    }
    Ok(Files { files: descriptors, torn })
}

/// A descriptor in use.
struct Number {
    fd: u32,
    file: VirtAddr,
    closes: bool,
}

fn numbers(kernel: &Kernel, task: VirtAddr) -> Result<(Vec<Number>, Option<KernelError>), KernelError> {
    let failed = |source| KernelError::Read { step: STEP, source };
    let types = kernel.types("open files")?;
    let memory = &kernel.memory;
    let of_task = types.field("task_struct", "files")?.offset;
    let of_files = types.field("files_struct", "fdt")?.offset;
    let mut layout = Structure::new(types, "fdtable");
    let max = layout.field::<u32>(&["max_fds"])?;
    let array = layout.field::<VirtAddr>(&["fd"])?;
    let closing = layout.field::<VirtAddr>(&["close_on_exec"])?;

    let files = memory.read_ptr(task.wrapping_add(of_task)).map_err(failed)?;
    if files.is_null() {
        return Ok((Vec::new(), None));
    }
    let addr = memory.read_ptr(files.wrapping_add(of_files)).map_err(failed)?;
    let table = memory.read_vec(addr, layout.bytes()?).map_err(failed)?;
    let early = || KernelError::Inconsistent { step: STEP, addr, reason: "it ends early".to_owned() };
    let max = u64::from(max.get(&table).ok_or_else(early)?);
    let kept = max.min(MAX_FILES);
    let torn = (kept < max).then(|| {
        let reason = format!("it has room for {max} files; the first {kept} were read");
        KernelError::Inconsistent { step: STEP, addr, reason }
    });
    let read = |at: Option<VirtAddr>, bytes: u64| {
        memory.read_vec(at.ok_or_else(early)?, usize::try_from(bytes).unwrap_or(0)).map_err(failed)
    };
    let array = read(array.get(&table), kept * 8)?;
    let closing = read(closing.get(&table), kept.div_ceil(8))?;
    let used = (0..).zip(array.as_chunks::<8>().0).filter_map(|(fd, file)| {
        let file = VirtAddr::new(u64::from_le_bytes(*file));
        let byte = closing.get(usize::try_from(fd / 8).ok()?)?;
        Some(Number { fd, file: file.non_null()?, closes: byte >> (fd % 8) & 1 == 1 })
    });
    Ok((used.collect(), torn))
}
