"""Builds the guest's initramfs: static busybox, /init, the shell on ttyS1 and what it sources.

Output: a newc cpio archive. Needs `busybox` (static) and `cpio`.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(output: Path, programs: tuple[Path, ...] = (), config: Path | None = None) -> Path:
    """Writes the archive to `output`; `programs` are added to /bin, a kernel's `config` to /boot."""
    busybox = shutil.which("busybox") or "/bin/busybox"
    with tempfile.TemporaryDirectory(prefix="nettlp-gdb-initramfs-") as temporary:
        root = Path(temporary)
        binaries = root / "bin"
        binaries.mkdir()
        shutil.copy(busybox, binaries / "busybox")
        for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
            if applet != "busybox":
                (binaries / applet).symlink_to("busybox")
        _install(HERE / "init", root / "init")
        _install(HERE / "shell.sh", binaries / "lab-shell")
        _install(HERE / "truth.sh", binaries / "lab-truth")
        _install(HERE / "processes.sh", binaries / "lab-processes")
        for program in programs:
            _install(program, binaries / program.name)
        if config:
            (root / "boot").mkdir()
            shutil.copy(config, root / "boot" / config.name)
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        with output.open("wb") as archive:
            subprocess.run(
                ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
                cwd=root, input="\n".join(names).encode(), stdout=archive, check=True,
            )
    return output


def _install(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    target.chmod(0o755)
