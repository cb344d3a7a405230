"""Makes the commands known to GDB. They are named here, once; each module defines its own."""

# Importing a subsystem notes its commands.
from . import (  # noqa: F401
    bt, command, container_of, cpus, dmesg, modules, mounts, percpu, process, refresh, tasks, unwind, version,
)


def load() -> None:
    """Registers all commands and functions, and says which of them somebody else provides."""
    present = command.register()
    unwind.register()
    if present:
        command.warn(f"GDB has these already, left in place: {', '.join(present)}")
    if "lx-symbols" in present:
        command.warn("do not use the kernel scripts' lx-symbols here: on x86 it loads vmlinux anew, without the KASLR "
                     "slide; add-symbol-file target:/modules has the symbols of modules")
