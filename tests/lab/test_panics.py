"""Ways to die other than by sysrq: `bt` of the CPUs, beside what the console printed.

No module is needed: the guest's RAM is a file, so that a function pointer or an instruction can be put there."""

import json
import time
from pathlib import Path

import backtraces
import thread_list
from lab import debugger
from lab.bench import Bench, run
from lab.demo import SCRIPTS
from lab.guest import PANICKED, Guest, Machine, image_arguments

# cli; jmp .
HANG = b"\xfa\xeb\xfe"


def put(guest: Guest, binary: Path, symbol: str, code: bytes) -> None:
    """Writes where the kernel has `symbol`. Code must not have run yet, or QEMU's translation of it would go on."""
    image = image_arguments(guest.ram_file, guest.ram)
    (where,) = [json.loads(line) for line in run(binary, "translate", symbol, "--json", *image).splitlines()]
    with guest.ram_file.open("r+b") as ram:
        ram.seek(int(where["phys"], 16))
        ram.write(code)


def panicked(guest: Guest, start: int, seconds: float = 120) -> str:
    """The console from `start` to the end of the panic."""
    guest.await_console(PANICKED, start, seconds)
    # The other CPU stops itself a moment after the message is out.
    time.sleep(1)
    return guest.console()[start:]


def what_the_cpus_did(guest: Guest, binary: Path) -> list[dict]:
    guest.stop()
    shown = run(binary, "bt", "--json", *image_arguments(guest.ram_file, guest.ram))
    return [json.loads(line) for line in shown.splitlines()]


def what_gdb_shows(guest: Guest, binary: Path) -> list[str]:
    """gdb's `bt` of the CPU that panicked, with nothing given but our scripts."""
    with Bench(binary, guest.ram_file, guest.ram, None) as bench:
        listed, traces = debugger.ask(None, bench.port, ["info threads", "thread apply all bt"], scripts=SCRIPTS)
    (dead,) = [thread for thread in thread_list.listed(listed) if "panicked here" in thread.detail]
    return [backtraces.function(name) for name in thread_list.traces(traces)[dead.number]]


def of_the_panic(tasks: list[dict]) -> dict:
    (dead,) = [task for task in tasks if "panic" in backtraces.ours(task)]
    return dead


def test_a_null_pointer_called(kernel, binary, archive):
    with Guest(Machine(kernel.vmlinuz, archive, append=("oops=panic",))) as guest:
        # `sysrq_key_op.handler` is the first member.
        put(guest, binary, "sysrq_crash_op", bytes(8))
        start = len(guest.console())
        guest.send("echo c > /proc/sysrq-trigger")
        console = panicked(guest, start)
        dead = of_the_panic(what_the_cpus_did(guest, binary))
        shown = what_gdb_shows(guest, binary)
    names = backtraces.ours(dead)
    assert names[0] == "panic" and names[1] == "oops_end" and "exc_page_fault" in names, names
    fault = [call["found_by"] for call in dead["frames"]].index("pt_regs")
    assert int(dead["frames"][fault]["address"], 16) == 0 and dead["frames"][fault]["registers"]["rip"] == "0x0"
    # The oops shows the functions outside of the fault, and the panic adds no trace of its own.
    outside = backtraces.console(console)
    assert len(outside) > 5 and names[fault + 1 : -1] == outside
    assert dead["incomplete"] is None
    assert thread_list.in_order(outside, shown) and "exc_page_fault" in shown, shown


def test_a_hung_cpu_is_found_by_an_nmi(kernel, binary, archive):
    with Guest(Machine(kernel.vmlinuz, archive, append=("unknown_nmi_panic=1",))) as guest:
        put(guest, binary, "sysrq_handle_crash", HANG)
        start = len(guest.console())
        guest.send("echo c > /proc/sysrq-trigger")
        guest.await_console("sysrq: Trigger a crash", start, 60)
        # From the message to the instruction that hangs it is no more than a call.
        time.sleep(1)
        guest.qmp("inject-nmi")
        console = panicked(guest, start)
        tasks = what_the_cpus_did(guest, binary)
        gdbs = what_gdb_shows(guest, binary)
    dead = of_the_panic(tasks)
    shown = backtraces.from_panic(backtraces.console(console))
    assert "nmi_panic" in shown
    # The console shows what was interrupted by its registers, and not among the calls.
    called = {**dead, "frames": [call for call in dead["frames"] if call["found_by"] != "pt_regs"], "user": None}
    assert backtraces.from_panic(backtraces.ours(called)) == shown
    assert thread_list.in_order(shown, gdbs), gdbs
    # Whichever CPU panicked, the one that hung shows where.
    (hung,) = [task for task in tasks if task["comm"] == "lab-shell" and "sysrq_handle_crash" in backtraces.ours(task)]
    place = [call["found_by"] for call in hung["frames"]].index("pt_regs")
    assert backtraces.ours(hung)[place : place + 3] == ["sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger"]
    assert hung["frames"][0]["stack"] == "exception" and hung["frames"][place]["stack"] == "task"
    assert hung["user"]["left_by"] == "syscall" and hung["incomplete"] is None
