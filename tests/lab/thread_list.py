"""What gdb's thread commands print, as rows."""

import re
from typing import NamedTuple

#: the thread of CPU n has the id that follows this one by n, the idle task of a busy CPU that after the second
OF_CPU = 10_000_000
OF_IDLE = 20_000_000

_ROW = re.compile(r'^[* ] (\d+) +Thread (\d+) "(.*)" \((.*?)\) +(?:0x|\w)', re.MULTILINE)
_PID = re.compile(r"\bpid (\d+)\b")
_TRACE = re.compile(r"^Thread (\d+) \(Thread ", re.MULTILINE)
_FRAME = re.compile(r"^#\d+ +(?:0x[0-9a-f]+ in )?([\w.?]+)(?:\[cold\])? \(", re.MULTILINE)


class Thread(NamedTuple):
    """A line of `info threads`."""

    number: int
    tid: int
    name: str
    pid: int
    detail: str


def listed(text: str) -> list[Thread]:
    """The threads that `info threads` lists, in its order."""
    return [_thread(*match.groups()) for match in _ROW.finditer(text)]


def traces(text: str) -> dict[int, list[str]]:
    """What `thread apply all bt` prints: by the thread's number, its functions, innermost first; `??` has no name."""
    _, *parts = _TRACE.split(text)
    return {int(number): _FRAME.findall(trace) for number, trace in zip(parts[::2], parts[1::2])}


def in_order(wanted: list[str], shown: list[str]) -> bool:
    """Whether `shown` has all that is `wanted` in that order, and maybe more: functions that were inlined."""
    rest = iter(shown)
    return all(name in rest for name in wanted)


def _thread(number: str, tid: str, name: str, detail: str) -> Thread:
    named = _PID.search(detail)
    pid = int(named[1]) if named else 0 if int(tid) >= OF_IDLE else int(tid)
    return Thread(int(number), int(tid), name, pid, detail)
