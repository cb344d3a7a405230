"""The main job, start to end: boot a Debian kernel, read it over NetTLP, and ask gdb about it - alive, then panicked.

Run by scripts/demo, which installs what this needs. Everything it starts
ends with it: when done, on failure, on Ctrl-C and on SIGTERM.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import debugger, fetch, initramfs, process
from lab.bench import Bench
from lab.guest import Guest, GuestError, Machine

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts" / "nettlp-gdb.py"
DMESG_TAIL = 15
DEFAULT_PORT = 1234


class Steps:
    """Headings with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"\n[{time.monotonic() - self._start:5.1f} s] {text}", flush=True)


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.split("\n")[0])
    options.add_argument("--keep", action="store_true", help="leave everything up and print the gdb command to type")
    options = options.parse_args()
    process.end_on_signals()
    try:
        return demonstrate(options.keep)
    except KeyboardInterrupt:
        print("\nInterrupted; everything is stopped.", file=sys.stderr)
        return 130
    except (fetch.FetchError, GuestError, process.ProcessError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def demonstrate(keep: bool) -> int:
    step = Steps()
    step("Looking for a Debian kernel with symbols")
    kernel = fetch.kernel()
    print(kernel.directory)
    step("Building nettlp-gdb")
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=REPOSITORY, check=True)
    binary = built_binary()
    with tempfile.TemporaryDirectory(prefix="nettlp-gdb-demo-") as directory:
        archive = initramfs.build(Path(directory) / "initramfs.cpio")
        step(f"Booting Linux {kernel.release} in QEMU: 1 GiB of RAM in a file, KASLR on")
        with Guest(Machine(kernel.vmlinuz, archive)) as guest:
            step("Starting the emulated adapter on that file, and the GDB server that reads it over UDP")
            port = process.free_port(wanted=DEFAULT_PORT)
            with Bench(binary, guest.ram_file, guest.ram, kernel.vmlinux, port):
                step("Attaching gdb to the running kernel (gdb takes its time to load the symbols)")
                show(kernel, port)
                step("Panicking the guest: echo c > /proc/sysrq-trigger")
                guest.panic()
                step("Attaching gdb to the dead kernel")
                show(kernel, port)
                if keep:
                    stay(step, kernel, port)
    step("Done; everything is stopped.")
    return 0


def show(kernel: fetch.Kernel, port: int) -> None:
    """Prints lx-ps and the end of lx-dmesg as gdb shows them."""
    typed = [*debugger.command_line(kernel.vmlinux, port, scripts=SCRIPTS), "-ex", "lx-ps", "-ex", "lx-dmesg"]
    print("$", shlex.join(typed))
    tasks, log = debugger.ask(kernel.vmlinux, port, ["lx-ps", "lx-dmesg"], scripts=SCRIPTS)
    print(f"(gdb) lx-ps\n{tasks.rstrip()}")
    lines = log.rstrip().splitlines()
    print(f"(gdb) lx-dmesg\n[... {max(0, len(lines) - DMESG_TAIL)} lines ...]")
    print("\n".join(lines[-DMESG_TAIL:]))


def stay(step: Steps, kernel: fetch.Kernel, port: int) -> None:
    """Leaves everything up until Ctrl-C."""
    step("Still up. In another terminal, type:")
    print(shlex.join(debugger.command_line(kernel.vmlinux, port, scripts=SCRIPTS)))
    print("Ctrl-C here ends it.", flush=True)
    while True:
        time.sleep(3600)


def built_binary() -> Path:
    """Where cargo puts the release binary, wherever the user's target directory is."""
    return target_directory() / "release" / "nettlp-gdb"


def target_directory() -> Path:
    shown = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )
    return Path(json.loads(shown.stdout)["target_directory"])


if __name__ == "__main__":
    sys.exit(main())
