"""The ring reader against a writer that fills rings as kernel/printk/printk_ringbuffer.c does."""

import pytest

from nettlp_gdb.core import printk_log, printk_ring
from nettlp_gdb.core.errors import Changed, Unreadable
from nettlp_gdb.core.layout import Layout
from synthetic import BASE, Memory, pack

RING, DESCS, INFOS, TEXT = (BASE + at for at in (0, 0x1000, 0x10_0000, 0x20_0000))
ID_MASK = 2**62 - 1
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
FAILED, EMPTY = 1, 3

LAYOUTS = printk_ring.RingLayouts(
    ring=Layout("struct printk_ringbuffer", 88, {
        "desc_ring.count_bits": (0, 4), "desc_ring.descs": (8, 8), "desc_ring.infos": (16, 8),
        "desc_ring.head_id": (24, 8), "desc_ring.tail_id": (32, 8), "text_data_ring.size_bits": (48, 4),
        "text_data_ring.data": (56, 8), "text_data_ring.head_lpos": (64, 8), "text_data_ring.tail_lpos": (72, 8),
    }),
    desc=Layout("struct prb_desc", 24, {
        "state_var": (0, 8), "text_blk_lpos.begin": (8, 8), "text_blk_lpos.next": (16, 8),
    }),
    info=Layout("struct printk_info", 88, {"seq": (0, 8), "ts_nsec": (8, 8), "text_len": (16, 2)}),
)


class Writer:
    """A ring of 2**count_bits descriptors and 2**size_bits bytes of text."""

    def __init__(self, count_bits=3, size_bits=8, exact_fit_wraps=True):
        self.count_bits, self.size_bits = count_bits, size_bits
        self.count, self.size = 1 << count_bits, 1 << size_bits
        self.exact_fit_wraps = exact_fit_wraps
        self.head_id = self.tail_id = -(self.count + 1) & ID_MASK
        self.head_lpos = self.tail_lpos = -self.size % 2**64
        self.descs = [{"state_var": REUSABLE << 62 | (self.head_id if at == self.count - 1 else 0),
                       "text_blk_lpos.begin": FAILED, "text_blk_lpos.next": FAILED} for at in range(self.count)]
        self.infos = [{"seq": 0} for _ in range(self.count)]
        self.text = bytearray(self.size)
        self.seq = 0

    def write(self, text, state=FINALIZED, block=None):
        """Adds a record; `block` stands for its text positions where there are no data."""
        self.head_id = (self.head_id + 1) & ID_MASK
        if (self.head_id - self.tail_id) & ID_MASK >= self.count:
            self._push_tail_past((self.tail_id + 1) & ID_MASK)
        index = self.head_id % self.count
        begin, following = block or self._allocate(text)
        self.descs[index] = {"state_var": state << 62 | self.head_id, "text_blk_lpos.begin": begin,
                             "text_blk_lpos.next": following}
        self.infos[index] = {"seq": self.seq, "ts_nsec": self.seq * 1_000_999, "text_len": len(text)}
        self.seq += 1
        return index

    def _allocate(self, text):
        need = -(-(8 + len(text)) // 8) * 8
        begin = self.head_lpos
        following = (begin + need) % 2**64
        last = following if self.exact_fit_wraps else following - 1
        wraps = begin // self.size != last % 2**64 // self.size
        if wraps:
            following = (last % 2**64 // self.size * self.size + need) % 2**64
        while (following - self.tail_lpos) % 2**64 > self.size:
            self._push_tail_past((self.tail_id + 1) & ID_MASK)
        stamp = self.head_id.to_bytes(8, "little")
        at = begin % self.size
        self.text[at : at + 8] = stamp
        if wraps:
            self.text[:8] = stamp
            at = 0
        self.text[at + 8 : at + need] = text.ljust(need - 8, b"\xee")
        self.head_lpos = following
        return begin, following

    def _push_tail_past(self, new_tail):
        old = self.descs[self.tail_id % self.count]
        old["state_var"] = REUSABLE << 62 | self.tail_id
        if not old["text_blk_lpos.next"] & 1:
            self.tail_lpos = old["text_blk_lpos.next"]
        self.tail_id = new_tail

    def memory(self):
        memory = Memory()
        memory.put_structure(RING, LAYOUTS.ring, {
            "desc_ring.count_bits": self.count_bits, "desc_ring.descs": DESCS, "desc_ring.infos": INFOS,
            "desc_ring.head_id": self.head_id, "desc_ring.tail_id": self.tail_id,
            "text_data_ring.size_bits": self.size_bits, "text_data_ring.data": TEXT,
            "text_data_ring.head_lpos": self.head_lpos, "text_data_ring.tail_lpos": self.tail_lpos,
        })
        memory.put(DESCS, b"".join(pack(LAYOUTS.desc, desc) for desc in self.descs))
        memory.put(INFOS, b"".join(pack(LAYOUTS.info, info) for info in self.infos))
        memory.put(TEXT, bytes(self.text))
        return memory


def log(writer, memory=None):
    memory = memory or writer.memory()
    return printk_ring.parse(LAYOUTS, printk_ring.capture(memory.read, LAYOUTS, RING))


def texts(writer):
    found = log(writer)
    assert not found.lost
    return [record.text for record in found.records]


def test_a_ring_that_was_never_written():
    assert log(Writer()) == printk_log.Log([], 0)


def test_few_records_cost_four_reads_of_what_is_used():
    writer = Writer(count_bits=10, size_bits=14)
    for text in (b"first", b"", b"two\nlines"):
        writer.write(text)
    memory = writer.memory()
    assert [record.text for record in log(writer, memory).records] == [b"first", b"", b"two\nlines"]
    # the descriptor ring starts with its last element, in front of which the array wraps
    assert memory.reads == [
        (RING, 80), (DESCS + 1023 * 24, 24), (DESCS, 3 * 24), (INFOS, 3 * 88), (TEXT, 16 + 8 + 24),
    ]


@pytest.mark.parametrize("exact_fit_wraps", [True, False], ids=["before 6.18", "since"])
@pytest.mark.parametrize("length", range(1, 48, 3))
def test_wrapped_rings_hold_the_last_records(length, exact_fit_wraps):
    writer = Writer(count_bits=4, size_bits=8, exact_fit_wraps=exact_fit_wraps)
    written = []
    for number in range(100):
        text = b"%d " % number + b"x" * ((length * (number + 1)) % 61)
        writer.write(text)
        written.append(text)
        kept = sum(desc["state_var"] >> 62 == FINALIZED for desc in writer.descs)
        assert texts(writer) == written[-kept:]


def test_a_wrapped_block_starts_behind_the_repeated_id():
    writer = Writer(count_bits=3, size_bits=7)
    writer.write(b"a" * 88)  # 96 of 128 bytes
    writer.write(b"wrapped text that does not fit at the end")
    assert bytes(writer.text[:8]) == bytes(writer.text[96:104])
    assert texts(writer)[-1] == b"wrapped text that does not fit at the end"


def test_a_block_that_ends_with_the_ring():
    writer = Writer(count_bits=3, size_bits=7, exact_fit_wraps=False)
    writer.write(b"a" * 88)
    writer.write(b"b" * 24)
    assert writer.head_lpos % writer.size == 0
    assert texts(writer) == [b"a" * 88, b"b" * 24]


def test_what_is_being_written_is_left_out_and_what_can_still_grow_is_told():
    writer = Writer()
    writer.write(b"reserved", state=RESERVED)
    writer.write(b"committed", state=COMMITTED)
    writer.write(b"done")
    assert texts(writer) == [b"committed", b"done"]


def test_a_descriptor_taken_but_not_yet_marked_is_not_lost():
    writer = Writer()
    for number in range(12):
        writer.write(b"%d" % number)
    before = dict(writer.descs[(writer.head_id + 1) % writer.count])
    index = writer.write(b"later")
    writer.descs[index] = before
    found = log(writer)
    assert found.lost == 0 and found.records[-1].text == b"11"


def test_an_empty_line_is_a_record_and_a_failed_one_is_lost():
    writer = Writer()
    writer.write(b"", block=(EMPTY, EMPTY))
    writer.write(b"no room", block=(FAILED, FAILED))
    found = log(writer)
    assert [record.text for record in found.records] == [b""] and found.lost == 1


def torn(change):
    """What is told of four records once `change` has been at the ring."""
    writer = Writer()
    for text in (b"zero", b"one", b"two", b"three"):
        writer.write(text)
    change(writer)
    found = log(writer)
    assert len(found.records) + found.lost == 4
    return [record.text for record in found.records]


def test_a_descriptor_that_was_reused():
    def change(writer):
        writer.descs[1]["state_var"] += writer.count
    assert torn(change) == [b"zero", b"two", b"three"]


def test_an_info_that_was_replaced():
    def change(writer):
        writer.infos[2]["seq"] += writer.count
    assert torn(change) == [b"zero", b"one", b"three"]


def test_a_text_that_was_overwritten():
    def change(writer):
        begin = writer.descs[3]["text_blk_lpos.begin"] % writer.size
        writer.text[begin] ^= 8
    assert torn(change) == [b"zero", b"one", b"two"]


@pytest.mark.parametrize("begin, following", [
    (0, 0), (0, 2**64 - 2), (2**64 - 2, 0), (2**63, 2**63 + 24), (16, 8), (0, 4), (1, 24), (0, 3),
])
def test_text_positions_that_cannot_be(begin, following):
    def change(writer):
        writer.descs[1]["text_blk_lpos.begin"] = begin
        writer.descs[1]["text_blk_lpos.next"] = following
    assert torn(change) == [b"zero", b"two", b"three"]


def test_a_text_length_beyond_the_block_is_cut_there():
    def change(writer):
        writer.infos[1]["text_len"] = 0xFFFF
    assert torn(change) == [b"zero", b"one\xee\xee\xee\xee\xee", b"two", b"three"]


@pytest.mark.parametrize("path, value", [
    ("desc_ring.count_bits", 0), ("desc_ring.count_bits", 63), ("text_data_ring.size_bits", 2**32 - 1),
    ("desc_ring.tail_id", 5),
])
def test_a_ring_that_is_none(path, value):
    writer = Writer()
    writer.write(b"x")
    memory = writer.memory()
    memory.change(RING, LAYOUTS.ring, path, value)
    with pytest.raises(Changed, match="no printk ring buffer|changed while it was read"):
        log(writer, memory)
    assert len(memory.reads) == 1


def test_an_unmapped_array_is_named():
    writer = Writer()
    writer.write(b"x")
    memory = writer.memory()
    memory.change(RING, LAYOUTS.ring, "desc_ring.infos", BASE + 0x90_0000)
    with pytest.raises(Unreadable, match="record infos of the log"):
        log(writer, memory)


@pytest.mark.parametrize("nanoseconds, text, lines", [
    (0, b"Linux version", ["[    0.000000] Linux version"]),
    (383_999, b"cut, not rounded", ["[    0.000383] cut, not rounded"]),
    (1_179_473_868_000, b"two\nlines", ["[ 1179.473868] two", "[ 1179.473868] lines"]),
    (123_456_000_001_000, b"", ["[123456.000001] "]),
    (0, b"\x1b[2Jx\rtab\t", ["[    0.000000] \\x1b[2Jx\\x0dtab\t"]),
])
def test_lines(nanoseconds, text, lines):
    assert list(printk_log.lines(printk_log.Record(nanoseconds, text))) == lines
