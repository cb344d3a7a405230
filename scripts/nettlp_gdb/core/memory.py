"""Reading target memory: the reader's contract, kernel pointers and C strings."""

from typing import Callable, List

from .errors import Changed

#: `read(address, length, what)` gives exactly `length` bytes or raises `Unreadable`, which says `what` was wanted.
Read = Callable[[int, int, str], bytes]


class Reader:
    """A `Read` that may know how to follow a list without asking its caller for each entry."""

    def __call__(self, address: int, length: int, what: str) -> bytes:
        raise NotImplementedError

    def chain(self, node: int, head: int, before: int, length: int, link: int) -> List[bytes]:
        """The bytes of entries of a circular list: of the one whose link is at `node` first, of some that follow it, of none
        beyond the one that leads to `head`; none at all if this reader cannot.

        An entry begins `before` bytes before its link and is of `length` bytes, in which the pointer to the next link is
        at `link`. What it leads to is not looked at: that is up to who walks the list."""
        return []


POINTER_SIZE = 8
_PAGE_SIZE = 4096
_STRING_STEP = 256


def kernel_pointer(address: int, what: str) -> int:
    """`address`, if x86-64 kernels can have an object there.

    Kernel addresses start at 0xff00000000000000 with five levels of page tables and higher with four
    (Documentation/arch/x86/x86_64/mm.rst). NULL and the poison that `list_del()` leaves (include/linux/poison.h)
    are what a walk meets when an object is unlinked under it.
    """
    if address >> 56 != 0xFF:
        raise Changed(f"{what} leads to {address:#x}, which is no kernel address: it changed while it was read")
    return address


def read_pointer(read: Read, address: int, what: str) -> int:
    """The pointer stored at `address`."""
    return int.from_bytes(read(address, POINTER_SIZE, what), "little")


def read_c_string(read: Read, address: int, limit: int, what: str) -> bytes:
    """The string at `address` without its NUL. No read crosses a page, for the next one may not be mapped."""
    found = b""
    while len(found) < limit:
        at = address + len(found)
        step = min(_STRING_STEP, limit - len(found), _PAGE_SIZE - at % _PAGE_SIZE)
        text, end, _ = read(at, step, what).partition(b"\0")
        found += text
        if end:
            return found
    raise Changed(f"{what} at {address:#x} has no end within {limit} bytes")
