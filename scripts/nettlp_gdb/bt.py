"""lx-bt: the server's own backtraces, which need neither a selected thread nor its registers."""

import gdb

from .command import command
from .core.errors import TargetError


@command("lx-bt")
def lx_bt(*words: str) -> None:
    """Show the functions a task is in.

    Usage: lx-bt [PID]

    Of a task that sleeps, by the registers it left on its stack; without PID, of what
    each CPU was running when the machine died, by what its stacks prove. It works
    without the vmlinux's own unwind tables: the server reads the kernel's."""
    if len(words) > 1 or not all(word.lstrip("-").isdigit() for word in words):
        raise TargetError("Usage: lx-bt [PID]")
    try:
        gdb.execute(" ".join(("monitor", "bt", *words)))
    except gdb.error as error:
        raise TargetError(f"the server has no backtrace to show ({error}): nettlp-gdb serve must be it") from None
