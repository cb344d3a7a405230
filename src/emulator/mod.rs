//! The adapter and root complex, emulated over any physical memory.
