"""CPU masks (include/linux/cpumask.h)."""

from typing import List


def cpus(mask: bytes) -> List[int]:
    """The CPUs whose bit is set in the bytes of a `struct cpumask`."""
    bits = int.from_bytes(mask, "little")
    return [cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1]
