//! What processes have mapped and open (mm/mmap.c, fs/file.c), once there are file systems to have it of.

use super::{Boot, Object, mount::Mounted};
use crate::{
    addr::{PhysAddr, VirtAddr},
    machine::{
        MachineError,
        tables::{NO_EXECUTE, PRESENT, TABLE, Tables, USER},
        truth::TrueProcess,
    },
    mem::PhysWrite,
};

/// An address space, for what is mapped later.
pub(super) struct Space {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) task: VirtAddr,
    pub(super) mm: Object,
    pub(super) root: PhysAddr,
}

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXEC: u64 = 4;
/// `FMODE_READ`, `FMODE_WRITE`
const READABLE: u32 = 1;
const WRITABLE: u32 = 2;
const TEXT: u64 = 0x40_0000;
const HEAP: u64 = 0x1c0_0000;
const GUARD: u64 = 0x7f00_0000_0000;
const VDSO: u64 = 0x7ffd_3a9f_0000;
/// The page the arguments are in, and one below it.
const STACK: u64 = 0x7ffd_3a91_d000;
const PAGE: u64 = 4096;
/// Where the name of a mapping begins.
const NAME_COLUMN: usize = 73;
/// A page-table entry of a page in swap area 1 at page 0x1234 (`arch/x86/include/asm/pgtable_64.h`).
const SWAPPED: u64 = 1 << 59 | (!0x1234 << 14) >> 5;
/// Present no more, with bit 8: access was taken away; the frame is kept inverted.
const NO_ACCESS: u64 = 1 << 8;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// A mapping to be made.
struct Wanted {
    start: u64,
    end: u64,
    flags: u64,
    page_offset: u64,
    file: Option<Open>,
    name: &'static str,
}

/// An open file.
#[derive(Clone, Copy)]
struct Open {
    file: Object,
    inode: u64,
}

impl Boot<'_> {
    pub(super) fn run_processes(&mut self) -> Result<(), MachineError> {
        let special = self.make_special_mapping()?;
        let fs = self.alloc_object("fs_struct")?;
        if let Some(root) = self.mounted.first().cloned() {
            for directory in ["root", "pwd"] {
                self.set(fs, &format!("{directory}.mnt"), root.vfsmount)?;
                self.set(fs, &format!("{directory}.dentry"), root.root.addr)?;
            }
        }
        for space in std::mem::take(&mut self.spaces) {
            let exe = format!("/usr/bin/{}", space.comm);
            let text = self.open(&exe, 1000 + u64::from(space.pid), READABLE, true)?;
            let maps = self.map_all(&space, text, special)?;
            let files = self.open_all(&space)?;
            let task = Object { ty: "task_struct", addr: space.task };
            self.set(task, "fs", fs.addr)?;
            self.set(space.mm, "exe_file", text.file.addr)?;
            self.truth.processes.push(TrueProcess { pid: space.pid, exe, maps, files });
        }
        Ok(())
    }

    /// A `struct file` at `path`, whose last directory entry may have been unlinked.
    fn open(&mut self, path: &str, inode: u64, mode: u32, linked: bool) -> Result<Open, MachineError> {
        let on =
            self.mounted.iter().rev().find(|mounted| std::path::Path::new(path).starts_with(&mounted.path));
        let Some(on) = on.cloned() else { return Err(super::wrong("no root file system")) };
        let mut dentry = on.root;
        let rest =
            std::path::Path::new(path).strip_prefix(&on.path).map_err(|_| super::wrong("no such path"))?;
        for name in rest {
            dentry = self.make_dentry(Some(dentry), &name.to_string_lossy())?;
        }
        if !linked {
            self.set(dentry, "d_hash.pprev", 0)?;
        }
        self.open_dentry(&on, dentry, inode, mode)
    }

    fn open_dentry(
        &mut self,
        on: &Mounted,
        dentry: Object,
        number: u64,
        mode: u32,
    ) -> Result<Open, MachineError> {
        let (file, inode) = (self.alloc_object("file")?, self.alloc_object("inode")?);
        self.set(inode, "i_ino", number)?;
        self.set(inode, "i_sb", on.super_block)?;
        self.set(dentry, "d_inode", inode.addr)?;
        self.set(dentry, "d_sb", on.super_block)?;
        self.set(file, "f_path.mnt", on.vfsmount)?;
        self.set(file, "f_path.dentry", dentry.addr)?;
        self.set(file, "f_inode", inode.addr)?;
        self.set(file, "f_mode", mode)?;
        self.set(file, "f_flags", 0o10_0000 | mode.saturating_sub(1))?;
        self.set(file, "f_pos", number % 7 * 10)?;
        Ok(Open { file, inode: number })
    }

    /// Standard input, a file that was deleted while open, one on another file system where there is one, and a socket.
    fn open_all(&mut self, space: &Space) -> Result<Vec<(u32, String)>, MachineError> {
        let deleted = format!("/tmp/a name longer than fits into its entry, of {}", space.pid);
        let below = self.mounted.iter().find(|mounted| mounted.path.ends_with("run")).is_some();
        let pid_file = if below { format!("/run/{}.pid", space.comm) } else { "/pid".to_owned() };
        let number = u64::from(space.pid);
        let files = [
            (0, self.open("/dev/null", 5, READABLE | WRITABLE, true)?, "/dev/null".to_owned()),
            (1, self.open(&deleted, 6, WRITABLE, false)?, format!("{deleted} (deleted)")),
            (3, self.open(&pid_file, 7, WRITABLE, true)?, pid_file),
            (40, self.open_socket(number)?, format!("socket:[{number}]")),
        ];
        let table = self.alloc_object("files_struct")?;
        self.set(table, "count", 1)?;
        self.set(table, "fdt", self.at(table, "fdtab")?)?;
        self.set(table, "fdtab.max_fds", 64)?;
        self.set(table, "fdtab.fd", self.at(table, "fd_array")?)?;
        self.set(table, "fdtab.close_on_exec", self.at(table, "close_on_exec_init")?)?;
        self.set(table, "fdtab.open_fds", self.at(table, "open_fds_init")?)?;
        for (fd, open, _) in &files {
            let slot = self.at(table, "fd_array")?.wrapping_add(u64::from(*fd) * 8);
            self.write_word(slot, open.file.addr.into(), 8)?;
        }
        self.write_word(self.at(table, "close_on_exec_init")?, super::Word(1 << 40), 8)?;
        self.set(Object { ty: "task_struct", addr: space.task }, "files", table.addr)?;
        Ok(files.into_iter().map(|(fd, _, path)| (fd, path)).collect())
    }

    fn open_socket(&mut self, number: u64) -> Result<Open, MachineError> {
        let (dentry, kind) = (self.make_dentry(None, "TCP")?, self.alloc_object("file_system_type")?);
        let (block, vfsmount) = (self.alloc_object("super_block")?, self.alloc_object("mount")?);
        let ops = self.global("dentry_operations", "sockfs_dentry_operations")?;
        let name = self.alloc_string("sockfs")?;
        self.set(kind, "name", name)?;
        self.set(block, "s_type", kind.addr)?;
        self.set(ops, "d_dname", self.symbol("sockfs_dname")?)?;
        self.set(dentry, "d_op", ops.addr)?;
        self.set(vfsmount, "mnt_parent", vfsmount.addr)?;
        let on = Mounted {
            path: std::path::PathBuf::new(),
            vfsmount: self.at(vfsmount, "mnt")?,
            root: dentry,
            super_block: block.addr,
        };
        self.open_dentry(&on, dentry, number, READABLE | WRITABLE)
    }

    fn make_special_mapping(&mut self) -> Result<Object, MachineError> {
        let special = self.alloc_object("vm_special_mapping")?;
        let name = self.alloc_string("[vdso]")?;
        self.set(special, "name", name)?;
        Ok(special)
    }

    /// Maps what every process maps; returns the lines of `/proc/PID/maps`.
    fn map_all(&mut self, space: &Space, text: Open, special: Object) -> Result<Vec<String>, MachineError> {
        let wanted = [
            Wanted::of(TEXT, 2, READ | EXEC, Some(text), ""),
            Wanted::of(HEAP, 3, READ | WRITE, None, "[heap]"),
            Wanted::of(GUARD, 1, 0, None, ""),
            Wanted::of(STACK, 2, READ | WRITE, None, "[stack]"),
            Wanted::of(VDSO, 1, READ | EXEC, None, "[vdso]"),
        ];
        let user = TABLE | USER | NO_EXECUTE;
        let tables = Tables::new(self.memory.clone(), space.root, self.description.levels);
        let (code, heap) = (self.heap.take(PAGE, PAGE)?, self.heap.take(PAGE, PAGE)?);
        self.memory.write(code, b"\x7fELF of the machine")?;
        self.memory.write(heap, format!("heap of {}", space.pid).as_bytes())?;
        tables.map(&mut self.heap, VirtAddr::new(TEXT), code, PAGE, 1, PRESENT | USER)?;
        tables.map(&mut self.heap, VirtAddr::new(HEAP), heap, PAGE, 1, user)?;
        tables.set(&mut self.heap, VirtAddr::new(HEAP + 2 * PAGE), SWAPPED)?;
        tables.set(&mut self.heap, VirtAddr::new(GUARD), !heap.raw() & FRAME | NO_ACCESS)?;

        self.set(space.mm, "map_count", wanted.len())?;
        self.set(space.mm, "start_brk", HEAP)?;
        self.set(space.mm, "brk", HEAP + 3 * PAGE)?;
        let mut areas = Vec::new();
        for wanted in &wanted {
            let area = self.alloc_object("vm_area_struct")?;
            self.set(area, "vm_start", wanted.start)?;
            self.set(area, "vm_end", wanted.end)?;
            self.set(area, "vm_mm", space.mm.addr)?;
            self.set(area, "vm_flags", wanted.flags)?;
            self.set(area, "vm_pgoff", wanted.page_offset)?;
            if let Some(open) = wanted.file {
                self.set(area, "vm_file", open.file.addr)?;
            }
            if wanted.start == VDSO {
                self.set(area, "vm_ops", self.symbol("special_mapping_vmops")?)?;
                self.set(area, "vm_private_data", special.addr)?;
            }
            areas.push(area);
        }
        if self.has("mm_struct", "mm_mt.ma_root") {
            self.grow_maple(space.mm, &areas, &wanted)?;
        } else {
            self.link_areas(space.mm, &areas)?;
        }
        Ok(wanted.iter().map(|wanted| wanted.line(space)).collect())
    }

    /// One leaf below a node, so that both kinds are there.
    fn grow_maple(&mut self, mm: Object, areas: &[Object], wanted: &[Wanted]) -> Result<(), MachineError> {
        /// Types of nodes where a pointer to one has them, and what marks a root.
        const LEAF: u64 = 1 << 3 | 4;
        const ARANGE: u64 = 3 << 3 | 2;
        let [leaf, top] = [self.alloc(256, 256)?, self.alloc(256, 256)?];
        let (leaf, top) =
            (Object { ty: "maple_range_64", addr: leaf }, Object { ty: "maple_arange_64", addr: top });
        let (mut slot, mut free) = (0, 0);
        let mut put = |boot: &Self, last: u64, entry: u64| -> Result<(), MachineError> {
            boot.write_word(boot.at(leaf, "pivot")?.wrapping_add(slot * 8), super::Word(last), 8)?;
            boot.write_word(boot.at(leaf, "slot")?.wrapping_add(slot * 8), super::Word(entry), 8)?;
            slot += 1;
            Ok(())
        };
        for (area, wanted) in areas.iter().zip(wanted) {
            if free < wanted.start {
                put(self, wanted.start - 1, 0)?;
            }
            put(self, wanted.end - 1, area.addr.raw())?;
            free = wanted.end;
        }
        put(self, 0x7fff_ffff_ffff, 0)?;
        self.write_word(self.at(top, "pivot")?, super::Word(0x7fff_ffff_ffff), 8)?;
        self.write_word(self.at(top, "slot")?, super::Word(leaf.addr.raw() | LEAF), 8)?;
        let rest = self.alloc(256, 256)?;
        let empty = Object { ty: "maple_range_64", addr: rest };
        self.write_word(self.at(empty, "pivot")?, super::Word(u64::MAX), 8)?;
        self.write_word(self.at(top, "slot")?.wrapping_add(8), super::Word(rest.raw() | LEAF), 8)?;
        self.set(leaf, "parent", top.addr.raw() | 6)?;
        self.set(mm, "mm_mt.ma_root", top.addr.raw() | ARANGE)
    }

    /// A list, and a tree of it whose root is the middle.
    fn link_areas(&mut self, mm: Object, areas: &[Object]) -> Result<(), MachineError> {
        for (area, next) in areas.iter().zip(areas.iter().skip(1)) {
            self.set(*area, "vm_next", next.addr)?;
            self.set(*next, "vm_prev", area.addr)?;
        }
        if let Some(first) = areas.first() {
            self.set(mm, "mmap", first.addr)?;
        }
        let root = self.balance(areas)?;
        self.set(mm, "mm_rb.rb_node", root)
    }

    /// The node of the middle of `areas`, with the halves below it.
    fn balance(&mut self, areas: &[Object]) -> Result<VirtAddr, MachineError> {
        let (left, rest) = areas.split_at(areas.len() / 2);
        let Some((middle, right)) = rest.split_first() else { return Ok(VirtAddr::NULL) };
        let (left, right) = (self.balance(left)?, self.balance(right)?);
        self.set(*middle, "vm_rb.rb_left", left)?;
        self.set(*middle, "vm_rb.rb_right", right)?;
        self.at(*middle, "vm_rb")
    }
}

impl Wanted {
    fn of(start: u64, pages: u64, flags: u64, file: Option<Open>, name: &'static str) -> Self {
        Self {
            start,
            end: start + pages * PAGE,
            flags,
            page_offset: if file.is_some() { 3 } else { start / PAGE },
            file,
            name,
        }
    }

    /// As the kernel prints it (`show_map_vma`).
    fn line(&self, space: &Space) -> String {
        let letter = |flag, letter| if self.flags & flag != 0 { letter } else { '-' };
        let (r, w, x) = (letter(READ, 'r'), letter(WRITE, 'w'), letter(EXEC, 'x'));
        let (offset, device, inode) = match self.file {
            Some(open) => (self.page_offset * PAGE, "08:01", open.inode),
            None => (0, "00:00", 0),
        };
        let line = format!("{:08x}-{:08x} {r}{w}{x}p {offset:08x} {device} {inode} ", self.start, self.end);
        match (self.file, self.name) {
            (Some(_), _) => format!("{line:<NAME_COLUMN$}/usr/bin/{}", space.comm),
            (None, "") => line,
            (None, name) => format!("{line:<NAME_COLUMN$}{name}"),
        }
    }
}
