"""The kernel's log since 5.10: a lockless ring of descriptors over a ring of text (kernel/printk/printk_ringbuffer.c).

`capture` fetches what is in use of the three arrays (descriptors, their infos, text) in one read each, two where
the use wraps around the array's end; `parse` makes records of these bytes. Writers may run meanwhile: a record is
taken only if its descriptor, its info and its text block name the same record.
"""

import itertools
from collections import Counter
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .errors import Changed
from .layout import Layout, View
from .memory import Read
from .printk_log import Log, Record

RING_MEMBERS = (
    "desc_ring.count_bits", "desc_ring.descs", "desc_ring.infos", "desc_ring.head_id", "desc_ring.tail_id",
    "text_data_ring.size_bits", "text_data_ring.data", "text_data_ring.tail_lpos",
)
DESC_MEMBERS = ("state_var", "text_blk_lpos.begin", "text_blk_lpos.next")
INFO_MEMBERS = ("seq", "ts_nsec", "text_len")

_WORD = 1 << 64
_ID_MASK = (1 << 62) - 1
_STATE_SHIFT = 62
_STATE_COMMITTED, _STATE_FINALIZED = 1, 2
#: of a block without data: its text found no room. The other such value stands for an empty line.
_FAILED_LPOS = 1
_ID_SIZE = 8

#: log_buf_len= may ask for 2 GiB; a ring that says it has more than this is not one
_MAX_TEXT_BITS = 28
_MAX_COUNT_BITS = 24


class RingLayouts(NamedTuple):
    """What has to be known of the kernel's structures."""

    ring: Layout
    desc: Layout
    info: Layout


class Snapshot(NamedTuple):
    """The used part of a ring. Element k of `descs` and `infos` belongs to the record `first_id` + k; byte k of
    `text` has the logical position `tail_lpos` + k."""

    first_id: int
    tail_lpos: int
    text_size: int
    descs: bytes
    infos: bytes
    text: bytes


class _Written(NamedTuple):
    """What descriptor and info say of a record that is complete."""

    id: int
    begin: int
    next: int
    seq: int
    ts_nsec: int
    text_len: int

    def step(self) -> int:
        """By how much sequence number and id differ."""
        return (self.seq - self.id) & _ID_MASK


def capture(read: Read, layouts: RingLayouts, address: int) -> Snapshot:
    """Fetches the used part of the `printk_ringbuffer` at `address`."""
    ring = layouts.ring.read(read, address)
    count = 1 << _bits(ring, "desc_ring.count_bits", _MAX_COUNT_BITS)
    size = 1 << _bits(ring, "text_data_ring.size_bits", _MAX_TEXT_BITS)
    tail_id = ring.unsigned("desc_ring.tail_id") & _ID_MASK
    used = ((ring.unsigned("desc_ring.head_id") - tail_id) & _ID_MASK) + 1
    if used > count:
        raise Changed(f"the log's descriptor ring holds {used} of at most {count} records: "
                      "it changed while it was read")
    descs = _unwrapped(read, ring.unsigned("desc_ring.descs"), layouts.desc.size, count, tail_id, used,
                       "descriptors of the log")
    states = layouts.desc.column(descs, "state_var")
    reused = next((at for at, state in enumerate(states) if _is_written(state)), used)
    descs = descs[reused * layouts.desc.size :]
    infos = _unwrapped(read, ring.unsigned("desc_ring.infos"), layouts.info.size, count, tail_id + reused,
                       used - reused, "record infos of the log")
    tail_lpos = ring.unsigned("text_data_ring.tail_lpos")
    text = _unwrapped(read, ring.unsigned("text_data_ring.data"), 1, size, tail_lpos,
                      _text_in_use(layouts.desc, descs, tail_lpos, size), "text of the log")
    return Snapshot(tail_id + reused, tail_lpos, size, descs, infos, text)


def parse(layouts: RingLayouts, snapshot: Snapshot) -> Log:
    """The records of a snapshot, and how many more it had that are replaced or without their text."""
    written: List[_Written] = []
    lost = 0
    for record_id, (state, begin, after), info in zip(
            itertools.count(snapshot.first_id), _rows(layouts.desc, DESC_MEMBERS, snapshot.descs),
            _rows(layouts.info, INFO_MEMBERS, snapshot.infos)):
        ahead = (state - record_id) & _ID_MASK
        if ahead:  # of a later record, unless it is so far ahead that it is behind: then its writer is on the way
            lost += ahead < 1 << 61
        elif _is_written(state):
            written.append(_Written(record_id & _ID_MASK, begin, after, *info))

    # Sequence number and id count in step. Most records show by how much they differ; another difference is that of
    # an info which was replaced between the reads.
    votes = Counter(each.step() for each in written)
    step = max(votes, key=lambda value: votes[value], default=0)
    found: List[Record] = []
    for each in written:
        text = _text(snapshot, each)
        if text is None or each.step() != step:
            lost += 1
        else:
            found.append(Record(each.ts_nsec, text))
    return Log(found, lost)


def _bits(ring: View, path: str, limit: int) -> int:
    bits = ring.unsigned(path)
    if not 0 < bits <= limit:
        raise Changed(f"the log's {path} is {bits}, more than {limit}: this is no printk ring buffer")
    return bits


def _unwrapped(read: Read, base: int, stride: int, count: int, position: int, used: int, what: str) -> bytes:
    """`used` elements of the ring array at `base`, from the one at `position` on, in order."""
    start = position % count
    straight = min(used, count - start)
    data = read(base + start * stride, straight * stride, what) if straight else b""
    if used > straight:
        data += read(base, (used - straight) * stride, what)
    return data


def _rows(layout: Layout, paths: Sequence[str], array: bytes) -> Iterator[Tuple[int, ...]]:
    """These members of one structure of an array after the other."""
    return zip(*(layout.column(array, path) for path in paths))


def _text_in_use(layout: Layout, descs: bytes, tail_lpos: int, size: int) -> int:
    """Bytes from `tail_lpos` to the end of the last text block; blocks that cannot be in the ring do not count."""
    ends = ((after - tail_lpos) % _WORD for after in layout.column(descs, "text_blk_lpos.next") if not after & 1)
    return max((end for end in ends if end <= size), default=0)


def _is_written(state: int) -> bool:
    """Whether the record is complete: neither still being written nor given up for reuse."""
    return state >> _STATE_SHIFT in (_STATE_COMMITTED, _STATE_FINALIZED)


def _text(snapshot: Snapshot, record: _Written) -> Optional[bytes]:
    """The text of a record; `None` if the ring has lost it.

    A block that does not fit before the end of the ring starts again at index 0, with its id repeated there; one
    that ends exactly at the end does not wrap (kernels before 6.18 have no such block).
    """
    begin, after = record.begin, record.next
    if begin & 1 and after & 1:
        return None if begin == after == _FAILED_LPOS else b""
    size = snapshot.text_size
    last = (after - 1) % _WORD
    if begin // size != last // size:
        begin = last // size * size
    start = (begin - snapshot.tail_lpos) % _WORD
    end = (after - snapshot.tail_lpos) % _WORD
    if not start + _ID_SIZE <= end <= len(snapshot.text):
        return None
    if int.from_bytes(snapshot.text[start : start + _ID_SIZE], "little") != record.id:
        return None
    return snapshot.text[start + _ID_SIZE : min(end, start + _ID_SIZE + record.text_len)]
