"""lx-ps, $lx_task_by_pid() and $lx_task()."""

from typing import Iterator

import gdb

from . import cpus, percpu, target
from .command import command, function, settled, show
from .core import tasks
from .core.errors import TargetError


def walk(*members: str) -> Iterator[tasks.Task]:
    """All tasks; their views hold the further `members` too."""
    layouts = tasks.TaskLayouts(
        target.layout("struct task_struct", (*tasks.TASK_MEMBERS, *members), tasks.TASK_OPTIONAL),
        target.layout("struct signal_struct", (), tasks.SIGNAL_OPTIONAL),
    )
    return tasks.walk(target.read, layouts, target.symbol("init_task"))


def by_pid(pid: int, *members: str) -> tasks.Task:
    """The task with the number `pid`."""
    for task in settled(lambda: _matching(pid, *members)):
        return task
    raise TargetError(f"No task of PID {pid}")


def _matching(pid: int, *members: str) -> Iterator[tasks.Task]:
    task = tasks.by_pid(walk(*members), pid)
    if task is not None:
        yield task


@command("lx-ps")
def lx_ps() -> None:
    """Dump Linux tasks.

    Usage: lx-ps

    One line per thread: the address of its task_struct, its PID and its name.
    Each process is followed by its other threads."""
    show(tasks.HEADER, lambda: map(tasks.row, walk()))


@function("lx_task_by_pid")
def lx_task_by_pid(pid: gdb.Value) -> gdb.Value:
    """Find Linux task by PID and return the task_struct variable.

    $lx_task_by_pid(PID): Return the task_struct of the thread whose PID this is,
    as in: p $lx_task_by_pid(1).comm"""
    return target.object_at("struct task_struct", by_pid(int(pid)).address)


@function("lx_task")
def lx_task() -> gdb.Value:
    """Return the task of the selected thread.

    $lx_task(): Return the task_struct of the thread that is selected in GDB, whether a
    CPU runs it or it sleeps, as in: p $lx_task().comm"""
    return selected()


def selected() -> gdb.Value:
    """The task of the thread that is selected in GDB."""
    thread = cpus.thread()
    if thread.pid is not None:
        return target.object_at("struct task_struct", by_pid(thread.pid).address)
    if thread.idles:
        return percpu.copy(gdb.parse_and_eval("&runqueues"), thread.cpu)["idle"].dereference()
    return percpu.running(thread.cpu)
