"""`bt` where GDB alone goes astray: code no compiler described, and the change from a CPU's stack to a task's.

GDB unwinds by what the compiler wrote down (DWARF). The kernel's entry code has no such description, a vmlinux made of the
target's memory has none at all, and GDB holds a stack that continues at a lower address for corrupt. There the server's
frames are taken, each of which it has proved by the kernel's own tables; everywhere else GDB keeps its own, with arguments
and variables.
"""

from typing import Dict, Optional

import gdb
import gdb.unwinder

from . import cpus
from .core import frames

#: registers of 64 bits: those of other widths are of no use outside of their frame
_NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip")


class _FrameId:
    def __init__(self, sp: int, pc: int) -> None:
        self.sp, self.pc = gdb.Value(sp), gdb.Value(pc)


class _Unwinder(gdb.unwinder.Unwinder):
    def __init__(self) -> None:
        super().__init__("nettlp-gdb")
        self._chains: Dict[int, frames.Chain] = {}
        self._asking = False
        for event in (gdb.events.before_prompt, gdb.events.stop, gdb.events.cont, gdb.events.exited):
            event.connect(self._forget)

    def __call__(self, pending):
        if self._asking:
            return None
        try:
            return self._unwind(pending)
        except (gdb.error, ValueError, KeyError):
            # Registers that are not known, or a server that is another: the frame is GDB's.
            return None

    def _unwind(self, pending):
        thread = gdb.selected_thread()
        if thread is None:
            return None
        tid = thread.ptid[1]
        address, sp = (int(pending.read_register(name)) & (1 << 64) - 1 for name in ("rip", "rsp"))
        compiled = _is_compiled(address)
        # Only what a CPU was doing goes over more than one stack.
        if compiled and not cpus.is_cpu(tid):
            return None
        chain, at = self._find(tid, address, sp)
        caller = chain.caller(at, compiled) if chain and at is not None else None
        if caller is None:
            return None
        info = pending.create_unwind_info(_FrameId(caller.identity, address))
        for name in _NAMES:
            if name in caller.registers:
                info.add_saved_register(name, gdb.Value(caller.registers[name]))
        return info

    def _find(self, tid: int, address: int, sp: int):
        """The thread's chain and the place in it; asked for again when what is known of it does not fit."""
        chain = self._chains.get(tid)
        at = chain.position(address, sp) if chain else None
        if at is None:
            self._ask(tid)
            chain = self._chains.get(tid)
            at = chain.position(address, sp) if chain else None
        return chain, at

    def _ask(self, tid: int) -> None:
        # Whoever looks at a second thread will look at all: `thread apply all bt` then is one question.
        which = "all" if self._chains else cpus.question(tid)
        self._asking = True
        try:
            text = gdb.execute(f"monitor bt {which} json", to_string=True)
        finally:
            self._asking = False
        for chain in frames.parse(text):
            self._chains[cpus.thread_of(chain.pid, chain.cpu, chain.on_cpu)] = chain

    def _forget(self, _event: Optional[object] = None) -> None:
        self._chains.clear()


def _is_compiled(address: int) -> bool:
    """Whether GDB has a compiler's description of the code before `address`: it has lines of C."""
    table = gdb.find_pc_line(max(address - 1, 0)).symtab
    return table is not None and not table.filename.endswith(".S")


def register() -> None:
    """Gives GDB the unwinder, in place of one that was loaded before."""
    gdb.unwinder.register_unwinder(None, _Unwinder(), replace=True)
