"""lx-dmesg."""

from typing import Iterator

import gdb

from . import target
from .command import command, settled, warn
from .core import printk_log, printk_records, printk_ring

_FILE = "printk.c"


def _ring() -> Iterator[printk_log.Log]:
    """The log of kernels from 5.10 on."""
    layouts = printk_ring.RingLayouts(
        target.layout("struct printk_ringbuffer", printk_ring.RING_MEMBERS),
        target.layout("struct prb_desc", printk_ring.DESC_MEMBERS),
        target.layout("struct printk_info", printk_ring.INFO_MEMBERS),
    )
    yield printk_ring.parse(layouts, printk_ring.capture(target.read, layouts, target.unsigned("prb", _FILE)))


def _buffer() -> Iterator[printk_log.Log]:
    """The log of kernels before 5.10."""
    layout = target.layout("struct printk_log", printk_records.HEADER_MEMBERS)
    buffer = printk_records.Buffer(
        address=target.unsigned("log_buf", _FILE),
        size=target.unsigned("log_buf_len", _FILE),
        first=target.unsigned("log_first_idx", _FILE),
        next=target.unsigned("log_next_idx", _FILE),
        count=target.unsigned("log_next_seq", _FILE) - target.unsigned("log_first_seq", _FILE),
    )
    yield printk_records.parse(layout, printk_records.capture(target.read, buffer))


@command("lx-dmesg")
def lx_dmesg() -> None:
    """Print Linux kernel log buffer.

    Usage: lx-dmesg

    Prints what dmesg prints on the target: time stamps are cut to microseconds as
    the kernel cuts them, and an empty message is an empty line. Where other writers
    have replaced messages while they were read, the last line says how many."""
    is_ring = target.has_type("struct printk_ringbuffer")
    (log,) = settled(_ring if is_ring else _buffer)
    gdb.write("".join(line + "\n" for record in log.records for line in printk_log.lines(record)))
    if log.lost:
        warn(f"{log.lost} more messages were replaced or damaged when they were read")
