"""From physical memory and a source tree to the guest's process list, and what drgn and crash make of the dump on the way."""

import json
import re
import subprocess

import drgn
import oracle
import pytest
from lab import source, thesis_flow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("thesis")


@pytest.fixture(scope="module")
def flow(kernel, binary, directory, figure):
    flow = thesis_flow.run(binary, kernel, source.tree(kernel), directory)
    figure(flow.table())
    return flow


@pytest.fixture(scope="module")
def dump(flow, directory):
    yield directory / "panicked.elf"
    for left in directory.glob("*.elf"):
        left.unlink()


def result(flow, state: str, name: str) -> str:
    [step] = [step for step in flow.steps[state] if step.name == name]
    return step.result


def test_the_list_is_the_guests_own(flow, state):
    assert flow.differences[state] == []
    assert flow.listed[state] > 40


def test_the_configuration_is_whole_and_right(flow, kernel):
    found, options, wrong = map(int, re.findall(r"\d+", result(flow, "alive", "kconfig")))
    assert (found, wrong) == (options, 0)
    assert options > 4000


def test_the_first_task_is_proved_without_symbols(flow, state):
    assert ", proved: " in result(flow, state, "init_task")


def test_drgn_and_crash_open_the_dump_and_list_the_same_tasks(dump, binary, kernel):
    command = [binary, "ps", "--json", "--image", dump, "--vmlinux", kernel.vmlinux]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    ours = {(task["pid"], task["comm"]) for task in map(json.loads, printed.splitlines())}

    program = drgn.Program()
    program.set_core_dump(str(dump))
    program.load_debug_info([str(kernel.vmlinux)])
    drgns = {(pid, comm) for _, pid, tgid, _, comm, _, _ in oracle.tasks(program) if pid == tgid}
    assert drgns == ours

    # Not `ps`: crash 8.0.2 takes the namespace of a pid from behind the end of `struct pid`, since that ends with a
    # flexible array (b69f0aeb0689, in 6.1 as an update), and passes over nearly every task.
    asked = "list -h init_task task_struct.tasks -s task_struct.pid,comm\nquit\n"
    said = subprocess.run(
        ["crash", "-s", kernel.vmlinux, dump], input=asked, capture_output=True, text=True, check=True, timeout=300,
    ).stdout
    crashs = {(int(pid), comm) for pid, comm in re.findall(r'^ *pid = (\d+),?\s+comm = "([^"\\]*)', said, re.MULTILINE)}
    assert crashs == ours
