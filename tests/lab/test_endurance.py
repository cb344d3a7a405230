"""A server that is left alone with its users: it loses nothing and never ends; and what stays in memory, of it and of a dump.

`NETTLP_ENDURANCE=full` dumps 8 GiB and serves a whole day's requests; otherwise a part of each.
"""

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from lab.bench import Bench
from lab.guest import GIB
from rsp import Client, frame

CYCLES = 1000
WARM_UP = 50
# What the allocator may keep to itself; a leak of 4 KiB per cycle would show.
MAX_GROWTH_KIB = 2048
RUDE_SECONDS = 60
SETTLE_SECONDS = 30
ATTEMPTS = 500

FULL = os.environ.get("NETTLP_ENDURANCE") == "full"
MAX_RESIDENT_KIB = 200_000
DUMPED_GIB = 8 if FULL else 1
# A day with a debugger attached: a variable looked at each second; processes, log and backtraces each ten seconds.
DAY = 24 * 60 * 6
TENS_OF_SECONDS = DAY if FULL else 100
LOOKS = 10


@pytest.fixture(scope="module")
def bench(at_rest, binary, kernel):
    rest = at_rest()
    with Bench(binary, rest.ram_file, rest.ram, kernel.vmlinux) as bench:
        yield bench


def test_a_thousand_users_leave_nothing_behind(bench, figure):
    for _ in range(WARM_UP):
        visit(bench.port)
    threads, sockets, memory = idle(bench.server.pid)
    for _ in range(CYCLES):
        visit(bench.port)
    after = idle(bench.server.pid)
    figure(f"{CYCLES} attach/detach cycles: threads {threads} -> {after[0]}, descriptors {sockets} -> {after[1]}, anonymous memory {memory} -> {after[2]} KiB")
    assert after[:2] == (threads, sockets)
    assert after[2] - memory <= MAX_GROWTH_KIB


def test_a_day_of_requests_stays_in_memory(bench, at_rest, figure):
    pid, looked_at = bench.server.pid, at_rest().symbols["init_task"]
    readings = []
    with Client(bench.port, 120) as client:
        client.attach()
        for passed in range(TENS_OF_SECONDS):
            for _ in range(LOOKS):
                client.monitor("refresh")
                assert len(client.ask(f"m{looked_at:x},8")) == 16
            for command in ("ps", "dmesg", "bt 1"):
                assert client.monitor(command)
            # The first tenth fills what is remembered: symbols, types, rules of unwinding.
            if passed in (TENS_OF_SECONDS // 10, TENS_OF_SECONDS // 2):
                readings.append(resident(pid))
        stats = client.monitor("stats")
        client.detach()
    readings.append(resident(pid))
    requests = TENS_OF_SECONDS * (LOOKS + 3)
    figure(
        f"{requests} requests of a debugger ({TENS_OF_SECONDS / DAY:.1%} of a day): most resident and anonymous KiB {readings}, "
        f"on the link: {stats.strip().splitlines()}"
    )
    assert max(resident for resident, _ in readings) < MAX_RESIDENT_KIB
    assert all(last - first <= MAX_GROWTH_KIB for first, last in zip(readings[0], readings[-1]))


def test_a_dump_stays_in_memory(at_rest, binary, kernel, tmp_path, figure):
    rest = at_rest(DUMPED_GIB * GIB)
    with Bench(binary, rest.ram_file, rest.ram, kernel.vmlinux, addresses=1) as bench:
        made = tmp_path / "ram"
        start = time.monotonic()
        dump = subprocess.Popen(bench.command("dump", "--tags", "64", "--format", "raw", "-o", made, "--quiet"), stderr=subprocess.DEVNULL)
        most = 0
        # Not the system's own figure at its end: that has in it what this process was when it forked.
        while dump.poll() is None:
            with contextlib.suppress(FileNotFoundError, StopIteration):
                most = resident(dump.pid)[0]
            time.sleep(0.05)
        took, size, disk = time.monotonic() - start, made.stat().st_size, made.stat().st_blocks * 512
    made.unlink()
    figure(f"dump of {DUMPED_GIB} GiB: most resident {most} KiB, {took:.0f} s, {size} bytes, {disk} on disk")
    assert dump.returncode == 0
    assert size >= DUMPED_GIB * GIB - (2 << 20)
    assert 0 < most < MAX_RESIDENT_KIB


def test_a_minute_of_random_bytes_does_not_end_the_server(bench):
    chance = random.Random(0x6E74_6C70)
    sent = connections = 0
    until = time.monotonic() + RUDE_SECONDS
    while time.monotonic() < until:
        connections += 1
        with Client(bench.port) as client:
            client.socket.setblocking(False)
            for _ in range(chance.randrange(1, 50)):
                try:
                    sent += client.socket.send(rudeness(chance))
                    client.socket.recv(1 << 16)
                except BlockingIOError:
                    pass
                except OSError:
                    break
    assert bench.server.poll() is None, bench.server_log()
    assert sent > 1_000_000 and connections > 10
    visit(bench.port)


def rudeness(chance: random.Random) -> bytes:
    """Noise, noise in a well-formed packet, or a packet's beginning with noise for the rest."""
    noise = chance.randbytes(chance.randrange(1, 4000))
    first = chance.choice(b"?cCDgGHikmMpPqQsStTvXzZ!")
    return chance.choice([noise, frame(noise.translate(None, b"$#}*")), frame(bytes([first]) + noise.translate(None, b"$#}*")[:40]), b"$" + noise, b"\x03+-" * 20])


def visit(port: int) -> None:
    """One user: attaches and detaches. The previous user's connection may take a moment to go."""
    for attempt in range(ATTEMPTS):
        try:
            with Client(port) as client:
                client.attach()
                client.detach()
                return
        except (ConnectionError, AssertionError):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.02)


def idle(pid: int) -> tuple[int, int, int]:
    """Threads, open descriptors, and anonymous memory in KiB once the last visitor's are cleared away: when they stop changing."""
    deadline, seen = time.monotonic() + SETTLE_SECONDS, []
    while time.monotonic() < deadline:
        seen.append(resources(pid))
        if len(seen) >= 4 and len({reading[:2] for reading in seen[-4:]}) == 1:
            break
        time.sleep(0.25)
    return seen[-1]


def resources(pid: int) -> tuple[int, int, int]:
    process = Path(f"/proc/{pid}")
    # Anonymous only: pages of the mapped vmlinux come and go as the kernel likes.
    memory = next(line for line in (process / "status").read_text().splitlines() if line.startswith("RssAnon:"))
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir())), int(memory.split()[1])


def resident(pid: int) -> tuple[int, int]:
    """Resident memory in KiB: the most there ever was, and what is not pages of a file."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return tuple(next(int(words[1]) for words in lines if words[0] == name) for name in ("VmHWM:", "RssAnon:"))
