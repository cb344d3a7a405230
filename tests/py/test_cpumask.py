import pytest

from nettlp_gdb.core.cpumask import cpus


@pytest.mark.parametrize("mask, numbers", [
    (b"", []),
    (bytes(1024), []),
    (b"\x03" + bytes(1023), [0, 1]),
    (b"\x00\x80\x01", [15, 16]),
    (bytes(1023) + b"\x80", [8191]),
])
def test_bits(mask, numbers):
    assert cpus(mask) == numbers
