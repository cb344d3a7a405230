import pytest

from nettlp_gdb.core.errors import Changed, Unreadable
from nettlp_gdb.core.memory import kernel_pointer, read_c_string, read_pointer
from nettlp_gdb.core.text import c_string, printable
from synthetic import BASE, Memory


def test_a_string_is_read_up_to_its_page_and_no_further():
    memory = Memory()
    memory.put(BASE, b"x" * 4091 + b"tmpfs")  # ends its page, without a NUL; nothing is mapped behind it
    with pytest.raises(Unreadable, match=f"at {BASE + 4096:#x}"):
        read_c_string(memory.read, BASE + 4091, 64, "name")
    memory.put(BASE + 4096, b"\0")
    with pytest.raises(Unreadable):
        read_c_string(memory.read, BASE + 4091, 64, "name")
    memory.put(BASE + 4096, b"2\0".ljust(256, b"?"))
    assert read_c_string(memory.read, BASE + 4091, 64, "name") == b"tmpfs2"


def test_a_string_without_end():
    memory = Memory()
    memory.put(BASE, b"A" * 8192)
    with pytest.raises(Changed, match="name at .* has no end within 1000 bytes"):
        read_c_string(memory.read, BASE, 1000, "name")
    assert sum(length for _, length in memory.reads) == 1000


def test_kernel_pointers_of_both_depths():
    for address in (0xFF11_0000_0000_0000, 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8100_0000):
        assert kernel_pointer(address, "x") == address


def test_a_pointer():
    memory = Memory()
    memory.put(BASE, bytes(range(8)))
    assert read_pointer(memory.read, BASE, "x") == 0x0706050403020100


@pytest.mark.parametrize("raw, text", [
    (b"kworker/0:1H", "kworker/0:1H"),
    (b"a\tb \\ c", "a\tb \\ c"),
    (b"\x1b[2J\r\n\x00\x7f", "\\x1b[2J\\x0d\\x0a\\x00\\x7f"),
    ("caf\u00e9".encode(), "caf\u00e9"),
    ("\u009b31m".encode(), "\\x9b31m"),
    (b"\xff\xfe", "\ufffd\ufffd"),
])
def test_what_reaches_the_terminal(raw, text):
    assert printable(raw) == text


def test_character_arrays_end_at_their_nul_if_they_have_one():
    assert c_string(b"sh\0garbage") == b"sh"
    assert c_string(b"0123456789abcdef") == b"0123456789abcdef"
