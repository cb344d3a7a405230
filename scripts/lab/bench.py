"""The emulated adapter and the server, run as a user runs them: one binary, two processes, UDP on loopback between them."""

import os
import subprocess
import tempfile
from pathlib import Path

from lab import process
from lab.guest import Segment, image_arguments

REQUESTER = "1b:00.0"
FIRST_TLP_PORT = 0x3000


def loopback_addresses(which: int = 0) -> tuple[str, str, str]:
    """Loopback addresses of this process's own, for an adapter and two clients: the protocol fixes the port numbers.
    Benches that run side by side differ in `which`."""
    number = os.getpid() & 0xFFFF
    host = f"127.{64 + (number >> 8 & 0x3F)}.{number & 0xFF}"
    first = 1 + 3 * which
    return f"{host}.{first}", f"{host}.{first + 1}", f"{host}.{first + 2}"


class Bench:
    """An adapter over a RAM file and a server attached to it. Leaving the block ends both."""

    def __init__(
        self, binary: Path, ram_file: Path, ram: list[Segment], vmlinux: Path | None, port: int | None = None,
        options: tuple[str, ...] = (), addresses: int = 0, serve: tuple[str, ...] = (), latency_us: int = 0,
    ):
        self.binary = binary
        self.vmlinux = vmlinux
        self.options = options
        self.serve = serve
        self.latency_us = latency_us
        self.port = port or process.free_port()
        self.adapter_ip, self._server_ip, self._command_ip = loopback_addresses(addresses)
        self._images = image_arguments(ram_file, ram)
        self._directory = tempfile.TemporaryDirectory(prefix="nettlp-gdb-bench-")
        self.logs = Path(self._directory.name)
        self.adapter: subprocess.Popen | None = None
        self.server: subprocess.Popen | None = None

    def __enter__(self) -> "Bench":
        try:
            self.start_adapter()
            self.start_server()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def target(self, local_ip: str) -> list[str]:
        """The TARGET arguments that reach the guest through the adapter."""
        arguments = ["--adapter", self.adapter_ip, "--local", local_ip, "--requester", REQUESTER]
        arguments += ["--vmlinux", str(self.vmlinux)] if self.vmlinux else []
        return [*arguments, *self.options]

    def start_adapter(self) -> None:
        command = [str(self.binary), "emulate", *self._images, "--ip", self.adapter_ip, "--requester", REQUESTER]
        command += ["--latency-us", str(self.latency_us)]
        log = self.logs / "emulate.log"
        self.adapter = process.start(command, log)
        process.wait_bound(self.adapter, log, "udp", (self.adapter_ip, FIRST_TLP_PORT), 30)

    def start_server(self, seconds: float = 120) -> None:
        command = [str(self.binary), "serve", *self.target(self._server_ip), "--listen", f"127.0.0.1:{self.port}", *self.serve]
        log = self.logs / "serve.log"
        self.server = process.start(command, log)
        process.wait_bound(self.server, log, "tcp", ("127.0.0.1", self.port), seconds)

    def stop_server(self) -> None:
        process.stop(self.server)
        self.server = None

    def server_log(self) -> str:
        return (self.logs / "serve.log").read_text(errors="replace")

    def command(self, *arguments: str) -> list[str]:
        """The command line of one nettlp-gdb command about the target."""
        return [str(self.binary), *arguments, *self.target(self._command_ip)]

    def run(self, *arguments: str, seconds: float = 120) -> str:
        """What one nettlp-gdb command prints about the target; raises if it fails."""
        return run(self.binary, *arguments, *self.target(self._command_ip), seconds=seconds)

    def close(self) -> None:
        process.stop(self.server)
        process.stop(self.adapter)
        self._directory.cleanup()


def run(binary: Path, *arguments: str, seconds: float = 120) -> str:
    """The standard output of one nettlp-gdb command; raises with its errors if it fails."""
    done = subprocess.run([binary, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    if done.returncode != 0:
        raise process.ProcessError(f"nettlp-gdb {' '.join(arguments)} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
