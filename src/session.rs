//! The composition root: options to a located kernel.
