"""Fetches Debian's cloud kernel and its symbols without installing them.

Output: kernels/RELEASE/{vmlinuz,vmlinux,config}-RELEASE in the cache. The
package names are asked of apt at run time, since every security update
renames them. Run as `python3 -m lab.fetch`; prints the release.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import cache

META_PACKAGE = "linux-image-cloud-amd64"
INSTALL = Path(__file__).resolve().parent / "install"


class FetchError(Exception):
    """A package could not be named, downloaded or unpacked."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel in the cache."""

    release: str
    directory: Path
    # What makes apt know its packages, where they are not of the system's own suite.
    apt: tuple[str, ...] = ()

    @property
    def vmlinuz(self) -> Path:
        return self.directory / f"vmlinuz-{self.release}"

    @property
    def vmlinux(self) -> Path:
        return self.directory / f"vmlinux-{self.release}"

    @property
    def config(self) -> Path:
        return self.directory / f"config-{self.release}"

    def is_complete(self) -> bool:
        return all(part.is_file() for part in (self.vmlinuz, self.vmlinux, self.config))


def kernel() -> Kernel:
    """The kernel apt offers today, from the cache or downloaded into it; failing that, the newest in the cache."""
    try:
        found = in_cache(current_release(update=False))
        if not found.is_complete():
            # The lists may be older than the mirror: a name from them may be gone.
            found = in_cache(current_release(update=True))
        if not found.is_complete():
            _download(found)
        _system_mark().write_text(found.release)
        return found
    except FetchError as error:
        mark = _system_mark()
        last = in_cache(mark.read_text()) if mark.is_file() else None
        if last is None or not last.is_complete():
            raise
        print(f"warning: {error}; using {last.release} from the cache", file=sys.stderr)
        return last


def current_release(update: bool) -> str:
    """The kernel release the meta package depends on."""
    if not update and (release := _dependency()):
        return release
    if subprocess.run([str(INSTALL), "--update"], stdin=subprocess.DEVNULL).returncode != 0:
        print("warning: the package lists could not be refreshed", file=sys.stderr)
    if release := _dependency():
        return release
    raise FetchError(f"apt does not know {META_PACKAGE}: is this Debian 12 or later on amd64?")


def unpack(package: str, members: list[str], into: Path, options: Sequence[str] = ()) -> None:
    """Downloads `package` (NAME or NAME=VERSION; `options` go to apt) and unpacks the paths that match any of `members`
    below `into`."""
    print(f"Downloading {package}", file=sys.stderr)
    got = subprocess.run(
        ["apt-get", *options, "download", "-qq", package],
        cwd=into, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )
    archives = list(into.glob("*.deb"))
    if got.returncode != 0 or len(archives) != 1:
        raise FetchError(f"cannot download {package}: {got.stderr.strip().splitlines()[-1:] or 'no message'}")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archives[0]], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(["tar", "-x", "--wildcards", "-C", into, *members], stdin=tar.stdout)
    if done.returncode != 0 or tar.returncode != 0:
        raise FetchError(f"cannot unpack {', '.join(members)} from {archives[0].name}")
    archives[0].unlink()


def _download(wanted: Kernel) -> None:
    release = wanted.release
    with cache.fill(wanted.directory) as directory:
        unpack(f"linux-image-{release}", ["./boot/vmlinuz-*", "./boot/config-*"], directory)
        unpack(f"linux-image-{release}-dbg", ["./usr/lib/debug/boot/vmlinux-*"], directory)
        made = Kernel(release, directory)
        for part in (made.vmlinuz, made.vmlinux, made.config):
            found = [path for path in directory.rglob(part.name) if path.is_file()]
            if not found:
                raise FetchError(f"the packages of {release} hold no {part.name}")
            found[0].rename(part)


def _dependency() -> str | None:
    asked = subprocess.run(["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True)
    found = re.search(r"Depends: linux-image-(\d\S+)$", asked.stdout, re.MULTILINE)
    return found and found[1]


def in_cache(release: str) -> Kernel:
    """Where the kernel of that release is, or would be."""
    return Kernel(release, cache.root() / "kernels" / release)


def _system_mark() -> Path:
    """Holds the release that was the system's own when apt last said it: the cache has other suites' kernels too."""
    return cache.root() / "kernels" / ".system"


def cached() -> list[Kernel]:
    """What is in the cache, complete or not, the newest last."""
    directory = cache.root() / "kernels"
    places = [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
    return [in_cache(path.name) for path in sorted(places, key=lambda path: path.stat().st_mtime)]


if __name__ == "__main__":
    print(kernel().release)
