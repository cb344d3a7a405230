//! Everything that needs more than one module.

mod link;
mod tidy;
