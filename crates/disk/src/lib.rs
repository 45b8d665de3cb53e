//! Durable files: the only crate that syncs, renames and writes directly to a disk.
//!
//! Not here: what the bytes mean.

pub mod buffer;
pub mod fault;
pub mod file;
pub mod fsx;
pub mod log;
