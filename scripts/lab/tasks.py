"""The guest's own list of tasks, in the terms of a kernel's structures."""

import re
from typing import NamedTuple

from lab.guest import Guest

# /proc/PID/status shows a worker with what it works on: kworker/0:1-events
# (wq_worker_comm, kernel/workqueue.c), and a kernel thread by its full name
# (get_kthread_comm, kernel/kthread.c). The task's own comm ends before that.
_WORKER = re.compile(r"(kworker/u?\d+:\d+H?)[-+].*")

_COMM_LENGTH = 15


class Task(NamedTuple):
    """One thread of the guest."""

    pid: int
    tgid: int
    ppid: int
    state: str
    comm: str


def tasks(guest: Guest) -> list[Task]:
    """Every thread /proc knows. The idle tasks are not among them."""
    found = []
    for line in guest.run("lab_tasks").splitlines():
        pid, tgid, ppid, state, comm = line.split(" ", 4)
        worker = _WORKER.fullmatch(comm)
        found.append(Task(int(pid), int(tgid), int(ppid), state, (worker[1] if worker else comm)[:_COMM_LENGTH]))
    return found


def listed(tasks: list[Task]) -> set[tuple[int, str]]:
    """What a task list of the kernel's own shows: /proc's threads and init_task."""
    return {(task.pid, task.comm) for task in tasks} | {(0, "swapper/0")}
