"""$lx_per_cpu(), $lx_per_cpu_ptr() and $lx_current().

CPU n's copy of a per-CPU variable lies `__per_cpu_offset[n]` bytes from the variable's symbol
(include/asm-generic/percpu.h). Before Linux 6.15 these symbols are linked at 0; GDB moves them with the kernel, and the
server shows that array reduced by as much. Pointers that the kernel keeps were never moved: for those the
array is reckoned as the kernel did (`setup_per_cpu_areas`, arch/x86/kernel/setup_percpu.c).
"""

from typing import Optional

import gdb

from . import cpus, target
from .command import function
from .core.errors import TargetError
from .core.memory import POINTER_SIZE

_WORD = 1 << 64


def _offset(cpu: int) -> int:
    """What to add to the address of a per-CPU symbol for the copy of `cpu`."""
    if cpu not in cpus.possible():
        raise TargetError(f"no CPU {cpu}: the possible ones are {cpus.possible()}")
    array = target.find_symbol("__per_cpu_offset")
    if array is None:  # a kernel for one CPU
        return 0
    return target.pointer(array + cpu * POINTER_SIZE, "__per_cpu_offset")


def _chosen(cpu: Optional[gdb.Value]) -> int:
    """The CPU that was named, or the one that is selected in GDB. -1 stands for the latter too."""
    return cpus.selected() if cpu is None or int(cpu) == -1 else int(cpu)


@function("lx_per_cpu")
def lx_per_cpu(name: gdb.Value, cpu: Optional[gdb.Value] = None) -> gdb.Value:
    """Return per-cpu variable.

    $lx_per_cpu("VAR"[, CPU]): Return the per-CPU variable VAR of the given CPU, or
    of the one whose thread is selected. VAR may stand without quotes too, as in:
    p $lx_per_cpu(runqueues, 1).curr->comm"""
    return copy(_pointer(name), _chosen(cpu))


def copy(pointer: gdb.Value, cpu: int) -> gdb.Value:
    """What of a CPU's own the per-CPU symbol at `pointer` stands for."""
    address = (int(pointer) + _offset(cpu)) % _WORD
    return gdb.Value(address).cast(pointer.type).dereference()


def _pointer(name: gdb.Value) -> gdb.Value:
    """The address of a variable, given itself or by name."""
    if name.address is not None:
        return name.address
    try:
        return gdb.parse_and_eval("&" + name.string())
    except gdb.error as error:
        raise TargetError(str(error)) from None


@function("lx_per_cpu_ptr")
def lx_per_cpu_ptr(pointer: gdb.Value, cpu: Optional[gdb.Value] = None) -> gdb.Value:
    """Return per-cpu pointer.

    $lx_per_cpu_ptr(PTR[, CPU]): Return where the given CPU, or the one whose thread
    is selected, has what the per-CPU pointer PTR stands for, as in:
    p *$lx_per_cpu_ptr(init_net.loopback_dev.pcpu_refcnt, 0)"""
    chosen, start, end = _chosen(cpu), target.find_symbol("__per_cpu_start"), target.find_symbol("__per_cpu_end")
    moved = start is not None and end is not None and start <= int(pointer) % _WORD < end
    offset = _offset(chosen) if moved else _kernels_offset(chosen)
    return gdb.Value((int(pointer) + offset) % _WORD).cast(pointer.type)


def _kernels_offset(cpu: int) -> int:
    """`__per_cpu_offset[cpu]` as the kernel has it."""
    units = target.find_symbol("pcpu_unit_offsets")
    if units is None:  # a kernel for one CPU
        return _offset(cpu)
    if cpu not in cpus.possible():
        raise TargetError(f"no CPU {cpu}: the possible ones are {cpus.possible()}")
    array = target.pointer(units, "pcpu_unit_offsets")
    start = target.symbol("__per_cpu_start")
    linked_at_zero = start >> 63 == 0
    base = target.pointer(target.symbol("pcpu_base_addr"), "pcpu_base_addr")
    unit = target.pointer(array + cpu * POINTER_SIZE, "pcpu_unit_offsets[]")
    return (base + unit - (0 if linked_at_zero else start)) % _WORD


@function("lx_current")
def lx_current(cpu: Optional[gdb.Value] = None) -> gdb.Value:
    """Return current task.

    $lx_current([CPU]): Return the task_struct that runs on the given CPU, or on the
    one whose thread is selected, as in: p $lx_current().comm
    Of a thread that sleeps, $lx_task() is the task."""
    return running(_chosen(cpu))


def running(cpu: int) -> gdb.Value:
    """The task that runs on a CPU."""
    pointer = (_current_task() + _offset(cpu)) % _WORD
    return target.object_at("struct task_struct", target.pointer(pointer, "current_task"))


def _current_task() -> int:
    """Address of the per-CPU pointer to the running task: a variable of its own, except in 6.2 to 6.14."""
    hot = target.find_symbol("pcpu_hot")
    if hot is not None:
        return hot + target.layout("struct pcpu_hot", ("current_task",)).offset("current_task")
    return target.symbol("current_task")
