"""Time and processor time from starting gdb to the first task `lx-ps` lists, and to gdb's end: with no file given, where gdb
is handed the one made from memory, and with the distribution's vmlinux.

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

from lab import process
from lab.demo import SCRIPTS, built_binary

# A row of lx-ps: address, pid 1, its name.
FIRST_TASK = re.compile(rb"^\s*0x[0-9a-f]+\s+1\s+\S")


@dataclass(frozen=True)
class Took:
    """Seconds of one gdb: until its first row, until its end, and of processor time."""

    first: float
    end: float
    cpu: float


def gdb(vmlinux: Path | None, port: int, scripts: Path) -> Took:
    command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set index-cache enabled off"]
    command += [str(vmlinux)] if vmlinux else []
    command += ["-ex", f"target remote 127.0.0.1:{port}", "-ex", f"source {scripts}", "-ex", "lx-ps"]
    start, first = time.monotonic(), None
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        said = b""
        for line in running.stdout:
            said += line
            if first is None and FIRST_TASK.match(line):
                first = time.monotonic() - start
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if first is None:
        raise process.ProcessError(f"gdb listed no task:\n{said.decode(errors='replace')}")
    return Took(first, time.monotonic() - start, used.ru_utime + used.ru_stime)


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


def compare(ram: Path, vmlinux: Path, scripts: Path, rounds: int, cold: bool) -> dict[str, list[Took]]:
    took = {"memory": [], "vmlinux": []}
    with Server(ram, None) as alone, Server(ram, vmlinux) as given:
        gdb(None, alone.port, scripts), gdb(vmlinux, given.port, scripts)
        for _ in range(rounds):
            took["memory"].append(gdb(None, alone.port, scripts))
            if cold:
                forget(vmlinux)
            took["vmlinux"].append(gdb(vmlinux, given.port, scripts))
    return took


def row(vmlinux: Path, took: dict[str, list[Took]]) -> str:
    cells = [vmlinux.name.removeprefix("vmlinux-")]
    for what in ("first", "end", "cpu"):
        ours, theirs = (statistics.median(getattr(one, what) for one in took[side]) for side in ("memory", "vmlinux"))
        cells += [f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench-symbols", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="RAM=VMLINUX", help="a memory image from address 0 on, and its vmlinux")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each side after one that warms up")
    parser.add_argument("--cold", action="store_true", help="drop the vmlinux from the page cache before each run")
    parser.add_argument("--scripts", type=Path, default=SCRIPTS, metavar="FILE", help="the commands to load (default: ours)")
    given = parser.parse_args()
    process.end_on_signals()
    print("| kernel | first task, s: memory | vmlinux | ratio | gdb's end, s: memory | vmlinux | ratio | CPU, s: memory | vmlinux | ratio |")
    print("| --- |" + " ---: |" * 9)
    for pair in given.images:
        ram, equals, vmlinux = pair.partition("=")
        if not equals:
            parser.error(f"{pair} is not RAM=VMLINUX")
        path = Path(vmlinux).resolve()
        print(row(path, compare(Path(ram), path, given.scripts, given.rounds, given.cold)), flush=True)


if __name__ == "__main__":
    main()
