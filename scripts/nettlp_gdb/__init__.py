"""The Linux kernel's GDB commands (lx-ps, lx-dmesg, ...), for a vmlinux that brings none.

Names and output are those of the kernel's own scripts/gdb, so that habits and scripts go on working. Differences:

* They are built with the kernel, and few distributions do so. These need nothing generated: types, members and
  enumerators come from the vmlinux that GDB has loaded, and what differs between kernels is decided by presence.
* They read integer by integer. These read each object once, and the log in bulk, since every read may be a trip
  over the network.
* They trust what they read. Here every walk is bounded; a target that changes meanwhile gets a sentence.

Layers: `core` knows the data structures and not GDB; `target` is the access to GDB's types, symbols and memory;
`command` is how commands and functions are made; each other module is one subsystem of the kernel.
"""
