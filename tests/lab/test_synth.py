"""`symbols -o`: the vmlinux made of the target's own memory, beside the distribution's, in gdb and drgn, question by question.
That every kernel's file is sound is for `test_matrix.py`."""

import re
import subprocess
import time

import drgn
import pytest
from drgn.helpers.linux.pid import for_each_task
from lab import debugger, modules
from lab.bench import Bench, run
from lab.guest import image_arguments
from test_kallsyms import at_work, with_modules  # noqa: F401

# What gdb has to answer alike with either file.
QUESTIONS = [
    "p sizeof(struct task_struct)",
    "ptype struct mm_struct",
    "ptype struct module",
    "ptype schedule",
    "ptype vfs_read",
    "p init_task.comm",
    "x/5i schedule",
    "info symbol schedule",
    "info symbol vfs_read+4",
    "info symbol &init_task",
    'p $lx_per_cpu("runqueues",0).nr_running',
    'p $lx_per_cpu("runqueues",1).cpu',
    "p &runqueues",
    "p linux_banner",
    "p prb->desc_ring.count_bits",
    "p (void *)'printk.c'::prb",
    "p init_uts_ns.name.release",
    "p/x __per_cpu_offset[1]",
    "p page_offset_base",
    "p saved_command_line",
    "lx-ps",
    "lx-dmesg",
    "lx-version",
    "lx-mounts",
    "lx-lsmod",
]


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
    lines = [re.sub(r"\s+", " ", line).strip() for line in plain.splitlines()]
    # So are the fields pahole invents to force that: they have no name and no place.
    lines = [line for line in lines if not re.fullmatch(r"/\* Force padding: \*/|[\w *]+ :\d+;", line)]
    return [line for line in lines if line and "forced alignments" not in line and line[0] != "}"]


def test_types_of_modules_are_those_of_their_files(at_work, kernel, binary, tmp_path):  # noqa: F811
    guest, _ = at_work
    made = tmp_path / "vmlinux"
    run(binary, "symbols", "-o", str(made), *image_arguments(guest.ram_file, guest.ram))
    for module, struct in ("tun", "tun_struct"), ("tun", "tun_file"), ("fat", "msdos_sb_info"), ("fat", "fatent_operations"):
        [file] = modules.files(kernel, (module,))
        ours, theirs = pahole(made, struct), pahole(file, struct, "-F", "btf", "--btf_base", made)
        assert len(ours) > 5 and ours == theirs


def test_gdb_answers_alike(made, at_rest, binary, kernel, loaded_scripts, figure):
    rest = at_rest()
    answers = {}
    for name, served in ("ours", None), ("theirs", kernel.vmlinux):
        path = made if name == "ours" else kernel.vmlinux
        with Bench(binary, rest.ram_file, rest.ram, served) as bench:
            for kind, scripts in loaded_scripts.items():
                answers[name, kind] = debugger.ask(path, bench.port, QUESTIONS, scripts=scripts)
            start = time.monotonic()
            debugger.ask(path, bench.port, ["lx-ps"], scripts=loaded_scripts["ours"])
            figure(f"gdb to the end of its first lx-ps, {name}: {time.monotonic() - start:.2f} s")
    for kind in loaded_scripts:
        for question, ours, theirs in zip(QUESTIONS, answers["ours", kind], answers["theirs", kind], strict=True):
            assert ours == theirs, (kind, question)
            assert "Error" not in ours and "unknown type" not in ours


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
