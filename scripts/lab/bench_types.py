"""Time to derive all offsets from a vmlinux, beside drgn's time to load the same file.

Ours is opening the file, reading its symbols and resolving every member of the structs the commands read
(`examples/derive_offsets.rs`). drgn's is `Program.load_debug_info([vmlinux])`, for a kernel behind a memory transport of
its own, which is how drgn is attached to what we attach to. Each runs in a process of its own, in turns, after one run
that warms the page cache.
"""

import dataclasses
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lab.process import ProcessError

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 5

DRGN = """
import sys, time, drgn
vmlinux, build_id = sys.argv[1:]
program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64, drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN))
# Enough of VMCOREINFO for drgn to take the file for this kernel's. It has no memory, so drgn finds no modules to load too.
program.set_linux_kernel_custom(
    f"OSRELEASE=0\\nBUILD-ID={build_id}\\nPAGESIZE=4096\\nKERNELOFFSET=0\\nNUMBER(phys_base)=0\\n"
    "SYMBOL(init_uts_ns)=ffffffff82000000\\nSYMBOL(swapper_pg_dir)=ffffffff82001000\\nNUMBER(pgtable_l5_enabled)=0\\n", False)
start = time.perf_counter()
program.load_debug_info([vmlinux])
print("total_ms", (time.perf_counter() - start) * 1e3)
print("task_struct", program.type("struct task_struct").size)
"""


@dataclasses.dataclass
class Times:
    """Milliseconds of one run: the step itself, and the whole process around it."""

    step: float
    process: float


@dataclasses.dataclass
class Comparison:
    """What each took, run by run, and what ours said it derived."""

    ours: list[Times]
    drgn: list[Times]
    derived: str

    def table(self) -> str:
        lines = [f"{'milliseconds':<14}{'step: best':>12}{'median':>10}{'process: best':>16}{'median':>10}"]
        for name, times in (("nettlp-gdb", self.ours), ("drgn", self.drgn)):
            lines.append(f"{name:<14}{summary(times, 12, 10, 16, 10)}")
        ratios = [theirs / own for own, theirs in zip(figures(self.ours), figures(self.drgn))]
        lines.append("{:<14}{:>12}{:>10}{:>16}{:>10}".format("drgn / ours", *(f"{ratio:.1f}x" for ratio in ratios)))
        return "\n".join([*lines, self.derived])


def figures(times: list[Times]) -> list[float]:
    steps, processes = [run.step for run in times], [run.process for run in times]
    return [min(steps), statistics.median(steps), min(processes), statistics.median(processes)]


def summary(times: list[Times], *widths: int) -> str:
    return "".join(f"{figure:>{width}.1f}" for figure, width in zip(figures(times), widths))


def build_id(vmlinux: Path) -> str:
    notes = subprocess.run(["readelf", "-n", vmlinux], check=True, capture_output=True, text=True).stdout
    return notes.split("Build ID: ")[1].split()[0]


def run(command: list) -> tuple[Times, dict[str, str]]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    process = (time.perf_counter() - start) * 1e3
    if done.returncode != 0:
        raise ProcessError(f"{command[0]} exited with {done.returncode}: {done.stderr.strip()}")
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    return Times(float(said["total_ms"]), process), said


def compare(vmlinux: Path, rounds: int = ROUNDS) -> Comparison:
    ours = [REPOSITORY / "target/release/examples/derive_offsets", vmlinux]
    drgn = [sys.executable, "-c", DRGN, vmlinux, build_id(vmlinux)]
    (_, said), _ = run(ours), run(drgn)
    derived = f"derived: {said['structs']} structs, {said['members']} members, init_task at {said['init_task']}"
    if said["absent"]:
        derived += f"; not in this kernel: {said['absent']}"
    pairs = [(run(ours)[0], run(drgn)[0]) for _ in range(rounds)]
    return Comparison([own for own, _ in pairs], [theirs for _, theirs in pairs], derived)


def main() -> None:
    if len(sys.argv) > 1:
        vmlinux = Path(sys.argv[1])
    else:
        from lab import fetch

        vmlinux = fetch.kernel().vmlinux
    print(vmlinux)
    print(compare(vmlinux).table())


if __name__ == "__main__":
    main()
