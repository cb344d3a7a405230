"""Where the lab keeps what it downloads: outside the checkout, complete or absent."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """$NETTLP_GDB_CACHE, else nettlp-gdb in the user's cache directory."""
    if given := os.environ.get("NETTLP_GDB_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nettlp-gdb"


@contextmanager
def fill(directory: Path) -> Iterator[Path]:
    """Yields an empty directory that becomes `directory` when the block ends without an error."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        try:
            temporary.rename(directory)
        except OSError:
            # Somebody else filled it meanwhile; theirs is as good.
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
