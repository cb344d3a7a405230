"""Runs inside gdb: loads the kernel's own scripts, asks every command and function that they define, and prints what came of it.

Input: SCRIPTS, the path of their vmlinux-gdb.py. Output: one line of JSON, a list of [name, outcome, text]. An outcome is
"yes"; "refuses", where a script says in a sentence of its own that there is no such thing; or "fails", where it ends with
a Python exception.
"""

import json
import os
import sys

import gdb

# The kernel's lx-symbols loads the vmlinux anew, without the slide.
NOT_ASKED = {"lx-symbols"}

defined: list[str] = []


def recorded(kind: type, form: str) -> type:
    class Recorded(kind):
        def __init__(self, name: str, *arguments: object) -> None:
            super().__init__(name, *arguments)
            defined.append(form.format(name))

    return Recorded


gdb.Command, gdb.Function = recorded(gdb.Command, "{}"), recorded(gdb.Function, "${}()")
# gdb leaves `__file__` of this file in place.
sys.path.insert(0, os.path.dirname(SCRIPTS) + "/scripts/gdb")  # noqa: F821
# 5.10's stop half way: what they define until then is asked.
gdb.execute(f"source {SCRIPTS}", to_string=True)  # noqa: F821


def member(name: str, *path: str) -> gdb.Value:
    """A member of a variable. In an expression, gdb would search all types for one of the name behind each dot."""
    value = gdb.parse_and_eval(name)
    for part in path:
        value = value[part]
    return value


entries = member("sysfs_root_kn", "dir", "children")
for name, value in {
    "tree": member("init_pid_ns", "idr", "idr_rt").address,
    "entries": entries.address,
    "entry": entries["rb_node"],
    "task": member("init_task", "tasks", "next"),
    "dentry": member("init_fs", "root", "dentry"),
    "inode": member("init_fs", "root", "dentry", "d_inode"),
}.items():
    gdb.set_convenience_variable(f"lab_{name}", value)


def number(name: str, more: int = 0) -> str:
    return hex(int(gdb.parse_and_eval(name)) + more)


# Of those that want some; what a new kernel's scripts add is asked without.
TASK, PAGE = number("&init_task"), number("vmemmap_base", 64 * 4096)
ARGUMENTS = {
    "lx-configdump": "/dev/null",
    "lx-device-list-tree": "&platform_bus",
    "lx-fdtdump": "/dev/null",
    "lx-getmod-by-textaddr": number("&schedule"),
    "lx-kasan_mem_to_shadow": TASK,
    "lx-list-check": "modules",
    "lx-page_address": PAGE,
    "lx-page_to_pfn": PAGE,
    "lx-page_to_phys": PAGE,
    "lx-pfn_to_kaddr": "4096",
    "lx-pfn_to_page": "4096",
    "lx-radix-tree": "$lab_tree",
    "lx-slabtrace": "--cache_name kmalloc-64",
    "lx-stack_depot_lookup": "1",
    "lx-sym_to_pfn": TASK,
    "lx-virt_to_page": number("page_offset_base", 1 << 24),
    "lx-virt_to_phys": TASK,
    "translate-vm": TASK,
    "container_of": '$lab_task, "struct task_struct", "tasks"',
    "lx_clk_core_lookup": '"x"',
    "lx_dentry_name": "$lab_dentry",
    "lx_device_find_by_bus_name": '"platform", "serial8250"',
    "lx_device_find_by_class_name": '"mem", "null"',
    "lx_i_dentry": "$lab_inode",
    "lx_module": '"tun"',
    "lx_per_cpu": '"runqueues", 1',
    "lx_per_cpu_ptr": "&runqueues, 1",
    "lx_radix_tree_lookup": "$lab_tree, 1",
    "lx_rb_first": "$lab_entries",
    "lx_rb_last": "$lab_entries",
    "lx_rb_next": "$lab_entry",
    "lx_rb_prev": "$lab_entry",
    "lx_task_by_pid": "1",
    "lx_thread_info": "$lx_current()",
    "lx_thread_info_by_pid": "1",
}


def ask(name: str) -> tuple[str, str, str]:
    arguments = ARGUMENTS.get(name.strip("$()"), "")
    question = f"output {name[:-2]}({arguments})" if name.startswith("$") else f"{name} {arguments}"
    try:
        return name, "yes", gdb.execute(question, to_string=True)
    except gdb.error as error:
        _, exception, message = str(error).rpartition("Error occurred in Python: ")
        return name, "fails" if exception else "refuses", message.strip()


# A kernel's symbol table has no sizes: gdb would name data after whatever symbol stands before it.
gdb.execute("set print symbol off")
print(json.dumps([ask(name) for name in defined if name not in NOT_ASKED]))
