//! One integration binary: what crosses layers, over real sockets.

mod cli;
mod gdb;
mod link;
mod machine;
mod tidy;
