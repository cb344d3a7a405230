//! Mounted file systems (fs/namespace.c): a list of `struct mount`, from 6.8 a tree.

use std::path::{Path, PathBuf};

use super::{Boot, Object};
use crate::{
    addr::VirtAddr,
    machine::{MachineError, description::Mount},
};

/// `SB_RDONLY`
const READ_ONLY: u64 = 1;
/// `MNT_RELATIME`
const RELATIME: u64 = 0x20;
/// Inode number of the first mount namespace.
const NAMESPACE: u32 = 0xf000_0000;

/// A mount made, and the path it is at.
struct Made {
    path: PathBuf,
    mount: Object,
    root: Object,
}

/// A mounted file system, for files on it.
#[derive(Clone)]
pub(super) struct Mounted {
    pub(super) path: PathBuf,
    /// Address of the `struct vfsmount` in its `struct mount`.
    pub(super) vfsmount: VirtAddr,
    /// Its root's directory entry.
    pub(super) root: Object,
    pub(super) super_block: VirtAddr,
}

/// `makedev(8, 1)`
const DEVICE: u32 = 8 << 20 | 1;

impl Boot<'_> {
    pub(super) fn mount_all(&mut self) -> Result<(), MachineError> {
        let namespace = self.alloc_object("mnt_namespace")?;
        let mut made: Vec<Made> = Vec::new();
        for (mount, id) in self.description.mounts.iter().zip(20_u32..) {
            let next = self.make_mount(mount, id, namespace, &made)?;
            made.push(next);
        }
        self.set(namespace, "inum", NAMESPACE)?;
        if let Some(first) = made.first() {
            self.set(namespace, "root", first.mount.addr)?;
        }
        if self.has("mnt_namespace", "list") {
            let mut ring = vec![self.at(namespace, "list")?];
            for made in &made {
                ring.push(self.at(made.mount, "mnt_list")?);
            }
            self.ring(&ring)?;
            self.set(namespace, "mounts", made.len())?;
        } else {
            self.set(namespace, "nr_mounts", made.len())?;
            self.grow_tree(self.at(namespace, "mounts")?, &made)?;
        }
        self.truth.mounts.clone_from(&self.description.mounts);
        self.set(self.global("nsproxy", "init_nsproxy")?, "mnt_ns", namespace.addr)
    }

    /// A tree of the mounts in order, each the right child of the one before: in-order walks need no balance.
    fn grow_tree(&self, root: VirtAddr, made: &[Made]) -> Result<(), MachineError> {
        /// The lowest bit of `__rb_parent_color`.
        const BLACK: u64 = 1;
        let (mut link, mut parent) = (root, VirtAddr::NULL);
        for made in made {
            let node = Object { ty: "rb_node", addr: self.at(made.mount, "mnt_node")? };
            self.write_word(link, node.addr.into(), 8)?;
            self.set(node, "__rb_parent_color", parent.raw() | BLACK)?;
            (link, parent) = (self.at(node, "rb_right")?, node.addr);
        }
        Ok(())
    }

    fn make_mount(
        &mut self,
        mount: &Mount,
        id: u32,
        namespace: Object,
        made: &[Made],
    ) -> Result<Made, MachineError> {
        let (object, root) = (self.alloc_object("mount")?, self.make_dentry(None, "/")?);
        let path = Path::new(&mount.path);
        let parent = made.iter().rev().find(|made| path.starts_with(&made.path) && path != made.path);
        let (parent, mountpoint) = match parent {
            None => (object, root),
            Some(parent) => {
                let mut dentry = parent.root;
                for name in path.strip_prefix(&parent.path).unwrap_or(path) {
                    dentry = self.make_dentry(Some(dentry), &name.to_string_lossy())?;
                }
                (parent.mount, dentry)
            }
        };
        let super_block = self.make_super_block(mount, root)?;
        let device = self.alloc_string(&mount.device)?;
        self.set(object, "mnt_parent", parent.addr)?;
        self.set(object, "mnt_mountpoint", mountpoint.addr)?;
        self.set(object, "mnt.mnt_root", root.addr)?;
        self.set(object, "mnt.mnt_sb", super_block)?;
        self.set(object, "mnt.mnt_flags", RELATIME)?;
        self.set(object, "mnt_devname", device)?;
        self.set(object, "mnt_ns", namespace.addr)?;
        self.set(object, "mnt_id", id)?;
        let vfsmount = self.at(object, "mnt")?;
        self.mounted.push(Mounted { path: path.to_owned(), vfsmount, root, super_block });
        for list in ["mnt_mounts", "mnt_child"] {
            self.ring(&[self.at(object, list)?])?;
        }
        Ok(Made { path: path.to_owned(), mount: object, root })
    }

    fn make_super_block(&mut self, mount: &Mount, root: Object) -> Result<VirtAddr, MachineError> {
        let (object, kind) = (self.alloc_object("super_block")?, self.alloc_object("file_system_type")?);
        let name = self.alloc_string(&mount.fstype)?;
        self.set(kind, "name", name)?;
        self.set(object, "s_type", kind.addr)?;
        self.set(object, "s_dev", DEVICE)?;
        self.set(object, "s_flags", if mount.read_only { READ_ONLY } else { 0 })?;
        self.set(object, "s_blocksize", 4096)?;
        self.set(object, "s_root", root.addr)?;
        Ok(object.addr)
    }

    /// A directory entry; without a parent it is the root of its file system and its own parent.
    pub(super) fn make_dentry(&mut self, parent: Option<Object>, name: &str) -> Result<Object, MachineError> {
        let dentry = self.alloc_object("dentry")?;
        self.set(dentry, "d_parent", parent.unwrap_or(dentry).addr)?;
        if parent.is_some() {
            self.set(dentry, "d_hash.pprev", self.at(dentry, "d_hash.next")?)?;
        }
        let inline = name.len() < usize::try_from(self.field("dentry", "d_iname")?.size).unwrap_or(0);
        let text = if inline { self.at(dentry, "d_iname")? } else { self.alloc_string(name)? };
        if inline {
            self.set_text(dentry, "d_iname", name)?;
        }
        self.set(dentry, "d_name.name", text)?;
        self.set(dentry, "d_name.len", name.len())?;
        Ok(dentry)
    }
}
