"""Structure layouts by member name, and views of target bytes through them.

A `Layout` names only the members somebody reads. Reading an object takes one read, which spans exactly these
members: a `task_struct` of nearly 10 KiB costs some hundred bytes, once.
"""

import struct
from typing import List, Mapping, NamedTuple, Tuple

from .errors import TargetError, Unsupported
from .memory import Read


#: unsigned integers by their bytes, as `struct` names them
_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Member(NamedTuple):
    """Place of a member in its structure, in bytes."""

    offset: int
    size: int


class Layout:
    """Where the members of a structure are. A member of a member is named by its path, such as `tasks.next`."""

    def __init__(self, name: str, size: int, members: Mapping[str, Tuple[int, int]]) -> None:
        self.name = name
        self.size = size
        self._members = {path: Member(*place) for path, place in members.items()}
        #: first byte of the first member
        self.first = min((member.offset for member in self._members.values()), default=0)
        #: byte after the last member
        self.end = max((member.offset + member.size for member in self._members.values()), default=0)

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def member(self, path: str) -> Member:
        """Place of the member `path`."""
        try:
            return self._members[path]
        except KeyError:
            raise Unsupported(f"{self.name} of this kernel has no member {path}") from None

    def offset(self, path: str) -> int:
        """Offset of the member `path`."""
        return self.member(path).offset

    def read(self, read: Read, address: int) -> "View":
        """The object at `address`, by one read."""
        return View(self, read(address + self.first, self.end - self.first, self.name), self.first, address)

    def element(self, array: bytes, index: int) -> "View":
        """Element `index` of an array of whole structures."""
        return View(self, array[index * self.size : (index + 1) * self.size], 0, 0)

    def column(self, array: bytes, path: str) -> List[int]:
        """The member `path` of each structure of an array, as unsigned integer or pointer."""
        offset, size = self.member(path)
        if size not in _INTEGERS:
            raise Unsupported(f"{self.name}.{path} of this kernel has {size} bytes")
        each = struct.Struct(f"<{offset}x{_INTEGERS[size]}{self.size - offset - size}x")
        return [value for (value,) in each.iter_unpack(array)]


class View:
    """The bytes of one object, with `first` the offset of the first of them in the object."""

    __slots__ = ("layout", "address", "_data", "_first")

    def __init__(self, layout: Layout, data: bytes, first: int, address: int) -> None:
        self.layout = layout
        self.address = address
        self._data = data
        self._first = first

    def raw(self, path: str) -> bytes:
        """The bytes of a member."""
        offset, size = self.layout.member(path)
        start = offset - self._first
        raw = self._data[start : start + size] if start >= 0 else b""
        if len(raw) != size:
            raise TargetError(f"{self.layout.name}.{path} is outside the {len(self._data)} bytes that were read")
        return raw

    def unsigned(self, path: str) -> int:
        """A member as unsigned integer or pointer."""
        return int.from_bytes(self.raw(path), "little")

    def signed(self, path: str) -> int:
        """A member as signed integer."""
        return int.from_bytes(self.raw(path), "little", signed=True)

    def address_of(self, path: str) -> int:
        """Address of a member in the target."""
        return self.address + self.layout.offset(path)
