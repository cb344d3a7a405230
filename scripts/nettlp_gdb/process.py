"""lx-maps and lx-files: what the server itself finds out about a process (monitor maps, monitor files)."""

from typing import Optional

import gdb

from . import tasks
from .command import command
from .core import relayed
from .core.errors import TargetError


@command("lx-maps")
def lx_maps(pid: Optional[str] = None) -> None:
    """List the mappings of a process, as /proc/PID/maps does.

    Usage: lx-maps [PID]

    Without PID, of the selected thread. The server reads them (monitor maps): paths,
    [heap], [stack] and [vdso] included.
    Page tables of a thread are those of its process."""
    _relay("maps", pid)


@command("lx-files")
def lx_files(pid: Optional[str] = None) -> None:
    """List the open files of a process.

    Usage: lx-files [PID]

    Without PID, of the selected thread. One line per descriptor: what may be done
    with it, its flags as /proc/PID/fdinfo has them, its position, and where it leads,
    as readlink tells of /proc/PID/fd."""
    _relay("files", pid)


def _relay(name: str, pid: Optional[str]) -> None:
    line = relayed.command(name, str(int(tasks.selected()["pid"])) if pid is None else pid)
    try:
        text = gdb.execute(f"monitor {line}", to_string=True)
    except gdb.error as error:
        raise TargetError(f"this server has no `monitor {name}`: {error}") from None
    gdb.write(relayed.answer(name, text))
