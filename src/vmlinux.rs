//! An opened `vmlinux`.
