"""The kernel's own gdb scripts, made from Debian's linux-source for a kernel that was built without them.

Input: a kernel of `lab.fetch`, for its release and config. Output: a cached
vmlinux-gdb.py with scripts/gdb/linux beside it, constants.py included.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab import cache, fetch, source


def scripts(kernel: fetch.Kernel) -> Path:
    """The path of vmlinux-gdb.py for `kernel`, generated on first use."""
    directory = cache.root() / "scripts-gdb" / kernel.release
    if not directory.is_dir():
        with cache.fill(directory) as made:
            _generate(kernel, made)
    return directory / "vmlinux-gdb.py"


def _generate(kernel: fetch.Kernel, into: Path) -> None:
    build = into / "build"
    # Links: nothing that is there is written to.
    subprocess.run(["cp", "-al", source.tree(kernel), build], check=True)
    print(f"Generating the gdb scripts of {kernel.release}", file=sys.stderr)
    config = kernel.config.read_text().replace("# CONFIG_GDB_SCRIPTS is not set", "CONFIG_GDB_SCRIPTS=y")
    # Debian's keys for signing modules are not in the source package.
    config = re.sub(r'^(CONFIG_SYSTEM_TRUSTED_KEYS)=.*', r'\1=""', config, flags=re.MULTILINE)
    (build / ".config").write_text(config)
    log = into / "make.log"
    with log.open("wb") as output:
        for targets in (["olddefconfig"], ["prepare0", "scripts_gdb"]):
            made = subprocess.run(["make", "-j2", *targets], cwd=build, stdout=output, stderr=output)
            if made.returncode != 0:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise fetch.FetchError(f"make {' '.join(targets)} failed:\n{tail}")
    target = into / "scripts" / "gdb"
    (target / "linux").mkdir(parents=True)
    for script in (build / "scripts/gdb/linux").glob("*.py"):
        shutil.copy(script, target / "linux" / script.name)
    shutil.copy(build / "scripts/gdb/vmlinux-gdb.py", into / "vmlinux-gdb.py")
    shutil.rmtree(build)
    log.unlink()


if __name__ == "__main__":
    print(scripts(fetch.kernel()))
