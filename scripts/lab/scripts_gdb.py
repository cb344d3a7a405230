"""The kernel's own gdb scripts, for a kernel whose package comes without them.

Input: a kernel of `lab.fetch`. Output: a cached vmlinux-gdb.py with scripts/gdb/linux beside it. All of it is in the
source package but constants.py, which the preprocessor makes from the headers package, as scripts/gdb/linux/Makefile
would: nothing of the kernel is built.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab import cache, fetch, source

# Above this line constants.py.in includes headers (scripts/gdb/linux/Makefile).
END_OF_HEADERS = "<!-- end-c-headers -->"


def scripts(kernel: fetch.Kernel) -> Path:
    """The path of vmlinux-gdb.py for `kernel`, generated on first use."""
    directory = cache.root() / "scripts-gdb" / kernel.release
    if not directory.is_dir():
        with cache.fill(directory) as made:
            _generate(kernel, made)
    return directory / "vmlinux-gdb.py"


def _generate(kernel: fetch.Kernel, into: Path) -> None:
    build = into / "build"
    build.mkdir()
    print(f"Generating the gdb scripts of {kernel.release}", file=sys.stderr)
    scripts = _source(kernel, build) / "scripts" / "gdb"
    target = into / "scripts" / "gdb"
    (target / "linux").mkdir(parents=True)
    for script in (scripts / "linux").glob("*.py"):
        shutil.copy(script, target / "linux" / script.name)
    (target / "linux/constants.py").write_text(_constants(kernel, build, scripts / "linux/constants.py.in"))
    shutil.copy(scripts / "vmlinux-gdb.py", into / "vmlinux-gdb.py")
    shutil.rmtree(build)


def _source(kernel: fetch.Kernel, build: Path) -> Path:
    """A tree with the scripts in it: of the system's own kernel the whole one, which the ring needs besides."""
    if not kernel.apt:
        return source.tree(kernel)
    series = re.match(r"\d+\.\d+", kernel.release)[0]
    fetch.unpack(f"linux-source-{series}", ["./usr/src/*.tar.xz"], build, kernel.apt)
    archive = next(build.glob("usr/src/*.tar.xz"))
    wanted = ["--strip-components=1", "--wildcards", "*/scripts/gdb/*"]
    subprocess.run(["tar", "-xf", archive, "-C", build, *wanted], check=True)
    return build


def _constants(kernel: fetch.Kernel, build: Path, template: Path) -> str:
    common = f"linux-headers-{kernel.release.removesuffix('-cloud-amd64')}-common"
    own = f"linux-headers-{kernel.release}"
    for package in (common, own):
        fetch.unpack(package, ["./usr/src/*/include/*"], build, kernel.apt)
    trees = [build / "usr/src" / package for package in (common, own)]
    places = ["arch/x86/include", "arch/x86/include/generated", "include", "arch/x86/include/uapi",
              "arch/x86/include/generated/uapi", "include/uapi", "include/generated/uapi"]
    compilers = subprocess.run(["cc", "-print-file-name=include"], check=True, capture_output=True, text=True).stdout
    command = ["cc", "-E", "-x", "c", "-P", "-nostdinc", "-isystem", compilers.strip(), "-D__KERNEL__"]
    command += [f"-I{tree / place}" for place in places for tree in trees if (tree / place).is_dir()]
    for header in ("compiler-version.h", "kconfig.h", "compiler_types.h"):
        path = trees[0] / "include/linux" / header
        command += ["-include", str(path)] if path.is_file() else []
    made = subprocess.run([*command, template], capture_output=True, text=True)
    if made.returncode != 0:
        raise fetch.FetchError(f"the headers of {kernel.release} do not make constants.py: {made.stderr.strip()}")
    return made.stdout.partition(END_OF_HEADERS)[2]


if __name__ == "__main__":
    print(scripts(fetch.kernel()))
