//! Names of what no directory holds: a directory entry with a `d_dname` of its own says what it is called.
//!
//! Which function that is follows from the file system's name; most only differ in their brackets
//! (`net/socket.c`, `fs/pipe.c`, `fs/anon_inodes.c`, `fs/nsfs.c`, `fs/pidfs.c`, `fs/d_path.c` `simple_dname`).

use std::collections::{HashMap, HashSet};

use super::{Dentry, MAX_NAME, Name, Place, STEP, Tree, known};
use crate::{
    addr::{VirtAddr, little_endian},
    kernel::{Kernel, KernelError, structure::Structure},
    paging::VirtError,
    types::TypeError,
};

/// A file system's name is shorter.
const MAX_TYPE_NAME: usize = 32;

/// Structures by address.
type Read = HashMap<VirtAddr, Result<Vec<u8>, VirtError>>;

/// The name of each of `places`; `None` of what has a path.
pub(super) fn names(
    kernel: &Kernel,
    tree: &Tree<'_>,
    places: &[Place],
) -> Result<Vec<Option<Result<String, KernelError>>>, KernelError> {
    let types = kernel.types("names of pseudo files")?;
    let own_name = types.field("dentry_operations", "d_dname")?.offset;
    let ops = places.iter().filter_map(|place| Some(tree.dentry(place.dentry).ok()?.ops));
    let ops = fetch(kernel, ops.map(|ops| ops.wrapping_add(own_name)), 8);
    let has_own_name = |place: &Place| {
        let dentry = tree.dentry(place.dentry).ok()?;
        let function = word(&ops, dentry.ops.wrapping_add(own_name)).ok()?;
        let is_root = dentry.parent == place.dentry;
        let at_mount = known(&tree.mounts, tree.mount_of(*place)).is_ok_and(|it| it.root == place.dentry);
        (!function.is_null()).then_some(dentry).filter(|_| !(is_root && at_mount))
    };
    let special: Vec<_> = places.iter().map(has_own_name).collect();
    let dentries = || special.iter().flatten();

    let mut super_block = Structure::new(types, "super_block");
    let kind = super_block.field::<VirtAddr>(&["s_type"])?;
    let blocks = fetch(kernel, dentries().map(|dentry| dentry.super_block), super_block.bytes()?);
    let type_name = types.field("file_system_type", "name")?.offset;
    let kind_of = |block: VirtAddr| -> Result<VirtAddr, KernelError> {
        Ok(kind.get(known(&blocks, block)?).unwrap_or_default().wrapping_add(type_name))
    };
    let kinds = fetch(kernel, dentries().filter_map(|dentry| kind_of(dentry.super_block).ok()), 8);
    let strings = fetch(kernel, kinds.keys().filter_map(|kind| word(&kinds, *kind).ok()), MAX_TYPE_NAME);

    let mut inode = Structure::new(types, "inode");
    let number = inode.field::<u64>(&["i_ino"])?;
    let inodes = fetch(kernel, dentries().map(|dentry| dentry.inode), inode.bytes()?);
    let long = dentries().filter_map(|dentry| match dentry.name {
        Name::At(at, len) if len <= MAX_NAME => Some((at, len as usize)),
        _ => None,
    });
    let long: Vec<(VirtAddr, usize)> = long.collect();
    let long: Read = long.iter().map(|(at, _)| *at).zip(kernel.memory.read_ranges(&long)).collect();
    let file_system = |dentry: &Dentry| -> Result<&[u8], KernelError> {
        let string = known(&strings, word(&kinds, kind_of(dentry.super_block)?)?)?;
        Ok(string.split(|byte| *byte == 0).next().unwrap_or_default())
    };
    let in_nsfs = dentries().filter(|dentry| file_system(dentry).is_ok_and(|name| name == b"nsfs"));
    let namespaces = Namespaces::read(kernel, in_nsfs.map(|dentry| dentry.inode))?;

    let name = |dentry: &Dentry| -> Result<String, KernelError> {
        let inode = || -> Result<u64, KernelError> {
            Ok(number.get(known(&inodes, dentry.inode)?).unwrap_or_default())
        };
        let own = || -> Result<String, KernelError> {
            let bytes = match &dentry.name {
                Name::Inline(bytes) => bytes,
                Name::At(at, _) => known(&long, *at)?,
            };
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        Ok(match file_system(dentry)? {
            b"sockfs" => format!("socket:[{}]", inode()?),
            b"pipefs" => format!("pipe:[{}]", inode()?),
            b"anon_inodefs" => format!("anon_inode:{}", own()?),
            b"pidfs" => "anon_inode:[pidfd]".to_owned(),
            b"nsfs" => format!("{}:[{}]", namespaces.kind(dentry.inode)?, inode()?),
            b"dmabuf" => {
                let reason = "a DMA buffer's name is not in its directory entry".to_owned();
                return Err(KernelError::Inconsistent { step: STEP, addr: dentry.inode, reason });
            }
            _ => format!("/{} (deleted)", own()?),
        })
    };
    Ok(special.iter().map(|dentry| dentry.map(name)).collect())
}

/// Which kind of namespace an inode of `nsfs` stands for: `i_private->ops->name`.
struct Namespaces {
    private: u64,
    privates: Read,
    ops: u64,
    all_ops: Read,
    name: u64,
    names: Read,
    strings: Read,
}

impl Namespaces {
    fn read(kernel: &Kernel, inodes: impl Iterator<Item = VirtAddr>) -> Result<Self, KernelError> {
        let types = kernel.types("names of namespaces")?;
        let offset =
            |structure, member| -> Result<u64, TypeError> { Ok(types.field(structure, member)?.offset) };
        let (private, ops) = (offset("inode", "i_private")?, offset("ns_common", "ops")?);
        let privates = fetch(kernel, inodes.map(|inode| inode.wrapping_add(private)), 8);
        let follow = |read: &Read, add: u64, len: usize| {
            fetch(kernel, read.keys().filter_map(|at| Some(word(read, *at).ok()?.wrapping_add(add))), len)
        };
        let all_ops = follow(&privates, ops, 8);
        let name = offset("proc_ns_operations", "name")?;
        let names = follow(&all_ops, name, 8);
        let strings = follow(&names, 0, MAX_TYPE_NAME);
        Ok(Self { private, privates, ops, all_ops, name, names, strings })
    }

    fn kind(&self, inode: VirtAddr) -> Result<String, KernelError> {
        let namespace = word(&self.privates, inode.wrapping_add(self.private))?;
        let ops = word(&self.all_ops, namespace.wrapping_add(self.ops))?;
        let string = known(&self.strings, word(&self.names, ops.wrapping_add(self.name))?)?;
        let name = string.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}

fn fetch(kernel: &Kernel, addrs: impl Iterator<Item = VirtAddr>, len: usize) -> Read {
    let addrs: HashSet<VirtAddr> = addrs.filter(|addr| addr.is_upper_half()).collect();
    let addrs: Vec<VirtAddr> = addrs.into_iter().collect();
    addrs.iter().copied().zip(kernel.memory.read_vecs(&addrs, len)).collect()
}

fn word(read: &Read, at: VirtAddr) -> Result<VirtAddr, KernelError> {
    Ok(VirtAddr::new(little_endian(known(read, at)?)))
}
