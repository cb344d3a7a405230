"""A kernel's source tree from Debian's linux-source, unpacked once and never built in.

Input: a kernel of `lab.fetch`, for its release. Output: a tree in the cache.
"""

import re
import subprocess
import sys
from pathlib import Path

from lab import cache, fetch


def tree(kernel: fetch.Kernel) -> Path:
    """The source that `kernel` was built from, downloaded on first use."""
    directory = cache.root() / "source" / kernel.release
    if not directory.is_dir():
        with cache.fill(directory) as made:
            series = re.match(r"\d+\.\d+", kernel.release)[0]
            fetch.unpack(f"linux-source-{series}={_version(kernel.release)}", ["./usr/src/*.tar.xz"], made)
            print(f"Unpacking the source of {kernel.release}", file=sys.stderr)
            archive = next(made.glob("usr/src/*.tar.xz"))
            subprocess.run(["tar", "-xf", archive, "-C", made, "--strip-components=1"], check=True)
            archive.unlink()
            archive.parent.rmdir()
    return directory


def _version(release: str) -> str:
    """The Debian version the kernel's package was built from."""
    shown = subprocess.run(["apt-cache", "show", f"linux-image-{release}"], capture_output=True, text=True).stdout
    # A signed image's own version may differ from that of the source it was built from.
    for pattern in (r"^Built-Using: linux \(= (\S+?)\)", r"^Version: (\S+)"):
        if found := re.search(pattern, shown, re.MULTILINE):
            return found[1]
    raise fetch.FetchError(f"apt does not know linux-image-{release}")


if __name__ == "__main__":
    print(tree(fetch.kernel()))
