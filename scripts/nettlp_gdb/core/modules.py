"""The loaded modules (kernel/module/main.c).

Where a module's code lies is said by `core_layout` before 6.4 and by `mem[]` since (commit ac3b43283923).
"""

from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .layout import Layout, View
from .lists import entries
from .memory import Read, kernel_pointer
from .text import c_string, printable

MODULE_MEMBERS = ("name", "list", "list.next", "state")
MODULE_OPTIONAL = (
    "core_layout.base", "core_layout.size", "mem", "refcnt.counter", "source_list", "source_list.next",
)
MEMORY_MEMBERS = ("base", "size")
USE_MEMBERS = ("source_list", "source_list.next", "source")

HEADER = f"{'Address':<18} {'Module':<19} {'Size':>8}  Used by"

_LIMIT = 1 << 16
_MODULE_REF_BASE = 1


class ModuleLayouts(NamedTuple):
    """What `walk` has to know of the kernel's structures.

    `memory` (`module_memory`) and `kept`, the indexes into `mem[]` of what stays after initialisation, are needed
    where there is no `core_layout`; `use` (`module_use`) where modules can be unloaded. `unformed` is the state of
    a module of which only the name is valid yet.
    """

    module: Layout
    memory: Optional[Layout]
    kept: Sequence[int]
    use: Optional[Layout]
    unformed: int


class Module(NamedTuple):
    """One loaded module. `references` is `None` in kernels that cannot unload it."""

    address: int
    name: str
    base: int
    size: int
    references: Optional[int]
    users: Tuple[str, ...]


def walk(read: Read, layouts: ModuleLayouts, head: int, first: int) -> List[Module]:
    """The modules on the list with its head, the variable `modules`, at `head` and its first link at `first`."""
    views = list(entries(read, head, first, layouts.module, "list", "the list of modules", _LIMIT))
    names = {view.address: _name(view) for view in views}
    loaded: List[Module] = []
    for view in views:
        if view.unsigned("state") == layouts.unformed:
            continue
        base, size = _extent(layouts, view)
        references = view.signed("refcnt.counter") - _MODULE_REF_BASE if "refcnt.counter" in view.layout else None
        users = tuple(names.get(user) or _name(layouts.module.read(read, kernel_pointer(user, "a module's user")))
                      for user in _users(read, layouts, view))
        loaded.append(Module(view.address, names[view.address], base, size, references, users))
    return loaded


def row(module: Module) -> str:
    """One line of the table under `HEADER`."""
    used = "-" if module.references is None else str(module.references)
    users = " " + ",".join(module.users) if module.users else ""
    return f"{module.base:#x} {module.name:<19} {module.size:>8}  {used}{users}"


def _name(view: View) -> str:
    return printable(c_string(view.raw("name")))


def _extent(layouts: ModuleLayouts, module: View) -> Tuple[int, int]:
    """Where a module's text starts, and the size of all it keeps."""
    if layouts.memory is None:
        return module.unsigned("core_layout.base"), module.unsigned("core_layout.size")
    mem = module.raw("mem")
    kept = [layouts.memory.element(mem, kind) for kind in layouts.kept]
    return kept[0].unsigned("base"), sum(part.unsigned("size") for part in kept)


def _users(read: Read, layouts: ModuleLayouts, module: View) -> Iterator[int]:
    """Addresses of the modules that use `module`."""
    if layouts.use is None:
        return
    uses = entries(read, module.address_of("source_list"), module.unsigned("source_list.next"), layouts.use,
                   "source_list", "the list of a module's users", _LIMIT)
    for use in uses:
        yield use.unsigned("source")
