"""What a user types into gdb, against what the guest says: alive and after its panic."""

import re

import pytest
from truth import log_lines, same_log

PANIC = "Kernel panic - not syncing: sysrq triggered crash"
ROW = re.compile(r"(0x[0-9a-f]+)\s+(\d+)\s+(.*)")

both_scripts = pytest.mark.parametrize("scripts", ["kernel", "ours"])


def rows(text: str) -> list[tuple[int, str]]:
    """The tasks lx-ps printed; every line but the heading must be one."""
    _heading, *lines = text.splitlines()
    matched = [ROW.fullmatch(line.strip()) for line in lines]
    assert all(matched), text
    return [(int(match[2]), match[3]) for match in matched]


@both_scripts
def test_lx_ps_lists_exactly_the_guests_tasks(said, scripts):
    listed = rows(said.gdb[scripts]["ps"])
    assert set(listed) == said.tasks
    assert len(listed) == len(said.tasks)


@both_scripts
def test_lx_dmesg_is_the_guests_dmesg(said, scripts):
    shown = log_lines(said.gdb[scripts]["dmesg"].splitlines())
    assert same_log(shown, said.log), compare(shown, said.log)


@both_scripts
def test_lx_version_is_the_guests_banner(said, scripts):
    assert said.gdb[scripts]["version"].strip() == said.moment.drgn_info["banner"].strip()


@both_scripts
def test_only_a_panicked_log_tells_of_the_panic(said, state, scripts):
    assert (PANIC in said.gdb[scripts]["dmesg"]) == (state == "panicked")


@both_scripts
@pytest.mark.parametrize("question", ["current", "curr0", "curr1"])
def test_per_cpu_values_name_the_current_task(said, state, scripts, question):
    answer = said.gdb[scripts][question].strip()
    if state == "panicked":
        cpu = {"current": 0, "curr0": 0, "curr1": 1}[question]
        assert answer == said.moment.drgn_info["current"][cpu]
    else:
        # Which task it was at that moment nobody can tell later, only that there is one of that name.
        assert answer in {comm for _, comm in said.tasks} | {"swapper/1"}


def compare(shown, expected) -> str:
    """Where two logs part."""
    for number, (a, b) in enumerate(zip(shown, expected)):
        if not same_log([a], [b]):
            return f"line {number}: shown {a}, expected {b}"
    return f"{len(shown)} lines shown, {len(expected)} expected"
