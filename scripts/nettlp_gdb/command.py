"""How a function becomes a GDB command or convenience function, and when it does not.

A subsystem decorates its functions; `register` then makes them known to GDB, except those that GDB has already:
where the kernel's own scripts are loaded, theirs stay.
"""

import inspect
from typing import Any, Callable, Iterator, List, Tuple, TypeVar

import gdb

from . import target
from .core.errors import Changed, TargetError

_Item = TypeVar("_Item")

_commands: List[Tuple[str, Callable[..., None]]] = []
_functions: List[Tuple[str, Callable[..., gdb.Value]]] = []

_ATTEMPTS = 3


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The decorated function, which takes the words after it, as the GDB command `name`."""

    def note(body: Callable[..., None]) -> Callable[..., None]:
        _commands.append((name, body))
        return body

    return note


def function(name: str) -> Callable[[Callable[..., gdb.Value]], Callable[..., gdb.Value]]:
    """The decorated function as the convenience function `$name`."""

    def note(body: Callable[..., gdb.Value]) -> Callable[..., gdb.Value]:
        _functions.append((name, body))
        return body

    return note


def register() -> List[str]:
    """Makes the commands and functions known to GDB; returns the names of those that somebody else provides."""
    present = []
    for name, body in _commands:
        if not help_of(name):
            _define_command(name, body)
        elif not _is_help(body, help_of(name)):
            present.append(name)
    for name, body in _functions:
        # Not by its help: GDB takes the beginning of a name for the whole.
        if gdb.convenience_variable(name) is None:
            _define_function(name, body)
        elif not _is_help(body, help_of(f"function {name}")):
            present.append(f"${name}")
    return present


def help_of(name: str) -> str:
    """What GDB's help says of a command, nothing if it does not know it."""
    try:
        return gdb.execute(f"help {name}", to_string=True)
    except gdb.error:
        return ""


def settled(walk: Callable[[], Iterator[_Item]]) -> List[_Item]:
    """The items of a walk, begun anew when the target changed under it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(walk())
        except Changed:
            continue
    return list(walk())


def show(header: str, rows: Callable[[], Iterator[str]]) -> None:
    """Prints a table. Where the target does not let it end, the rows up to there come before the error."""
    shown = [header]

    def kept() -> Iterator[str]:
        del shown[1:]
        for line in rows():
            shown.append(line)
            yield line

    try:
        settled(kept)
    except BaseException:
        if shown == [header]:
            shown.clear()
        raise
    finally:
        gdb.write("".join(line + "\n" for line in shown))


def warn(text: str) -> None:
    """A line on the error stream."""
    gdb.write(f"nettlp-gdb: {text}\n", gdb.STDERR)


def _define_command(name: str, body: Callable[..., None]) -> None:
    class Command(gdb.Command):
        __doc__ = inspect.getdoc(body)

        def __init__(self) -> None:
            super().__init__(name, gdb.COMMAND_DATA)

        def invoke(self, argument: str, from_tty: bool) -> None:
            arguments = gdb.string_to_argv(argument)
            _guarded(name, f"help {name}", body, *arguments)

    Command()


def _define_function(name: str, body: Callable[..., gdb.Value]) -> None:
    class Function(gdb.Function):
        __doc__ = inspect.getdoc(body)

        def __init__(self) -> None:
            super().__init__(name)

        def invoke(self, *arguments: gdb.Value) -> gdb.Value:
            return _guarded(f"${name}", f"help function {name}", body, *arguments)

    Function()


def _guarded(name: str, help_command: str, body: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `body`; a misuse, or what the target does not give, becomes one line."""
    try:
        inspect.signature(body).bind(*arguments)
    except TypeError:
        raise gdb.GdbError(f"{name}: wrong number of arguments, {len(arguments)}: see {help_command}") from None
    try:
        target.require()
        return body(*arguments)
    except (TargetError, gdb.error) as error:
        raise gdb.GdbError(f"{name}: {error}") from None


def _is_help(body: Callable[..., Any], text: str) -> bool:
    """Whether this help text is that of `body`, which GDB may have indented anew."""
    return " ".join((inspect.getdoc(body) or "").split()) in " ".join(text.split())
