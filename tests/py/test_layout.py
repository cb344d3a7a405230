import pytest

from nettlp_gdb.core.errors import TargetError, Unreadable, Unsupported
from nettlp_gdb.core.layout import Layout
from synthetic import BASE, Memory

LAYOUT = Layout("struct thing", 0x2000, {"pid": (0x970, 4), "comm": (0xBA0, 16)})


def thing(**values):
    memory = Memory()
    memory.put_structure(BASE, LAYOUT, values)
    return memory


def test_an_object_costs_one_read_of_what_is_used():
    memory = thing(pid=-7, comm=b"sh")
    view = LAYOUT.read(memory.read, BASE)
    assert (view.signed("pid"), view.unsigned("pid"), view.raw("comm")) == (-7, 2**32 - 7, b"sh".ljust(16, b"\0"))
    assert memory.reads == [(BASE + 0x970, 0xBB0 - 0x970)]


def test_an_array_is_cut_without_further_reads():
    array = Layout("struct pair", 8, {"b": (4, 4)})
    assert array.element(bytes(range(16)), 1).unsigned("b") == 0x0F0E0D0C


def test_a_column_is_the_member_of_each():
    array = Layout("struct pair", 12, {"a": (0, 1), "b": (4, 4), "comm": (1, 3)})
    assert array.column(bytes(range(24)), "a") == [0, 12]
    assert array.column(bytes(range(24)), "b") == [0x07060504, 0x13121110]
    assert array.column(b"", "b") == []
    with pytest.raises(Unsupported, match="struct pair.comm of this kernel has 3 bytes"):
        array.column(bytes(24), "comm")


def test_a_short_array_is_an_error_and_not_zero():
    array = Layout("struct pair", 8, {"b": (4, 4)})
    with pytest.raises(TargetError, match="struct pair.b is outside the 6 bytes"):
        array.element(bytes(14), 1).unsigned("b")


def test_a_member_the_kernel_lacks_is_named():
    with pytest.raises(Unsupported, match="struct thing of this kernel has no member core_layout"):
        LAYOUT.read(thing().read, BASE).unsigned("core_layout")


def test_unreadable_memory_names_address_length_and_purpose():
    with pytest.raises(Unreadable, match=r"cannot read 576 bytes at 0x970 \(struct thing\)"):
        LAYOUT.read(Memory().read, 0)
