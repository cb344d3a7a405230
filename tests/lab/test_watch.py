"""`watch` of a kernel that runs: gdb was given nothing, and the guest changes its own memory."""

import subprocess

import pytest
from lab import debugger
from lab.bench import Bench
from lab.guest import Guest, Machine

# What the server says once it has the old value.
READING = "Reading 1 watched range(s)"


@pytest.fixture(scope="module")
def watched(kernel, binary, archive):
    """A live guest, and a server that shows it to gdb."""
    with Guest(Machine(kernel.vmlinuz, archive)) as guest, Bench(binary, guest.ram_file, guest.ram, None) as bench:
        yield guest, bench


def values(text: str) -> tuple[int, int]:
    """The old and the new value that gdb prints when a watchpoint triggers."""
    shown = dict(line.split(" value = ") for line in text.splitlines() if " value = " in line)
    return int(shown["Old"]), int(shown["New"])


def test_time_is_seen_to_pass(watched):
    _, bench = watched
    *_, stop, now = debugger.ask(None, bench.port, ["watch *(unsigned long *)&jiffies_64", "continue", "p *(unsigned long *)&jiffies_64"])
    old, new = values(stop)
    assert old < new <= int(now.split()[-1])


def test_one_change_is_reported_with_both_values(watched):
    guest, bench = watched
    variable = "/proc/sys/kernel/printk_delay"
    assert guest.run(f"cat {variable}") == "0\n"
    command = debugger.command_line(None, bench.port, scripts=None)
    command[1:1] = ["-batch", "-iex", "set debuginfod enabled off"]
    command += ["-ex", "watch *(int *)&printk_delay_msec", "-ex", "continue"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as gdb:
        try:
            before = []
            for line in gdb.stdout:
                before.append(line)
                if READING in line:
                    break
            assert READING in before[-1], "".join(before)
            guest.run(f"echo 7 > {variable}")
            after, _ = gdb.communicate(timeout=60)
        finally:
            gdb.kill()
    assert values(after) == (0, 7)
