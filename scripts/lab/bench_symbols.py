"""Time and processor time from starting gdb to what it first answers: with no file given, where gdb is handed the one made
from memory, and with the distribution's vmlinux.

Both serve the same memory image without a link, so that what differs is the symbol file. The two take turns; gdb's index
cache and debuginfod are off. Processor time is of the whole gdb to its end, the threads that index DWARF included.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lab import process, written
from lab.demo import SCRIPTS, built_binary

FIGURES = written.Part(written.PERFORMANCE, "scripts/bench-symbols")


@dataclass(frozen=True)
class Question:
    """What gdb is asked, and the line that answers."""

    title: str
    commands: tuple[str, ...]
    answer: re.Pattern


@dataclass(frozen=True)
class Took:
    """Seconds of one gdb: until it answered, and of processor time."""

    answered: float
    cpu: float


def questions(scripts: Path) -> list[Question]:
    # A row of lx-ps: address, pid 1, its name.
    first_task = re.compile(rb"^\s*0x[0-9a-f]+\s+1\s+\S")
    return [
        Question("the first task of `lx-ps`", (f"source {scripts}", "lx-ps"), first_task),
        Question("`p sizeof(struct task_struct)`", ("p sizeof(struct task_struct)",), re.compile(rb"^\$1 = \d+$")),
    ]


def gdb(vmlinux: Path | None, port: int, question: Question) -> Took:
    command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set index-cache enabled off"]
    command += [str(vmlinux)] if vmlinux else []
    for each in (f"target remote 127.0.0.1:{port}", *question.commands):
        command += ["-ex", each]
    start, answered, said = time.monotonic(), None, b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        for line in running.stdout:
            said += line
            if answered is None and question.answer.match(line.rstrip()):
                answered = time.monotonic() - start
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if answered is None:
        raise process.ProcessError(f"gdb did not answer {question.commands[-1]!r}:\n{said.decode(errors='replace')}")
    return Took(answered, used.ru_utime + used.ru_stime)


class Server:
    """`nettlp-gdb serve` over an image, given a vmlinux or not."""

    def __init__(self, ram: Path, vmlinux: Path | None):
        self.port = process.free_port()
        self._log = tempfile.NamedTemporaryFile(prefix="nettlp-gdb-bench-")
        command = [str(built_binary()), "serve", "--image", f"{ram}@0x0", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--vmlinux", str(vmlinux)] if vmlinux else ["--symbols", "memory"]
        self._process = process.start(command, Path(self._log.name))
        try:
            process.wait_bound(self._process, Path(self._log.name), "tcp", ("127.0.0.1", self.port), 300)
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        process.stop(self._process)
        self._log.close()


def forget(path: Path) -> None:
    """Drops a file's pages from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(ram: Path, vmlinux: Path, asked: list[Question], rounds: int, cold: bool) -> dict[Question, str]:
    """A row of each question's table."""
    rows = {}
    with Server(ram, None) as alone, Server(ram, vmlinux) as given:
        for question in asked:
            memory, distribution = [], []
            gdb(None, alone.port, question), gdb(vmlinux, given.port, question)
            for _ in range(rounds):
                memory.append(gdb(None, alone.port, question))
                if cold:
                    forget(vmlinux)
                distribution.append(gdb(vmlinux, given.port, question))
            rows[question] = row(vmlinux.name.removeprefix("vmlinux-"), memory, distribution)
    return rows


def row(kernel: str, memory: list[Took], distribution: list[Took]) -> str:
    cells = [kernel]
    for what in ("cpu", "answered"):
        ours, theirs = (statistics.median(getattr(one, what) for one in side) for side in (memory, distribution))
        cells += [f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}"]
    return "| " + " | ".join(cells) + " |"


def table(question: Question, rows: list[str]) -> str:
    """What the answer took, kernel by kernel."""
    title = f"From gdb's start to {question.title}:"
    columns = "| kernel | CPU, s: memory | vmlinux | ratio | answered after, s: memory | vmlinux | ratio |"
    return "\n".join([title, "", columns, "| --- |" + " ---: |" * 6, *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench-symbols", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="RAM=VMLINUX", help="a memory image from address 0 on, and its vmlinux")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each side after one that warms up")
    parser.add_argument("--cold", action="store_true", help="drop the vmlinux from the page cache before each run")
    parser.add_argument("--scripts", type=Path, default=SCRIPTS, metavar="FILE", help="the commands to load (default: ours)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    given = parser.parse_args()
    process.end_on_signals()
    before, asked = os.getloadavg()[0], questions(given.scripts)
    rows: dict[Question, list[str]] = {question: [] for question in asked}
    for pair in given.images:
        ram, equals, vmlinux = pair.partition("=")
        if not equals:
            parser.error(f"{pair} is not RAM=VMLINUX")
        for question, line in compare(Path(ram), Path(vmlinux).resolve(), asked, given.rounds, given.cold).items():
            rows[question].append(line)
    tables = "\n".join(table(question, lines) for question, lines in rows.items())
    print(tables)
    if given.write:
        version = subprocess.run(["gdb", "--version"], check=True, capture_output=True, text=True).stdout.split("\n")[0]
        run_as = written.measured(f"scripts/bench-symbols --rounds {given.rounds} --write RAM=VMLINUX...", before)
        FIGURES.write(f"{run_as}; {version}; medians.\n\n{tables}")


if __name__ == "__main__":
    main()
