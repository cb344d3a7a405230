//! Open files (`struct file`) and the inodes behind them, many at a time.

use std::collections::HashMap;

use super::{Kernel, KernelError, path::Place, structure::Structure};
use crate::{
    addr::VirtAddr,
    types::{Field, TypeError, TypeSource},
};

/// `FMODE_READ` and `FMODE_WRITE` (`include/linux/fs.h`).
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
/// `FMODE_BACKING`, since def3ae83da02 (6.5): a file of the lower file system that stands for one of a layered one.
const BACKING: u32 = 1 << 25;

/// `MINORBITS` (`include/linux/kdev_t.h`)
const MINOR_BITS: u32 = 20;

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFile {
    /// Where users see it.
    pub place: Place,
    /// The inode users see; NULL if it is the one of the place's directory entry.
    pub inode: VirtAddr,
    /// `f_flags`: what it was opened with.
    pub flags: u32,
    /// It may be read.
    pub readable: bool,
    /// It may be written.
    pub writable: bool,
    /// Where the next read or write begins.
    pub position: u64,
}

/// What identifies a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Inode {
    /// Its number.
    pub inode: u64,
    /// Major number of its device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What was read, or why not, by address.
pub type Found<T> = HashMap<VirtAddr, Result<T, KernelError>>;

struct Layout {
    bytes: usize,
    mount: Field<VirtAddr>,
    dentry: Field<VirtAddr>,
    inode: Field<VirtAddr>,
    flags: Field<u32>,
    mode: Field<u32>,
    position: Field<u64>,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut file = Structure::new(types, "file");
        Ok(Self {
            mount: file.field(&["f_path.mnt"])?,
            dentry: file.field(&["f_path.dentry"])?,
            inode: file.field(&["f_inode"])?,
            flags: file.field(&["f_flags"])?,
            mode: file.field(&["f_mode"])?,
            position: file.field(&["f_pos"])?,
            bytes: file.bytes()?,
        })
    }

    fn parse(&self, bytes: &[u8]) -> Option<(OpenFile, bool)> {
        let mode = self.mode.get(bytes)?;
        let file = OpenFile {
            place: Place { mount: self.mount.get(bytes)?, dentry: self.dentry.get(bytes)? },
            inode: self.inode.get(bytes)?,
            flags: self.flags.get(bytes)?,
            readable: mode & READ != 0,
            writable: mode & WRITE != 0,
            position: self.position.get(bytes)?,
        };
        Some((file, mode & BACKING != 0))
    }
}

/// Reads the files at `addrs`, each once.
///
/// # Errors
/// [`KernelError`] when a type or member is missing.
pub fn read(
    kernel: &Kernel,
    addrs: impl IntoIterator<Item = VirtAddr>,
) -> Result<Found<OpenFile>, KernelError> {
    let step = "reading struct file";
    let types = kernel.types("open files")?;
    let layout = Layout::resolve(types)?;
    let addrs = distinct(addrs);
    let (mut found, mut backing) = (Found::new(), Vec::new());
    for (addr, bytes) in addrs.iter().zip(kernel.memory.read_vecs(&addrs, layout.bytes)) {
        let file = bytes.map_err(|source| KernelError::Read { step, source }).and_then(|bytes| {
            let reason = "it ends early".to_owned();
            layout.parse(&bytes).ok_or(KernelError::Inconsistent { step, addr: *addr, reason })
        });
        if let Ok((_, true)) = file {
            backing.push(*addr);
        }
        found.insert(*addr, file.map(|(file, _)| file));
    }
    if let (false, Some(user)) = (backing.is_empty(), UserPath::resolve(types)?) {
        user.replace(kernel, &backing, &mut found);
    }
    Ok(found)
}

/// Where `struct backing_file` has the path that users see.
struct UserPath {
    bytes: usize,
    mount: Field<VirtAddr>,
    dentry: Field<VirtAddr>,
}

impl UserPath {
    fn resolve(types: &dyn TypeSource) -> Result<Option<Self>, TypeError> {
        let mut file = Structure::new(types, "backing_file");
        let mount = file.optional(&["user_path.mnt"])?;
        let dentry = file.optional(&["user_path.dentry"])?;
        let (Some(mount), Some(dentry)) = (mount, dentry) else { return Ok(None) };
        Ok(Some(Self { mount, dentry, bytes: file.bytes()? }))
    }

    fn replace(&self, kernel: &Kernel, addrs: &[VirtAddr], found: &mut Found<OpenFile>) {
        let step = "reading struct backing_file";
        for (addr, bytes) in addrs.iter().zip(kernel.memory.read_vecs(addrs, self.bytes)) {
            let Some(slot) = found.get_mut(addr) else { continue };
            match bytes {
                Ok(bytes) => {
                    if let (Ok(file), Some(mount), Some(dentry)) =
                        (slot, self.mount.get(&bytes), self.dentry.get(&bytes))
                    {
                        (file.place, file.inode) = (Place { mount, dentry }, VirtAddr::NULL);
                    }
                }
                Err(source) => *slot = Err(KernelError::Read { step, source }),
            }
        }
    }
}

/// The inodes of `files`, by the files' addresses.
///
/// # Errors
/// [`KernelError`] when a type or member is missing.
pub fn inodes(kernel: &Kernel, files: &Found<OpenFile>) -> Result<Found<Inode>, KernelError> {
    let step = "reading struct inode";
    let types = kernel.types("inodes")?;
    let of_dentry = types.field("dentry", "d_inode")?.offset;
    let mut inode = Structure::new(types, "inode");
    let number = inode.field::<u64>(&["i_ino"])?;
    let block = inode.field::<VirtAddr>(&["i_sb"])?;
    let device = types.field("super_block", "s_dev")?.offset;

    let layered = files.values().flatten().filter(|file| file.inode.is_null());
    let layered = distinct(layered.map(|file| file.place.dentry.wrapping_add(of_dentry)));
    let layered: HashMap<VirtAddr, VirtAddr> = layered
        .iter()
        .zip(kernel.memory.read_ptrs(&layered))
        .filter_map(|(at, inode)| Some((*at, inode.ok()?)))
        .collect();
    let inode_of = |file: &OpenFile| match file.inode {
        VirtAddr::NULL => {
            layered.get(&file.place.dentry.wrapping_add(of_dentry)).copied().unwrap_or_default()
        }
        inode => inode,
    };
    let addrs = distinct(files.values().flatten().map(inode_of));
    let bytes: HashMap<_, _> = addrs.iter().zip(kernel.memory.read_vecs(&addrs, inode.bytes()?)).collect();
    let blocks = distinct(bytes.values().flatten().filter_map(|bytes| block.get(bytes)));
    let places: Vec<VirtAddr> = blocks.iter().map(|block| block.wrapping_add(device)).collect();
    // dev_t is of 32 bits.
    let devices: HashMap<_, _> = blocks.iter().zip(kernel.memory.read_each::<4>(&places)).collect();

    let read = |file: &OpenFile| -> Result<Inode, KernelError> {
        let addr = inode_of(file);
        let missing = || KernelError::Inconsistent { step, addr, reason: "it was not read".to_owned() };
        let failed = |source: &crate::paging::VirtError| KernelError::Read { step, source: source.clone() };
        let bytes = bytes.get(&addr).ok_or_else(missing)?.as_ref().map_err(failed)?;
        let block = block.get(bytes).ok_or_else(missing)?;
        let device = devices.get(&block).ok_or_else(missing)?.as_ref().map_err(failed)?;
        let device = u32::from_le_bytes(*device);
        Ok(Inode {
            inode: number.get(bytes).ok_or_else(missing)?,
            major: device >> MINOR_BITS,
            minor: device & ((1 << MINOR_BITS) - 1),
        })
    };
    Ok(files.iter().filter_map(|(addr, file)| Some((*addr, read(file.as_ref().ok()?)))).collect())
}

/// Ascending, each once, NULL left out.
fn distinct(addrs: impl IntoIterator<Item = VirtAddr>) -> Vec<VirtAddr> {
    let mut addrs: Vec<VirtAddr> = addrs.into_iter().filter_map(VirtAddr::non_null).collect();
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}
