"""Bounded walks of the kernel's linked structures: `list_head` (include/linux/list.h) and `rb_root`
(lib/rbtree.c).

Each entry costs one read at most, its links being read with its payload. A walk ends at its head, or with `Changed` when
it meets an entry twice, leaves the kernel's addresses or outgrows its bound; never otherwise.
"""

from collections import deque
from typing import Deque, Iterator, List, Set

from .errors import Changed
from .layout import Layout, View
from .memory import Read, Reader, kernel_pointer


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


class _Ahead:
    """The entries of one list: many by one packet where the reader can follow links, else each by a read."""

    def __init__(self, read: Read, head: int, layout: Layout, link: str) -> None:
        self._read = read
        self._layout = layout
        self._before = layout.offset(link)
        self._chain = read.chain if isinstance(read, Reader) else None
        self._place = (head, self._before - layout.first, layout.end - layout.first,
                       layout.offset(link + ".next") - layout.first)
        self._kept: Deque[bytes] = deque()

    def entry(self, node: int) -> View:
        """The entry with its link at `node`, which is where the last one leads."""
        start = node - self._before
        if not self._kept and self._chain is not None:
            self._kept.extend(self._chain(node, *self._place))
        if not self._kept:
            self._chain = None
            return self._layout.read(self._read, start)
        return View(self._layout, self._kept.popleft(), self._layout.first, start)


def entries(read: Read, head: int, first: int, layout: Layout, link: str, what: str, limit: int) -> Iterator[View]:
    """The structures `layout` on the circular list with its head at `head`, from the link at `first` on.

    `link` is the path of their `list_head`; the layout holds `link` and `link.next`.
    """
    visited = _Visited(what, limit)
    ahead = _Ahead(read, head, layout, link)
    address = first
    while address != head:
        visited.enter(address)
        entry = ahead.entry(address)
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
