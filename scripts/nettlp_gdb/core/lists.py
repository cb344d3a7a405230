"""Bounded walks of the kernel's linked structures: `list_head` (include/linux/list.h) and `rb_root`
(lib/rbtree.c).

Each entry costs one read, its links being read with its payload. A walk ends at its head, or with `Changed` when
it meets an entry twice, leaves the kernel's addresses or outgrows its bound; never otherwise.
"""

from typing import Iterator, List, Set

from .errors import Changed
from .layout import Layout, View
from .memory import Read, kernel_pointer


class _Visited:
    """The entries a walk has been at."""

    def __init__(self, what: str, limit: int) -> None:
        self._seen: Set[int] = set()
        self._what = what
        self._limit = limit

    def enter(self, address: int) -> None:
        kernel_pointer(address, self._what)
        if address in self._seen:
            raise Changed(f"{self._what} comes back to {address:#x} after {len(self._seen)} entries: "
                          "it changed while it was read")
        if len(self._seen) >= self._limit:
            raise Changed(f"{self._what} does not end within {self._limit} entries")
        self._seen.add(address)


def entries(read: Read, head: int, first: int, layout: Layout, link: str, what: str, limit: int) -> Iterator[View]:
    """The structures `layout` on the circular list with its head at `head`, from the link at `first` on.

    `link` is the path of their `list_head`; the layout holds `link` and `link.next`.
    """
    visited = _Visited(what, limit)
    address = first
    while address != head:
        visited.enter(address)
        entry = layout.read(read, address - layout.offset(link))
        yield entry
        address = entry.unsigned(link + ".next")


def tree_entries(read: Read, root: int, layout: Layout, link: str, what: str, limit: int) -> Iterator[View]:
    """The structures `layout` of the red-black tree whose topmost `rb_node` is at `root`, in the tree's order.

    `link` is the path of their `rb_node`; the layout holds `link`, `link.rb_left` and `link.rb_right`.
    """
    visited = _Visited(what, limit)
    above: List[View] = []
    address = root
    while address or above:
        while address:
            visited.enter(address)
            entry = layout.read(read, address - layout.offset(link))
            above.append(entry)
            address = entry.unsigned(link + ".rb_left")
        entry = above.pop()
        yield entry
        address = entry.unsigned(link + ".rb_right")
