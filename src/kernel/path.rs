//! Paths as `/proc` tells them: from a place (`struct path`: a mount and a directory entry) up to the root of its mount
//! namespace, through every mount on the way (`fs/d_path.c`, `prepend_path`, `d_path`).
//!
//! All places are walked side by side: each round reads every parent and every mount that is not known yet, so that the
//! paths of a thousand files cost as many round trips as the deepest of them has directories. What no file system holds
//! (sockets, pipes, memory files) is named by [`pseudo`]. The structures are hostile: objects and steps are bounded.

mod pseudo;

use std::collections::{HashMap, HashSet};

use super::{Kernel, KernelError, structure::Structure};
use crate::{
    addr::VirtAddr,
    paging::VirtError,
    types::{Field, FieldInfo, TypeError, TypeSource, field::member_bytes},
};

const STEP: &str = "reading a path";

/// Directories and mounts on one way to the root, and bytes of a path (`PATH_MAX`, `include/uapi/linux/limits.h`): the
/// kernel itself tells no longer one.
const MAX_PATH: usize = 4096;

/// Directories and mounts on all the ways of one request.
const MAX_PARTS: usize = 1 << 20;

/// Bytes of all the paths of one request.
const MAX_TEXT: usize = 16 << 20;

/// Directory entries and mounts read for one request.
const MAX_OBJECTS: usize = 1 << 18;

/// `NAME_MAX`
const MAX_NAME: u32 = 255;

/// A place in the tree of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its `struct vfsmount`.
    pub mount: VirtAddr,
    /// Its `struct dentry`.
    pub dentry: VirtAddr,
}

/// Paths of `places`, in their order, each with its own outcome. Bytes that are not UTF-8 are replaced; control
/// characters are as they are: whoever prints a path escapes them.
///
/// # Errors
/// [`KernelError`] when a type or member is missing.
pub fn paths(kernel: &Kernel, places: &[Place]) -> Result<Vec<Result<String, KernelError>>, KernelError> {
    let layout = Layout::resolve(kernel.types("paths")?)?;
    let mut tree = Tree::new(kernel, layout);
    tree.grow(places)?;
    let special = pseudo::names(kernel, &tree, places)?;
    let mut parts = Budget { left: MAX_PARTS, what: "directories" };
    let mut ways = Vec::with_capacity(places.len());
    for (place, special) in places.iter().zip(special) {
        ways.push(match special {
            Some(name) => name.map(Way::Named),
            None => tree.way(*place, &mut parts).map(|(parts, is_deleted)| Way::Through(parts, is_deleted)),
        });
    }
    tree.read_names(&ways);
    let mut text = Budget { left: MAX_TEXT, what: "bytes of paths" };
    let texts = ways.into_iter().zip(places).map(|(way, place)| {
        let path = tree.text(way?)?;
        text.spend(path.len(), place.dentry).map(|()| path)
    });
    Ok(texts.collect())
}

/// What is left of a bound that all the paths of a request share.
struct Budget {
    left: usize,
    what: &'static str,
}

impl Budget {
    fn spend(&mut self, count: usize, addr: VirtAddr) -> Result<(), KernelError> {
        let left = self.left.checked_sub(count).ok_or_else(|| {
            let reason = format!("the paths asked for together have too many {}", self.what);
            KernelError::Inconsistent { step: STEP, addr, reason }
        })?;
        self.left = left;
        Ok(())
    }
}

/// How a path is known.
enum Way {
    /// It is a name of its own.
    Named(String),
    /// Directory entries from the last component up, and whether it was deleted.
    Through(Vec<VirtAddr>, bool),
}

struct Layout {
    dentry_bytes: usize,
    parent: Field<VirtAddr>,
    name: Field<VirtAddr>,
    len: Field<u32>,
    inline: FieldInfo,
    hashed: Field<VirtAddr>,
    ops: Field<VirtAddr>,
    inode: Field<VirtAddr>,
    super_block: Field<VirtAddr>,
    mount_bytes: usize,
    /// Of `struct vfsmount` in `struct mount`.
    vfsmount: u64,
    mount_parent: Field<VirtAddr>,
    mountpoint: Field<VirtAddr>,
    mount_root: Field<VirtAddr>,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut dentry = Structure::new(types, "dentry");
        let mut mount = Structure::new(types, "mount");
        Ok(Self {
            parent: dentry.field(&["d_parent"])?,
            name: dentry.field(&["d_name.name"])?,
            len: dentry.field(&["d_name.len"])?,
            // Renamed in 6.14 (58cf9c383c5c).
            inline: dentry.member(&["d_iname", "d_shortname"])?,
            hashed: dentry.field(&["d_hash.pprev"])?,
            ops: dentry.field(&["d_op"])?,
            inode: dentry.field(&["d_inode"])?,
            super_block: dentry.field(&["d_sb"])?,
            dentry_bytes: dentry.bytes()?,
            vfsmount: mount.member(&["mnt"])?.offset,
            mount_parent: mount.field(&["mnt_parent"])?,
            mountpoint: mount.field(&["mnt_mountpoint"])?,
            mount_root: mount.field(&["mnt.mnt_root"])?,
            mount_bytes: mount.bytes()?,
        })
    }
}

/// A `struct dentry`.
struct Dentry {
    parent: VirtAddr,
    name: Name,
    is_hashed: bool,
    ops: VirtAddr,
    inode: VirtAddr,
    super_block: VirtAddr,
}

enum Name {
    /// Kept in the entry itself.
    Inline(Vec<u8>),
    /// Kept elsewhere.
    At(VirtAddr, u32),
}

/// A `struct mount`.
struct Mount {
    parent: VirtAddr,
    mountpoint: VirtAddr,
    root: VirtAddr,
}

/// What was read of the tree of files.
struct Tree<'k> {
    kernel: &'k Kernel,
    layout: Layout,
    dentries: HashMap<VirtAddr, Result<Dentry, VirtError>>,
    /// By address of the `struct mount`.
    mounts: HashMap<VirtAddr, Result<Mount, VirtError>>,
    names: HashMap<VirtAddr, Result<Vec<u8>, VirtError>>,
}

impl<'k> Tree<'k> {
    fn new(kernel: &'k Kernel, layout: Layout) -> Self {
        Self { kernel, layout, dentries: HashMap::new(), mounts: HashMap::new(), names: HashMap::new() }
    }

    fn mount_of(&self, place: Place) -> VirtAddr {
        place.mount.wrapping_sub(self.layout.vfsmount)
    }

    /// Reads what stands above `places`, a level with each batch.
    fn grow(&mut self, places: &[Place]) -> Result<(), KernelError> {
        let mut dentries: HashSet<VirtAddr> = places.iter().map(|place| place.dentry).collect();
        let mut mounts: HashSet<VirtAddr> = places.iter().map(|place| self.mount_of(*place)).collect();
        while !dentries.is_empty() || !mounts.is_empty() {
            if self.dentries.len() + self.mounts.len() + dentries.len() + mounts.len() > MAX_OBJECTS {
                let addr = dentries.into_iter().chain(mounts).next().unwrap_or_default();
                let reason = format!("more than {MAX_OBJECTS} directories and mounts stand above the files");
                return Err(KernelError::Inconsistent { step: STEP, addr, reason });
            }
            let (wanted_dentries, wanted_mounts): (Vec<VirtAddr>, Vec<VirtAddr>) =
                (dentries.drain().collect(), mounts.drain().collect());
            let ranges: Vec<(VirtAddr, usize)> = wanted_dentries
                .iter()
                .map(|addr| (*addr, self.layout.dentry_bytes))
                .chain(wanted_mounts.iter().map(|addr| (*addr, self.layout.mount_bytes)))
                .collect();
            let mut fetched = self.kernel.memory.read_ranges(&ranges).into_iter();
            for (addr, bytes) in wanted_dentries.into_iter().zip(fetched.by_ref()) {
                let dentry = bytes.map(|bytes| self.layout.dentry(addr, &bytes));
                if let Ok(dentry) = &dentry {
                    dentries.insert(dentry.parent);
                }
                self.dentries.insert(addr, dentry);
            }
            for (addr, bytes) in wanted_mounts.into_iter().zip(fetched) {
                let mount = bytes.map(|bytes| self.layout.mount(&bytes));
                if let Ok(mount) = &mount {
                    mounts.insert(mount.parent);
                    dentries.insert(mount.mountpoint);
                }
                self.mounts.insert(addr, mount);
            }
            dentries.retain(|addr| !self.dentries.contains_key(addr));
            mounts.retain(|addr| !self.mounts.contains_key(addr));
        }
        Ok(())
    }

    fn dentry(&self, addr: VirtAddr) -> Result<&Dentry, KernelError> {
        known(&self.dentries, addr)
    }

    /// From `place` to the root, as `prepend_path` goes.
    fn way(&self, place: Place, budget: &mut Budget) -> Result<(Vec<VirtAddr>, bool), KernelError> {
        let (mut mount, mut at) = (self.mount_of(place), place.dentry);
        let mut parts = Vec::new();
        let first = self.dentry(at)?;
        let is_deleted = !first.is_hashed && first.parent != at;
        for _ in 0..MAX_PATH {
            budget.spend(1, place.dentry)?;
            let here = known(&self.mounts, mount)?;
            if at == here.root {
                if here.parent == mount {
                    return Ok((parts, is_deleted));
                }
                (at, mount) = (here.mountpoint, here.parent);
                continue;
            }
            let dentry = self.dentry(at)?;
            // Above the root of its mount: a bind mount was moved away from under it.
            if dentry.parent == at {
                return Ok((parts, is_deleted));
            }
            parts.push(at);
            at = dentry.parent;
        }
        let reason = format!("it has more than {MAX_PATH} parts, or goes in a circle");
        Err(KernelError::Inconsistent { step: STEP, addr: place.dentry, reason })
    }

    /// Names that do not stand in the entries themselves.
    fn read_names<'w>(&mut self, ways: impl IntoIterator<Item = &'w Result<Way, KernelError>>) {
        let mut wanted: Vec<(VirtAddr, usize)> = Vec::new();
        for way in ways {
            let Ok(Way::Through(parts, _)) = way else { continue };
            for part in parts {
                if let Ok(Dentry { name: Name::At(addr, len), .. }) = self.dentry(*part)
                    && *len <= MAX_NAME
                {
                    wanted.push((*addr, *len as usize));
                }
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        for ((addr, _), bytes) in wanted.iter().zip(self.kernel.memory.read_ranges(&wanted)) {
            self.names.insert(*addr, bytes);
        }
    }

    fn name(&self, addr: VirtAddr) -> Result<&[u8], KernelError> {
        match &self.dentry(addr)?.name {
            Name::Inline(bytes) => Ok(bytes),
            Name::At(at, len) if *len <= MAX_NAME => known(&self.names, *at).map(Vec::as_slice),
            Name::At(_, len) => {
                let reason = format!("its name has {len} bytes, and no name more than {MAX_NAME}");
                Err(KernelError::Inconsistent { step: STEP, addr, reason })
            }
        }
    }

    fn text(&self, way: Way) -> Result<String, KernelError> {
        let (parts, is_deleted) = match way {
            Way::Named(name) => return Ok(name),
            Way::Through(parts, is_deleted) => (parts, is_deleted),
        };
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(self.name(*part)?);
            if path.len() > MAX_PATH {
                let reason = format!("it has more than {MAX_PATH} bytes");
                return Err(KernelError::Inconsistent { step: STEP, addr: *part, reason });
            }
        }
        if path.is_empty() {
            path.push(b'/');
        }
        let mut text = String::from_utf8_lossy(&path).into_owned();
        if is_deleted {
            text.push_str(" (deleted)");
        }
        Ok(text)
    }
}

fn known<T>(objects: &HashMap<VirtAddr, Result<T, VirtError>>, addr: VirtAddr) -> Result<&T, KernelError> {
    match objects.get(&addr) {
        Some(Ok(object)) => Ok(object),
        Some(Err(source)) => Err(KernelError::Read { step: STEP, source: source.clone() }),
        None => {
            let reason = "it was not read".to_owned();
            Err(KernelError::Inconsistent { step: STEP, addr, reason })
        }
    }
}

impl Layout {
    /// Members that the bytes of a whole structure always have.
    fn dentry(&self, addr: VirtAddr, bytes: &[u8]) -> Dentry {
        let (name, len) = (pointer(&self.name, bytes), self.len.get(bytes).unwrap_or(0));
        let inline = (name == addr.wrapping_add(self.inline.offset))
            .then(|| member_bytes(bytes, &self.inline)?.get(..usize::try_from(len).ok()?))
            .flatten();
        Dentry {
            parent: pointer(&self.parent, bytes),
            name: inline.map_or(Name::At(name, len), |inline| Name::Inline(inline.to_vec())),
            is_hashed: !pointer(&self.hashed, bytes).is_null(),
            ops: pointer(&self.ops, bytes),
            inode: pointer(&self.inode, bytes),
            super_block: pointer(&self.super_block, bytes),
        }
    }

    fn mount(&self, bytes: &[u8]) -> Mount {
        Mount {
            parent: pointer(&self.mount_parent, bytes),
            mountpoint: pointer(&self.mountpoint, bytes),
            root: pointer(&self.mount_root, bytes),
        }
    }
}

fn pointer(field: &Field<VirtAddr>, bytes: &[u8]) -> VirtAddr {
    field.get(bytes).unwrap_or_default()
}
