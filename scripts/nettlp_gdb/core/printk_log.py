"""Records of the kernel's log as lines, whatever buffer they were in."""

from typing import Iterator, List, NamedTuple

from .text import printable


class Record(NamedTuple):
    """One call of printk, or several that continued each other."""

    nanoseconds: int
    text: bytes


class Log(NamedTuple):
    """The records still told, oldest first, and how many others were replaced or damaged."""

    records: List[Record]
    lost: int


def lines(record: Record) -> Iterator[str]:
    """The lines of `record` with their time stamp, as the kernel prints them (kernel/printk/printk.c,
    record_print_text): an empty record is an empty line, and microseconds are cut, not rounded."""
    seconds, nanoseconds = divmod(record.nanoseconds, 1_000_000_000)
    for line in record.text.split(b"\n"):
        yield f"[{seconds:5}.{nanoseconds // 1000:06}] {printable(line)}"
