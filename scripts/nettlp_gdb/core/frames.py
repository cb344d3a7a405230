"""Frames of a task as the server proves them, and what they tell a debugger that walks the same stack."""

import json
from typing import Dict, List, NamedTuple, Optional, Tuple


class Frame(NamedTuple):
    """A place in code, on a stack."""

    address: int
    sp: int
    #: which of the CPU's stacks; `None` in user mode, and of the frame at 0 that ends a walk
    stack: Optional[str]
    #: those that were saved there
    registers: Dict[str, int]


class Caller(NamedTuple):
    """What a frame is told apart by, and the registers of who called it or was interrupted by it."""

    identity: int
    registers: Dict[str, int]


class Chain(NamedTuple):
    """The frames of one task, innermost first, and one at 0, where GDB ends: behind user mode, a stack's outermost
    frame, or the last one that is proved."""

    pid: int
    #: the CPU that runs it, or ran it last
    cpu: Optional[int]
    on_cpu: bool
    frames: Tuple[Frame, ...]

    def position(self, address: int, sp: int) -> Optional[int]:
        """Which frame it is that a debugger came to."""
        for at, frame in enumerate(self.frames):
            if (frame.address, frame.sp) == (address, sp):
                return at
        return None

    def switched(self, at: int) -> bool:
        """Whether the way from the innermost frame to the caller of `at` leads over another stack."""
        kernel = [frame.stack for frame in self.frames[: at + 2] if frame.stack is not None]
        return len(set(kernel)) > 1

    def caller(self, at: int, compiled: bool) -> Optional[Caller]:
        """Who is outside of the frame `at`; `None` where the debugger finds that out itself.

        It does where a compiler described the code (`compiled`), and no other stack is involved. Where the server's
        frames end for want of proof, nobody is there."""
        if compiled and not self.switched(at):
            return None
        found, *further = self.frames[at + 1 :] or (Frame(0, self.frames[at].sp, None, {}),)
        registers = {**found.registers, "rip": found.address, "rsp": found.sp}
        # The frame of a call through a null pointer has no code: its caller is next, and lost no register to it.
        if found.address == 0 and found.stack is not None and further:
            registers.update(rip=further[0].address, rsp=further[0].sp)
        return Caller(self._identity(at), registers)

    def _identity(self, at: int) -> int:
        """A number that grows outwards, as debuggers want it: the caller's stack pointer as long as it does."""
        places = [frame.sp for frame in self.frames[: at + 2] if frame.stack is not None]
        # Where it does not, by one with each frame.
        return max(places) + (at if self.switched(at) or len(places) < at + 2 else 0)


def parse(text: str) -> List[Chain]:
    """The chains in what `monitor bt PID json` prints, an object per line.

    Raises `ValueError` or `KeyError` for a text of another kind."""
    return [_chain(json.loads(line)) for line in text.splitlines() if line]


def _chain(task: dict) -> Chain:
    frames = [
        Frame(int(call["address"], 16), int(call["sp"], 16), call["stack"], _registers(call.get("registers")))
        for call in task["frames"]
        if not call["inlined"]
    ]
    user = task.get("user")
    if user:
        saved = _registers(user["registers"])
        frames.append(Frame(saved["rip"], saved["rsp"], None, saved))
    if frames:
        # Of the last frame it shows, GDB wants to know that another is outside of it.
        end = frames[-1].sp
        frames += Frame(0, end, None, {}), Frame(0, end + 8, None, {})
    return Chain(task["pid"], task.get("cpu"), task["on_cpu"], tuple(frames))


def _registers(saved: Optional[dict]) -> Dict[str, int]:
    return {name: int(value, 16) for name, value in (saved or {}).items()}
