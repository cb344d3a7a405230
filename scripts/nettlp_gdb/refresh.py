"""lx-refresh."""

import gdb

from .command import command
from .core.errors import TargetError


@command("lx-refresh")
def lx_refresh() -> None:
    """Look at the target anew.

    Usage: lx-refresh

    The server forgets what it read (monitor refresh), and GDB the registers and memory
    it keeps of its own until the next stop. continue and Ctrl-C do as much."""
    try:
        gdb.execute("monitor refresh")
    except gdb.error as error:
        raise TargetError(f"this server has no `monitor refresh`: {error}") from None
    for cache in ("register-cache", "dcache"):
        gdb.execute(f"maintenance flush {cache}", to_string=True)
