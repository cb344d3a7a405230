"""The kernel that GDB has before it: its memory, its symbols and the layouts of its types.

The only module that asks GDB about the target. Everything fails with an error of `core.errors`.
"""

from typing import List, Optional, Sequence

import gdb

from .core import members
from .core.errors import TargetError, Unreadable, Unsupported
from .core.layout import Layout
from .core.memory import POINTER_SIZE, Reader, read_c_string, read_pointer

_BANNER = b"Linux version "


class _Memory(Reader):
    def __call__(self, address: int, length: int, what: str) -> bytes:
        try:
            return bytes(gdb.selected_inferior().read_memory(address, length))
        except (gdb.error, OverflowError):
            raise Unreadable(address, length, what) from None

    def chain(self, node: int, head: int, before: int, length: int, link: int) -> List[bytes]:
        # GDB 12 and later can send a packet of ours.
        send = getattr(getattr(gdb.selected_inferior(), "connection", None), "send_packet", None)
        reply = send(f"qnettlp.list:{node:x},{head:x},{before:x},{length:x},{link:x}") if send else None
        if not reply or reply.startswith(b"E"):
            return []
        entries = bytes.fromhex(reply.decode("ascii"))
        return [entries[at : at + length] for at in range(0, len(entries), length)]


read = _Memory()


def require() -> None:
    """Says what is missing, if the commands cannot work at all. Costs one read: symbols of another kernel, or not
    relocated, would make garbage that looks like data."""
    if not gdb.objfiles():
        raise TargetError("no symbols: give GDB the kernel's vmlinux (gdb VMLINUX, or file VMLINUX), then connect")
    if find_symbol("init_task") is None:
        raise TargetError(f"{gdb.objfiles()[0].filename} is no vmlinux: it has no init_task")
    try:
        gdb.lookup_type("struct task_struct")
    except gdb.error:
        raise TargetError(f"{gdb.objfiles()[0].filename} has no types: load a vmlinux with debug information") from None
    if gdb.selected_thread() is None:
        raise TargetError("no target: connect first, such as by target remote :1234")
    banner = read(symbol("linux_banner"), len(_BANNER), "linux_banner")
    if banner != _BANNER:
        raise TargetError("linux_banner is not where the symbols say: load this kernel's own vmlinux, before "
                          "connecting, so that GDB relocates it (or `disconnect` and `target remote` again)")


def find_symbol(name: str, file: str = "") -> Optional[int]:
    """Address of a variable, `None` if there is none such. `file` tells apart the static ones of several files."""
    try:
        return int(gdb.parse_and_eval(f"&'{file}'::{name}" if file else f"&{name}"))
    except gdb.error:
        return None


def symbol(name: str, file: str = "") -> int:
    """Address of a variable that every kernel has."""
    address = find_symbol(name, file)
    if address is None and file:
        address = find_symbol(name)
    if address is None:
        raise Unsupported(f"no symbol {name} in this vmlinux")
    return address


def unsigned(name: str, file: str = "") -> int:
    """Value of a variable that is an integer or a pointer."""
    address = symbol(name, file)
    try:
        size = gdb.parse_and_eval(f"sizeof('{file}'::{name})" if file else f"sizeof({name})")
    except gdb.error:  # a symbol without type
        size = POINTER_SIZE
    return int.from_bytes(read(address, int(size), name), "little")


def pointer(address: int, what: str) -> int:
    """The pointer stored at `address`."""
    return read_pointer(read, address, what)


def variable(name: str) -> bytes:
    """The bytes of a variable of any type, in one read."""
    address = symbol(name)
    return read(address, int(gdb.parse_and_eval(f"sizeof({name})")), name)


def c_string(address: int, limit: int, what: str) -> bytes:
    """The string at `address`, without its NUL."""
    return read_c_string(read, address, limit, what)


def layout(name: str, required: Sequence[str], optional: Sequence[str] = ()) -> Layout:
    """Layout of the type `name`, with those of the `optional` members that it has."""
    kind = _type(name)
    found = members.find(kind, (*required, *optional))
    for path in required:
        if path not in found:
            raise Unsupported(f"{name} of this kernel has no member {path}")
    return Layout(name, kind.sizeof, found)


def has_type(name: str) -> bool:
    """Whether the kernel has a type of this name."""
    try:
        _type(name)
    except Unsupported:
        return False
    return True


def enumerator(enum: str, name: str) -> int:
    """Value of the constant `name` of the type `enum`."""
    for field in _type(enum).fields():
        if field.name == name:
            return int(field.enumval)
    raise Unsupported(f"{enum} of this kernel has no {name}")


def object_at(name: str, address: int) -> gdb.Value:
    """The object of the type `name` at `address`, as a value for GDB's expressions."""
    return gdb.Value(address).cast(_type(name).pointer()).dereference()


def _type(name: str) -> gdb.Type:
    try:
        return gdb.lookup_type(name).strip_typedefs()
    except gdb.error:
        raise Unsupported(f"no {name} in this vmlinux") from None
