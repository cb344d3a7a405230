"""What finding the kernel costs on the wire, and that it is found without the shortcut too."""

import json
import re
import subprocess

import pytest
from lab import debugger
from lab.bench import Bench
from lab.guest import GIB, ram_arguments
from rsp import Client

MAX_REQUESTS = 400
MAX_BYTES = 1 << 20

LOW_MEMORY = range(0x1000, 0xA0000, 0x1000)
TRAMPOLINE_SIGNATURE = bytes.fromhex("822ca265")


def test_attaching_reads_little_whatever_the_size(at_rest, binary, kernel, figure):
    spent = []
    for gib in (1, 8):
        rest = at_rest(gib * GIB)
        with Bench(binary, rest.ram_file, rest.ram, kernel.vmlinux) as bench:
            [stats] = debugger.ask(kernel.vmlinux, bench.port, ["monitor stats"])
        figure(f"attach, {gib} GiB guest: {stats.strip()}")
        spent.append(counts(stats, "attach"))
        # And with the list of all tasks, which gdb is shown when it connects.
        _, size = counts(stats, "total")
        assert 0 < size <= MAX_BYTES
    for requests, size in spent:
        assert 0 < requests <= MAX_REQUESTS
        assert 0 < size <= MAX_BYTES
    # Not equal to the last request: KASLR decides how many tables a walk shares.
    (small, _), (large, _) = spent
    assert abs(large - small) <= small // 10


@pytest.fixture
def wiped(at_rest, tmp_path):
    """A copy of the RAM without the trampoline."""
    rest = at_rest(GIB)
    copy = tmp_path / "ram"
    subprocess.run(["cp", "--sparse=always", rest.ram_file, copy], check=True)
    assert wipe_trampoline(copy) > 0
    yield copy
    copy.unlink()


# What a kernel without symbols cannot tell.
NEEDS_SYMBOLS = {"init_task", "cpus"}


@pytest.mark.parametrize(
    ("method", "symbols", "beyond"), [("2 MiB slots", True, set()), ("banner at 2 MiB", False, NEEDS_SYMBOLS)]
)
def test_fallbacks_find_what_the_trampoline_tells(method, symbols, beyond, at_rest, wiped, binary, kernel, figure):
    rest, vmlinux = at_rest(GIB), kernel.vmlinux if symbols else None
    with Bench(binary, rest.ram_file, rest.ram, kernel.vmlinux) as bench:
        whole = json.loads(bench.run("info", "--json"))
    assert how(whole) == "real-mode trampoline"
    # Nothing leads to the kernel now, so the user has to say where it may be looked for.
    with Bench(binary, wiped, rest.ram, vmlinux, options=tuple(ram_arguments(rest.ram))) as bench:
        with Client(bench.port) as client:
            client.attach()
            stats = client.monitor("stats")
            client.detach()
        fallback = json.loads(bench.run("info", "--json"))
    figure(f"attach, 1 GiB guest, trampoline wiped, {method}: {stats.strip()}")
    assert how(fallback) == method
    assert int(fallback["text"], 16) == rest.symbols["_text"]
    same = whole.keys() - beyond - {"evidence"}
    assert {key: fallback[key] for key in same} == {key: whole[key] for key in same}


def how(info: dict) -> str:
    """The method that found the kernel."""
    [method] = [evidence["method"] for evidence in info["evidence"] if evidence["what"] == "text"]
    return method


def counts(stats: str, what: str) -> tuple[int, int]:
    """Requests and bytes of finding the kernel (attach), or of everything up to now (total)."""
    found = re.search(rf"^{what}: (\d+) requests, (\d+) bytes", stats, re.MULTILINE)
    assert found, stats
    return int(found[1]), int(found[2])


def wipe_trampoline(ram_file) -> int:
    """Zeroes the real-mode blob: every low page that holds its signature, and the pages before it with the page directory."""
    wiped = 0
    with ram_file.open("r+b") as ram:
        for page in LOW_MEMORY:
            ram.seek(page)
            if TRAMPOLINE_SIGNATURE in ram.read(0x1000):
                start = max(LOW_MEMORY.start, page - 0x4000)
                ram.seek(start)
                ram.write(bytes(page + 0x1000 - start))
                wiped += 1
    return wiped
