import pytest

from nettlp_gdb.core import modules
from nettlp_gdb.core.errors import Changed
from nettlp_gdb.core.layout import Layout
from synthetic import BASE, Memory, pack

UNFORMED = 3
HEAD = BASE + 0x10_0000
COMMON = {"state": (0, 4), "list": (8, 16), "list.next": (8, 8), "name": (0x18, 56)}
USED = {"refcnt.counter": (0x300, 4), "source_list": (0x2E0, 16), "source_list.next": (0x2E0, 8)}
CORE = {"core_layout.base": (0x140, 8), "core_layout.size": (0x148, 4)}
MEMORY = Layout("struct module_memory", 0x48, {"base": (0, 8), "size": (0x10, 4)})
USE = Layout("struct module_use", 0x30, {
    "source_list": (0, 16), "source_list.next": (0, 8), "source": (0x20, 8),
})
LAYOUTS = {
    "core_layout": modules.ModuleLayouts(
        Layout("struct module", 0x380, {**COMMON, **USED, **CORE}), None, (), USE, UNFORMED),
    "mem": modules.ModuleLayouts(
        Layout("struct module", 0x500, {**COMMON, **USED, "mem": (0x80, 7 * 0x48)}),
        MEMORY, range(0, 4), USE, UNFORMED),
}
BOTH = pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)


def address(index):
    return BASE + index * 0x1000


def kernel(layouts, loaded):
    """A target with these modules, each (name, base, size, state, indexes of its users)."""
    memory, link = Memory(), layouts.module.offset("list")
    links = [address(index) + link for index in range(len(loaded))] + [HEAD]
    for index, (name, base, size, state, users) in enumerate(loaded):
        here = address(index)
        uses = [here + 0x800 + place * 0x40 for place in range(len(users))]
        uses.append(here + layouts.module.offset("source_list"))
        for use, following, user in zip(uses, uses[1:], users):
            memory.put_structure(use, USE, {"source_list.next": following, "source": address(user)})
        values = {"state": state, "list.next": links[index + 1], "name": name, "refcnt.counter": 1 + len(users),
                  "source_list.next": uses[0]}
        if layouts.memory is None:
            values.update({"core_layout.base": base, "core_layout.size": size})
        else:
            parts = [(base, size // 2), (base + 0x4000, size - size // 2), (0, 0), (0, 0), (base + 0x9000, 77)]
            values["mem"] = b"".join(pack(MEMORY, {"base": at, "size": length}) for at, length in parts)
        memory.put_structure(here, layouts.module, values)
    return memory, links[0]


XOR = (b"xor", 0xFFFF_FFFF_C020_9000, 24576, 0, [])
THREE = [(b"async_xor", 0xFFFF_FFFF_C021_4000, 20480, 0, []), (b"async_memcpy", 0xFFFF_FFFF_C021_C000, 20480, 0, []),
         (b"async_tx", 0xFFFF_FFFF_C020_1000, 20481, 0, [1, 0])]


def rows(layouts, loaded):
    memory, first = kernel(layouts, loaded)
    return [modules.row(module) for module in modules.walk(memory.read, layouts, HEAD, first)]


@BOTH
def test_rows(layouts):
    assert modules.HEADER == "Address            Module                  Size  Used by"
    assert rows(layouts, THREE) == [
        "0xffffffffc0214000 async_xor              20480  0",
        "0xffffffffc021c000 async_memcpy           20480  0",
        "0xffffffffc0201000 async_tx               20481  2 async_memcpy,async_xor",
    ]


@BOTH
def test_a_module_of_which_only_the_name_is_valid_is_left_out(layouts):
    assert len(rows(layouts, [XOR, (b"loading", 0, 0, UNFORMED, [])])) == 1


@BOTH
def test_one_read_a_module_and_one_a_use(layouts):
    memory, first = kernel(layouts, THREE)
    modules.walk(memory.read, layouts, HEAD, first)
    assert len(memory.reads) == 3 + 2


@BOTH
def test_users_in_a_circle(layouts):
    memory, first = kernel(layouts, THREE)
    memory.change(address(2) + 0x840, USE, "source_list.next", address(2) + 0x800)
    with pytest.raises(Changed, match="the list of a module's users comes back"):
        modules.walk(memory.read, layouts, HEAD, first)


@BOTH
def test_a_user_that_is_not_on_the_list_is_read(layouts):
    memory, first = kernel(layouts, THREE)
    memory.put_structure(address(9), layouts.module, {"name": b"late"})
    memory.change(address(2) + 0x800, USE, "source", address(9))
    found = modules.walk(memory.read, layouts, HEAD, first)
    assert found[2].users == ("late", "async_xor")


@BOTH
def test_a_user_that_is_no_pointer(layouts):
    memory, first = kernel(layouts, THREE)
    memory.change(address(2) + 0x800, USE, "source", 0)
    with pytest.raises(Changed, match="a module's user leads to 0x0"):
        modules.walk(memory.read, layouts, HEAD, first)


def test_a_kernel_that_cannot_unload():
    whole = LAYOUTS["core_layout"]
    memory, first = kernel(whole, [XOR])
    fixed = whole._replace(module=Layout("struct module", 0x380, {**COMMON, **CORE}), use=None)
    assert [modules.row(module) for module in modules.walk(memory.read, fixed, HEAD, first)] == [
        "0xffffffffc0209000 xor                    24576  -",
    ]
