import pytest

from nettlp_gdb.core import printk_records
from nettlp_gdb.core.errors import Changed, Unreadable
from nettlp_gdb.core.layout import Layout
from synthetic import BASE, Memory, pack

HEADER = Layout("struct printk_log", 16, {"ts_nsec": (0, 8), "len": (8, 2), "text_len": (10, 2)})
SIZE = 256


class Writer:
    """A log buffer filled as `log_store` of kernels before 5.10 does."""

    def __init__(self):
        self.data = bytearray(SIZE)
        self.first = self.next = self.count = 0
        self.used = []

    def write(self, text, dictionary=b""):
        length = -(-(HEADER.size + len(text) + len(dictionary)) // 8) * 8
        while not self._has_room(length):
            self._drop()
        if self.next + length + HEADER.size > SIZE:
            self.data[self.next : self.next + HEADER.size] = bytes(HEADER.size)
            self.next = 0
        header = pack(HEADER, {"ts_nsec": 5000, "len": length, "text_len": len(text)})
        self.data[self.next : self.next + length] = (header + text + dictionary).ljust(length, b"\0")
        self.used.append(self.next)
        self.next += length
        self.count += 1

    def _has_room(self, length):
        if not self.count or self.next > self.first:
            return max(SIZE - self.next, self.first) >= length + HEADER.size
        return self.first - self.next >= length + HEADER.size

    def _drop(self):
        self.used.pop(0)
        self.first = self.used[0] if self.used else self.next
        self.count -= 1

    def buffer(self, **other):
        values = {"address": BASE, "size": SIZE, "first": self.first, "next": self.next, "count": self.count}
        return printk_records.Buffer(**{**values, **other})

    def log(self, **other):
        memory = Memory()
        memory.put(BASE, bytes(self.data))
        found = printk_records.parse(HEADER, printk_records.capture(memory.read, self.buffer(**other)))
        return [record.text for record in found.records], found.lost, len(memory.reads)


def three():
    writer = Writer()
    for text in (b"one", b"two", b"three"):
        writer.write(text, dictionary=b"SUBSYSTEM=pci")
    return writer


def test_empty():
    assert Writer().log() == ([], 0, 0)


def test_in_order_without_dictionaries_by_one_read():
    assert three().log() == ([b"one", b"two", b"three"], 0, 1)


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_wrapped_buffers_hold_the_last_records(length):
    writer, written = Writer(), []
    for number in range(60):
        text = b"%d " % number + b"x" * ((length * (number + 3)) % 71)
        writer.write(text)
        written.append(text)
        found, lost, reads = writer.log()
        assert found == written[-writer.count :] and lost == 0 and reads <= 2


@pytest.mark.parametrize("at, value, found", [
    (8, 0xFFFF, []), (8, 1, []), (10, 0xFFFF, []),
    (32 + 8, 0xFFF8, [b"one"]), (32 + 8, 0, [b"one"]), (32 + 10, 60, [b"one"]),
])
def test_a_damaged_header_ends_the_log_and_the_rest_is_counted(at, value, found):
    writer = three()
    writer.data[at : at + 2] = value.to_bytes(2, "little")
    texts, lost, _ = writer.log()
    assert (texts, lost) == (found, 3 - len(found))


@pytest.mark.parametrize("other", [{"size": 0}, {"size": 1 << 40}, {"first": SIZE + 1}, {"next": SIZE + 8}])
def test_a_buffer_that_is_none(other):
    with pytest.raises(Changed, match="the log buffer says"):
        three().log(**other)


def test_a_count_that_is_not_there_is_lost_and_not_searched_for():
    assert three().log(count=2**40) == ([b"one", b"two", b"three"], 2**40 - 3, 1)
    assert three().log(count=2) == ([b"one", b"two"], 0, 1)


def test_an_unmapped_buffer_is_named():
    with pytest.raises(Unreadable, match="the log buffer"):
        printk_records.capture(Memory().read, three().buffer())
