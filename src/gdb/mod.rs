//! The GDB remote serial protocol front end.
