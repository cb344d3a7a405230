"""The ways in which looking at a kernel fails. The text of each is one sentence for the user."""


class TargetError(Exception):
    """The target, or its symbols, did not give what was asked."""


class Unreadable(TargetError):
    """Memory that the target does not give."""

    def __init__(self, address: int, length: int, what: str) -> None:
        super().__init__(f"cannot read {length} bytes at {address:#x} ({what})")
        self.address = address
        self.length = length
        self.what = what


class Changed(TargetError):
    """Data that contradicts itself: it changed while it was read, or was damaged before. Worth another look."""


class Unsupported(TargetError):
    """A kernel without the symbol, type or member that is needed."""
