//! The chunk stores against their promises, on a real directory and in memory.
//!
//! Not here: crashes and power cuts, which need a whole process (the end-to-end tests).

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests damage files, spawn tasks and fail by panicking"
)]

mod damage;
mod faults;
mod local;
mod stores;
