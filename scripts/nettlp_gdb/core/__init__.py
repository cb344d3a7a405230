"""What is known about the kernel's data structures, without GDB.

Everything here is a function of bytes and of a description of their layout: no module of this package imports
`gdb`, so plain Python runs and tests all of it. Target memory arrives through an injected `Read`
(see `memory`), structure layouts through `Layout` (see `layout`); the modules one level up fill in both.

The bytes may be torn, stale or hostile. Each walk is bounded, refuses to visit an object twice, and ends in one of
the errors of `errors`, whose text is a sentence for the user.
"""
