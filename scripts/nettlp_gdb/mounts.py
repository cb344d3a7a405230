"""lx-mounts."""

from typing import Iterator

from . import target, tasks
from .command import command, show
from .core import mounts
from .core.errors import TargetError


def _layouts() -> mounts.MountLayouts:
    mount = target.layout("struct mount", mounts.MOUNT_MEMBERS, mounts.MOUNT_OPTIONAL)
    no_map = next((name for member, name in mounts.MAPS.items() if member in mount), None)
    return mounts.MountLayouts(
        namespace=target.layout("struct mnt_namespace", (), mounts.NAMESPACE_OPTIONAL),
        mount=mount,
        dentry=target.layout("struct dentry", mounts.DENTRY_MEMBERS, mounts.DENTRY_OPTIONAL),
        super_block=target.layout("struct super_block", mounts.SUPER_BLOCK_MEMBERS, mounts.SUPER_BLOCK_OPTIONAL),
        file_system=target.layout("struct file_system_type", mounts.FILE_SYSTEM_MEMBERS),
        no_map=target.find_symbol(no_map) if no_map else None,
    )


def _namespace(pid: int) -> int:
    """Address of the mount namespace of a task."""
    nsproxy = tasks.by_pid(pid, "nsproxy").view.unsigned("nsproxy")
    namespace = target.layout("struct nsproxy", mounts.NSPROXY_MEMBERS)
    if not nsproxy:
        raise TargetError(f"the task of PID {pid} has no namespaces any more: it is exiting")
    return namespace.read(target.read, nsproxy).unsigned("mnt_ns")


@command("lx-mounts")
def lx_mounts(pid: str = "1") -> None:
    """Report the VFS mounts of the current process namespace.

    Usage: lx-mounts [PID]

    Tells what /proc/PID/mounts tells on the target, except what only a file system
    itself knows; without PID that of process 1. Before it stand the addresses of
    struct mount and struct super_block. A mount that is read-only in this place
    alone is shown as such."""
    if not pid.isdecimal():
        raise TargetError(f"Provide a PID as integer value, not {pid}")

    def rows() -> Iterator[str]:
        return map(mounts.row, mounts.walk(target.read, _layouts(), _namespace(int(pid))))

    show(mounts.HEADER, rows)
