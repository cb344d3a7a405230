"""The mounts of a mount namespace, as /proc/PID/mounts tells them (fs/proc_namespace.c).

A namespace holds its mounts in a list before 6.8 and in a tree ordered by mount id since (commit 2eea9ce4310d).
"""

from typing import Dict, Iterator, List, NamedTuple, Optional, Set

from .errors import Changed, Unsupported
from .layout import Layout, View
from .lists import entries, tree_entries
from .memory import Read, kernel_pointer, read_c_string
from .text import printable

NSPROXY_MEMBERS = ("mnt_ns",)
NAMESPACE_OPTIONAL = ("list", "list.next", "mounts.rb_node")
MOUNT_MEMBERS = ("mnt_parent", "mnt_mountpoint", "mnt_devname", "mnt.mnt_sb", "mnt.mnt_flags")
#: what maps the user ids of a mount, and the variable it is where nothing is mapped
MAPS = {"mnt.mnt_idmap": "nop_mnt_idmap", "mnt.mnt_userns": "init_user_ns"}
MOUNT_OPTIONAL = ("mnt_list", "mnt_list.next", "mnt_node", "mnt_node.rb_left", "mnt_node.rb_right", *MAPS)
DENTRY_MEMBERS = ("d_parent", "d_name.name", "d_name.len")
#: where a dentry keeps a short name; the second since 6.14
DENTRY_OPTIONAL = ("d_iname", "d_shortname")
SUPER_BLOCK_MEMBERS = ("s_type", "s_flags")
SUPER_BLOCK_OPTIONAL = ("s_user_ns",)
FILE_SYSTEM_MEMBERS = ("name",)

HEADER = f"{'mount':^18} {'super_block':^15} {'devname':>9} pathname fstype options"

_MOUNT_LIMIT = 1 << 20
_DEPTH_LIMIT = 4096
_NAME_LIMIT = 4096
_NAME_MAX = 255

#: SB_* (include/linux/fs.h), fixed since they are the arguments of mount(2). Those about access times are the mount's.
_SB_RDONLY = 1 << 0
_SUPER_BLOCK_OPTIONS = ((1 << 4, "sync"), (1 << 7, "dirsync"), (1 << 6, "mand"), (1 << 25, "lazytime"))
#: MNT_* (include/linux/mount.h), the same in every kernel from 4.15 to 7.1; the last since 5.10 (dab741e0e02b)
_MNT_READONLY = 1 << 6
_MOUNT_OPTIONS = (
    (1 << 0, "nosuid"), (1 << 1, "nodev"), (1 << 2, "noexec"), (1 << 3, "noatime"), (1 << 4, "nodiratime"),
    (1 << 5, "relatime"), (1 << 7, "nosymfollow"),
)


class MountLayouts(NamedTuple):
    """What `walk` has to know of the kernel's structures."""

    namespace: Layout
    mount: Layout
    dentry: Layout
    super_block: Layout
    file_system: Layout
    #: address of what a mount whose ids are not mapped has as its map, where the kernel knows of such maps
    no_map: Optional[int] = None


class Mount(NamedTuple):
    """One mount."""

    address: int
    super_block: int
    device: str
    path: str
    file_system: str
    options: str


def row(mount: Mount) -> str:
    """One line of the table under `HEADER`."""
    return (f"{mount.address:#x} {mount.super_block:#x} {mount.device} {mount.path} {mount.file_system} "
            f"{mount.options} 0 0")


def walk(read: Read, layouts: MountLayouts, namespace: int) -> Iterator[Mount]:
    """The mounts of the `mnt_namespace` at `namespace`, in the kernel's order."""
    tree = _Tree(read, layouts)
    for view in _mounts(read, layouts, namespace):
        super_block = view.unsigned("mnt.mnt_sb")
        if super_block:  # a reader of /proc/mounts keeps its place by a mount without one (9f6c61f96f2d)
            yield tree.describe(view, super_block)


def _mounts(read: Read, layouts: MountLayouts, address: int) -> Iterator[View]:
    namespace = layouts.namespace.read(read, address)
    what = "the namespace's set of mounts"
    if "mounts.rb_node" in layouts.namespace:
        return tree_entries(read, namespace.unsigned("mounts.rb_node"), layouts.mount, "mnt_node", what, _MOUNT_LIMIT)
    if "list.next" in layouts.namespace:
        return entries(read, namespace.address_of("list"), namespace.unsigned("list.next"), layouts.mount, "mnt_list",
                       what, _MOUNT_LIMIT)
    raise Unsupported("mnt_namespace of this kernel keeps its mounts in an unknown way")


class _Tree:
    """What the mounts hang on and share. Each object is read once, however many mounts lead to it."""

    def __init__(self, read: Read, layouts: MountLayouts) -> None:
        self._read = read
        self._layouts = layouts
        self._seen: Dict[int, View] = {}
        self._names: Dict[int, str] = {}

    def describe(self, mount: View, super_block: int) -> Mount:
        self._seen[mount.address] = mount
        block = self._object(self._layouts.super_block, super_block)
        kind = self._object(self._layouts.file_system, block.unsigned("s_type"))
        return Mount(
            address=mount.address,
            super_block=super_block,
            device=self._string(mount.unsigned("mnt_devname"), "a mount's device") or "none",
            path=self._path(mount),
            file_system=self._string(kind.unsigned("name"), "a file system's name"),
            options=options(block.unsigned("s_flags"), mount.unsigned("mnt.mnt_flags"), self._is_idmapped(mount, block)),
        )

    def _is_idmapped(self, mount: View, block: View) -> bool:
        """Whether the mount maps user ids: by a map of its own since 6.2, by a user namespace since 5.12, which is that
        of its file system where nothing is mapped (since 5.17; the first one before)."""
        none = {self._layouts.no_map}
        if "s_user_ns" in block.layout:
            none.add(block.unsigned("s_user_ns"))
        maps = [mount.unsigned(path) for path in MAPS if path in mount.layout]
        return self._layouts.no_map is not None and any(used not in none for used in maps)

    def _path(self, mount: View) -> str:
        """Path of a mount from the topmost root on: its place in its parent, that one's in its own, and so on."""
        parts: List[str] = []
        for at in self._chain(mount, self._layouts.mount, "mnt_parent"):
            point = self._object(self._layouts.dentry, at.unsigned("mnt_mountpoint"))
            for dentry in self._chain(point, self._layouts.dentry, "d_parent"):
                if dentry.unsigned("d_parent") not in (dentry.address, 0):
                    parts.append(self._dentry_name(dentry))
        return "/" + "/".join(reversed(parts))

    def _chain(self, view: View, layout: Layout, parent: str) -> Iterator[View]:
        """`view` and what it hangs on, up to the object that is its own parent."""
        visited: Set[int] = set()
        up: Optional[View] = view
        while up is not None:
            if up.address in visited or len(visited) >= _DEPTH_LIMIT:
                raise Changed(f"{layout.name}.{parent} at {up.address:#x} goes in a circle: "
                              "it changed while it was read")
            visited.add(up.address)
            yield up
            above = up.unsigned(parent)
            up = self._object(layout, above) if above not in (up.address, 0) else None

    def _dentry_name(self, dentry: View) -> str:
        length = dentry.unsigned("d_name.len")
        if length > _NAME_MAX:
            raise Changed(f"the dentry at {dentry.address:#x} has a name of {length} bytes: "
                          "it changed while it was read")
        name = dentry.unsigned("d_name.name")
        inline = next((path for path in DENTRY_OPTIONAL if path in dentry.layout), None)
        if inline and name == dentry.address_of(inline):
            return printable(dentry.raw(inline)[:length])
        return printable(self._read(kernel_pointer(name, "a dentry's name"), length, "a dentry's name"))

    def _object(self, layout: Layout, address: int) -> View:
        if address not in self._seen:
            self._seen[address] = layout.read(self._read, kernel_pointer(address, layout.name))
        return self._seen[address]

    def _string(self, address: int, what: str) -> str:
        if not address:
            return ""
        if address not in self._names:
            raw = read_c_string(self._read, kernel_pointer(address, what), _NAME_LIMIT, what)
            self._names[address] = printable(raw)
        return self._names[address]


def options(super_block: int, mount: int, idmapped: bool = False) -> str:
    """The options that the flags of a super block and of a mount stand for, as /proc/mounts orders them."""
    read_only = super_block & _SB_RDONLY or mount & _MNT_READONLY
    words = ["ro" if read_only else "rw"]
    words += [word for flag, word in _SUPER_BLOCK_OPTIONS if super_block & flag]
    words += [word for flag, word in _MOUNT_OPTIONS if mount & flag]
    words += ["idmapped"] if idmapped else []
    return ",".join(words)
