"""Backtraces by three: `nettlp-gdb bt`, drgn's `stack_trace`, and the console's `Call Trace:` of a panic."""

import re

from drgn import Program
from drgn.helpers.linux.pid import for_each_task

# What gcc appends to the parts of a function; DWARF, which drgn goes by, knows the whole.
_PART = re.compile(r"\.(cold|isra|constprop|part)\b.*")
# The kernel's own table has a second name for the part of the entry code behind the switch of stacks.
_LABELS = {
    "entry_SYSCALL_64_after_hwframe": "entry_SYSCALL_64",
    "secondary_startup_64_no_verify": "secondary_startup_64",
    # Names of one place, in 5.10.
    "asm_call_sysvec_on_stack": "asm_call_on_stack",
    "asm_call_irq_on_stack": "asm_call_on_stack",
}
_CONSOLE = re.compile(r"\[ *\d+\.\d+\]  (\? )?([\w.]+)\+0x[0-9a-f]+/0x[0-9a-f]+")


def function(name: str | None) -> str:
    """A function's name without what tells only its parts apart."""
    name = _PART.sub("", name or "??")
    return _LABELS.get(name, name)


def ours(task: dict, *, inlined: bool = False) -> list[str]:
    """The functions that `bt --json` names, innermost first, and user mode by its address as drgn shows it."""
    names = [function(call["function"]) for call in task["frames"] if inlined or not call["inlined"]]
    return names + [task["user"]["registers"]["rip"]] if task["user"] else names


def drgns(program: Program, pids: set[int], *, inlined: bool = False) -> dict[int, list[str]]:
    """The functions of the tasks in `pids`, all of which must sleep."""
    traces = {}
    for task in for_each_task(program):
        if (pid := task.pid.value_()) in pids:
            frames = [frame for frame in program.stack_trace(task) if inlined or not frame.is_inline]
            traces[pid] = [function(frame.name) for frame in frames]
    return traces


def console(shown: str) -> list[str]:
    """The functions of the last `Call Trace:` that the kernel itself is sure of; those it marks with ? are not."""
    trace = shown.rpartition("Call Trace:")[2]
    return [function(match[2]) for match in _CONSOLE.finditer(trace) if not match[1]]


def from_panic(names: list[str]) -> list[str]:
    """From `panic`, or what it is split into, outwards; what only one of the two shows inside of it left out."""
    first = next(at for at, name in enumerate(names) if name in ("panic", "vpanic"))
    return names[first:]
