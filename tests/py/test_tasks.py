import pytest

from nettlp_gdb.core import tasks
from nettlp_gdb.core.errors import Changed, Unsupported
from nettlp_gdb.core.layout import Layout
from synthetic import BASE, Memory

COMMON = {"tasks": (0x890, 16), "tasks.next": (0x890, 8), "pid": (0x970, 4), "comm": (0xBA0, 16)}
SIGNAL = Layout("struct signal_struct", 0x100, {"thread_head": (0x10, 16)})
NODES = Layout("struct task_struct", 0x2600, {
    **COMMON, "signal": (0xBE0, 8), "thread_node": (0xA40, 16), "thread_node.next": (0xA40, 8),
})
GROUPS = Layout("struct task_struct", 0x2600, {**COMMON, "thread_group": (0xA30, 16), "thread_group.next": (0xA30, 8)})
NO_HEAD = Layout("struct signal_struct", 0x100, {})

BY_NODE = tasks.TaskLayouts(NODES, SIGNAL)
BY_GROUP = tasks.TaskLayouts(GROUPS, NO_HEAD)
BOTH = pytest.mark.parametrize("layouts", [BY_NODE, BY_GROUP], ids=["thread_node", "thread_group"])


def address(pid):
    return BASE + pid * 0x10000


def kernel(layouts, groups):
    """A target with these thread groups, each a list of (pid, comm)."""
    memory, task = Memory(), layouts.task
    leaders = [group[0][0] for group in groups]
    for at, group in enumerate(groups):
        following = address(leaders[(at + 1) % len(leaders)]) + task.offset("tasks")
        signal = address(group[0][0]) + 0x8000
        memory.put_structure(signal, SIGNAL, {})
        for place, (pid, comm) in enumerate(group):
            values = {"tasks.next": following, "pid": pid, "comm": comm}
            beyond = place + 1 == len(group)
            other = address(group[(place + 1) % len(group)][0])
            if layouts is BY_NODE:
                values["signal"] = signal
                values["thread_node.next"] = signal + 0x10 if beyond else other + task.offset("thread_node")
            else:
                values["thread_group.next"] = other + task.offset("thread_group")
            memory.put_structure(address(pid), task, values)
    return memory


def walk(layouts, memory):
    return list(tasks.walk(memory.read, layouts, address(0)))


GROUPS_OF_THREE = [[(0, b"swapper/0")], [(1, b"init")], [(104, b"thr"), (107, b"w one"), (108, b"w-two")],
                   [(2, b"kthreadd")]]


@BOTH
def test_threads_follow_their_leader_and_each_costs_one_read(layouts):
    memory = kernel(layouts, GROUPS_OF_THREE)
    assert [(task.pid, task.comm) for task in walk(layouts, memory)] == [
        (0, "swapper/0"), (1, "init"), (104, "thr"), (107, "w one"), (108, "w-two"), (2, "kthreadd"),
    ]
    assert len(memory.reads) == 6
    assert all(length < 0x400 for _, length in memory.reads)


@BOTH
def test_a_task_list_in_a_circle(layouts):
    memory = kernel(layouts, GROUPS_OF_THREE)
    memory.change(address(2), layouts.task, "tasks.next", address(1) + layouts.task.offset("tasks"))
    with pytest.raises(Changed, match="the list of tasks comes back"):
        walk(layouts, memory)


@BOTH
def test_a_thread_list_in_a_circle(layouts):
    memory = kernel(layouts, GROUPS_OF_THREE)
    link = "thread_node" if layouts is BY_NODE else "thread_group"
    memory.change(address(108), layouts.task, link + ".next", address(107) + layouts.task.offset(link))
    with pytest.raises(Changed, match="the list of threads of pid 104 comes back"):
        walk(layouts, memory)


def test_a_reaped_leader_has_no_threads():
    memory = kernel(BY_NODE, GROUPS_OF_THREE)
    memory.change(address(104), NODES, "signal", 0)
    assert [task.pid for task in walk(BY_NODE, memory)] == [0, 1, 104, 2]


def test_reused_memory_is_no_task():
    memory = kernel(BY_NODE, GROUPS_OF_THREE)
    memory.change(address(1), NODES, "pid", 0x6B6B6B6B)
    with pytest.raises(Changed, match=r"the task at 0xffff888000010000 has the pid 1802201963"):
        walk(BY_NODE, memory)


def test_a_kernel_that_links_threads_otherwise():
    with pytest.raises(Unsupported, match="links threads in an unknown way"):
        walk(tasks.TaskLayouts(NODES, NO_HEAD), kernel(BY_NODE, GROUPS_OF_THREE))


def test_by_pid_stops_where_it_is():
    memory = kernel(BY_NODE, GROUPS_OF_THREE)
    found = tasks.by_pid(tasks.walk(memory.read, BY_NODE, address(0)), 1)
    assert found is not None and found.comm == "init"
    assert len(memory.reads) == 2
    assert tasks.by_pid(tasks.walk(memory.read, BY_NODE, address(0)), 77777) is None


def test_rows():
    memory = kernel(BY_NODE, [[(0, b"swapper/0")], [(4194303, b"0123456789abcde")], [(17, b"a\nb")]])
    assert tasks.HEADER == "      TASK          PID    COMM"
    assert [tasks.row(task) for task in walk(BY_NODE, memory)] == [
        "0xffff888000000000   0   swapper/0",
        "0xffff88bfffff0000 4194303 0123456789abcde",
        "0xffff888000110000  17   a\\x0ab",
    ]
