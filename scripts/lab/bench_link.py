"""One table of ratios: the link against one read at a time and a bare UDP loop, gdb's commands against QEMU's own stub.

Run by scripts/bench. The guest stands still, so that both stubs show the same memory; they take turns, and the medians are
compared, because what else this machine does meets both.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import debugger, demo, fetch, initramfs, process
from lab.bench import Bench
from lab.guest import Guest, GuestError, Machine, image_arguments

LATENCIES = (0, 12, 100, 1000)
COMMANDS = ("lx-ps", "lx-dmesg")


def timed(command: str) -> str:
    """What makes gdb print the seconds a command of its takes."""
    return f"python t = time.perf_counter(); gdb.execute('{command}', to_string=True); print(time.perf_counter() - t)"


def seconds(vmlinux: Path, port: int) -> dict[str, float]:
    """How long each command takes once gdb has the symbols it needs, on memory nobody has remembered."""
    commands = ["python import time"]
    for each in COMMANDS:
        commands += [each, "monitor refresh", timed(each)]
    answers = debugger.ask(vmlinux, port, commands, scripts=demo.SCRIPTS)
    return {each: float(answers[3 * (1 + place)].split()[-1]) for place, each in enumerate(COMMANDS)}


def compare(guest: Guest, binary: Path, vmlinux: Path, qemu_port: int, latency: int, rounds: int) -> None:
    measured: dict[str, list[tuple[float, float]]] = {each: [] for each in COMMANDS}
    with Bench(binary, guest.ram_file, guest.ram, vmlinux, latency_us=latency) as bench:
        for _ in range(rounds):
            ours, qemus = seconds(vmlinux, bench.port), seconds(vmlinux, qemu_port)
            for each in COMMANDS:
                measured[each].append((ours[each], qemus[each]))
    for each, pairs in measured.items():
        ours, qemus = (statistics.median(side) * 1000 for side in zip(*pairs))
        print(f"{latency:>10}  {each + ' in gdb':<20} {ours:>10.2f} {'ms':<8} {qemus / ours:>7.2f}  {qemus:.2f} QEMU's stub", flush=True)


def measure(rounds: int, latencies: list[int]) -> None:
    kernel = fetch.kernel()
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=demo.REPOSITORY, check=True)
    binary = demo.built_binary()
    with tempfile.TemporaryDirectory(prefix="nettlp-gdb-bench-") as directory:
        archive = initramfs.build(Path(directory) / "initramfs.cpio")
        with Guest(Machine(kernel.vmlinuz, archive)) as guest:
            guest.stop()
            images = image_arguments(guest.ram_file, guest.ram)
            chosen = [argument for latency in latencies for argument in ("--latency-us", str(latency))]
            rows = [binary, "bench", *images, "--vmlinux", kernel.vmlinux, "--rounds", str(rounds), *chosen]
            subprocess.run(rows, check=True)
            qemu_port = process.free_port()
            guest.qmp("human-monitor-command", **{"command-line": f"gdbserver tcp:127.0.0.1:{qemu_port}"})
            for latency in latencies:
                compare(guest, binary, kernel.vmlinux, qemu_port, latency, rounds)


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=5, help="measurements of which the median counts")
    options.add_argument("--latency-us", type=int, action="append", help="what the adapter adds; repeat for several")
    options = options.parse_args()
    process.end_on_signals()
    try:
        measure(options.rounds, options.latency_us or list(LATENCIES))
    except (fetch.FetchError, GuestError, process.ProcessError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
