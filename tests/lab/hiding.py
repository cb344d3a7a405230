"""Hides a task of a stopped guest from one of the kernel's records, in its memory, as rootkits do; and shows it again."""

from collections.abc import Iterator
from contextlib import contextmanager

from drgn import Object, Program
from drgn.helpers.linux.list import list_empty
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.pid import find_task

from lab.guest import Guest

#: `XA_CHUNK_SHIFT`, and what a pointer to a node of an XArray is marked with
CHUNK_BITS = 6
NODE_MARK = 2

# Words by their addresses.
Words = dict[int, int]


@contextmanager
def hidden(guest: Guest, program: Program, words: Words) -> Iterator[None]:
    """Leaves `words` in the guest's memory for the time of the block. The guest must be stopped."""
    before = {address: program.read_u64(address) for address in words}
    _write(guest, program, words)
    try:
        yield
    finally:
        _write(guest, program, before)


def from_the_task_list(program: Program, pid: int) -> Words:
    """What `list_del(&task->tasks)` writes into the neighbours."""
    return _unlinked(find_task(program, pid).tasks)


def from_its_family(program: Program, pid: int) -> Words:
    """What `list_del(&task->sibling)` writes; of a task with children they are lost with it."""
    task = find_task(program, pid)
    assert list_empty(task.children.address_of_())
    return _unlinked(task.sibling)


def from_the_pid_idr(program: Program, pid: int) -> Words:
    """What `idr_remove()` leaves in the place of a number: nothing. `lib/idr.c`, `lib/radix-tree.c`."""
    idr = program["init_pid_ns"].idr
    entry, index = idr.idr_rt.xa_head.value_(), pid - idr.idr_base.value_()
    while True:
        node = Object(program, "struct xa_node *", entry - NODE_MARK)
        slot = node.slots[index >> node.shift.value_() & (1 << CHUNK_BITS) - 1]
        if node.shift.value_() == 0:
            return {slot.address_: 0}
        entry = slot.value_()


def _unlinked(node: Object) -> Words:
    following, previous = node.next, node.prev
    places = previous.next.address_of_(), following.prev.address_of_()
    return {place.value_(): neighbour.value_() for place, neighbour in zip(places, (following, previous))}


def _write(guest: Guest, program: Program, words: Words) -> None:
    with guest.ram_file.open("r+b", buffering=0) as ram:
        for address, value in words.items():
            physical = follow_phys(program["init_mm"].address_of_(), address).value_()
            (segment,) = [part for part in guest.ram if part.phys <= physical < part.phys + part.length]
            ram.seek(segment.offset + physical - segment.phys)
            ram.write(value.to_bytes(8, "little"))
