"""What the kernel's own gdb commands answer, kernel by kernel, and docs/lx-commands.md, which has it as a table.

Input: answers of `in_gdb.py`, by what was given, by state. Output: a kernel's column and the reasons behind it, as seen and
as documented.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from lab import written

IN_GDB = Path(__file__).with_name("in_gdb.py")
TABLE = written.Part(written.REPOSITORY / "docs" / "lx-commands.md", "tests/lab")
NOT_DEFINED = "–"
REGENERATE = "docs/lx-commands.md differs; ./scripts/test --ring lab -- -k kernels_own_commands --write writes what was seen"

# By name of a command: outcome and text.
Answers = dict[str, tuple[str, str]]


def load(scripts: Path) -> list[str]:
    """The gdb commands that ask; the last one prints."""
    return [f"python SCRIPTS = {str(scripts)!r}", f"source {IN_GDB}"]


def answers(printed: str) -> Answers:
    """Of what gdb printed when it was given IN_GDB."""
    return {name: (outcome, text) for name, outcome, text in json.loads(printed.splitlines()[-1])}


@dataclass
class Column:
    """A kernel's: a cell for each command that its scripts define, and a line for each reason not to answer."""

    cells: dict[str, str]
    reasons: list[str]


def seen(states: dict[str, dict[str, Answers]]) -> Column:
    """By state, then by what gdb was given ("nothing", "vmlinux"): one word where all that is the same."""
    cells, reasons = {}, defaultdict(list)
    for name in states["alive"]["nothing"]:
        alive, panicked = (_cell(*(given[what].get(name) for what in ("nothing", "vmlinux"))) for given in states.values())
        cells[name] = alive if alive == panicked else f"{alive}; panicked: {panicked}"
        outcome, text = states["alive"]["nothing"][name]
        if outcome != "yes":
            reasons[re.sub("0x[0-9a-f]+", "0x…", text)].append(f"`{name}`")
    return Column(cells, [f"{', '.join(names)}: {text}" for text, names in reasons.items()])


def _cell(nothing: tuple[str, str], vmlinux: tuple[str, str]) -> str:
    if nothing == vmlinux:
        return nothing[0]
    return f"{nothing[0]}, otherwise with its vmlinux: {vmlinux[0]}"


class Document:
    """The columns that docs/lx-commands.md has, by kernel."""

    def __init__(self) -> None:
        text = TABLE.read()
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|"))
        self.columns = {kernel: Column({}, []) for kernel in header[1:]}
        for name, *cells in rows:
            for kernel, cell in zip(self.columns, cells, strict=True):
                if cell != NOT_DEFINED:
                    self.columns[kernel].cells[name.strip("`")] = cell
        for kernel, reason in re.findall(r"^\* (\S+): (.*)$", text, re.MULTILINE):
            self.columns[kernel].reasons.append(reason)

    def kernel(self, scenario: str, release: str) -> str:
        """The column of a kernel of the matrix: of the same series, which moves on while answers stay."""
        series = (kernel for kernel in self.columns if f"{kernel}.".startswith(f"{scenario}."))
        return next(series, _series(release))

    def write(self, scenario: str, release: str, column: Column) -> None:
        self.columns.pop(self.kernel(scenario, release), None)
        self.columns[_series(release)] = column
        kernels = sorted(self.columns, key=lambda kernel: [int(number) for number in kernel.split(".")])
        names = {name for column in self.columns.values() for name in column.cells}
        lines = ["| | " + " | ".join(kernels) + " |", "| --- |" + " --- |" * len(kernels)]
        for name in sorted(names, key=lambda name: (name.startswith("$"), name)):
            cells = (self.columns[kernel].cells.get(name, NOT_DEFINED) for kernel in kernels)
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
        lines += ["", "What the scripts say where they do not answer:", ""]
        lines += [f"* {kernel}: {reason}" for kernel in kernels for reason in self.columns[kernel].reasons]
        TABLE.write("\n".join(lines) + "\n")


def _series(release: str) -> str:
    return re.match(r"\d+\.\d+", release)[0]
