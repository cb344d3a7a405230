"""Every process of a guest at rest: what its own /proc says, and what was read from its memory."""

import re
from dataclasses import dataclass, field

from lab.guest import Guest
from rsp import Client

_SECTION = re.compile(r"^== (\d+) (\w+)$", re.MULTILINE)
_LINK = re.compile(r"^l[rwx-]{9} .* (\d+) -> (.*)$")
#: columns of `monitor files`: descriptor, access, flags, position, path
_DESCRIPTOR = re.compile(r"^ *(\d+) [r-][w-] +\S+ +\S+ (.*)$")
_NO_SPACE = "has no address space"


@dataclass
class Process:
    """One process, by one witness."""

    maps: str = ""
    cmdline: str = ""
    environ: str = ""
    files: dict[int, str] = field(default_factory=dict)


@dataclass
class Observed:
    """All processes, by both witnesses, and what was asked besides."""

    guest: dict[int, Process]
    ours: dict[int, Process]
    cross_view: str


def observe(guest: Guest, port: int) -> Observed:
    """Starts processes that have something to show and asks both witnesses. The server reads a guest that stands still."""
    guest.run("lab_processes_start")
    # Once for the shell's own heap, which grows with the first use.
    guest.run("lab_processes")
    living = {int(pid) for pid in re.findall(r"/proc/(\d+)", guest.run("echo /proc/[0-9]*"))}
    said = _parsed(guest.run("lab_processes"))
    guest.stop()
    try:
        with Client(port) as client:
            client.attach()
            client.monitor("refresh")
            ours = {pid: _read(client, pid) for pid in sorted(set(said) & living)}
            cross_view = client.monitor("ps cross-view")
            client.detach()
    finally:
        guest.resume()
    return Observed({pid: said[pid] for pid in ours}, ours, cross_view)


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

    rows = (_DESCRIPTOR.match(line) for line in client.monitor(f"files {pid}").splitlines()[1:])
    files = {int(row[1]): row[2] for row in rows if row}
    return Process(strings("maps"), strings("cmdline"), strings("environ"), files)
