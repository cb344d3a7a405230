"""The kernel's log before 5.10: variable-length records in one buffer (kernel/printk/printk.c of that time).

A record is a `printk_log` header, its text and its dictionary. One whose length is 0 says that the next record is
at the start of the buffer.
"""

from typing import Iterator, List, NamedTuple, Tuple

from .errors import Changed
from .layout import Layout
from .memory import Read
from .printk_log import Log, Record

HEADER_MEMBERS = ("ts_nsec", "len", "text_len")

#: most that CONFIG_LOG_BUF_SHIFT allows is 32 MiB; log_buf_len= may ask for more
_MAX_SIZE = 1 << 28


class Buffer(NamedTuple):
    """The kernel's variables `log_buf`, `log_buf_len` and `log_{first,next}_{idx,seq}`."""

    address: int
    size: int
    first: int
    next: int
    count: int


class Snapshot(NamedTuple):
    """The used bytes, oldest first. If there are two parts, the log wraps from the first to the second."""

    parts: Tuple[bytes, ...]
    count: int


def capture(read: Read, buffer: Buffer) -> Snapshot:
    """Fetches the used part of the buffer, in one read or, wrapped, two."""
    if not 0 < buffer.size <= _MAX_SIZE or max(buffer.first, buffer.next) > buffer.size:
        raise Changed(f"the log buffer says it uses {buffer.first:#x} to {buffer.next:#x} of {buffer.size:#x} bytes")
    if not buffer.count:
        return Snapshot((), 0)
    spans = [(buffer.first, buffer.next)]
    if buffer.first >= buffer.next:
        spans = [(buffer.first, buffer.size), (0, buffer.next)]
    parts = tuple(read(buffer.address + start, end - start, "the log buffer") if end > start else b""
                  for start, end in spans)
    return Snapshot(parts, buffer.count)


def parse(layout: Layout, snapshot: Snapshot) -> Log:
    """The records of a snapshot. After one that is damaged no other can be found: these count as lost."""
    found: List[Record] = []
    for part in snapshot.parts:
        found.extend(_part(layout, part))
    del found[snapshot.count :]
    return Log(found, snapshot.count - len(found))


def _part(layout: Layout, part: bytes) -> Iterator[Record]:
    at = 0
    while at + layout.size <= len(part):
        header = layout.element(part[at : at + layout.size], 0)
        length = header.unsigned("len")
        text = at + layout.size
        text_end = text + header.unsigned("text_len")
        if not text_end <= at + length <= len(part):
            return
        yield Record(header.unsigned("ts_nsec"), part[text:text_end])
        at += length
