"""The Linux kernel's commands for GDB: lx-ps, lx-dmesg, lx-version, lx-cmdline, lx-lsmod, lx-symbols, lx-mounts,
lx-cpus, lx-bt, lx-maps, lx-files, lx-refresh and the functions $lx_current(), $lx_task(), $lx_task_by_pid(),
$lx_per_cpu(), $lx_per_cpu_ptr(), $lx_module() and $container_of(). `help lx-ps` and so on explain each.

    gdb VMLINUX -ex "target remote :1234" -ex "source scripts/nettlp-gdb.py" -ex lx-ps

They work on any target that shows a Linux x86-64 kernel at its virtual addresses. Where the kernel's own scripts are
loaded, theirs stay in place.
"""

import os
import sys


def _load() -> None:
    if sys.version_info < (3, 8):
        raise SystemExit("nettlp-gdb: the commands need Python 3.8 or later, this is %d.%d" % sys.version_info[:2])
    try:
        import gdb  # noqa: F401
    except ImportError:
        raise SystemExit("nettlp-gdb: this is for GDB: gdb VMLINUX -ex 'source scripts/nettlp-gdb.py'") from None
    directory = os.path.dirname(os.path.abspath(__file__))
    if directory not in sys.path:
        sys.path.insert(0, directory)
    from nettlp_gdb.load import load

    load()


_load()
