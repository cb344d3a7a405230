"""lx-cpus, and which CPU a GDB thread is."""

from typing import List, NamedTuple, Optional

import gdb

from . import target
from .command import command
from .core import cpumask
from .core.errors import TargetError

#: nettlp-gdb serve gives the thread of CPU n the id that follows this one by n; tasks have their pid as id
_SERVER_CPU_ID = 10_000_000
#: and the idle task of a CPU that is busy this one by n
_SERVER_IDLE_ID = 20_000_000


def is_cpu(tid: int) -> bool:
    """Whether the server's thread with this id is what a CPU runs."""
    return _SERVER_CPU_ID <= tid < _SERVER_IDLE_ID


def thread_of(pid: int, cpu: Optional[int], on_cpu: bool) -> int:
    """The id the server gives the thread of a task."""
    if on_cpu:
        return _SERVER_CPU_ID + (cpu or 0)
    return pid if pid != 0 else _SERVER_IDLE_ID + (cpu or 0)


def question(tid: int) -> str:
    """What `monitor bt` is to be asked for the server's thread with this id."""
    if is_cpu(tid):
        return "cpus"
    return str(tid if tid < _SERVER_CPU_ID else 0)


class Thread(NamedTuple):
    """What a thread of GDB's is."""

    #: the CPU it is, or whose idle task
    cpu: Optional[int]
    #: whether it is an idle task whose CPU runs another
    idles: bool
    #: else the number of the task
    pid: Optional[int]


def thread() -> Thread:
    """The thread that is selected in GDB."""
    chosen = gdb.selected_thread()
    tid = chosen.ptid[1]
    if tid >= _SERVER_IDLE_ID:
        return Thread(tid - _SERVER_IDLE_ID, True, None)
    if not _of_cpus_only() and not is_cpu(tid):
        return Thread(None, False, tid)
    return Thread(selected(), False, None)


def _of_cpus_only() -> bool:
    """Whether the server is one whose threads are the CPUs in order, as QEMU's."""
    return all(other.ptid[1] < _SERVER_CPU_ID for other in gdb.selected_inferior().threads())


def of_mask(name: str) -> List[int]:
    """The CPUs in the mask `__cpu_NAME_mask`."""
    return cpumask.cpus(target.variable(f"__cpu_{name}_mask"))


def possible() -> List[int]:
    """The CPUs this kernel may ever have."""
    return of_mask("possible")


def selected() -> int:
    """The CPU whose thread is selected in GDB."""
    thread = gdb.selected_thread()
    cpu = thread.num - 1 if _of_cpus_only() else thread.ptid[1] - _SERVER_CPU_ID
    if cpu not in possible():
        raise TargetError(f"thread {thread.num} is no CPU: select the thread of one, or name the CPU as last argument; "
                          "$lx_task() is the task of any thread")
    return cpu


@command("lx-cpus")
def lx_cpus() -> None:
    """List CPU status arrays.

    Usage: lx-cpus

    The numbers of the possible, present, online and active CPUs, by the kernel's own
    masks. A panic takes all CPUs but its own out of the online mask."""
    gdb.write("".join((
        f"Possible CPUs : {possible()}\n",
        f"Present CPUs  : {of_mask('present')}\n",
        f"Online CPUs   : {of_mask('online')}\n",
        f"Active CPUs   : {of_mask('active')}\n",
    )))
