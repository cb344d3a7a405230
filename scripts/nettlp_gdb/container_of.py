"""$container_of()."""

import gdb

from . import target
from .command import function


@function("container_of")
def container_of(pointer: gdb.Value, name: gdb.Value, member: gdb.Value) -> gdb.Value:
    """Return pointer to containing data structure.

    $container_of(PTR, "TYPE", "MEMBER"): Return a pointer to the structure TYPE whose
    MEMBER is at PTR, as in:
    p $container_of(init_task.tasks.next, "struct task_struct", "tasks")->comm"""
    kind, path = name.string(), member.string()
    offset = target.layout(kind, (path,)).offset(path)
    return target.object_at(kind, (int(pointer) - offset) % (1 << 64)).address
