"""The tasks of the kernel: every process, each followed by its other threads.

`init_task.tasks` lists the thread group leaders. The threads of a group are listed from
`signal_struct.thread_head` (since 3.14, commit 0c740d0afc3b), before 6.7 also by `task_struct.thread_group`
(removed by commit 8e1f385104ac). The idle tasks of the CPUs other than the first are on neither.
"""

from typing import Callable, Iterator, NamedTuple, Optional

from .errors import Changed, Unsupported
from .layout import Layout, View
from .lists import entries
from .memory import Read
from .text import c_string, printable

#: members of `task_struct` that `walk` reads; those that not every kernel has
TASK_MEMBERS = ("tasks", "tasks.next", "pid", "comm")
TASK_OPTIONAL = ("signal", "thread_node", "thread_node.next", "thread_group", "thread_group.next")
SIGNAL_OPTIONAL = ("thread_head",)

#: most tasks a kernel can have, and the bound of every pid: PID_MAX_LIMIT (include/linux/threads.h)
PID_MAX = 4 << 20

HEADER = f"{'TASK':>10} {'PID':>12} {'COMM':>7}"


class TaskLayouts(NamedTuple):
    """What `walk` has to know of the kernel's structures."""

    task: Layout
    signal: Layout


class Task(NamedTuple):
    """One thread."""

    address: int
    pid: int
    comm: str
    view: View


def walk(read: Read, layouts: TaskLayouts, init_task: int) -> Iterator[Task]:
    """All tasks, from `init_task` at the address of that name on."""
    threads = _threads_of(layouts)
    idle = layouts.task.read(read, init_task)
    yield _task(idle)
    yield from map(_task, threads(read, idle))
    others = entries(read, idle.address_of("tasks"), idle.unsigned("tasks.next"), layouts.task, "tasks",
                     "the list of tasks", PID_MAX)
    for leader in others:
        yield _task(leader)
        yield from map(_task, threads(read, leader))


def by_pid(tasks: Iterator[Task], pid: int) -> Optional[Task]:
    """The task with the number `pid`."""
    return next((task for task in tasks if task.pid == pid), None)


def row(task: Task) -> str:
    """One line of the table under `HEADER`."""
    return f"{task.address:#x} {task.pid:^5} {task.comm}"


def _task(view: View) -> Task:
    pid = view.signed("pid")
    if not 0 <= pid <= PID_MAX:
        raise Changed(f"the task at {view.address:#x} has the pid {pid}: it was freed while it was read")
    return Task(view.address, pid, printable(c_string(view.raw("comm"))), view)


def _threads_of(layouts: TaskLayouts) -> Callable[[Read, View], Iterator[View]]:
    """How this kernel links the threads of a group: gives those that follow a leader."""
    task, signal = layouts

    def by_thread_node(read: Read, leader: View) -> Iterator[View]:
        group = leader.unsigned("signal")
        if not group:  # NULL once the task is reaped
            return iter(())
        return _others(read, leader, group + signal.offset("thread_head"), "thread_node")

    def by_thread_group(read: Read, leader: View) -> Iterator[View]:
        return _others(read, leader, leader.address_of("thread_group"), "thread_group")

    def _others(read: Read, leader: View, head: int, link: str) -> Iterator[View]:
        what = f"the list of threads of pid {leader.signed('pid')}"
        return entries(read, head, leader.unsigned(link + ".next"), task, link, what, PID_MAX)

    if "thread_node" in task and "thread_head" in signal:
        return by_thread_node
    if "thread_group" in task:
        return by_thread_group
    raise Unsupported("task_struct of this kernel links threads in an unknown way")
