"""Child processes that never outlive the lab."""

import signal
import socket
import subprocess
import time
from pathlib import Path


class ProcessError(Exception):
    """A child process ended or did not become ready."""


def start(command: list[str], log: Path, cwd: Path | None = None) -> subprocess.Popen:
    """Starts `command` with its output in `log`; it gets SIGTERM should this process vanish."""
    with log.open("wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd,
            # A session of its own, so that Ctrl-C in the terminal leaves the order of ending to us.
            start_new_session=True,
        )


def stop(process: subprocess.Popen | None, seconds: float = 10) -> int | None:
    """Ends `process` if it still runs; its exit status."""
    if process is None:
        return None
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def end_on_signals() -> None:
    """Turns SIGTERM and SIGHUP into an orderly exit, which runs every `with` block's end."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def free_port(host: str = "127.0.0.1", wanted: int = 0) -> int:
    """`wanted` if nobody listens there, else a TCP port the system calls free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ProcessError(f"no free TCP port on {host}")


def wait_bound(process: subprocess.Popen, log: Path, table: str, address: tuple[str, int], seconds: float) -> None:
    """Waits until `address` stands in /proc/net/`table` ("tcp" or "udp"), without connecting to it."""
    host, port = address
    packed = int.from_bytes(socket.inet_aton(host), "little")
    wanted = f"{packed:08X}:{port:04X}"
    # TCP_LISTEN, or an unconnected UDP socket (net/ipv4/tcp_ipv4.c, udp.c).
    state = {"tcp": "0A", "udp": "07"}[table]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        if any(row[1] == wanted and row[3] == state for row in rows):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    why = "ended" if process.poll() is not None else f"was not ready after {seconds:.0f} s"
    said = log.read_text(errors="replace").strip() or "nothing"
    raise ProcessError(f"{Path(process.args[4]).name} {why} ({table} {host}:{port}); it said:\n{said}")
