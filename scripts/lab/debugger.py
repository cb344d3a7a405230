"""gdb in batch mode against a server, its answers told apart per command."""

import subprocess
from pathlib import Path

from lab.process import ProcessError

MARK = "@@lab"
# What `info program` says once gdb is attached.
ATTACHED = "Program stopped at"


def command_line(vmlinux: Path | None, port: int, *, scripts: Path | None) -> list[str]:
    """The gdb command a user types, without anything executed after the scripts are loaded. Without a vmlinux gdb is
    handed one by the server."""
    file = [str(vmlinux)] if vmlinux else []
    command = ["gdb", "-nx", *file, "-ex", f"target remote 127.0.0.1:{port}"]
    return command + (["-ex", f"source {scripts}"] if scripts else [])


def ask(
    vmlinux: Path | None, port: int, commands: list[str], *, scripts: Path | None = None, seconds: float = 300
) -> list[str]:
    """Attaches, runs `commands` and detaches: the text each printed, errors included, in order."""
    command = command_line(vmlinux, port, scripts=scripts)
    command.insert(1, "-batch")
    # gdb's own two seconds for an answer are too few where guest, server and gdb share a busy machine.
    command += ["-iex", "set debuginfod enabled off", "-iex", "set remotetimeout 60"]
    command += ["-iex", "set width 0", "-iex", "set height 0"]
    for each in ["info program", *commands]:
        command += ["-ex", f"echo {MARK}\\n", "-ex", each]
    command += ["-ex", f"echo {MARK}\\n"]
    # One pipe for both, so that an error message stands where its command's output would.
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=seconds,
    )
    before, *answers = done.stdout.split(f"{MARK}\n")
    if len(answers) != len(commands) + 2:
        raise ProcessError(f"gdb ended early with status {done.returncode}:\n{done.stdout}")
    if ATTACHED not in answers[0]:
        raise ProcessError(f"gdb did not attach:\n{before}{answers[0]}")
    return answers[1:-1]
