//! What `/proc/PID/maps` says of a process (`fs/proc/task_mmu.c`, `show_map_vma`).

use std::collections::HashMap;

use super::{
    Kernel, KernelError,
    mm::Mm,
    open_file::{self, Found, Inode, OpenFile},
    path,
    structure::present,
    vma::{self, Area, flags},
};
use crate::{
    addr::{Hex, VirtAddr},
    types::TypeError,
};

/// A name of memory without a file is shorter (`ANON_VMA_NAME_MAX_LEN` is 80).
const MAX_NAME: usize = 80;

/// Bytes of paths in one list, each counted where it is said.
const MAX_SAID: usize = 16 << 20;

/// `vsyscall_mode` of a kernel without vsyscalls (`arch/x86/entry/vsyscall/vsyscall_64.c`: EMULATE, XONLY, NONE).
const NO_VSYSCALLS: u32 = 2;

/// A mapping as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Map {
    /// First address mapped.
    pub start: VirtAddr,
    /// The address behind the last.
    pub end: VirtAddr,
    /// `rwx` as far as allowed, then `s` for shared or `p` for private.
    pub permissions: String,
    /// Offset in the file, in bytes; 0 without a file.
    pub offset: Hex,
    /// The file; device and number are 0 without one.
    #[serde(flatten)]
    pub file: Inode,
    /// Path of the file, or what the kernel calls the memory: `[heap]`, `[stack]`, `[vdso]`...
    pub path: Option<String>,
}

/// Mappings, ascending, and why some of them or of what is said of them is missing.
#[derive(Debug)]
pub struct Maps {
    /// What was read.
    pub maps: Vec<Map>,
    /// Set when the list is not complete.
    pub torn: Option<KernelError>,
}

/// The mappings of `mm`.
///
/// # Errors
/// [`KernelError::KernelOnly`] where user memory is not to be looked at; [`KernelError`] when a type, member or the
/// address space itself cannot be read.
pub fn read(kernel: &Kernel, mm: &Mm) -> Result<Maps, KernelError> {
    kernel.user_memory("the mappings of a process")?;
    let list = vma::list(kernel, mm)?;
    let mut torn = list.torn;
    let files = open_file::read(kernel, list.areas.iter().map(|area| area.file))?;
    let inodes = open_file::inodes(kernel, &files)?;
    let mut paths = file_paths(kernel, &files)?;
    let names = Names::read(kernel, &list.areas)?;
    let mut maps = Vec::with_capacity(list.areas.len() + 1);
    for area in &list.areas {
        let (file, path) = match area.file {
            VirtAddr::NULL => (None, names.of(mm, area)),
            file => {
                let of = |error: Option<&KernelError>| error.map(KernelError::to_string);
                let inode = inodes.get(&file).and_then(|inode| inode.as_ref().ok());
                let said = paths.say(file);
                let path = said.as_ref().ok().cloned().flatten();
                if inode.is_none() || path.is_none() {
                    let failed = [
                        of(files.get(&file).and_then(|file| file.as_ref().err())),
                        of(inodes.get(&file).and_then(|inode| inode.as_ref().err())),
                        said.err(),
                    ];
                    let reason = failed.into_iter().flatten().next().unwrap_or_default();
                    let step = "reading a mapped file";
                    torn.get_or_insert(KernelError::Inconsistent { step, addr: file, reason });
                }
                (inode.copied(), names.shared(area).or(path))
            }
        };
        maps.push(map(area, file, path));
    }
    maps.extend(vsyscall(kernel, mm)?);
    Ok(Maps { maps, torn })
}

fn map(area: &Area, file: Option<Inode>, path: Option<String>) -> Map {
    let letter = |flag, letter| if area.flags & flag != 0 { letter } else { '-' };
    let shared = if area.flags & flags::MAY_SHARE != 0 { 's' } else { 'p' };
    let permissions = [letter(flags::READ, 'r'), letter(flags::WRITE, 'w'), letter(flags::EXEC, 'x'), shared];
    let has_file = !area.file.is_null();
    Map {
        start: area.start,
        end: area.end,
        permissions: permissions.iter().collect(),
        offset: Hex(if has_file { area.page_offset.wrapping_mul(4096) } else { 0 }),
        file: file.unwrap_or(Inode { inode: 0, major: 0, minor: 0 }),
        path,
    }
}

/// Paths of files by their addresses, for whoever says them again and again.
pub(super) struct FilePaths {
    known: HashMap<VirtAddr, Result<String, KernelError>>,
    said: usize,
}

impl FilePaths {
    /// The path of `file`; `None` for a file that could not be read.
    ///
    /// # Errors
    /// Why there is none; also when a hostile kernel has one long path said for each of very many.
    pub(super) fn say(&mut self, file: VirtAddr) -> Result<Option<String>, String> {
        let Some(path) = self.known.get(&file) else { return Ok(None) };
        let path = path.as_ref().map_err(KernelError::to_string)?;
        self.said = self.said.saturating_add(path.len());
        if self.said > MAX_SAID {
            return Err(format!("the paths of all of them have more than {MAX_SAID} bytes"));
        }
        Ok(Some(path.clone()))
    }
}

pub(super) fn file_paths(kernel: &Kernel, files: &Found<OpenFile>) -> Result<FilePaths, KernelError> {
    let known: Vec<(VirtAddr, path::Place)> =
        files.iter().filter_map(|(addr, file)| Some((*addr, file.as_ref().ok()?.place))).collect();
    let places: Vec<path::Place> = known.iter().map(|(_, place)| *place).collect();
    let known = known.into_iter().map(|(addr, _)| addr).zip(path::paths(kernel, &places)?).collect();
    Ok(FilePaths { known, said: 0 })
}

/// Names that mappings without a file have.
struct Names {
    /// `special_mapping_vmops`
    special: Option<VirtAddr>,
    /// Strings by the `vm_special_mapping` that names them.
    specials: HashMap<VirtAddr, String>,
    /// Strings by `anon_vma_name`.
    given: HashMap<VirtAddr, String>,
    /// `anon_name` shares its place with what a mapped file needs (5.17 to 6.1).
    only_without_file: bool,
}

impl Names {
    fn read(kernel: &Kernel, areas: &[Area]) -> Result<Self, KernelError> {
        let types = kernel.types("names of mappings")?;
        let special = kernel.symbols.as_ref().and_then(|symbols| symbols.find("special_mapping_vmops"));
        let mut privates: Vec<VirtAddr> = areas
            .iter()
            .filter(|area| Some(area.ops) == special && !area.private.is_null())
            .map(|area| area.private)
            .collect();
        privates.sort_unstable();
        privates.dedup();
        let name = if privates.is_empty() { 0 } else { types.field("vm_special_mapping", "name")?.offset };
        let at: Vec<VirtAddr> = privates.iter().map(|private| private.wrapping_add(name)).collect();
        let pointers = kernel.memory.read_ptrs(&at).into_iter();
        let pointers: Vec<VirtAddr> = pointers.map(Result::unwrap_or_default).collect();
        let specials = privates.into_iter().zip(strings(kernel, &pointers));

        let place = |member| -> Result<Option<u64>, TypeError> {
            Ok(present(types.field("vm_area_struct", member))?.map(|field| field.offset))
        };
        let only_without_file = place("anon_name")? == place("shared")?;
        let mut given: Vec<VirtAddr> = areas
            .iter()
            .filter(|area| area.file.is_null() || !only_without_file)
            .filter_map(|area| area.anon_name.non_null())
            .collect();
        given.sort_unstable();
        given.dedup();
        let text = if given.is_empty() { 0 } else { types.field("anon_vma_name", "name")?.offset };
        let at: Vec<VirtAddr> = given.iter().map(|name| name.wrapping_add(text)).collect();
        let given = given.into_iter().zip(strings(kernel, &at));
        let read = |(addr, name): (VirtAddr, Option<String>)| Some((addr, name?));
        Ok(Self {
            special,
            specials: specials.filter_map(read).collect(),
            given: given.filter_map(read).collect(),
            only_without_file,
        })
    }

    /// In the order in which the kernel asks. A mapping is the heap's or the stack's by where it lies.
    fn of(&self, mm: &Mm, area: &Area) -> Option<String> {
        if self.special == Some(area.ops)
            && let Some(name) = self.specials.get(&area.private)
        {
            return Some(name.clone());
        }
        let [start_brk, brk] = mm.brk;
        if area.start < brk && area.end > start_brk {
            return Some("[heap]".to_owned());
        }
        if area.start <= mm.start_stack && area.end >= mm.start_stack {
            return Some("[stack]".to_owned());
        }
        self.given.get(&area.anon_name).map(|name| format!("[anon:{name}]"))
    }

    /// The name given to shared memory that a file stands behind.
    fn shared(&self, area: &Area) -> Option<String> {
        if self.only_without_file {
            return None;
        }
        self.given.get(&area.anon_name).map(|name| format!("[anon_shmem:{name}]"))
    }
}

fn strings(kernel: &Kernel, addrs: &[VirtAddr]) -> Vec<Option<String>> {
    let read = kernel.memory.read_vecs(addrs, MAX_NAME).into_iter();
    read.map(|bytes| {
        let bytes = bytes.ok()?;
        let text = bytes.split(|byte| *byte == 0).next().filter(|text| text.len() < bytes.len())?;
        Some(String::from_utf8_lossy(text).into_owned())
    })
    .collect()
}

/// The page of vsyscalls, which is everybody's (`get_gate_vma`).
fn vsyscall(kernel: &Kernel, mm: &Mm) -> Result<Option<Map>, KernelError> {
    let step = "reading vsyscall_mode";
    let Some(symbols) = kernel.symbols.as_ref().filter(|_| mm.has_vsyscall) else { return Ok(None) };
    let (Some(mode), Some(gate)) = (symbols.find("vsyscall_mode"), symbols.find("gate_vma")) else {
        return Ok(None);
    };
    let mode = kernel.memory.read_u32(mode).map_err(|source| KernelError::Read { step, source })?;
    if mode == NO_VSYSCALLS {
        return Ok(None);
    }
    let layout = vma::Layout::resolve(kernel.types("the page of vsyscalls")?)?;
    let mut torn = None;
    let gate = layout.fetch(kernel, &[gate], &mut torn).pop();
    match (gate, torn) {
        (Some((area, _)), _) => Ok(Some(map(&area, None, Some("[vsyscall]".to_owned())))),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}
