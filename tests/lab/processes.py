"""Every process of a guest at rest: what the guest itself says, and what was read from its memory."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hiding
from drgn import Program

from lab import debugger
from lab.bench import Bench
from lab.guest import Guest
from rsp import Client

_SECTION = re.compile(r"^== (\d+) (\w+)$", re.MULTILINE)
_LINK = re.compile(r"^l[rwx-]{9} .* (\d+) -> (.*)$")
#: columns of `monitor files`: descriptor, access, flags, position, path
_DESCRIPTOR = re.compile(r"^ *(\d+) [r-][w-] +\S+ +\S+ (.*)$")
_NO_SPACE = "has no address space"

HIDING_PLACES: dict[str, Callable[[Program, int], hiding.Words]] = {
    "task-list": hiding.from_the_task_list,
    "pid-idr": hiding.from_the_pid_idr,
    "family": hiding.from_its_family,
}


@dataclass
class Process:
    """One process, by one witness."""

    maps: str = ""
    cmdline: str = ""
    environ: str = ""
    files: dict[int, str] = field(default_factory=dict)


@dataclass
class Page:
    """A page in one of the conditions of `pages.c`: its entry of /proc/PID/pagemap, and what we say of it."""

    address: int
    entry: int
    read: str = ""
    translated: str = ""

    @property
    def physical(self) -> int:
        """Of a page in memory."""
        return (self.entry & (1 << 55) - 1) << 12

    @property
    def swap(self) -> tuple[int, int]:
        """Of a page in a swap area: the area's number, and the page there."""
        return self.entry & 0x1F, self.entry >> 5 & (1 << 50) - 1


@dataclass
class Observed:
    """All processes, by both witnesses, and what was asked besides."""

    guest: dict[int, Process]
    ours: dict[int, Process]
    #: the process of `pages.c`, and its pages by their condition
    pid: int
    pages: dict[str, Page]
    isolated: bool
    #: whether the kernel can take pages out of use after memory errors, and the frames it says it has
    can_fail: bool
    failed: list[int]
    #: exit code and outputs of `info`, and of `read --phys` of the page that failed and of the one behind it
    of_failed: list[tuple[int, str]]
    cross_view: str
    #: by the record that the process was hidden from: what `ps --cross-view` says
    hidden: dict[str, list[dict]]
    #: what gdb printed for each of `gdb_commands`
    gdb: list[str]


def gdb_commands(pid: int, page: Page) -> list[str]:
    """With no file, and the process' thread selected by its pid."""
    select = f'python [thread for thread in gdb.selected_inferior().threads() if thread.ptid[1] == {pid}][0].switch()'
    return [f"lx-maps {pid}", f"lx-files {pid}", f"lx-bt {pid}", f"monitor maps {pid}", select, f"x/s {page.address:#x}"]


def observe(guest: Guest, bench: Bench, scripts: Path, program: Program) -> Observed:
    """Starts processes that have something to show and asks both witnesses. The server reads a guest that stands still."""
    guest.run("lab_processes_start")
    first, *rows = (line.split() for line in guest.run("lab_pages").splitlines())
    pid, pages = int(first[0]), {row[0]: Page(int(row[1], 16), int(row[2], 16)) for row in rows}
    # Once for the shell's own heap, which grows with the first use.
    guest.run("lab_processes")
    living = {int(pid) for pid in re.findall(r"/proc/(\d+)", guest.run("echo /proc/[0-9]*"))}
    said = _parsed(guest.run("lab_processes"))
    can_fail = guest.run("grep -cw memory_failure /proc/kallsyms || true").strip() != "0"
    failed = [int(frame, 16) for frame in guest.run("lab-pages failed").split()]
    isolated = "pti" in guest.run("cat /proc/cpuinfo").split()
    guest.stop()
    try:
        with Client(bench.port) as client:
            client.attach()
            client.monitor("refresh")
            ours = {pid: _read(client, pid) for pid in sorted(set(said) & living)}
            for page in pages.values():
                page.read = client.monitor(f"read {pid} {page.address:#x} 16")
                page.translated = client.monitor(f"translate {page.address:#x} {pid}")
            cross_view = client.monitor("ps cross-view")
            client.detach()
        commands = [("info",), *(("read", "--phys", hex(frame << 12), "16") for at in failed for frame in (at, at + 1))]
        of_failed = [_ran(bench, *command) for command in commands]
        gdb = debugger.ask(None, bench.port, gdb_commands(pid, pages["present"]), scripts=scripts)
        hidden = {}
        for place, words in HIDING_PLACES.items():
            with hiding.hidden(guest, program, words(program, pid)):
                hidden[place] = [json.loads(line) for line in bench.run("ps", "--cross-view", "--json").splitlines()]
    finally:
        guest.resume()
    return Observed({pid: said[pid] for pid in ours}, ours, pid, pages, isolated, can_fail, failed, of_failed, cross_view, hidden, gdb)


def _ran(bench: Bench, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(bench.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def descriptors(text: str) -> dict[int, str]:
    """What `monitor files` lists: where each descriptor leads."""
    rows = (_DESCRIPTOR.match(line) for line in text.splitlines()[1:])
    return {int(row[1]): row[2] for row in rows if row}


def _parsed(text: str) -> dict[int, Process]:
    found: dict[int, Process] = {}
    _, *parts = _SECTION.split(text)
    for pid, name, body in zip(parts[::3], parts[1::3], parts[2::3]):
        process = found.setdefault(int(pid), Process())
        body = body.lstrip("\n")
        if name == "fd":
            links = (_LINK.match(line) for line in body.splitlines())
            process.files = {int(link[1]): link[2] for link in links if link}
        else:
            setattr(process, name, body.rstrip("\n"))
    return found


def _read(client: Client, pid: int) -> Process:
    def strings(name: str) -> str:
        text = client.monitor(f"{name} {pid}")
        return "" if _NO_SPACE in text else text.rstrip("\n")

    files = descriptors(client.monitor(f"files {pid}"))
    return Process(strings("maps"), strings("cmdline"), strings("environ"), files)
