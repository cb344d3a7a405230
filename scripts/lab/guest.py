"""A QEMU guest whose RAM is a file that another process may read.

Inputs: a kernel image, an initramfs (`lab.initramfs`), RAM size, CPU options.
Outputs: the RAM file with its map, the kernel console's text, and the answers
of commands run inside the guest. Knows nothing of NetTLP or GDB.

ttyS0 is the kernel's console; commands go over ttyS1, so that kernel messages
never mix with a command's output. KVM is not used: the lab must run where
nested virtualisation is off.
"""

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab import process

MIB = 1 << 20
GIB = 1 << 30
READY = "lab-guest: ready\n"
PANICKED = "---[ end Kernel panic"

# QEMU's q35 keeps all RAM below 4 GiB when it is smaller than 0xb0000000;
# otherwise 2 GiB stay below and the rest begins at 4 GiB (hw/i386/pc_q35.c).
Q35_ALL_LOW = 0xB000_0000
Q35_LOW = 2 * GIB
HIGH_RAM = 4 * GIB


class GuestError(Exception):
    """The guest did not do what the lab asked of it."""


@dataclass(frozen=True)
class Segment:
    """`length` bytes of guest-physical memory at `phys`, at `offset` in the RAM file."""

    phys: int
    offset: int
    length: int


def q35_ram(size: int) -> list[Segment]:
    """Where q35 shows a RAM file of `size` bytes."""
    if size < Q35_ALL_LOW:
        return [Segment(0, 0, size)]
    return [Segment(0, 0, Q35_LOW), Segment(HIGH_RAM, Q35_LOW, size - Q35_LOW)]


def image_arguments(path: Path, ram: list[Segment]) -> list[str]:
    """The `--image` arguments that describe a RAM file to nettlp-gdb."""
    if len(ram) == 1:
        return ["--image", f"{path}@{ram[0].phys:#x}"]
    arguments = []
    for part in ram:
        arguments += ["--image", f"{path}@{part.phys:#x},offset={part.offset:#x},len={part.length:#x}"]
    return arguments


def ram_arguments(ram: list[Segment]) -> list[str]:
    """The `--ram` arguments for a host whose RAM the user knows."""
    return [word for part in ram for word in ("--ram", f"{part.phys:#x}-{part.phys + part.length:#x}")]


@dataclass(frozen=True)
class Machine:
    """What the guest is made of."""

    kernel: Path
    initramfs: Path
    memory: int = GIB
    cpu: str = "max"
    cpus: int = 2
    append: tuple[str, ...] = ()


@dataclass
class _Stream:
    """Text arriving on a descriptor, collected by a thread of its own."""

    source: object
    log: Path
    text: bytearray = field(default_factory=bytearray)
    arrived: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def start(self) -> None:
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        with self.log.open("wb", buffering=0) as log:
            while chunk := self.source.recv(65536):
                log.write(chunk)
                with self.arrived:
                    self.text += chunk
                    self.arrived.notify_all()
        with self.arrived:
            self.ended = True
            self.arrived.notify_all()

    def wait_for(self, needle: bytes, start: int, seconds: float) -> int:
        """The offset of `needle` at or after `start`, or -1 when time or text ran out."""
        deadline = time.monotonic() + seconds
        with self.arrived:
            searched = start
            while True:
                if (found := self.text.find(needle, searched)) >= 0:
                    return found
                searched = max(start, len(self.text) - len(needle))
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    return -1
                self.arrived.wait(left)


class Guest:
    """One running guest. A context manager: leaving it ends QEMU and removes its files."""

    def __init__(self, machine: Machine, directory: Path | None = None):
        self.machine = machine
        self.ram = q35_ram(machine.memory)
        self._own = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="nettlp-gdb-guest-")) if directory is None else directory
        self.ram_file = self.directory / "ram"
        self.process: subprocess.Popen | None = None
        self._commands = 0

    def __enter__(self) -> "Guest":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, seconds: float = 300) -> None:
        """Starts QEMU and returns when the guest's user space answers."""
        listeners = {name: self._listen(name) for name in ("console", "shell", "qmp")}
        self.process = process.start(self._command_line(), self.directory / "qemu.log")
        sockets = {name: self._accept(name, listener) for name, listener in listeners.items()}
        self._console = _Stream(sockets["console"], self.directory / "console.log")
        self._shell = _Stream(sockets["shell"], self.directory / "shell.log")
        self._shell_socket = sockets["shell"]
        self._console.start()
        self._shell.start()
        self._qmp = sockets["qmp"]
        self._qmp_lines = self._qmp.makefile("rb")
        self._qmp_lines.readline()
        self.qmp("qmp_capabilities")
        if self._shell.wait_for(READY.encode(), 0, seconds) < 0:
            raise GuestError(f"no user space after {seconds:.0f} s; its console ends:\n{self._tail()}")

    def run(self, command: str, seconds: float = 120) -> str:
        """What `command` prints in the guest's shell; raises if it fails."""
        self._commands += 1
        mark = f"lab-end-{self._commands}-"
        start = len(self._shell.text)
        # The mark is put together by the shell, so that an echoed command line is not taken for it.
        self._shell_socket.sendall(f"{command}\necho lab-end-{self._commands}''-$?-\n".encode())
        found = self._shell.wait_for(mark.encode(), start, seconds)
        end = self._shell.wait_for(b"-\n", found + len(mark), 10) if found >= 0 else -1
        if end < 0:
            raise GuestError(f"no answer to {command!r} after {seconds:.0f} s; the console ends:\n{self._tail()}")
        text = bytes(self._shell.text[start:found]).decode(errors="replace")
        status = int(self._shell.text[found + len(mark) : end])
        if status != 0:
            raise GuestError(f"{command!r} exited with {status}: {text}")
        return text

    def panic(self, seconds: float = 120) -> str:
        """Crashes the kernel by sysrq; what its console showed from there to its last word."""
        start = len(self._console.text)
        self._shell_socket.sendall(b"echo c > /proc/sysrq-trigger\n")
        if self._console.wait_for(PANICKED.encode(), start, seconds) < 0:
            raise GuestError(f"no panic after {seconds:.0f} s; the console ends:\n{self._tail()}")
        # The other CPU stops itself a moment after the message is out.
        time.sleep(1)
        return bytes(self._console.text[start:]).decode(errors="replace")

    def send(self, command: str) -> None:
        """Gives the guest's shell a command that may not return."""
        self._shell_socket.sendall(f"{command}\n".encode())

    def await_console(self, text: str, start: int, seconds: float) -> None:
        """Returns when the kernel's console has shown `text`, at `start` or behind it."""
        if self._console.wait_for(text.encode(), start, seconds) < 0:
            raise GuestError(f"no {text!r} after {seconds:.0f} s; the console ends:\n{self._tail()}")

    def console(self) -> str:
        """Everything the kernel's console has shown."""
        return bytes(self._console.text).decode(errors="replace")

    def stop(self) -> None:
        """Freezes the guest's CPUs: its RAM is at rest until `resume`."""
        self.qmp("stop")

    def resume(self) -> None:
        """Lets the CPUs run again after `stop`."""
        self.qmp("cont")

    def qmp(self, command: str, **arguments: object) -> object:
        """One QMP command; returns what it returned."""
        request = {"execute": command, "arguments": arguments}
        self._qmp.sendall(json.dumps(request).encode() + b"\n")
        while line := self._qmp_lines.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise GuestError(f"QMP {command}: {answer['error']['desc']}")
        raise GuestError(f"QEMU went away during QMP {command}")

    def copy_ram(self, to: Path) -> None:
        """A sparse copy of the RAM file; call `stop` first for memory at rest."""
        subprocess.run(["cp", "--sparse=always", str(self.ram_file), str(to)], check=True)

    def close(self) -> None:
        """Ends QEMU and removes the guest's files."""
        process.stop(self.process)
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _command_line(self) -> list[str]:
        machine = self.machine
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", machine.cpu, "-m", f"{machine.memory // MIB}M"]
        command += ["-smp", str(machine.cpus), "-machine", "q35,memory-backend=ram"]
        command += ["-object", f"memory-backend-file,id=ram,size={machine.memory},mem-path={self.ram_file},share=on"]
        command += ["-display", "none", "-vga", "none", "-nodefaults", "-no-reboot", "-nic", "none"]
        command += ["-kernel", str(machine.kernel), "-initrd", str(machine.initramfs)]
        command += ["-append", " ".join(("console=ttyS0", "panic=0", *machine.append))]
        for device in ("console", "shell"):
            command += ["-chardev", f"socket,id={device},path={self.directory / device},server=off"]
            command += ["-serial", f"chardev:{device}"]
        command += ["-chardev", f"socket,id=qmp,path={self.directory / 'qmp'},server=off", "-mon", "qmp,mode=control"]
        return command

    def _listen(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.directory / name))
        listener.listen(1)
        listener.settimeout(1)
        return listener

    def _accept(self, name: str, listener: socket.socket) -> socket.socket:
        with listener:
            for _ in range(30):
                try:
                    accepted, _ = listener.accept()
                    accepted.settimeout(None)
                    return accepted
                except TimeoutError:
                    if self.process.poll() is not None:
                        break
        log = (self.directory / "qemu.log").read_text(errors="replace")
        raise GuestError(f"QEMU did not open its {name}: {log.strip() or 'no message'}")

    def _tail(self) -> str:
        return "\n".join(self.console().splitlines()[-20:])
