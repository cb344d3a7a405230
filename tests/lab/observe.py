"""Everything the comparisons need, asked of one guest: first while it lives, then after its panic.

Asking comes first and comparing later, because a panic cannot be taken back:
the tests then run in any order, without a guest.
"""

from dataclasses import dataclass
from pathlib import Path

import oracle
import truth
from lab import debugger
from lab.bench import Bench
from lab.fetch import Kernel
from lab.guest import Guest

SETTLE_ATTEMPTS = 6

# Members in Python: in an expression, a name behind a dot costs gdb 15 s of search for types of that name.
GDB_COMMANDS = {
    "ps": "lx-ps",
    "dmesg": "lx-dmesg",
    "version": "lx-version",
    "current": """python print(gdb.parse_and_eval('$lx_current()')["comm"].string())""",
    "curr0": """python print(gdb.parse_and_eval('$lx_per_cpu("runqueues", 0)')["curr"]["comm"].string())""",
    "curr1": """python print(gdb.parse_and_eval('$lx_per_cpu("runqueues", 1)')["curr"]["comm"].string())""",
}


@dataclass
class AtOneMoment:
    """What two readers saw in the memory of a stopped guest."""

    ps: str
    leaders: str
    info: str
    drgn_tasks: set[tuple]
    drgn_info: dict


@dataclass
class State:
    """A guest in one state: what it says itself, and what each tool says about it."""

    tasks: set[tuple[int, str]]
    log: list[truth.Line]
    gdb: dict[str, dict[str, str]]
    ps: str
    dmesg: str
    moment: AtOneMoment


@dataclass
class Observed:
    """One guest's life."""

    name: str
    release: str
    cpus: int
    symbols: dict[str, int]
    code: tuple[int, int]
    ram: list[tuple[int, int]]
    alive: State
    panicked: State

    def state(self, name: str) -> State:
        return {"alive": self.alive, "panicked": self.panicked}[name]


def observe(name: str, guest: Guest, bench: Bench, kernel: Kernel, scripts: dict[str, Path]) -> Observed:
    """Asks all there is to ask, panics the guest and asks again."""
    note = oracle.vmcoreinfo(guest)
    symbols = truth.symbols(guest, "_text", "init_task", "init_top_pgt")
    code, ram = truth.iomem(guest, "Kernel code")[0], truth.iomem(guest, "System RAM")

    def ask() -> tuple[dict, str, str]:
        answers = {}
        for owner, path in scripts.items():
            texts = debugger.ask(kernel.vmlinux, bench.port, list(GDB_COMMANDS.values()), scripts=path)
            answers[owner] = dict(zip(GDB_COMMANDS, texts))
        return answers, bench.run("ps", "--threads", "--json"), bench.run("dmesg", "--json")

    def at_one_moment() -> AtOneMoment:
        guest.stop()
        program = oracle.program(guest, note, kernel.vmlinux)
        seen = AtOneMoment(
            bench.run("ps", "--threads", "--json"), bench.run("ps", "--json"), bench.run("info", "--json"),
            oracle.tasks(program), oracle.info(program),
        )
        guest.resume()
        return seen

    tasks, log, answers = settled(guest, ask)
    alive = State(tasks, log, *answers, at_one_moment())
    log = truth.kernel_log(guest)
    tasks = truth.listed(truth.tasks(guest))
    log += truth.console_log(guest.panic())
    panicked = State(tasks, log, *ask(), at_one_moment())
    return Observed(name, kernel.release, guest.machine.cpus, symbols, code, ram, alive, panicked)


def settled(guest: Guest, ask) -> tuple:
    """The guest's tasks and log with the answers, taken while neither changed."""
    def now() -> tuple:
        return truth.listed(truth.tasks(guest)), truth.kernel_log(guest)

    for _ in range(SETTLE_ATTEMPTS):
        before = now()
        answers = ask()
        if before == now():
            return *before, answers
    raise AssertionError(f"the guest's tasks or log changed in each of {SETTLE_ATTEMPTS} attempts")
