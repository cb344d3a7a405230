//! One integration binary: what crosses layers, over real sockets.

mod link;
mod tidy;
