import itertools

import pytest

from nettlp_gdb.core.errors import Changed, Unreadable
from nettlp_gdb.core.layout import Layout
from nettlp_gdb.core.lists import entries, tree_entries
from nettlp_gdb.core.memory import Reader
from synthetic import BASE, Memory

NODE = Layout("struct node", 0x100, {"value": (0, 4), "link": (0x40, 16), "link.next": (0x40, 8)})
HEAD = BASE + 0x10_0000
POISON = 0xDEAD_0000_0000_0100


def node(index):
    return BASE + index * 0x100


def chain(*order, last=HEAD):
    """Nodes linked in this order, the last to `last`."""
    memory = Memory()
    links = [node(index) + 0x40 for index in order] + [last]
    for index, following in zip(order, links[1:]):
        memory.put_structure(node(index), NODE, {"value": index, "link.next": following})
    return memory, links[0]


def walk(memory, first, limit=100):
    return [entry.unsigned("value")
            for entry in entries(memory.read, HEAD, first, NODE, "link", "the list of nodes", limit)]


def test_in_order_with_one_read_each():
    memory, first = chain(3, 1, 2)
    assert walk(memory, first) == [3, 1, 2]
    assert len(memory.reads) == 3


class Chaining(Reader):
    """Memory whose reader follows lists, `at_once` entries at a time."""

    def __init__(self, memory, at_once):
        self.memory, self.at_once, self.asked = memory, at_once, 0

    def __call__(self, address, length, what):
        return self.memory.read(address, length, what)

    def chain(self, node, head, before, length, link):
        self.asked += 1
        entries = []
        while node != head and len(entries) < self.at_once:
            try:
                entries.append(self.memory.read(node - before, length, ""))
            except Unreadable:
                break
            node = int.from_bytes(entries[-1][link : link + 8], "little")
        return entries


def walk_with(reader, first):
    return [entry.unsigned("value") for entry in entries(reader, HEAD, first, NODE, "link", "the list of nodes", 100)]


@pytest.mark.parametrize("at_once, asked", [(1, 5), (2, 3), (5, 1), (9, 1)])
def test_a_reader_that_follows_links_is_asked_for_many(at_once, asked):
    memory, first = chain(3, 1, 2, 5, 4)
    reader = Chaining(memory, at_once)
    assert walk_with(reader, first) == [3, 1, 2, 5, 4]
    assert (reader.asked, len(memory.reads)) == (asked, 5)


def test_a_reader_that_cannot_follow_is_asked_once():
    memory, first = chain(3, 1, 2)
    reader = Chaining(memory, 0)
    assert walk_with(reader, first) == [3, 1, 2]
    assert reader.asked == 1


@pytest.mark.parametrize("last, error", [(node(2) + 0x40, Changed), (POISON, Changed), (node(7) + 0x40, Unreadable)])
def test_what_is_wrong_with_a_list_is_found_by_whoever_follows_it(last, error):
    memory, first = chain(1, 2, 3, last=last)
    with pytest.raises(error) as plain:
        walk(memory, first)
    with pytest.raises(error) as ahead:
        walk_with(Chaining(memory, 9), first)
    assert str(plain.value) == str(ahead.value)


def test_empty():
    assert walk(Memory(), HEAD) == []


def test_a_circle_beside_the_head_ends():
    memory, first = chain(1, 2, 3, last=node(2) + 0x40)
    with pytest.raises(Changed, match="the list of nodes comes back to .* after 3 entries"):
        walk(memory, first)


def test_what_came_before_a_tear_is_still_given():
    memory, first = chain(1, 2, last=POISON)
    walked = entries(memory.read, HEAD, first, NODE, "link", "the list of nodes", 100)
    assert [entry.unsigned("value") for entry in itertools.islice(walked, 2)] == [1, 2]
    with pytest.raises(Changed, match="the list of nodes leads to 0xdead000000000100"):
        next(walked)


@pytest.mark.parametrize("torn", [0, 8, 0x7FFF_FFFF_FFF0, 0x8000_0000_0000_0000, 2**64 - 2**56 - 8])
def test_a_link_that_is_no_kernel_address(torn):
    memory, first = chain(1, last=torn)
    with pytest.raises(Changed, match="no kernel address"):
        walk(memory, first)


def test_a_link_into_unmapped_memory():
    memory, first = chain(1, last=BASE + 0x50_0040)
    with pytest.raises(Unreadable, match=f"at {BASE + 0x50_0000:#x}"):
        walk(memory, first)


def test_a_list_made_endless_is_bounded():
    memory, first = chain(*range(50))
    with pytest.raises(Changed, match="does not end within 49 entries"):
        walk(memory, first, limit=49)
    assert len(walk(memory, first, limit=50)) == 50


TREE = Layout("struct leaf", 0x40, {"value": (0, 4), "rb": (8, 24), "rb.rb_left": (0x18, 8), "rb.rb_right": (0x10, 8)})


def leaf(index):
    return BASE + index * 0x40


def tree(shape):
    """Leaves by number, with the numbers of their children or None."""
    memory = Memory()
    for index, (left, right) in shape.items():
        children = {path: leaf(child) + 8 for path, child in (("rb.rb_left", left), ("rb.rb_right", right))
                    if child is not None}
        memory.put_structure(leaf(index), TREE, {"value": index, **children})
    return memory


def walk_tree(memory, root, limit=100):
    return [entry.unsigned("value") for entry in tree_entries(memory.read, root, TREE, "rb", "the tree", limit)]


def test_tree_in_order_with_one_read_each():
    memory = tree({4: (2, 6), 2: (1, 3), 6: (None, 7), 1: (None, None), 3: (None, None), 7: (None, None)})
    assert walk_tree(memory, leaf(4) + 8) == [1, 2, 3, 4, 6, 7]
    assert len(memory.reads) == 6


def test_empty_tree():
    assert walk_tree(Memory(), 0) == []


@pytest.mark.parametrize("shape", [{1: (1, None)}, {1: (None, 1)}, {1: (2, None), 2: (None, 1)}])
def test_a_circle_in_a_tree_ends(shape):
    with pytest.raises(Changed, match="the tree comes back"):
        walk_tree(tree(shape), leaf(1) + 8)


def test_a_tree_is_bounded():
    with pytest.raises(Changed, match="does not end within 2 entries"):
        walk_tree(tree({1: (2, None), 2: (3, None), 3: (None, None)}), leaf(1) + 8, limit=2)
