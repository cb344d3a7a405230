//! The `nettlp-gdb` program.

fn main() {}
