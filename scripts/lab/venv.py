"""A Python environment in the cache with what only the tests need: pytest, and drgn as an independent oracle."""

import hashlib
import subprocess
import sys
from pathlib import Path

from lab import cache

REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
# Debian's own interpreter, for which python3-venv is installed; any other on PATH may lack it.
SYSTEM_PYTHON = Path("/usr/bin/python3")


def python() -> Path:
    """The environment's interpreter, made on first use and again when the requirements change."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    directory = cache.root() / f"venv-{digest}"
    interpreter = directory / "bin" / "python"
    ready = directory / "ready"
    if not ready.is_file():
        # Not `cache.fill`: an environment knows its own path and cannot be renamed.
        print("Making a Python environment with pytest and drgn", file=sys.stderr)
        subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", REQUIREMENTS], check=True)
        ready.touch()
    return interpreter


if __name__ == "__main__":
    print(python())
