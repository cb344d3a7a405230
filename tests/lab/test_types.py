"""Types read from the vmlinux: every struct, union and enum that the kernel's BTF names, against drgn's reading of the same DWARF."""

import re
import struct
import subprocess
from collections import Counter

import drgn
from lab import bench_types

# include/uapi/linux/btf.h: kinds that have a tag, and what follows struct btf_type for those that something follows.
TAGS = {4: "struct", 5: "union", 6: "enum", 19: "enum"}
FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
# Not in every kernel's vmlinux, but here: no driver may hide them behind a struct of its own.
NEEDED = ("task_struct", "module", "mount", "printk_ringbuffer", "rq", "resource", "memblock", "page", "path", "file")


def test_layouts_equal_drgns(examples, kernel, figure):
    defined = btf_names(kernel.vmlinux)
    # Which one a name means that two files define differently is each reader's choice, and drgn's threads choose by chance.
    names = sorted(name for name, count in defined.items() if count == 1)
    assert not {f"struct {name}" for name in NEEDED} - set(names)
    ours = subprocess.run(
        [examples / "layout", kernel.vmlinux], input="\n".join(names), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    program = drgn.Program()
    program.extra_module("vmlinux", create=True).try_file(str(kernel.vmlinux), force=True)
    theirs = [line for name in names for line in layout(program, name)]
    assert len(names) > 5000
    assert sum(line.endswith("\tabsent") for line in theirs) < len(names) // 100
    assert [pair for pair in zip(ours, theirs) if pair[0] != pair[1]] == []
    assert len(ours) == len(theirs)
    ambiguous = len(defined) - len(names)
    figure(f"layouts equal to drgn's: {len(names)} types ({ambiguous} more names are ambiguous), {len(theirs) - len(names)} members and enumerators")


def test_offsets_are_derived_and_timed(examples, kernel, figure):
    comparison = bench_types.compare(kernel.vmlinux, rounds=3)
    assert "48 structs" in comparison.derived
    figure(f"deriving all offsets:\n{comparison.table()}")


def layout(program: drgn.Program, name: str) -> list[str]:
    """What `examples/layout.rs` prints, from drgn."""
    try:
        found = program.type(name)
    except LookupError:
        return [f"{name}\tabsent"]
    if not found.is_complete():
        return [f"{name}\tabsent"]
    lines = [f"{name}\t{drgn.sizeof(found)}"]
    if found.kind == drgn.TypeKind.ENUM:
        return lines + [f"{name}\t{value.name}\t{value.value}" for value in found.enumerators]
    return lines + [
        f"{name}\t{member.name or ''}\t{member.bit_offset}\t{member.bit_field_size or 0}\t{size(member.type)}"
        for member in found.members
    ]


def size(member: drgn.Type) -> int:
    """Bytes; an array of no known length has none."""
    inner = member
    while inner.kind == drgn.TypeKind.TYPEDEF:
        inner = inner.type
    if inner.kind == drgn.TypeKind.ARRAY and inner.length is None:
        return 0
    return drgn.sizeof(member)


def btf_names(vmlinux) -> Counter[str]:
    """How often the kernel's own BTF defines each `struct NAME`, `union NAME` and `enum NAME`."""
    sections = subprocess.run(["readelf", "-SW", vmlinux], check=True, capture_output=True, text=True).stdout
    offset, length = (int(word, 16) for word in re.search(r" \.BTF +PROGBITS +\w+ (\w+) (\w+) ", sections).groups())
    with open(vmlinux, "rb") as file:
        file.seek(offset)
        data = file.read(length)
    header, types, types_size, strings = struct.unpack_from("<IIII", data, 4)
    at, end, strings = header + types, header + types + types_size, header + strings
    names = Counter()
    while at < end:
        name, info, _ = struct.unpack_from("<III", data, at)
        kind, count = info >> 24 & 31, info & 0xFFFF
        at += 12 + FIXED.get(kind, 0) + EACH.get(kind, 0) * count
        if kind in TAGS and name:
            start = strings + name
            names[f"{TAGS[kind]} {data[start:data.index(0, start)].decode()}"] += 1
    return names
