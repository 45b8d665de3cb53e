//! Durable files: the only crate that syncs, renames and writes directly to a disk.
//!
//! Not here: what the bytes mean.

pub mod buffer;
