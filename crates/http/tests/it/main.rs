//! The plumbing from outside: one test binary for the crate.

#![allow(clippy::disallowed_methods, reason = "clients of tests wait and look at the clock")]

mod limits;
mod serve;
mod tls;
