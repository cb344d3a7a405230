"""The ring's fixtures: kernels, guests and the tools under test. One guest runs at a time."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import truth  # noqa: E402
from lab import fetch, initramfs, kernels, scripts_gdb  # noqa: E402
from lab.bench import Bench  # noqa: E402
from lab.demo import SCRIPTS, target_directory  # noqa: E402
from lab.guest import GIB, Guest, Machine, Segment  # noqa: E402
from observe import Observed, State, observe  # noqa: E402

SCENARIOS = {
    "kaslr-5level": {"cpu": "max"},
    "kaslr-4level": {"cpu": "max,la57=off"},
    "nokaslr": {"append": ("nokaslr",)},
}


def pytest_addoption(parser):
    parser.addoption("--write", action="store_true", help="write what was seen into the documents that are held against it")


@pytest.fixture(scope="session")
def kernel() -> fetch.Kernel:
    return fetch.kernel()


@pytest.fixture(scope="session", params=kernels.NAMES)
def each_kernel(request) -> fetch.Kernel:
    return kernels.named(request.param)


@pytest.fixture(scope="session")
def built() -> Path:
    """Where the release build is. The examples are built with the program: their dependencies turn on other features of
    common ones, so that the library would be compiled twice."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--bins", "--examples"], cwd=REPOSITORY, check=True)
    return target_directory() / "release"


@pytest.fixture(scope="session")
def binary(built) -> Path:
    return built / "nettlp-gdb"


@pytest.fixture(scope="session")
def examples(built) -> Path:
    return built / "examples"


@pytest.fixture(scope="session")
def threads(tmp_path_factory) -> Path:
    """A threaded program for a guest."""
    return _compiled(tmp_path_factory, "threads.c")


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> Path:
    """A program for a guest, with pages in every condition."""
    return _compiled(tmp_path_factory, "pages.c")


def _compiled(tmp_path_factory, source: str) -> Path:
    made = tmp_path_factory.mktemp("programs") / f"lab-{Path(source).stem}"
    subprocess.run(["cc", "-O", "-static", "-pthread", "-o", made, Path(__file__).with_name(source)], check=True)
    return made


@pytest.fixture(scope="session")
def archive(tmp_path_factory, threads) -> Path:
    """The initramfs, with a threaded program in it."""
    return initramfs.build(tmp_path_factory.mktemp("initramfs") / "initramfs.cpio", (threads,))


@pytest.fixture(scope="session")
def loaded_scripts(kernel) -> dict[str, Path]:
    """The two sets of gdb commands: the kernel's own and ours."""
    return {"kernel": scripts_gdb.scripts(kernel), "ours": SCRIPTS}


@pytest.fixture(scope="session", params=SCENARIOS)
def observed(request, kernel, binary, archive, loaded_scripts) -> Observed:
    """Each scenario's guest, observed alive and panicked, and gone."""
    with Guest(Machine(kernel.vmlinuz, archive, **SCENARIOS[request.param])) as guest:
        with Bench(binary, guest.ram_file, guest.ram, kernel.vmlinux) as bench:
            return observe(request.param, guest, bench, kernel, loaded_scripts)


@pytest.fixture(params=["alive", "panicked"])
def state(request) -> str:
    return request.param


@pytest.fixture
def said(observed, state) -> State:
    """What was asked in the state under test."""
    return observed.state(state)


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


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.lab)
