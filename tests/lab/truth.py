"""What the guest says about itself, in the terms the tests compare."""

import re
from typing import NamedTuple

from lab.guest import Guest, GuestError
from lab.tasks import Task, listed, tasks

__all__ = ["Task", "listed", "tasks"]

_RAW = re.compile(r"<\d+>\[ *(\d+)\.(\d{6})\] ?(.*)")
_SHOWN = re.compile(r"\[ *(\d+)\.(\d{6})\] ?(.*)")


class Line(NamedTuple):
    """One line of the kernel log."""

    usec: int
    text: str


def kernel_log(guest: Guest) -> list[Line]:
    """The guest's `dmesg`."""
    return _lines(_RAW, guest.run("dmesg -r").splitlines())


def console_log(shown: str) -> list[Line]:
    """The log lines of a stretch of the kernel's console."""
    return log_lines(line for line in shown.splitlines() if line.startswith("["))


def log_lines(shown) -> list[Line]:
    """Lines as dmesg and lx-dmesg print them, `[    1.234567] text`."""
    return _lines(_SHOWN, shown)


def same_log(one: list[Line], other: list[Line]) -> bool:
    """Equality up to the last digit of the time, which the kernel cuts and its gdb scripts round."""
    return len(one) == len(other) and all(
        a.text.rstrip() == b.text.rstrip() and abs(a.usec - b.usec) <= 1 for a, b in zip(one, other)
    )


def symbols(guest: Guest, *names: str) -> dict[str, int]:
    """Addresses from /proc/kallsyms."""
    pattern = "|".join(names)
    rows = (line.split() for line in guest.run(f"grep -wE '{pattern}' /proc/kallsyms").splitlines())
    found = {row[2]: int(row[0], 16) for row in rows if row[2] in names}
    if missing := set(names) - set(found):
        raise GuestError(f"/proc/kallsyms has no {', '.join(sorted(missing))}")
    return found


def iomem(guest: Guest, name: str) -> list[tuple[int, int]]:
    """The ranges /proc/iomem calls `name`, end exclusive."""
    rows = re.findall(rf"^ *([0-9a-f]+)-([0-9a-f]+) : {name}$", guest.run("cat /proc/iomem"), re.MULTILINE)
    return [(int(start, 16), int(end, 16) + 1) for start, end in rows]


def _lines(pattern: re.Pattern, shown) -> list[Line]:
    found = []
    for line in shown:
        match = pattern.fullmatch(line)
        if match is None:
            raise GuestError(f"not a line of a kernel log: {line!r}")
        found.append(Line(int(match[1]) * 1_000_000 + int(match[2]), match[3]))
    return found
