"""`symbols -o`: the vmlinux made of the target's own memory, beside the distribution's, for every tool that is to read it; every
kernel's file in those that read the whole, the system's own in drgn, question by question (in gdb: `test_matrix.py`)."""

import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import drgn
import oracle
import pytest
from drgn.helpers.linux.pid import for_each_task
from lab import fetch, initramfs, modules
from lab.bench import run
from lab.guest import Guest, Machine, image_arguments
from test_btf import layouts
from test_kallsyms import at_work, with_modules  # noqa: F401

MAX_BYTES = 40 << 20
# Bit-fields without a name that pahole makes up, where it was not told the alignment, to reach it: of the type of the last
# member, and that may be a struct written out (`struct mm_struct` on 6.12).
INVENTED = re.compile(
    r"^\t*/\* Force padding: \*/\n(?:\t*[\w *]+:\d+;\n|(\t*)(?:struct|union) .*{\n(?:.*\n)*?\1} :\d+;\n)+", re.MULTILINE
)
STRUCTS = ("task_struct", "mm_struct", "module", "rq", "net_device", "inode")


@dataclass
class Made:
    """Of one kernel's guest at rest, with nothing given: the file and what making it said, the configuration that was
    recovered, and what drgn lists with that file alone and with the distribution's."""

    kernel: fetch.Kernel
    path: Path
    said: dict
    recovered: subprocess.CompletedProcess
    tasks: dict[str, set[tuple]]


@pytest.fixture(scope="module")
def each_made(each_kernel, binary, tmp_path_factory) -> Made:
    directory = tmp_path_factory.mktemp("made")
    path, config = directory / "vmlinux", each_kernel.config
    archive = initramfs.build(directory / "initramfs.cpio", config=config if config.is_file() else None)
    with Guest(Machine(each_kernel.vmlinuz, archive)) as guest:
        note = oracle.vmcoreinfo(guest)
        guest.stop()
        image = image_arguments(guest.ram_file, guest.ram)
        said = json.loads(run(binary, "symbols", "-o", str(path), "--json", *image))
        recovered = subprocess.run(
            [binary, "kconfig", *image], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
        tasks = {
            what: oracle.tasks(oracle.program(guest, note, file))
            for what, file in (("memory", path), ("vmlinux", each_kernel.vmlinux))
        }
    return Made(each_kernel, path, said, recovered, tasks)


def test_tools_find_nothing_wrong(each_made, figure):
    figure(f"a vmlinux from memory ({each_made.kernel.release}): {each_made.said}")
    assert each_made.said["bytes"] == each_made.path.stat().st_size <= MAX_BYTES
    # As a file of debug information, whose sections have no bytes of their own.
    checked = subprocess.run(["eu-elflint", "--debuginfo", each_made.path], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "No errors\n")
    for option in ("-aW", "-wi", "-wa"):
        assert subprocess.run(["readelf", option, each_made.path], capture_output=True, text=True, check=True).stderr == ""


def test_variables_have_the_types_of_the_compiler(each_made):
    """Those BTF tells and those of the table. A string is followed by what the linker left free."""
    ours, theirs = (debug_info(path) for path in (each_made.path, each_made.kernel.vmlinux))
    compared, wrong = 0, []
    for name in variables(each_made.path):
        try:
            types = [program.variable(name).type_ for program in (ours, theirs)]
        except LookupError:
            continue
        compared += 1
        one, other = (shape(type) for type in types)
        length, expected = (getattr(type, "length", None) if one.startswith("char[") else None for type in types)
        padded = length is not None and (expected is None or 0 <= length - expected < 32)
        if one != other and not padded:
            wrong.append((name, one, other))
    assert compared > 100 and wrong == []


def debug_info(path: Path) -> drgn.Program:
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64, drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN))
    module = program.extra_module(str(path), create=True)
    module.address_ranges = [(0, 2**64 - 1)]
    module.try_file(str(path), force=True)
    return program


def variables(path: Path) -> list[str]:
    """Names of its variables; of those that several have nobody says which is meant."""
    table = subprocess.run(["readelf", "-sW", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines()]
    names = Counter(row[7] for row in rows if len(row) == 8 and row[3] == "OBJECT")
    return [name for name, count in names.items() if count == 1]


def shape(type: drgn.Type) -> str:
    """A type without qualifiers and typedefs."""
    match type.kind:
        case drgn.TypeKind.TYPEDEF:
            return shape(type.type)
        case drgn.TypeKind.POINTER:
            return shape(type.type) + "*"
        case drgn.TypeKind.ARRAY:
            return f"{shape(type.type)}[{type.length}]"
        case drgn.TypeKind.STRUCT | drgn.TypeKind.UNION | drgn.TypeKind.ENUM:
            return f"{type.kind.name} {type.tag or drgn.sizeof(type)}"
        case drgn.TypeKind.FUNCTION | drgn.TypeKind.VOID:
            return type.kind.name
        case _:
            return type.name


def test_types_go_through_dwarf_unchanged(each_made, examples):
    btf = layouts(examples, "*", "--btf", each_made.kernel.vmlinux)
    assert layouts(examples, "*", "--btf", each_made.path) == btf
    names = "\n".join(btf)
    assert layouts(examples, names, each_made.path) == layouts(examples, names, "--btf", each_made.path)


@pytest.mark.parametrize("struct", STRUCTS)
def test_pahole_sees_the_same_struct(each_made, struct):
    ours, theirs = (pahole(path, struct) for path in (each_made.path, each_made.kernel.vmlinux))
    assert len(ours) > 20 and ours == theirs


def test_drgn_lists_the_tasks_of_every_kernel(each_made):
    assert len(each_made.tasks["memory"]) > 20
    assert each_made.tasks["memory"] == each_made.tasks["vmlinux"]


def test_the_configuration_is_recovered_with_nothing_given(each_made, figure):
    done, config = each_made.recovered, each_made.kernel.config
    if not config.is_file():
        assert (done.returncode, done.stdout) == (1, "") and "no configuration of the running kernel" in done.stderr
        return
    found, expected = (set_options(text) for text in (done.stdout, config.read_text()))
    figure(
        f"kconfig ({each_made.kernel.release}): {len(found & expected)} of {len(expected)} options, {len(found - expected)} wrong"
    )
    assert done.returncode in (0, 3), done.stderr
    assert found <= expected and len(found) > len(expected) * 0.99


def set_options(text: str) -> set[str]:
    return {line for line in text.splitlines() if re.match(r"CONFIG_|# CONFIG_", line)}


@pytest.fixture(scope="module")
def made(at_rest, binary, tmp_path_factory):
    rest, path = at_rest(), tmp_path_factory.mktemp("synth") / "vmlinux"
    run(binary, "symbols", "-o", str(path), *image_arguments(rest.ram_file, rest.ram))
    return path


def pahole(path, struct: str = "task_struct", *options) -> list[str]:
    command = ["pahole", *(options or ("-F", "dwarf")), "-C", struct, path]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # BTF says where a member is, not how that was asked for. Columns follow the longest member.
    plain = re.sub(r" __attribute__\(\(__aligned__\(\d+\)\)\)", "", output)
    lines = [re.sub(r"\s+", " ", line).strip() for line in INVENTED.sub("", plain).splitlines()]
    return [line for line in lines if line and "forced alignments" not in line and line[0] != "}"]


def test_types_of_modules_are_those_of_their_files(at_work, kernel, binary, tmp_path):
    guest, _ = at_work
    made = tmp_path / "vmlinux"
    run(binary, "symbols", "-o", str(made), *image_arguments(guest.ram_file, guest.ram))
    for module, struct in ("tun", "tun_struct"), ("tun", "tun_file"), ("fat", "msdos_sb_info"), ("fat", "fatent_operations"):
        [file] = modules.files(kernel, (module,))
        ours, theirs = pahole(made, struct), pahole(file, struct, "-F", "btf", "--btf_base", made)
        assert len(ours) > 5 and ours == theirs


def test_drgn_needs_nothing_else(made, at_rest, binary, kernel, tmp_path):
    rest, core = at_rest(), tmp_path / "core"
    run(binary, "dump", "-o", str(core), "--quiet", *image_arguments(rest.ram_file, rest.ram))
    ours, theirs = (seen_by_drgn(core, path) for path in (made, kernel.vmlinux))
    assert len(ours["tasks"]) > 20
    assert ours == theirs


def seen_by_drgn(core, path) -> dict:
    from drgn.helpers.linux.cpumask import for_each_online_cpu
    from drgn.helpers.linux.fs import for_each_mount, mount_dst
    from drgn.helpers.linux.percpu import per_cpu
    from drgn.helpers.linux.printk import get_printk_records
    from drgn.helpers.linux.sched import cpu_curr, task_state_to_char

    program = drgn.Program()
    program.set_core_dump(core)
    program.load_debug_info([path])
    cpus = list(for_each_online_cpu(program))
    return {
        "tasks": {(task.value_(), task.pid.value_(), task.comm.string_(), task_state_to_char(task)) for task in for_each_task(program)},
        "cpus": {cpu: (cpu_curr(program, cpu).value_(), per_cpu(program["runqueues"], cpu).cpu.value_()) for cpu in cpus},
        "log": [record.text for record in get_printk_records(program)],
        "mounts": [mount_dst(mount) for mount in for_each_mount(program)],
        "banner": program["linux_banner"].string_(),
    }
