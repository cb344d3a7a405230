"""Commands that the server answers, and what its answers mean."""

from .errors import TargetError

#: how the answer to a command begins that the server does not have, or could not do
_UNKNOWN = "there is no `monitor "
#: what the first line of an answer that is one begins with
_TABLES = {"maps": "0123456789abcdef", "files": " "}


def command(name: str, pid: str) -> str:
    """The server's command `name` for a process."""
    if not pid.isdecimal():
        raise TargetError(f"Provide a PID as integer value, not {pid}")
    return f"{name} {int(pid)}"


def answer(name: str, text: str) -> str:
    """The table in an answer; a sentence in its place is an error."""
    if text.startswith(_UNKNOWN):
        raise TargetError(f"this server has no `monitor {name}`")
    if not text or text[0] not in _TABLES[name] or " " not in text:
        raise TargetError(text.strip() or f"the server says nothing to `monitor {name}`")
    first = text.split("\n", 1)[0]
    if name == "maps" and "-" not in first.split(" ", 1)[0]:
        raise TargetError(text.strip())
    return text
