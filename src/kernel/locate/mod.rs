//! Finding a kernel in physical memory.
