//! Target profiles.
