"""Parts of a document that a program writes: each between two comments that name the program."""

import datetime
import os
import platform
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PERFORMANCE = REPOSITORY / "docs" / "performance.md"


@dataclass(frozen=True)
class Part:
    """The part of `document` that `by` writes."""

    document: Path
    by: str

    def read(self) -> str:
        return self._cut()[1]

    def write(self, text: str) -> None:
        before, _, after = self._cut()
        self.document.write_text(before + text + after)

    def _cut(self) -> tuple[str, str, str]:
        start, end = (f"<!-- {self.by}: {bound} here -->\n" for bound in ("from", "to"))
        before, rest = self.document.read_text().split(start)
        text, after = rest.split(end)
        return before + start, text, end + after


def measured(command: str, load_before: float) -> str:
    """What was run, where and when, and whether the machine had anything else to do; `load_before` as it was at the start."""
    load, cpus = (load_before, os.getloadavg()[0]), os.cpu_count() or 1
    busy = max(load) / cpus
    quiet = "nothing else ran" if busy < 1 else f"**not quiet: {busy:.0f} processes wanted each CPU**"
    return (
        f"`{command}` on {datetime.date.today()}: {cpus} CPUs, {platform.system()} {platform.release().split('-')[0]}, "
        f"load {load[0]:.1f} before and {load[1]:.1f} after ({quiet})"
    )
