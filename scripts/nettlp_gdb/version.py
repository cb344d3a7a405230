"""lx-version and lx-cmdline."""

import gdb

from . import target
from .command import command
from .core.text import printable

#: COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h) is 2048; linux_banner is shorter
_LIMIT = 4096


@command("lx-version")
def lx_version() -> None:
    """Report the Linux Version of the current kernel.

    Usage: lx-version

    Equivalent to cat /proc/version on the target."""
    banner = target.c_string(target.symbol("linux_banner"), _LIMIT, "linux_banner")
    gdb.write(printable(banner.rstrip(b"\n")) + "\n")


@command("lx-cmdline")
def lx_cmdline() -> None:
    """Report the Linux Commandline used in the current kernel.

    Usage: lx-cmdline

    Equivalent to cat /proc/cmdline on the target."""
    text = target.c_string(target.unsigned("saved_command_line"), _LIMIT, "saved_command_line")
    gdb.write(printable(text) + "\n")
