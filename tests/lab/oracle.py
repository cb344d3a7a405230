"""drgn over the guest's RAM file: another implementation's view of the same memory."""

from pathlib import Path

import drgn
from drgn.helpers.linux.cpumask import for_each_online_cpu, for_each_possible_cpu
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import cpu_curr, task_cpu, task_state_to_char

from lab.guest import Guest, Segment

# struct elf_note and the name "VMCOREINFO", padded to four bytes.
NOTE_HEADER = 24


def program(guest: Guest, vmcoreinfo: bytes, vmlinux: Path) -> drgn.Program:
    """drgn with the guest's memory, its VMCOREINFO and its symbols."""
    made = drgn.Program(drgn.Platform(drgn.Architecture.X86_64, drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN))
    for segment in guest.ram:
        made.add_memory_segment(segment.phys, segment.length, _reader(guest.ram_file, segment), physical=True)
    made.set_linux_kernel_custom(vmcoreinfo, False)
    made.load_debug_info([str(vmlinux)])
    return made


def vmcoreinfo(guest: Guest) -> bytes:
    """The note's text, from where /sys/kernel/vmcoreinfo says it lies in physical memory."""
    address, size = (int(word, 16) for word in guest.run("cat /sys/kernel/vmcoreinfo").split())
    for segment in guest.ram:
        if segment.phys <= address < segment.phys + segment.length:
            note = _reader(guest.ram_file, segment)(address, size, address - segment.phys, True)
            return note[NOTE_HEADER:].split(b"\0", 1)[0]
    raise LookupError(f"VMCOREINFO at {address:#x} is outside the guest's RAM")


def tasks(program: drgn.Program) -> set[tuple]:
    """Address, pid, tgid, ppid, comm, state and CPU of every thread, init_task included."""
    return {
        (
            task.value_(), task.pid.value_(), task.tgid.value_(), task.real_parent.tgid.value_(),
            task.comm.string_().decode(), task_state_to_char(task), task_cpu(task),
        )
        for task in [program["init_task"].address_of_(), *for_each_task(program)]
    }


def info(program: drgn.Program) -> dict:
    """What `nettlp-gdb info` claims, under its names."""
    online = set(for_each_online_cpu(program))
    return {
        "banner": program["linux_banner"].string_().decode(),
        "build_id": program.main_module().build_id.hex(),
        # Defined in assembly, so without a type.
        "phys_base": program.read_u64(program.symbol("phys_base").address),
        **{name: program[name].value_() for name in ("page_offset_base", "vmalloc_base", "vmemmap_base")},
        "cpus": {
            cpu: (cpu in online, program["__per_cpu_offset"][cpu].value_(), cpu_curr(program, cpu).value_())
            for cpu in for_each_possible_cpu(program)
        },
        "current": {cpu: cpu_curr(program, cpu).comm.string_().decode() for cpu in for_each_possible_cpu(program)},
    }


def _reader(ram_file: Path, segment: Segment):
    ram = ram_file.open("rb", buffering=0)

    def read(_address: int, count: int, offset: int, _physical: bool) -> bytes:
        ram.seek(segment.offset + offset)
        return ram.read(count)

    return read
