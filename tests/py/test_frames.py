"""The server's frames as a debugger walks them."""

import json

import pytest
from nettlp_gdb.core import frames

USER = {"registers": {"rip": "0x47b7a0", "rsp": "0x7ffc40", "rax": "0x1"}}


def chain(calls, user=None, **task):
    listed = [
        {"address": hex(address), "sp": hex(sp), "stack": stack, "inlined": False, **more} for address, sp, stack, *rest in calls
        for more in [{"registers": rest[0]} if rest else {}]
    ]
    line = json.dumps({"pid": 7, "cpu": 0, "on_cpu": True, "frames": listed, "user": user, **task})
    (parsed,) = frames.parse(line + "\n")
    return parsed


def walked(parsed, compiled=()):
    """What a debugger comes to that knows by itself who called the `compiled` frames, and finds the frames' order right."""
    at, last, addresses = 0, -1, []
    while (frame := parsed.frames[at]).address:
        addresses.append(frame.address)
        caller = parsed.caller(at, frame.address in compiled)
        if caller is None:
            outside, identity = parsed.frames[at + 1], parsed.frames[at + 1].sp
            address, sp = outside.address, outside.sp
        else:
            identity, address, sp = caller.identity, caller.registers["rip"], caller.registers["rsp"]
        assert identity > last
        at, last = parsed.position(address, sp), identity
    return addresses


SYSCALL = [(0xA1, 0x1000, "task"), (0xA2, 0x1040, "task"), (0xE1, 0x1080, "task")]


def test_a_call_from_user_mode():
    parsed = chain(SYSCALL, USER)
    assert walked(parsed) == [0xA1, 0xA2, 0xE1, 0x47B7A0]
    assert walked(parsed, compiled={0xA1, 0xA2}) == [0xA1, 0xA2, 0xE1, 0x47B7A0]
    assert parsed.caller(2, False).registers == {"rip": 0x47B7A0, "rsp": 0x7FFC40, "rax": 1}


def test_what_a_compiler_described_is_the_debuggers():
    parsed = chain(SYSCALL, USER)
    assert parsed.caller(0, True) is None and parsed.caller(2, False) is not None


@pytest.mark.parametrize("interrupt", [0x9000, 0x100], ids=["above", "below"])
def test_from_an_interrupts_stack_to_the_tasks_wherever_that_is(interrupt):
    saved = {"rip": "0xa7", "rsp": "0x1100", "rbx": "0x5"}
    calls = [
        (0xB1, interrupt, "irq"), (0xB2, interrupt + 0x20, "irq"), (0xE1, 0x1080, "task"),
        (0xA7, 0x1100, "task", saved), (0xA8, 0x1110, "task"), (0xE2, 0x1180, "task"),
    ]
    parsed = chain(calls)
    order = [address for address, *_ in calls]
    assert walked(parsed) == order
    # A debugger that were left alone with what is outside would find the stack going down.
    assert walked(parsed, compiled={0xB1, 0xB2, 0xA7, 0xA8}) == order
    assert parsed.caller(2, False).registers["rbx"] == 5


def test_a_call_through_a_null_pointer_has_a_caller():
    saved = {"rip": "0x0", "rsp": "0x1100", "r12": "0x6"}
    parsed = chain([(0xE1, 0x1080, "task"), (0, 0x1100, "task", saved), (0xA3, 0x1108, "task")], USER)
    assert walked(parsed) == [0xE1, 0xA3, 0x47B7A0]
    assert parsed.caller(0, False).registers == {"rip": 0xA3, "rsp": 0x1108, "r12": 6}


def test_nobody_is_outside_of_the_last_frame():
    for parsed in chain(SYSCALL), chain(SYSCALL, incomplete="no rule"):
        assert parsed.caller(2, False).registers["rip"] == 0


def test_inlined_functions_are_no_frames():
    inlined = {"address": "0xa1", "sp": "0x1000", "stack": "task", "inlined": True}
    real = {**inlined, "inlined": False}
    (parsed,) = frames.parse(json.dumps({"pid": 7, "on_cpu": False, "frames": [inlined, real]}))
    assert [frame.address for frame in parsed.frames] == [0xA1, 0, 0]


def test_the_place_of_a_frame_is_told_by_both():
    parsed = chain(SYSCALL)
    assert parsed.position(0xA2, 0x1040) == 1
    assert parsed.position(0xA2, 0x1000) is None


@pytest.mark.parametrize("text", ["there is no `monitor bt`", "{}", "pid 7 lab, S\n  no backtrace"])
def test_a_server_that_says_something_else(text):
    with pytest.raises((ValueError, KeyError)):
        frames.parse(text)
