"""One table of ratios: what reading a host costs, against every other way to do it.

Run by scripts/bench. `nettlp-gdb bench` measures the link, attaching and the commands, against one read at a time and a
bare UDP loop; gdb's own commands are measured here, against the same commands over QEMU's stub on the same guest; and
drgn over the same memory in a file. The guest is made to stand still while it is read. What is compared takes turns, and
medians are compared.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import debugger, demo, fetch, initramfs, process, written
from lab.bench import Bench
from lab.guest import Guest, GuestError, Machine, image_arguments
from lab.venv import python as lab_python

LATENCIES = (0, 12, 100, 1000)
TAGS = 256
COMMANDS = ("lx-ps", "lx-dmesg")
# gdb is asked so often in one session, each time after a pause that makes the server forget what it read.
REPEATS = 5
FIGURES = written.Part(written.PERFORMANCE, "scripts/bench")

# Given to gdb. The first time a command pays for the types gdb loads, whatever the target; it is not counted.
IN_GDB = """
import statistics, time
def timed(command, port):
    took = []
    for _ in range({repeats} + 1):
        if command == "attach":
            gdb.execute("disconnect", to_string=True)
            command_now = f"target remote 127.0.0.1:{{port}}"
        else:
            command_now = command
        time.sleep(0.3)
        start = time.perf_counter()
        gdb.execute(command_now, to_string=True)
        took.append(time.perf_counter() - start)
    print(statistics.median(took[1:]) * 1000)
"""

# Given to a Python with drgn: milliseconds to open a dump, to list its tasks, to read its log; and how many tasks.
IN_DRGN = """
import statistics, sys, time, drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.sched import task_state_to_char
core, vmlinux = sys.argv[1:]
start = time.perf_counter()
program = drgn.Program()
program.set_core_dump(core)
program.load_debug_info([vmlinux])
opened = time.perf_counter() - start
def ps():
    return [(task.pid.value_(), task.comm.string_(), task_state_to_char(task), task.real_parent.pid.value_())
            for task in for_each_task(program)]
def timed(work):
    took = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:]) * 1000
print(opened * 1000, timed(ps), timed(lambda: get_dmesg(program)), len(ps()))
"""


@dataclasses.dataclass
class Row:
    """As `nettlp-gdb bench --json` prints it."""

    latency_us: int
    what: str
    unit: str
    ours: float
    against: str
    theirs: float
    ratio: float
    note: str = ""


@dataclasses.dataclass
class Host:
    """What is read: its RAM, its kernel, and where QEMU's stub is, if it is a guest of ours."""

    images: list[str]
    vmlinux: Path
    guest: Guest | None = None
    qemu_port: int = 0


def own_rows(binary: Path, host: Host, latencies: list[int], rounds: int) -> list[Row]:
    command = [binary, "bench", *host.images, "--vmlinux", host.vmlinux, "--rounds", str(rounds), "--tags", str(TAGS), "--json"]
    command += [word for latency in latencies for word in ("--latency-us", str(latency))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Row(**json.loads(line)) for line in done.stdout.splitlines()]


def gdb_rows(binary: Path, host: Host, script: Path, latency: int, rounds: int) -> list[Row]:
    """gdb's commands over our server and over QEMU's, in turns. Both show CPUs as threads: QEMU knows no others."""
    wanted = ("attach", *COMMANDS)
    measured: dict[str, list[tuple[float, float]]] = {each: [] for each in wanted}

    def ask(port: int) -> list[float]:
        commands = [f"source {script}", *(f"python timed('{each}', {port})" for each in wanted)]
        answers = debugger.ask(host.vmlinux, port, commands, scripts=demo.SCRIPTS)
        host.guest.stop()  # QEMU's stub lets it run when gdb goes.
        try:
            return [float(answer.split()[-1]) for answer in answers[1:]]
        except (ValueError, IndexError):
            raise process.ProcessError("gdb answered " + " ".join(answers)) from None

    with Bench(
        binary, host.guest.ram_file, host.guest.ram, host.vmlinux, serve=("--threads", "cpus", "--tags", str(TAGS)),
        latency_us=latency,
    ) as bench:
        for _ in range(rounds):
            for each, pair in zip(wanted, zip(ask(bench.port), ask(host.qemu_port))):
                measured[each].append(pair)
    rows = []
    for each, pairs in measured.items():
        ours, theirs = (statistics.median(side) for side in zip(*pairs))
        rows.append(Row(latency, f"gdb: {each}", "ms", ours, "QEMU's stub, same guest", theirs, theirs / ours))
    return rows


def drgn_rows(binary: Path, host: Host, directory: Path, own: list[Row]) -> list[Row]:
    """What drgn takes for the same, over the same memory in a file: no link at all."""
    core, vmlinux = directory / "core", str(host.vmlinux)
    subprocess.run([binary, "dump", *host.images, "--vmlinux", vmlinux, "--format", "elf", "-o", core, "--quiet"], check=True)
    done = subprocess.run([lab_python(), "-c", IN_DRGN, core, vmlinux], check=True, stdout=subprocess.PIPE, text=True)
    core.unlink()
    attach, ps, dmesg, tasks = map(float, done.stdout.split())
    theirs = {"attach": attach, "ps, attached": ps, "dmesg, attached": dmesg}
    against = f"drgn, a dump in a file ({tasks:.0f} tasks)"
    return [
        dataclasses.replace(row, against=against, theirs=took, ratio=took / row.ours, note="")
        for row in own
        if (took := theirs.get(row.what)) is not None
    ]


def text(rows: list[Row]) -> str:
    """The table for a terminal."""
    lines = [f"{'latency us':>10}  {'what':<20} {'ours':>10} {'':<8} {'ratio':>7}  against"]
    for row in rows:
        against = f"{row.theirs:.2f} {row.against}" + (f"; {row.note}" if row.note else "")
        lines.append(f"{row.latency_us:>10}  {row.what:<20} {row.ours:>10.2f} {row.unit:<8} {row.ratio:>7.2f}  {against}")
    return "\n".join(lines)


def page(rows: list[Row], about: str) -> str:
    """The table for docs/performance.md, with what was measured on what."""
    lines = ["| added latency, us | what | ours | against | theirs | ratio |", "| ---: | --- | ---: | --- | ---: | ---: |"]
    for row in rows:
        lines.append(
            f"| {row.latency_us} | {row.what}, {row.unit} | {figure(row.ours)} | {row.against} | {figure(row.theirs)} | {row.ratio:.1f} |"
        )
    notes = dict.fromkeys(f"* {row.what} at {row.latency_us} us: {row.note}." for row in rows if row.note)
    return "\n".join([about, "", *lines, "", *notes, ""])


def figure(value: float) -> str:
    """Three digits, as many as mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def measure(options: argparse.Namespace, host: Host, binary: Path, directory: Path) -> list[Row]:
    progress(f"nettlp-gdb bench, {options.rounds} rounds")
    rows = own_rows(binary, host, options.latency_us, options.rounds)
    if host.guest:
        script = directory / "timed.py"
        script.write_text(IN_GDB.format(repeats=REPEATS))
        for latency in options.latency_us:
            progress(f"gdb over both stubs, {latency} us")
            rows += gdb_rows(binary, host, script, latency, options.rounds)
    else:
        progress("no guest of ours, so nothing to compare gdb's commands with: leave --image away for these rows")
    progress("drgn")
    rows += drgn_rows(binary, host, directory, rows)
    return sorted(rows, key=lambda row: row.latency_us)


def progress(what: str) -> None:
    print(f"[{what}]", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> None:
    binary = options.binary or demo.built_binary()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="nettlp-gdb-bench-") as name:
        directory = Path(name)
        if options.image:
            host = Host([word for image in options.image for word in ("--image", image)], options.vmlinux)
            rows, what = measure(options, host, binary, directory), "the RAM of a Linux host in a file"
        else:
            kernel = fetch.kernel()
            # QEMU's stub cannot tell gdb where KASLR put the kernel.
            machine = Machine(kernel.vmlinuz, initramfs.build(directory / "initramfs.cpio"), append=("nokaslr",))
            progress(f"booting Linux {kernel.release} in QEMU")
            with Guest(machine) as guest:
                guest.stop()
                port = process.free_port()
                guest.qmp("human-monitor-command", **{"command-line": f"gdbserver tcp:127.0.0.1:{port}"})
                host = Host(image_arguments(guest.ram_file, guest.ram), kernel.vmlinux, guest, port)
                rows = measure(options, host, binary, directory)
            what = f"a Debian guest (Linux {kernel.release}, 1 GiB, 2 CPUs) that stands still"
    print(text(rows))
    if options.write:
        run_as = written.measured(f"scripts/bench --rounds {options.rounds} --write", before)
        FIGURES.write(page(rows, f"{run_as}; {what}; {TAGS} tags, requests of 512 bytes."))


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n")[0])
    options.add_argument("--image", action="append", help="the RAM of a Linux host, FILE@PHYS; without it a guest is booted")
    options.add_argument("--vmlinux", type=Path, help="its kernel's vmlinux")
    options.add_argument("--rounds", type=int, default=5, help="measurements of which the median counts (default: 5)")
    options.add_argument("--latency-us", type=int, action="append", help="what the adapter adds; repeat for several (default: 0 12 100 1000)")
    options.add_argument("--binary", type=Path, help="the nettlp-gdb to measure (default: the release build)")
    options.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = options.parse_args()
    if options.image and not options.vmlinux:
        print("error: give the --vmlinux of the kernel in the image", file=sys.stderr)
        return 2
    options.latency_us = options.latency_us or list(LATENCIES)
    process.end_on_signals()
    try:
        run(options)
    except (fetch.FetchError, GuestError, process.ProcessError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
