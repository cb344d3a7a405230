//! One integration binary: what crosses layers, over real sockets.

mod gdb;
mod link;
mod machine;
mod tidy;
