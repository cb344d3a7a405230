"""lx-lsmod, lx-symbols and $lx_module()."""

from typing import Iterator

import gdb

from . import target
from .command import command, function, settled, show
from .core import modules
from .core.errors import TargetError

# The file that the server makes of the modules loaded when it is opened.
_SYMBOLS = "target:/modules"


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


def _modules() -> Iterator[modules.Module]:
    head = target.symbol("modules")
    first = target.pointer(head, "modules")
    return iter(modules.walk(target.read, _layouts(), head, first))


def _rows() -> Iterator[str]:
    return map(modules.row, _modules())


@command("lx-lsmod")
def lx_lsmod() -> None:
    """List currently loaded modules.

    Usage: lx-lsmod

    One line per module: the address of its code, its name, the bytes it keeps, how
    often it is in use, and by which modules."""
    show(modules.HEADER, _rows)


@command("lx-symbols")
def lx_symbols() -> None:
    """(Re-)load the symbols of the currently loaded modules.

    Usage: lx-symbols

    The server makes them of the kernel's memory, as they are loaded now, with types
    where the kernel carries any; no file of a module is needed. Give it again when
    modules came or went."""
    count = len(settled(_rows))
    for objfile in gdb.objfiles():
        if objfile.filename == _SYMBOLS:
            gdb.execute(f"remove-symbol-file {_SYMBOLS}", to_string=True)
    if count == 0:
        gdb.write("no modules are loaded\n")
        return
    try:
        gdb.execute(f"add-symbol-file {_SYMBOLS}", to_string=True)
    except gdb.error as error:
        raise TargetError(f"the server has no symbols of modules (monitor modules may say why): {error}") from None
    gdb.write(f"symbols of {count} modules loaded\n")


@function("lx_module")
def lx_module(name: gdb.Value) -> gdb.Value:
    """Find module by name and return the module variable.

    $lx_module("MODULE"): Return the struct module of a loaded module, as in:
    p $lx_module("ext4").refcnt"""
    wanted = name.string()
    for module in settled(_modules):
        if module.name == wanted:
            return target.object_at("struct module", module.address)
    raise TargetError(f"no module {wanted} is loaded")
