"""A server that is left alone with its users: it loses nothing and never ends."""

import random
import time
from pathlib import Path

import pytest
from lab.bench import Bench
from rsp import Client, frame

CYCLES = 1000
WARM_UP = 50
# What the allocator may keep to itself; a leak of 4 KiB per cycle would show.
MOST_GROWTH_KIB = 2048
RUDE_SECONDS = 60
SETTLE_SECONDS = 30
ATTEMPTS = 500


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
    assert after[2] - memory <= MOST_GROWTH_KIB


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
