"""The kernels the ring is run on beside the system's own (`lab.fetch`): a new one is one line here.

Debian's cloud kernels of several suites, through apt configurations of their
own, so that nothing of the system's is touched. Output: the same files in the
cache as `lab.fetch` makes for the system's own suite.
Run as `python3 -m lab.kernels` to fetch them all.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from lab import cache, fetch

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
USUAL_MIRROR = "http://deb.debian.org/debian"


@dataclass(frozen=True)
class Series:
    """The newest cloud kernel of a suite whose release begins with `release` (a regular expression)."""

    name: str
    suite: str
    release: str


MATRIX = [
    Series("5.10", "bullseye", r"5\.10\."),
    Series("6.12", "trixie", r"6\.12\."),
    Series("7", "sid", r"7\.\d+\."),
]


# The system's own kernel (`lab.fetch`) and the matrix': what the ring calls them.
SYSTEM = "system"
NAMES = (SYSTEM, *(series.name for series in MATRIX))


def named(name: str) -> fetch.Kernel:
    """The kernel of that name, from the cache or downloaded into it."""
    if name == SYSTEM:
        return fetch.kernel()
    return kernel(next(series for series in MATRIX if series.name == name))


def kernel(series: Series) -> fetch.Kernel:
    """The series' kernel, from the cache or downloaded into it; when apt cannot be asked, the newest in the cache."""
    try:
        release, package = _newest(series)
        found = replace(fetch.in_cache(release), apt=tuple(_apt(series)))
        return found if _is_usable(found) else _download(found, package)
    except fetch.FetchError as error:
        cached = [made for made in fetch.cached() if _is_usable(made) and re.match(series.release, made.release)]
        if not cached:
            raise
        print(f"warning: {error}; using {cached[-1].release} from the cache", file=sys.stderr)
        return replace(cached[-1], apt=tuple(_apt(series)))


def _is_usable(kernel: fetch.Kernel) -> bool:
    return kernel.vmlinuz.is_file() and kernel.vmlinux.is_file()


def _newest(series: Series) -> tuple[str, str]:
    """The newest release that has its symbols too, and the package its image is in."""
    options = _apt(series)
    updated = subprocess.run(
        ["apt-get", *options, "update", "-qq"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if updated.returncode != 0:
        raise fetch.FetchError(f"apt cannot read the packages of {series.suite}: {updated.stderr.strip()}")
    listed = subprocess.run(
        ["apt-cache", *options, "pkgnames", "linux-"], check=True, capture_output=True, text=True
    ).stdout.split()
    packages = set(listed)
    releases = {}
    for name in packages:
        match = re.fullmatch(rf"linux-(?:image|binary)-({series.release}.*-cloud-amd64)", name)
        # Where there is a linux-binary, linux-image only depends on it.
        if match and f"linux-image-{match[1]}-dbg" in packages:
            releases[match[1]] = min(name, releases.get(match[1], name))
    if not releases:
        raise fetch.FetchError(f"{series.suite} has no cloud kernel {series.name} with symbols")
    newest = max(releases, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])
    return newest, releases[newest]


def _download(wanted: fetch.Kernel, package: str) -> fetch.Kernel:
    # Since 7 the image is in a package that has no configuration beside it.
    binary = package.startswith("linux-binary-")
    image = ["./usr/lib/modules/*/vmlinuz"] if binary else ["./boot/vmlinuz-*", "./boot/config-*"]
    with cache.fill(wanted.directory) as directory:
        fetch.unpack(package, image, directory, wanted.apt)
        fetch.unpack(f"linux-image-{wanted.release}-dbg", ["./usr/lib/debug/*vmlinux*"], directory, wanted.apt)
        made = fetch.Kernel(wanted.release, directory)
        for part, pattern in ((made.vmlinuz, "vmlinuz*"), (made.vmlinux, "vmlinux*"), (made.config, "config-*")):
            found = [path for path in directory.rglob(pattern) if path.is_file() and not path.is_symlink()]
            if found:
                found[0].rename(part)
            elif part != made.config:
                raise fetch.FetchError(f"the packages of {wanted.release} hold no {part.name}")
        for rest in ("usr", "boot"):
            shutil.rmtree(directory / rest, ignore_errors=True)
    return wanted


def _apt(series: Series) -> list[str]:
    """Options that make apt know `series.suite` and nothing else."""
    place = cache.root() / "apt" / series.suite
    for directory in ("lists/partial", "cache/archives/partial"):
        (place / directory).mkdir(parents=True, exist_ok=True)
    sources = place / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {series.suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": place / "lists",
        "Dir::Cache": place / "cache",
        "Acquire::Languages": "none",
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def _mirror() -> str:
    """Where this machine's own apt gets Debian's packages."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text(errors="replace") for path in sources if path.is_file())
    found = re.search(r"^(?:deb .*?|URIs: *)(https?://\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    return found[1] if found else USUAL_MIRROR


if __name__ == "__main__":
    for each in MATRIX:
        print(kernel(each).release)
