"""lx-lsmod."""

from typing import Iterator

from . import target
from .command import command, show
from .core import modules


def _layouts() -> modules.ModuleLayouts:
    module = target.layout("struct module", modules.MODULE_MEMBERS, modules.MODULE_OPTIONAL)
    is_split = "core_layout.base" not in module
    return modules.ModuleLayouts(
        module=module,
        memory=target.layout("struct module_memory", modules.MEMORY_MEMBERS) if is_split else None,
        kept=_kept() if is_split else (),
        use=target.layout("struct module_use", modules.USE_MEMBERS) if "source_list" in module else None,
        unformed=target.enumerator("enum module_state", "MODULE_STATE_UNFORMED"),
    )


def _kept() -> range:
    """The parts of a module that outlive its initialisation."""
    kind = "enum mod_mem_type"
    return range(target.enumerator(kind, "MOD_TEXT"), target.enumerator(kind, "MOD_RO_AFTER_INIT") + 1)


def _rows() -> Iterator[str]:
    head = target.symbol("modules")
    first = target.pointer(head, "modules")
    return map(modules.row, modules.walk(target.read, _layouts(), head, first))


@command("lx-lsmod")
def lx_lsmod() -> None:
    """List currently loaded modules.

    Usage: lx-lsmod

    One line per module: the address of its code, its name, the bytes it keeps, how
    often it is in use, and by which modules."""
    show(modules.HEADER, _rows)
