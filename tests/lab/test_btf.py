"""BTF, the types a kernel carries in its own memory: every named struct, union and enum, against the DWARF of the same kernel, for
each kernel of the ring."""

import subprocess
from collections import defaultdict


def test_layouts_equal_dwarfs(examples, each_kernel, figure):
    vmlinux = each_kernel.vmlinux
    btf = layouts(examples, "*", "--btf", vmlinux)
    dwarf = layouts(examples, "\n".join(btf), vmlinux)
    assert len(btf) > 5000
    assert btf.keys() == dwarf.keys()
    absent = [name for name in btf if dwarf[name][0][0].endswith("\tabsent")]
    # What a function defines inside itself has no name outside; both readers agree on all else.
    assert len(absent) < len(btf) // 100
    present = btf.keys() - absent
    # Of several structs of one name a reader chooses one; the other must have it too.
    different = {name for name in present if dwarf[name][0] not in btf[name]}
    cut = {name for name in different if is_cut(dwarf[name][0], btf[name][0])}
    assert different - cut == set()
    unique = [name for name in present if len(btf[name]) == 1]
    members = sum(len(dwarf[name][0]) - 1 for name in present)
    figure(
        f"BTF equal to DWARF ({each_kernel.release}): {len(present)} types, {members} members and enumerators; "
        f"{len(present) - len(unique)} names are ambiguous, {len(absent)} are local to a function, {len(cut)} enums have values that their BTF cut"
    )


def is_cut(dwarf: tuple[str, ...], btf: tuple[str, ...]) -> bool:
    """Whether an enum differs in nothing but what BTF had no room for before Linux 6.0: 32 bits a value, and no sign."""
    values = [[line.rpartition("\t") for line in lines] for lines in (dwarf, btf)]
    names = [[name for name, _, _ in lines] for lines in values]
    return dwarf[0].startswith("enum ") and names[0] == names[1] and all(
        (int(whole) - int(low)) % 2**32 == 0 for (_, _, whole), (_, _, low) in zip(*values)
    )


def layouts(examples, names: str, *arguments) -> dict[str, list[tuple[str, ...]]]:
    """By name the lines of each definition."""
    found = defaultdict(list)
    output = subprocess.run([examples / "layout", *arguments], input=names, check=True, capture_output=True, text=True).stdout
    block = []
    for line in output.splitlines():
        if line.count("\t") == 1:
            block = [line]
            found[line.split("\t")[0]].append(block)
        else:
            block.append(line)
    return {name: [tuple(block) for block in blocks] for name, blocks in found.items()}
