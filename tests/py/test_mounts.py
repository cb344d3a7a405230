import pytest

from nettlp_gdb.core import mounts
from nettlp_gdb.core.errors import Changed, Unsupported
from nettlp_gdb.core.layout import Layout
from synthetic import BASE, Memory

COMMON = {"mnt_parent": (0x10, 8), "mnt_mountpoint": (0x18, 8), "mnt.mnt_sb": (0x28, 8), "mnt.mnt_flags": (0x30, 4),
          "mnt_devname": (0x80, 8)}
LISTED = Layout("struct mount", 0x140, {**COMMON, "mnt_list": (0x88, 16), "mnt_list.next": (0x88, 8)})
TREED = Layout("struct mount", 0x140, {
    **COMMON, "mnt_node": (0x88, 24), "mnt_node.rb_right": (0x90, 8), "mnt_node.rb_left": (0x98, 8),
})
DENTRY = Layout("struct dentry", 0xC0, {
    "d_parent": (0x18, 8), "d_name.len": (0x24, 4), "d_name.name": (0x28, 8), "d_iname": (0x38, 32),
})
SUPER_BLOCK = Layout("struct super_block", 0x400, {"s_type": (0x28, 8), "s_flags": (0x50, 8)})
FILE_SYSTEM = Layout("struct file_system_type", 0x48, {"name": (0, 8)})
NAMESPACES = {
    "list": Layout("struct mnt_namespace", 0x80, {"list": (0x20, 16), "list.next": (0x20, 8)}),
    "tree": Layout("struct mnt_namespace", 0x80, {"mounts.rb_node": (0x20, 8)}),
}
LAYOUTS = {
    kind: mounts.MountLayouts(namespace, TREED if kind == "tree" else LISTED, DENTRY, SUPER_BLOCK, FILE_SYSTEM)
    for kind, namespace in NAMESPACES.items()
}
BOTH = pytest.mark.parametrize("kind", LAYOUTS)


class Kernel(Memory):
    """A root file system with what the tests mount on it."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.layouts = kind, LAYOUTS[kind]
        self.namespace = BASE
        self._free = BASE + 0x1000
        self._mounts = []
        self.top = self.dentry(None, b"/")
        self.root = self.mount(None, self.top, b"rootfs", self.super_block(b"rootfs"))

    def place(self, data):
        self._free += 0x1000
        return self.put(self._free, data)

    def structure(self, layout, values):
        self._free += 0x1000
        return self.put_structure(self._free, layout, values)

    def string(self, text):
        return self.place(text.ljust(256, b"\0"))

    def dentry(self, parent, name):
        here = self.structure(DENTRY, {"d_name.len": len(name), "d_iname": name if len(name) < 32 else b""})
        self.change(here, DENTRY, "d_parent", parent or here)
        inline = here + DENTRY.offset("d_iname")
        self.change(here, DENTRY, "d_name.name", inline if len(name) < 32 else self.string(name))
        return here

    def super_block(self, kind, flags=0):
        file_system = self.structure(FILE_SYSTEM, {"name": self.string(kind)})
        return self.structure(SUPER_BLOCK, {"s_type": file_system, "s_flags": flags})

    def mount(self, parent, point, device, super_block, flags=0):
        layout = self.layouts.mount
        here = self.structure(layout, {
            "mnt_mountpoint": point, "mnt.mnt_sb": super_block, "mnt.mnt_flags": flags,
            "mnt_devname": self.string(device) if device else 0,
        })
        self.change(here, layout, "mnt_parent", parent or here)
        self._mounts.append(here)
        return here

    def walk(self):
        """All mounts, linked in the order in which they were mounted."""
        layout, namespace = self.layouts.mount, self.layouts.namespace
        if self.kind == "tree":  # without left branches
            links = [here + layout.offset("mnt_node") for here in self._mounts] + [0]
            path, member = "mnt_node.rb_right", "mounts.rb_node"
        else:
            links = [here + layout.offset("mnt_list") for here in self._mounts] + [BASE + namespace.offset("list")]
            path, member = "mnt_list.next", "list.next"
        for here, following in zip(self._mounts, links[1:]):
            self.change(here, layout, path, following)
        self.put_structure(BASE, namespace, {member: links[0]})
        self.reads.clear()
        return list(mounts.walk(self.read, self.layouts, BASE))


@BOTH
def test_paths_go_through_all_mounts_above(kind):
    kernel = Kernel(kind)
    tmp = kernel.dentry(kernel.top, b"tmp")
    inner = kernel.mount(kernel.root, kernel.dentry(tmp, b"a dir"), b"my dev", kernel.super_block(b"tmpfs"))
    below = kernel.dentry(None, b"/")
    kernel.mount(inner, kernel.dentry(below, b"c"), b"", kernel.super_block(b"cgroup2"))
    assert [(mount.path, mount.device, mount.file_system) for mount in kernel.walk()] == [
        ("/", "rootfs", "rootfs"), ("/tmp/a dir", "my dev", "tmpfs"), ("/tmp/a dir/c", "none", "cgroup2"),
    ]


@BOTH
def test_names_of_any_length_and_kind(kind):
    kernel = Kernel(kind)
    for name in (b"x" * 31, b"y" * 200, b"new\nline"):
        kernel.mount(kernel.root, kernel.dentry(kernel.top, name), b"d", kernel.super_block(b"tmpfs"))
    assert [mount.path for mount in kernel.walk()] == ["/", "/" + "x" * 31, "/" + "y" * 200, "/new\\x0aline"]


@BOTH
def test_each_object_is_read_once(kind):
    kernel = Kernel(kind)
    block, directory = kernel.super_block(b"tmpfs"), kernel.dentry(kernel.top, b"mnt")
    for number in range(20):
        kernel.mount(kernel.root, kernel.dentry(directory, b"%d" % number), b"d", block)
    kernel.walk()
    assert len(kernel.reads) == len({address for address, _ in kernel.reads})


@BOTH
def test_a_readers_place_in_the_list_is_no_mount(kind):
    kernel = Kernel(kind)
    kernel.mount(None, 0, b"", 0)
    assert len(kernel.walk()) == 1


@BOTH
def test_a_circle_of_dentries(kind):
    kernel = Kernel(kind)
    one = kernel.dentry(kernel.top, b"one")
    two = kernel.dentry(one, b"two")
    kernel.change(one, DENTRY, "d_parent", two)
    kernel.mount(kernel.root, two, b"d", kernel.super_block(b"tmpfs"))
    with pytest.raises(Changed, match="struct dentry.d_parent at .* goes in a circle"):
        kernel.walk()


@BOTH
def test_a_circle_of_mounts(kind):
    kernel = Kernel(kind)
    point = kernel.dentry(kernel.top, b"x")
    one = kernel.mount(kernel.root, point, b"d", kernel.super_block(b"tmpfs"))
    two = kernel.mount(one, point, b"d", kernel.super_block(b"tmpfs"))
    kernel.change(one, kernel.layouts.mount, "mnt_parent", two)
    with pytest.raises(Changed, match="struct mount.mnt_parent at .* goes in a circle"):
        kernel.walk()


@BOTH
def test_a_name_longer_than_names_can_be(kind):
    kernel = Kernel(kind)
    point = kernel.dentry(kernel.top, b"x")
    kernel.change(point, DENTRY, "d_name.len", 2**32 - 1)
    kernel.mount(kernel.root, point, b"d", kernel.super_block(b"tmpfs"))
    with pytest.raises(Changed, match="has a name of 4294967295 bytes"):
        kernel.walk()


def test_a_namespace_that_keeps_its_mounts_otherwise():
    kernel = Kernel("list")
    kernel.walk()
    layouts = kernel.layouts._replace(namespace=Layout("struct mnt_namespace", 0x80, {}))
    with pytest.raises(Unsupported, match="keeps its mounts in an unknown way"):
        list(mounts.walk(kernel.read, layouts, BASE))


@pytest.mark.parametrize("member, maps, idmapped", [
    ("mnt.mnt_idmap", [0x1000, 0x3000], ["rw", "rw,idmapped"]),
    ("mnt.mnt_userns", [0x1000, 0x2000, 0x3000], ["rw", "rw", "rw,idmapped"]),
])
def test_ids_that_a_mount_maps(member, maps, idmapped):
    kernel = Kernel("list")
    layouts = LAYOUTS["list"]
    block = Layout("struct super_block", 0x400, {"s_type": (0x28, 8), "s_flags": (0x50, 8), "s_user_ns": (0x60, 8)})
    mount = Layout("struct mount", 0x140, {
        **COMMON, "mnt_list": (0x88, 16), "mnt_list.next": (0x88, 8), member: (0x38, 8),
    })
    kernel.layouts = layouts._replace(mount=mount, super_block=block, no_map=0x1000)
    of = kernel.super_block(b"tmpfs")
    kernel.change(of, block, "s_user_ns", 0x2000)
    kernel.change(kernel.root, mount, member, 0x1000)
    for value in maps:
        kernel.change(kernel.mount(kernel.root, kernel.top, b"d", of), mount, member, value)
    assert [found.options for found in kernel.walk()] == ["rw", *idmapped]


@pytest.mark.parametrize("super_block, mount, words", [
    (0, 0, "rw"),
    (1, 0x08, "ro,noatime"),
    (0, 0x40, "ro"),
    (0, 0x27, "rw,nosuid,nodev,noexec,relatime"),
    (0x0D0, 0x30, "rw,sync,dirsync,mand,nodiratime,relatime"),
    (0xC00 | 1 << 30, 1 << 28, "rw"),
    (0xC00 | 1 << 25, 0xA8, "rw,lazytime,noatime,relatime,nosymfollow"),
])
def test_options(super_block, mount, words):
    assert mounts.options(super_block, mount) == words


def test_rows():
    assert mounts.HEADER == "      mount          super_block     devname pathname fstype options"
    mount = mounts.Mount(0xFF11000003DB4DC0, 0xFF11000003C4A800, "rootfs", "/", "rootfs", "rw")
    assert mounts.row(mount) == "0xff11000003db4dc0 0xff11000003c4a800 rootfs / rootfs rw 0 0"
