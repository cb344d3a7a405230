"""Target bytes as text for a terminal."""

import re

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def printable(raw: bytes) -> str:
    """`raw` as text that stays on its line.

    Any user of the target chooses comm, mount paths and, through /dev/kmsg, log lines: control characters other
    than the tab become `\\xNN`, so that none reaches the terminal of whoever debugs it.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", raw.decode("utf-8", "replace"))


def c_string(raw: bytes) -> bytes:
    """The part of a character array before its NUL."""
    return raw.partition(b"\0")[0]
