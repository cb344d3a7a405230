"""From nothing but physical memory and a source tree to a process list, as the thesis went, step by step.

A guest whose `/boot/config-*` somebody has read is seen through the emulated adapter, alive and then panicked: info,
dump, kconfig, rebuild-types, `init_task` without symbols, ps. No vmlinux is given, no version, no address. The list is
compared with what the guest itself says. Run as `python3 -m lab.thesis_flow [--source DIR]`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab import fetch, initramfs, process, source
from lab.bench import Bench
from lab.demo import REPOSITORY, built_binary
from lab.guest import Guest, GuestError, Machine
from lab.tasks import listed, tasks

# What the thesis reports of the same step; it gives no times.
THESIS = {
    "info": "kernel version known in advance",
    "dump": "8 GB read and stored",
    "kconfig": "strings | grep over the dump",
    "rebuild-types": "whole kernel, 64 GB of disk",
    "init_task": "2 hits for swapper/0 in the dump",
    "ps": "6 reads a task, one at a time",
}

PARTIAL = 3

# A running guest's workers come and go; its own list has to be the same before and after ours.
SETTLE_ATTEMPTS = 6


@dataclass
class Step:
    """One step of the flow, and what it took."""

    name: str
    seconds: float
    link_bytes: int | None
    disk_bytes: int | None
    result: str


@dataclass
class Flow:
    """What the steps took in each state, and where the list is not the guest's."""

    steps: dict[str, list[Step]] = field(default_factory=dict)
    differences: dict[str, list[str]] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        lines = [f"{'state':<9} {'step':<14} {'time':>8} {'over the link':>14} {'disk':>9}  {'result':<58} the thesis"]
        for state, steps in self.steps.items():
            for step in steps:
                lines.append(
                    f"{state:<9} {step.name:<14} {step.seconds:>6.1f} s {_size(step.link_bytes):>14}"
                    f" {_size(step.disk_bytes):>9}  {step.result:<58} {THESIS[step.name]}"
                )
        for state, differences in self.differences.items():
            same = "equal, pid and name" if not differences else f"{len(differences)} differences"
            lines.append(f"{state:<9} the list of {self.listed[state]} processes against the guest's own: {same}")
            lines += [f"    {line}" for line in differences]
        return "\n".join(lines)


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


class _Runner:
    """Runs the steps of one state."""

    def __init__(self, bench: Bench, steps: list[Step]):
        self._bench, self._steps = bench, steps

    def step(self, name: str, arguments: list[str], result, output: Path | None = None, target: bool = True) -> str:
        """Runs nettlp-gdb; `result` makes a sentence of its standard output and error. Returns the output."""
        command = self._bench.command(*arguments) if target else [str(self._bench.binary), *arguments]
        start = time.monotonic()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
        seconds = time.monotonic() - start
        if done.returncode not in (0, PARTIAL):
            raise process.ProcessError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()}")
        crossed = re.search(r"^total: \d+ requests, (\d+) bytes", done.stderr, re.MULTILINE) if target else None
        sentence = result(done.stdout, done.stderr)
        disk = _on_disk(output) if output else None
        self._steps.append(Step(name, seconds, int(crossed[1]) if crossed else None, disk, sentence))
        return done.stdout


def run(binary: Path, kernel: fetch.Kernel, source_tree: Path, directory: Path) -> Flow:
    """The whole flow on a guest of its own; files are made in `directory`."""
    flow = Flow()
    archive = initramfs.build(directory / "initramfs.cpio", config=kernel.config)
    with Guest(Machine(kernel.vmlinuz, archive)) as guest:
        guest.run("cat /boot/config-* >/dev/null")
        bench = Bench(binary, guest.ram_file, guest.ram, None)
        try:
            bench.start_adapter()
            _state(flow, "alive", bench, kernel, source_tree, directory, lambda: _own(guest))
            last = _own(guest)
            guest.panic()
            _state(flow, "panicked", bench, kernel, source_tree, directory, lambda: last)
        finally:
            bench.close()
    return flow


def _own(guest: Guest) -> set[tuple[int, str]]:
    """The guest's own list of processes."""
    return listed([task for task in tasks(guest) if task.pid == task.tgid])


def _state(
    flow: Flow, state: str, bench: Bench, kernel: fetch.Kernel, source_tree: Path, directory: Path, own
) -> None:
    steps = flow.steps.setdefault(state, [])
    runner = _Runner(bench, steps)
    dump, config, types = directory / f"{state}.elf", directory / "config", directory / "types.o"

    def release(stdout: str, _: str) -> str:
        found = json.loads(stdout)
        return f"{found['release']}, {found['levels']} levels, slide {found['slide']}"

    runner.step("info", ["info", "--json", "--stats"], release)
    runner.step("dump", ["dump", "-o", str(dump), "--stats", "--quiet"], lambda out, _: _dumped(out), dump)
    if not types.exists():
        runner.step(
            "kconfig", ["kconfig", "--image", str(dump), "--source", str(source_tree), "-o", str(config)],
            lambda *_: _configured(config, kernel.config), config, target=False,
        )
        steps.append(_rebuild(source_tree, config, types))
    runner.step(
        "init_task", ["info", "--json", "--stats", "--vmlinux", str(types)], lambda out, _: _first_task(json.loads(out)),
    )
    arguments = ["ps", "--format", "process-list", "--stats", "--vmlinux", str(types)]
    for _ in range(SETTLE_ATTEMPTS):
        expected = own()
        printed = runner.step("ps", arguments, lambda out, _: f"{len(out.splitlines()) - 1} processes")
        if own() == expected:
            break
        steps.pop()
    else:
        raise GuestError(f"the guest's processes changed in each of {SETTLE_ATTEMPTS} attempts")
    found = [(int(line[17:23]), line[29:]) for line in printed.splitlines()[1:]]
    flow.listed[state] = len(found)
    flow.differences[state] = [f"only in the list: {pid} {comm}" for pid, comm in found if (pid, comm) not in expected]
    flow.differences[state] += [f"only in the guest: {pid} {comm}" for pid, comm in sorted(expected - set(found))]
    if len(set(found)) != len(found):
        flow.differences[state].append("a process is listed twice")


def _dumped(stdout: str) -> str:
    sizes = re.search(r"(\d+) bytes of RAM = (\d+) kept \+ (\d+) read \+ (\d+) missing", stdout)
    return f"{int(sizes[1]) >> 20} MiB of RAM, {sizes[4]} bytes missing" if sizes else stdout.strip()


def _configured(found: Path, true: Path) -> str:
    options, expected = (
        {line for line in path.read_text().splitlines() if re.match(r"CONFIG_|# CONFIG_", line)} for path in (found, true)
    )
    return f"{len(options & expected)} of {len(expected)} options, {len(options - expected)} wrong"


def _first_task(found: dict) -> str:
    [line] = [line for line in found["evidence"] if line["what"] == "init_task" and line["confidence"] != "dropped"]
    return f"{found['init_task']}, {line['confidence']}: {line['method']}"


def _rebuild(source_tree: Path, config: Path, types: Path) -> Step:
    command = [str(REPOSITORY / "scripts/rebuild-types"), "--source", str(source_tree), "--config", str(config), "-o", str(types)]
    start = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)
    if done.returncode != 0:
        raise process.ProcessError(f"rebuild-types failed: {done.stderr.strip()}")
    seconds = time.monotonic() - start
    size, used = re.search(r"types\.o: ([\d.]+ MB) in \d+ s, (\d+) MB of disk", done.stderr).groups()
    lost = re.search(r"(\d+) were changed or dropped", done.stderr)
    return Step("rebuild-types", seconds, None, int(used) * 1_000_000, f"{size}; {lost[1] if lost else 0} options changed by olddefconfig")


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/thesis-flow", description=__doc__.split("\n")[0])
    options.add_argument("--source", type=Path, metavar="DIR", help="a source tree of the guest's kernel")
    options = options.parse_args()
    process.end_on_signals()
    try:
        kernel = fetch.kernel()
        with tempfile.TemporaryDirectory(prefix="nettlp-gdb-thesis-") as directory:
            flow = run(built_binary(), kernel, options.source or source.tree(kernel), Path(directory))
    except KeyboardInterrupt:
        return 130
    except (fetch.FetchError, GuestError, process.ProcessError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(flow.table())
    return 1 if any(flow.differences.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
