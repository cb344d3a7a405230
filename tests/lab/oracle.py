"""drgn over the guest's RAM file: another implementation's view of the same memory."""

from pathlib import Path

import drgn

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


def _reader(ram_file: Path, segment: Segment):
    ram = ram_file.open("rb", buffering=0)

    def read(_address: int, count: int, offset: int, _physical: bool) -> bytes:
        ram.seek(segment.offset + offset)
        return ram.read(count)

    return read
