"""Modules of a kernel, to load in a guest: NAME.ko below the kernel's place in the cache, fetched on first use."""

import lzma
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import fetch


def files(kernel: fetch.Kernel, names: Sequence[str]) -> list[Path]:
    """The modules of these names, in order."""
    directory = kernel.directory / "modules"
    directory.mkdir(exist_ok=True)
    found = [directory / f"{name}.ko" for name in names]
    if missing := [path for path in found if not path.is_file()]:
        _fetch(kernel, missing)
    return found


def _fetch(kernel: fetch.Kernel, wanted: list[Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="nettlp-gdb-modules-") as temporary:
        unpacked = Path(temporary)
        fetch.unpack(_package(kernel), [f"*/{path.name}*" for path in wanted], unpacked, kernel.apt)
        for path in wanted:
            found = list(unpacked.rglob(f"{path.name}*"))
            if len(found) != 1:
                raise fetch.FetchError(f"{kernel.release} has {len(found)} modules {path.stem}")
            packed = found[0].read_bytes()
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(lzma.decompress(packed) if found[0].suffix == ".xz" else packed)
            unfinished.rename(path)


def _package(kernel: fetch.Kernel) -> str:
    """The package with the modules: since 7 they have one of their own."""
    names = subprocess.run(
        ["apt-cache", *kernel.apt, "pkgnames", "linux-modules-"], check=True, capture_output=True, text=True
    ).stdout.split()
    own = f"linux-modules-{kernel.release}"
    return own if own in names else f"linux-image-{kernel.release}"
