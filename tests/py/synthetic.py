"""A target that exists only here: structures packed by the layouts that the code under test gets."""

from typing import Dict, List, Mapping, Tuple, Union

from nettlp_gdb.core.errors import Unreadable
from nettlp_gdb.core.layout import Layout

Value = Union[int, bytes]

#: any address that kernels use
BASE = 0xFFFF_8880_0000_0000


def pack(layout: Layout, values: Mapping[str, Value]) -> bytes:
    """The bytes of a whole structure; members without a value are zero."""
    data = bytearray(layout.size)
    for path, value in values.items():
        offset, size = layout.member(path)
        raw = value.ljust(size, b"\0") if isinstance(value, bytes) else (value % 256**size).to_bytes(size, "little")
        assert len(raw) == size, f"{path} takes {size} bytes"
        data[offset : offset + size] = raw
    return bytes(data)


class Memory:
    """Mapped ranges; all else is unreadable. Remembers what was read."""

    def __init__(self) -> None:
        self._ranges: Dict[int, bytearray] = {}
        self.reads: List[Tuple[int, int]] = []

    def put(self, address: int, data: bytes) -> int:
        self._ranges[address] = bytearray(data)
        return address

    def put_structure(self, address: int, layout: Layout, values: Mapping[str, Value]) -> int:
        return self.put(address, pack(layout, values))

    def change(self, address: int, layout: Layout, path: str, value: int) -> None:
        """Overwrites one member of a structure that was put here."""
        offset, size = layout.member(path)
        self._ranges[address][offset : offset + size] = value.to_bytes(size, "little")

    def read(self, address: int, length: int, what: str) -> bytes:
        self.reads.append((address, length))
        for start, data in self._ranges.items():
            if start <= address and address + length <= start + len(data):
                return bytes(data[address - start : address - start + length])
        raise Unreadable(address, length, what)
