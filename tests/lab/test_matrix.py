"""Kernel series by series: everything with nothing given but the target's memory, alive and panicked; the guest is the oracle."""

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass, field

import backtraces
import lx_commands
import oracle
import pytest
import thread_list
import truth
from lab import debugger, initramfs, kernels, modules, scripts_gdb
from lab.bench import Bench, run
from lab.guest import Guest, Machine, image_arguments
from observe import settled
from processes import HIDING_PLACES, Observed, descriptors, observe

# The system's own kernel, which the rest of the ring looks at more closely, and the other series; both depths of tables.
# On one of them with page tables of its own for user mode.
SCENARIOS = [(kernels.SYSTEM, "max,la57=off"), *((series.name, "max") for series in kernels.MATRIX), ("5.10", "max,la57=off", "pti=on")]

# A disk to swap to; one that exports to the next; the last keeps per-CPU data.
MODULES = ("brd", "fat", "vfat", "tun")

# Of the running guest and of the panicked one. A name behind a dot costs gdb 20 s of processor time with a distribution's
# vmlinux, as any name of a type does: those questions have one gdb to themselves.
QUESTIONS = [
    "lx-ps",
    "lx-dmesg",
    "info symbol schedule",
    "x/2i schedule",
    "x/s &linux_banner",
    "lx-lsmod",
    "lx-symbols",
    "info symbol fat_get_cluster",
    "info symbol fat_get_cluster+9",
    "x/2i fat_get_cluster",
]
# Whose answers differ with what is known of source and arguments.
OF_THREADS = ["python print(gdb.parse_and_eval('$lx_current()')['pid'])", "info threads", "thread apply all bt"]
# Of the guest at rest, after the kernel's own commands were asked.
AT_REST = [
    "p sizeof(struct task_struct)",
    "ptype struct mm_struct",
    "ptype struct module",
    "ptype schedule",
    "ptype vfs_read",
    "p init_task.comm",
    "x/5i schedule",
    "info symbol schedule",
    "info symbol vfs_read+4",
    "info symbol &init_task",
    'p $lx_per_cpu("runqueues", 0).nr_running',
    'p $lx_per_cpu("runqueues", 1).cpu',
    KSOFTIRQD := "p (*(struct task_struct **)$lx_per_cpu_ptr(((struct smp_hotplug_thread *)&softirq_threads)->store, 1))->comm",
    "p (*$lx_per_cpu_ptr((struct task_struct **)&ksoftirqd, 1))->comm",
    "p &runqueues",
    "p linux_banner",
    "p prb->desc_ring.count_bits",
    "p (void *)'printk.c'::prb",
    "p init_uts_ns.name.release",
    "p/x __per_cpu_offset[1]",
    "p page_offset_base",
    "p saved_command_line",
    "lx-version",
    "lx-mounts",
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
    # Of the guest at rest: what gdb answered with our commands, and what the kernel's own ones answered.
    at_rest: dict[str, list[str]] = field(default_factory=dict)
    kernels_own: dict[str, lx_commands.Answers] = field(default_factory=dict)


@dataclass
class Matrix:
    name: str
    release: str
    #: whether user mode has page tables of its own
    isolated: bool
    symbols: dict[str, int]
    # Of /proc/kallsyms, and of what `symbols --list` prints: lines and their digest.
    kallsyms: tuple[int, str]
    listed: tuple[int, str]
    # /proc/modules: name, bytes, address.
    modules: set[tuple[str, int, int]]
    states: dict[str, State] = field(default_factory=dict)
    processes: Observed | None = None
    # Of the guest stopped alive: every task's backtrace, and drgn's of those that sleep.
    alive: list[dict] = field(default_factory=list)
    drgn: dict[int, list[str]] = field(default_factory=dict)
    # Of the panicked guest, by what was given: what each CPU was doing; and what the console said of it.
    dead: dict[str, list[dict]] = field(default_factory=dict)
    console: str = ""


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def digest(text: str) -> tuple[int, str]:
    return text.count("\n"), hashlib.md5(text.encode()).hexdigest()


def shown_modules(text: str) -> set[tuple[str, int, int]]:
    rows = (line.split() for line in text.splitlines())
    return {(row[0], int(row[1]), int(row[5], 16)) for row in rows}


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda scenario: f"{scenario[0]}-{scenario[1]}")
def matrix(request, binary, threads, pages, loaded_scripts, tmp_path_factory) -> Matrix:
    name, cpu, *options = request.param
    kernel = kernels.named(name)
    archive = initramfs.build(
        tmp_path_factory.mktemp("matrix") / "initramfs.cpio", (threads, pages, *modules.files(kernel, MODULES))
    )
    with Guest(Machine(kernel.vmlinuz, archive, cpu=cpu, append=("vsyscall=xonly", *options))) as guest:
        for module in MODULES:
            guest.run(f"insmod /bin/{module}.ko")
        kallsyms = guest.run("cat /proc/kallsyms | tee /tmp/kallsyms | wc -l; md5sum < /tmp/kallsyms; rm /tmp/kallsyms").split()
        seen = Matrix(
            name,
            kernel.release,
            "pti=on" in options,
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
                    what: debugger.ask(bench.vmlinux, bench.port, QUESTIONS + OF_THREADS, scripts=ours)
                    for what, bench in benches.items()
                }
                ps = {what: lines(bench.run("ps", "--threads", "--json")) for what, bench in benches.items()}
                info = {what: json.loads(bench.run("info", "--json")) for what, bench in benches.items()}
                return gdb, ps, info, lines(alone.run("dmesg", "--json")), lines(alone.run("modules", "--json"))

            def ask_at_rest(state: State) -> None:
                own = lx_commands.load(scripts_gdb.scripts(kernel))
                for what, bench in benches.items():
                    *state.at_rest[what], _, printed = debugger.ask(
                        bench.vmlinux, bench.port, [*AT_REST, *own], scripts=loaded_scripts["ours"], seconds=1800
                    )
                    state.kernels_own[what] = lx_commands.answers(printed)

            tasks, log, said = settled(guest, answers)
            seen.states["alive"] = State(tasks, log, *said)
            note = oracle.vmcoreinfo(guest)
            guest.stop()
            ask_at_rest(seen.states["alive"])
            seen.alive = every_backtrace(alone)
            asleep = {task["pid"] for task in seen.alive if not task["on_cpu"] and task["pid"] != 0}
            program = oracle.program(guest, note, kernel.vmlinux)
            seen.drgn = backtraces.drgns(program, asleep)
            guest.resume()
            seen.processes = observe(guest, alone, loaded_scripts["ours"], program)
            tasks, log = truth.listed(truth.tasks(guest)), truth.kernel_log(guest)
            seen.console = guest.panic()
            log += truth.console_log(seen.console)
            seen.states["panicked"] = State(tasks, log, *answers())
            guest.stop()
            ask_at_rest(seen.states["panicked"])
            seen.dead = {what: lines(bench.run("bt", "--json")) for what, bench in benches.items()}
    return seen


def every_backtrace(bench: Bench) -> list[dict]:
    """Of a host that is alive what runs has none, which is a partial result."""
    command = bench.command("bt", "--all", "--json")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    return lines(done.stdout)


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


@both
def test_every_task_is_a_thread(said, what):
    _, listed, traces = said.gdb[what][len(QUESTIONS) :]
    shown = thread_list.listed(listed)
    cpus, others = shown[:2], shown[2:]
    assert [(thread.tid, thread.number) for thread in cpus] == [(thread_list.OF_CPU, 1), (thread_list.OF_CPU + 1, 2)]
    idle = {(0, thread.name) for thread in shown if thread.pid == 0}
    assert {(thread.pid, thread.name) for thread in shown} == said.tasks | idle
    assert len(shown) == len(said.tasks | idle)
    assert all(thread.tid == thread.pid for thread in others if thread.pid != 0)
    # An error would have ended it; what runs on a live host has no backtrace.
    assert thread_list.traces(traces).keys() == {thread.number for thread in shown}
    known = ("#", "Thread ", "Backtrace stopped: not enough registers")
    assert [line for line in traces.splitlines() if line and not line.startswith(known)] == []


@both
def test_the_kernels_current_task_is_the_first_threads(said, what):
    current, listed, _ = said.gdb[what][len(QUESTIONS) :]
    assert int(current.split()[-1]) == thread_list.listed(listed)[0].pid


def test_gdb_answers_alike_without_a_vmlinux(said):
    alike = slice(2, len(QUESTIONS))
    assert said.gdb["nothing"][alike] == said.gdb["vmlinux"][alike]
    assert "Cannot access" not in "".join(said.gdb["nothing"][: len(QUESTIONS)])


def test_gdb_answers_alike_at_rest(said):
    for question, own, theirs in zip(AT_REST, said.at_rest["nothing"], said.at_rest["vmlinux"], strict=True):
        assert own == theirs, question
        assert not re.search("Error|Cannot access|unknown type|No symbol", own), (question, own)
    # A per-CPU pointer in memory, which no debugger has moved.
    assert "ksoftirqd/1" in said.at_rest["nothing"][AT_REST.index(KSOFTIRQD)]


def test_the_kernels_own_commands_answer_alike(said):
    own, theirs = said.kernels_own["nothing"], said.kernels_own["vmlinux"]
    assert {name: (own.get(name), text) for name, text in theirs.items() if own.get(name) != text} == {}
    assert own.keys() == theirs.keys() and len(own) > 10


def test_the_document_tells_what_the_kernels_own_commands_answer(matrix, request):
    seen = lx_commands.seen({name: state.kernels_own for name, state in matrix.states.items()})
    document = lx_commands.Document()
    if request.config.getoption("--write"):
        document.write(matrix.name, matrix.release, seen)
    assert document.columns[document.kernel(matrix.name, matrix.release)] == seen, lx_commands.REGENERATE


def test_gdb_knows_the_modules(matrix, said):
    answers = dict(zip(QUESTIONS, said.gdb["nothing"]))
    assert {line.split()[1] for line in answers["lx-lsmod"].splitlines()[1:]} == set(MODULES)
    assert answers["lx-symbols"] == f"symbols of {len(MODULES)} modules loaded\n"
    assert answers["info symbol fat_get_cluster+9"].startswith("fat_get_cluster + 9 in section .text.fat")


def test_modules_are_the_guests(matrix, said):
    assert {(module["name"], module["size"], int(module["base"], 16)) for module in said.modules} == matrix.modules
    assert {name for name, *_ in matrix.modules} == set(MODULES)


def test_symbols_are_the_guests(matrix, figure):
    assert matrix.listed == matrix.kallsyms
    figure(f"symbols equal to /proc/kallsyms ({matrix.release}): {matrix.listed[0]}")


def test_backtraces_of_sleeping_tasks_are_drgns(matrix, figure):
    own = {task["pid"]: task for task in matrix.alive if task["pid"] in matrix.drgn}
    assert own.keys() == matrix.drgn.keys()
    different = {pid: (backtraces.ours(own[pid]), trace) for pid, trace in matrix.drgn.items() if backtraces.ours(own[pid]) != trace}
    frames = sum(len(trace) for trace in matrix.drgn.values())
    figure(f"bt equal to drgn ({matrix.release}): {len(own)} sleeping tasks, {frames} frames")
    assert different == {}
    assert all(task["incomplete"] is None for task in own.values())


def test_nothing_is_said_of_what_runs_on_a_live_host(matrix):
    running = [task for task in matrix.alive if task["on_cpu"]]
    assert len(running) == 2
    assert [(task["frames"], "is running it" in task["incomplete"]) for task in running] == [([], True)] * 2


@both
def test_the_cpu_that_panicked_is_where_the_console_says(matrix, what):
    (dead,) = [task for task in matrix.dead[what] if "panic" in [call["function"] for call in task["frames"]]]
    shown = backtraces.from_panic(backtraces.console(matrix.console))
    assert len(shown) > 5
    assert backtraces.from_panic(backtraces.ours(dead))[:-1] == shown
    assert "found by scan" in dead["recovered"] and dead["incomplete"] is None
    assert dead["user"]["left_by"] == "syscall" and dead["user"]["registers"]["orig_rax"] == "0x1"


@both
def test_the_other_cpu_was_stopped(matrix, what):
    (stopped,) = [task for task in matrix.dead[what] if "panic" not in [call["function"] for call in task["frames"]]]
    names = backtraces.ours(stopped)
    assert names[0] == "stop_this_cpu" and "asm_sysvec_reboot" in names, stopped
    assert "found by scan" in stopped["recovered"] and stopped["incomplete"] is None
    interrupted = [call["found_by"] for call in stopped["frames"]].index("pt_regs")
    assert stopped["frames"][interrupted - 1]["function"] == "asm_sysvec_reboot"
    assert stopped["frames"][interrupted]["registers"]["rip"]


@both
def test_gdbs_own_bt_of_the_cpus_is_the_consoles_and_ours(matrix, what):
    _, listed, traces = matrix.states["panicked"].gdb[what][len(QUESTIONS) :]
    traces = thread_list.traces(traces)
    for thread, task in zip(thread_list.listed(listed), matrix.dead[what]):
        names = [backtraces.function(name) for name in traces[thread.number]]
        wanted = backtraces.ours({**task, "user": None})
        assert thread_list.in_order(wanted, names), (wanted, names)
        if "panicked here" in thread.detail:
            assert thread_list.in_order(backtraces.from_panic(backtraces.console(matrix.console)), names)
    assert "panicked here" in listed


@pytest.mark.parametrize("what", ["maps", "cmdline", "environ", "files"])
def test_processes_are_what_proc_says(matrix, what):
    guest = {pid: getattr(process, what) for pid, process in matrix.processes.guest.items()}
    assert {pid: getattr(process, what) for pid, process in matrix.processes.ours.items()} == guest
    # Equality is worth little where there was nothing to see.
    shown = "\n".join(str(text) for text in guest.values())
    wanted = {
        "maps": ["/mnt/kept/sleep", "/mnt/gone/sleep (deleted)", "[heap]", "[stack]", "[vdso]", "[vvar]", "[vsyscall]"],
        "cmdline": ["/mnt/gone/sleep", "100000"],
        "environ": ["NAME=a value", "HOME=/"],
        "files": ["/tmp/gone (deleted)", "pipe:[", "socket:["],
    }
    assert [text for text in wanted[what] if text not in shown] == []


@pytest.mark.parametrize(
    "condition, reason",
    [
        ("closed", "mapped without access (PROT_NONE), in memory at physical {page.physical:#x}"),
        ("swapped", "swapped out, to page {page.swap[1]} of swap area {page.swap[0]}"),
        ("untouched", "anonymous memory that was never touched, or given back"),
        ("file", "page 2 of a mapped file, which is not read in"),
    ],
)
def test_a_page_that_is_not_there_says_why(matrix, condition, reason):
    page = matrix.processes.pages[condition]
    expected = f"no memory of the process at {page.address:#x}: {reason.format(page=page)} (the level-"
    assert expected in page.read and expected in page.translated


def test_a_page_with_a_memory_error_is_not_read(matrix):
    seen = matrix.processes
    info, *reads = seen.of_failed
    counts = {what: info["poisoned_pages"] for what, info in matrix.states["panicked"].info.items()}
    if not seen.can_fail:
        # Built without CONFIG_MEMORY_FAILURE.
        assert ("failed" in seen.pages, seen.failed, reads, counts) == (False, [], [], {"nothing": 0, "vmlinux": 0})
        assert "bad memory" not in info[1]
        return
    page = seen.pages["failed"]
    physical = page.swap[1] << 12
    assert [frame << 12 for frame in seen.failed] == [physical]
    reason = f"taken away after a memory error; it was at physical {physical:#x} (the level-1"
    assert reason in page.read and reason in page.translated
    (refused, why), (read, _) = reads
    assert (refused, read) == (1, 0)
    assert f"refused: the page at {physical:#x} has a memory error (PG_hwpoison)" in why
    assert "bad memory   pages that the kernel took out of use after memory errors: 1\n" in info[1] and counts == {"nothing": 1, "vmlinux": 1}


@pytest.mark.parametrize("condition, size, text", [("present", "4 KiB", "a page of its ow"), ("huge", "2 MiB", "a huge page")])
def test_a_page_is_where_pagemap_says(matrix, condition, size, text):
    page = matrix.processes.pages[condition]
    assert f"-> physical {page.physical:#x} ({size} page, rw-, user)" in page.translated
    assert text in page.read
    assert matrix.processes.isolated == matrix.isolated


def test_gdb_looks_into_a_process(matrix):
    seen = matrix.processes
    maps, files, backtrace, monitored, _, string = seen.gdb
    assert maps == monitored == seen.guest[seen.pid].maps + "\n"
    assert descriptors(files) == seen.guest[seen.pid].files
    assert "sys_pause" in backtrace
    assert string.endswith('"a page of its own"\n')


def test_no_task_of_the_guest_hides(matrix):
    assert "no difference between the kernel's records" in matrix.processes.cross_view


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_process_that_hides_shows(matrix, place):
    (shown,) = matrix.processes.hidden[place]
    others = [other for other in HIDING_PLACES if other != place]
    assert (shown["pid"], shown["missing_from"], shown["seen_by"]) == (matrix.processes.pid, [place], others)
