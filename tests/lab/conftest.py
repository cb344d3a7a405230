"""The ring's fixtures: kernels, guests and the tools under test. One guest runs at a time."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import oracle  # noqa: E402
import truth  # noqa: E402
from lab import debugger, fetch, initramfs, scripts_gdb  # noqa: E402
from lab.bench import Bench  # noqa: E402
from lab.demo import SCRIPTS, built_binary  # noqa: E402
from lab.guest import GIB, Guest, Machine, Segment  # noqa: E402

SCENARIOS = {
    "kaslr-5level": {"cpu": "max"},
    "kaslr-4level": {"cpu": "max,la57=off"},
    "nokaslr": {"append": ("nokaslr",)},
}
SETTLE_ATTEMPTS = 6


@pytest.fixture(scope="session")
def kernel() -> fetch.Kernel:
    return fetch.kernel()


@pytest.fixture(scope="session")
def binary() -> Path:
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=REPOSITORY, check=True)
    return built_binary()


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """The initramfs, with a threaded program in it."""
    directory = tmp_path_factory.mktemp("initramfs")
    threads = directory / "lab-threads"
    subprocess.run(["cc", "-O", "-static", "-pthread", "-o", threads, Path(__file__).with_name("threads.c")], check=True)
    return initramfs.build(directory / "initramfs.cpio", (threads,))


@pytest.fixture(scope="session")
def loaded_scripts(kernel) -> dict[str, Path]:
    """The two sets of gdb commands: the kernel's own and ours."""
    return {"kernel": scripts_gdb.scripts(kernel), "ours": SCRIPTS}


@dataclasses.dataclass
class Lab:
    """A guest, the tools attached to it, and what is known about it."""

    name: str
    guest: Guest
    bench: Bench
    kernel: fetch.Kernel
    vmcoreinfo: bytes
    symbols: dict[str, int]
    code: tuple[int, int]
    ram: list[tuple[int, int]]
    panicked: bool = False

    def drgn(self) -> "oracle.drgn.Program":
        return oracle.program(self.guest, self.vmcoreinfo, self.kernel.vmlinux)


@pytest.fixture(scope="session", params=SCENARIOS)
def lab(request, kernel, binary, archive):
    with Guest(Machine(kernel.vmlinuz, archive, **SCENARIOS[request.param])) as guest:
        names = ("_text", "init_task", "linux_banner", "init_top_pgt", "_stext")
        with Bench(binary, guest.ram_file, guest.ram, kernel.vmlinux) as bench:
            yield Lab(
                request.param, guest, bench, kernel, oracle.vmcoreinfo(guest),
                truth.symbols(guest, *names), truth.iomem(guest, "Kernel code")[0], truth.iomem(guest, "System RAM"),
            )


@dataclasses.dataclass
class Said:
    """What gdb answered, beside what the guest said at that time."""

    tasks: set[tuple[int, str]]
    log: list[truth.Line]
    answers: dict[str, dict[str, str]]
    ps: str
    dmesg: str


GDB_COMMANDS = {
    "ps": "lx-ps",
    "dmesg": "lx-dmesg",
    "version": "lx-version",
    "current": "p $lx_current().comm",
    "curr0": 'p $lx_per_cpu("runqueues", 0).curr->comm',
    "curr1": 'p $lx_per_cpu("runqueues", 1).curr->comm',
}


@pytest.fixture(scope="session", params=["alive", "panicked"])
def said(request, lab, loaded_scripts) -> Said:
    """Asks everything of gdb and of the command line; while the guest lives, until it did not change meanwhile."""
    if request.param == "alive":
        assert not lab.panicked
        for _ in range(SETTLE_ATTEMPTS):
            before = truth.tasks(lab.guest), truth.kernel_log(lab.guest)
            answers = ask_everything(lab, loaded_scripts)
            after = truth.tasks(lab.guest), truth.kernel_log(lab.guest)
            if truth.listed(before[0]) == truth.listed(after[0]) and before[1] == after[1]:
                return Said(truth.listed(after[0]), after[1], *answers)
        raise AssertionError(f"the guest's tasks or log changed in each of {SETTLE_ATTEMPTS} attempts")
    tasks, log = truth.listed(truth.tasks(lab.guest)), truth.kernel_log(lab.guest)
    lab.guest.panic()
    lab.panicked = True
    log = log + truth.console_since(lab.guest, log[-1])
    return Said(tasks, log, *ask_everything(lab, loaded_scripts))


def ask_everything(lab: Lab, loaded_scripts: dict[str, Path]):
    answers = {}
    for name, scripts in loaded_scripts.items():
        texts = debugger.ask(lab.kernel.vmlinux, lab.bench.port, list(GDB_COMMANDS.values()), scripts=scripts)
        answers[name] = dict(zip(GDB_COMMANDS, texts))
    return answers, lab.bench.run("ps", "--threads", "--json"), lab.bench.run("dmesg", "--json")


@dataclasses.dataclass
class AtRest:
    """A copy of a stopped guest's RAM."""

    ram_file: Path
    ram: list[Segment]
    symbols: dict[str, int]
    code: tuple[int, int]


@pytest.fixture(scope="session")
def at_rest(kernel, archive, tmp_path_factory):
    """Captures guests by RAM size, each size once."""
    taken: dict[int, AtRest] = {}

    def capture(memory: int = GIB) -> AtRest:
        if memory not in taken:
            copy = tmp_path_factory.mktemp("at-rest") / "ram"
            with Guest(Machine(kernel.vmlinuz, archive, memory=memory)) as guest:
                symbols, code = truth.symbols(guest, "_text", "init_task"), truth.iomem(guest, "Kernel code")[0]
                guest.stop()
                guest.copy_ram(copy)
                taken[memory] = AtRest(copy, guest.ram, symbols, code)
        return taken[memory]

    yield capture
    for rest in taken.values():
        rest.ram_file.unlink()


_FIGURES: list[str] = []


@pytest.fixture(scope="session")
def figure():
    """Notes a measured figure, printed when the ring ends."""
    return _FIGURES.append


def pytest_terminal_summary(terminalreporter):
    if _FIGURES:
        terminalreporter.section("figures")
        for line in _FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture
def at_one_moment(said, lab):
    """The guest stopped, so that two readers one after the other see the same memory."""
    lab.guest.stop()
    yield lab, lab.drgn()
    lab.guest.resume()
