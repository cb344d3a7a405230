//! Synthetic machines: memory images laid out as a Linux kernel would, for demonstrations and tests.
