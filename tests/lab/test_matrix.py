"""Kernel series by series: everything with nothing given but the target's memory, alive and panicked; the guest is the oracle."""

import hashlib
import json
from dataclasses import dataclass, field

import pytest
import truth
from lab import debugger, fetch, initramfs, kernels, modules
from lab.bench import Bench, run
from lab.guest import Guest, Machine, image_arguments
from observe import settled

# The system's own kernel, which the rest of the ring looks at more closely, and the other series; both depths of tables.
SYSTEM = "system"
SERIES = {series.name: series for series in kernels.MATRIX}
SCENARIOS = [(SYSTEM, "max,la57=off"), *((name, "max") for name in SERIES), ("5.10", "max,la57=off")]

# One exports to the next; the last keeps per-CPU data.
MODULES = ("fat", "vfat", "tun")

QUESTIONS = [
    "lx-ps",
    "lx-dmesg",
    "p sizeof(struct task_struct)",
    "p init_task.comm",
    "info symbol schedule",
    'p $lx_per_cpu("runqueues", 1).cpu',
    "x/2i schedule",
    "x/s &linux_banner",
    "lx-lsmod",
    "lx-symbols",
    "info symbol fat_get_cluster",
    "info symbol fat_get_cluster+9",
    "x/2i fat_get_cluster",
]


@dataclass
class State:
    """A guest's tasks and log, and what was answered from its memory."""

    tasks: set[tuple[int, str]]
    log: list[truth.Line]
    # By what gdb and the server were given: nothing, or the distribution's vmlinux.
    gdb: dict[str, list[str]]
    ps: dict[str, list[dict]]
    info: dict[str, dict]
    dmesg: list[dict]
    modules: list[dict]


@dataclass
class Matrix:
    release: str
    symbols: dict[str, int]
    # Of /proc/kallsyms, and of what `symbols --list` prints: lines and their digest.
    kallsyms: tuple[int, str]
    listed: tuple[int, str]
    # /proc/modules: name, bytes, address.
    modules: set[tuple[str, int, int]]
    states: dict[str, State] = field(default_factory=dict)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def digest(text: str) -> tuple[int, str]:
    return text.count("\n"), hashlib.md5(text.encode()).hexdigest()


def shown_modules(text: str) -> set[tuple[str, int, int]]:
    rows = (line.split() for line in text.splitlines())
    return {(row[0], int(row[1]), int(row[5], 16)) for row in rows}


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda scenario: f"{scenario[0]}-{scenario[1]}")
def matrix(request, binary, threads, loaded_scripts, tmp_path_factory) -> Matrix:
    name, cpu = request.param
    kernel = fetch.kernel() if name == SYSTEM else kernels.kernel(SERIES[name])
    archive = initramfs.build(
        tmp_path_factory.mktemp("matrix") / "initramfs.cpio", (threads, *modules.files(kernel, MODULES))
    )
    with Guest(Machine(kernel.vmlinuz, archive, cpu=cpu)) as guest:
        for module in MODULES:
            guest.run(f"insmod /bin/{module}.ko")
        kallsyms = guest.run("cat /proc/kallsyms | tee /tmp/kallsyms | wc -l; md5sum < /tmp/kallsyms; rm /tmp/kallsyms").split()
        seen = Matrix(
            kernel.release,
            truth.symbols(guest, "_text", "init_task"),
            (int(kallsyms[0]), kallsyms[1]),
            digest(run(binary, "symbols", "--list", *image_arguments(guest.ram_file, guest.ram))),
            shown_modules(guest.run("cat /proc/modules")),
        )
        with (
            Bench(binary, guest.ram_file, guest.ram, None) as alone,
            Bench(binary, guest.ram_file, guest.ram, kernel.vmlinux, addresses=1) as given,
        ):
            benches = {"nothing": alone, "vmlinux": given}

            def answers() -> tuple:
                ours = loaded_scripts["ours"]
                gdb = {
                    what: debugger.ask(bench.vmlinux, bench.port, QUESTIONS, scripts=ours)
                    for what, bench in benches.items()
                }
                ps = {what: lines(bench.run("ps", "--threads", "--json")) for what, bench in benches.items()}
                info = {what: json.loads(bench.run("info", "--json")) for what, bench in benches.items()}
                return gdb, ps, info, lines(alone.run("dmesg", "--json")), lines(alone.run("modules", "--json"))

            tasks, log, said = settled(guest, answers)
            seen.states["alive"] = State(tasks, log, *said)
            tasks, log = truth.listed(truth.tasks(guest)), truth.kernel_log(guest)
            log += truth.console_log(guest.panic())
            seen.states["panicked"] = State(tasks, log, *answers())
    return seen


@pytest.fixture(params=["alive", "panicked"])
def said(matrix, request) -> State:
    return matrix.states[request.param]


both = pytest.mark.parametrize("what", ["nothing", "vmlinux"])


def test_where_the_kernel_is(matrix, said):
    assert int(said.info["nothing"]["text"], 16) == matrix.symbols["_text"]
    assert int(said.info["nothing"]["init_task"], 16) == matrix.symbols["init_task"]
    assert said.info["nothing"]["release"] == matrix.release
    same = ["release", "banner", "build_id", "text", "phys_base", "slide", "root", "levels", "cpus"]
    assert [said.info["nothing"][name] for name in same] == [said.info["vmlinux"][name] for name in same]


@both
def test_ps_lists_the_guests_tasks(said, what):
    assert {(task["pid"], task["comm"]) for task in said.ps[what]} == said.tasks


def test_every_field_of_ps_is_the_same_without_a_vmlinux(said):
    by_pid = {what: {task["pid"]: task for task in tasks} for what, tasks in said.ps.items()}
    # What a CPU is busy with may change between two looks at it.
    for tasks in by_pid.values():
        for task in tasks.values():
            task.pop("state"), task.pop("cpu", None)
    assert by_pid["nothing"] == by_pid["vmlinux"]


def test_dmesg_is_the_guests(said):
    shown = [truth.Line(record["ts_nsec"] // 1000, line) for record in said.dmesg for line in record["text"].split("\n")]
    assert truth.same_log(shown, said.log)


@both
def test_gdb_lists_the_guests_tasks(said, what):
    rows = [line.split(None, 2) for line in said.gdb[what][0].splitlines()[1:]]
    assert {(int(pid), comm) for _, pid, comm in rows} == said.tasks


@both
def test_gdb_shows_the_guests_log(said, what):
    assert truth.same_log(truth.log_lines(said.gdb[what][1].splitlines()), said.log)


def test_gdb_answers_alike_without_a_vmlinux(said):
    assert said.gdb["nothing"][2:] == said.gdb["vmlinux"][2:]
    assert "Cannot access" not in "".join(said.gdb["nothing"])


def test_gdb_knows_the_modules(matrix, said):
    answers = dict(zip(QUESTIONS, said.gdb["nothing"]))
    assert {line.split()[1] for line in answers["lx-lsmod"].splitlines()[1:]} == set(MODULES)
    assert answers["lx-symbols"] == "symbols of 3 modules loaded\n"
    assert answers["info symbol fat_get_cluster+9"].startswith("fat_get_cluster + 9 in section .text.fat")


def test_modules_are_the_guests(matrix, said):
    assert {(module["name"], module["size"], int(module["base"], 16)) for module in said.modules} == matrix.modules
    assert {name for name, *_ in matrix.modules} == set(MODULES)


def test_symbols_are_the_guests(matrix, figure):
    assert matrix.listed == matrix.kallsyms
    figure(f"symbols equal to /proc/kallsyms ({matrix.release}): {matrix.listed[0]}")
