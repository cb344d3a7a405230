"""`symbols --list` against the guest's /proc/kallsyms, line by line: the kernel's own symbols, its modules', generated code's."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from lab import initramfs, modules
from lab.bench import run
from lab.guest import Guest, Machine, image_arguments

# One that exports to another, one with data, one that is nearly empty; in the order to load them.
MODULES = ("fat", "vfat", "tun", "crc7")

# Two sources of symbols that are nobody's file: a BPF program and an ftrace trampoline.
GENERATE = (
    "(lab-bpf > /tmp/bpf &) && until [ -s /tmp/bpf ]; do sleep 1; done && grep -q loaded /tmp/bpf",
    "mount -t tracefs tracefs /sys/kernel/tracing",
    "echo schedule > /sys/kernel/tracing/set_ftrace_filter && echo function > /sys/kernel/tracing/current_tracer",
)


@pytest.fixture(scope="module")
def with_modules(kernel, tmp_path_factory) -> Path:
    """An initramfs with kernel modules and a program that loads a BPF program."""
    directory = tmp_path_factory.mktemp("modules")
    holder = directory / "lab-bpf"
    subprocess.run(["cc", "-O", "-static", "-o", holder, Path(__file__).with_name("bpf.c")], check=True)
    return initramfs.build(directory / "initramfs.cpio", (*modules.files(kernel, MODULES), holder))


@pytest.fixture(scope="module")
def at_work(kernel, with_modules):
    """A stopped guest with modules and generated code, and its /proc/kallsyms."""
    with Guest(Machine(kernel.vmlinuz, with_modules)) as guest:
        for name in MODULES:
            guest.run(f"insmod /bin/{name}.ko")
        for command in GENERATE:
            guest.run(command)
        shown = guest.run("cat /proc/kallsyms", seconds=300).splitlines()
        guest.stop()
        yield guest, shown


def listed(binary, ram_file, ram, *options: str) -> subprocess.CompletedProcess:
    command = [binary, "symbols", "--list", *image_arguments(ram_file, ram), *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("given", [False, True], ids=["nothing", "vmlinux"])
def test_symbols_equal_the_guests(binary, kernel, at_work, given, figure):
    guest, shown = at_work
    done = listed(binary, guest.ram_file, guest.ram, *(["--vmlinux", str(kernel.vmlinux)] if given else []))
    assert done.returncode == 0, done.stderr
    ours = done.stdout.splitlines()
    differences = [pair for pair in zip(ours, shown) if pair[0] != pair[1]]
    assert differences[:10] == []
    assert len(ours) == len(shown)
    sources = Counter(line.partition("\t")[2].strip("[]") or "kernel" for line in shown)
    assert {"kernel", *MODULES, "bpf", "__builtin__ftrace"} <= set(sources)
    figure(f"symbols equal to /proc/kallsyms: {len(ours)} ({', '.join(f'{n} {s}' for s, n in sources.items())})")


def test_without_types_the_kernels_own_are_all_there(binary, at_work, tmp_path):
    guest, shown = at_work
    without = tmp_path / "ram"
    guest.copy_ram(without)
    found = json.loads(run(binary, "translate", "__start_BTF", "--json", *image_arguments(without, guest.ram)))
    with without.open("r+b") as ram:
        ram.seek(int(found["phys"], 16))
        ram.write(bytes(8))
    done = listed(binary, without, guest.ram)
    assert done.returncode == 3
    assert "the kernel's own symbols only" in done.stderr and "BTF is damaged" in done.stderr
    assert done.stdout.splitlines() == [line for line in shown if "\t" not in line]
