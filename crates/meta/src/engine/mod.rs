//! The engines: `memory` (reference) and `embedded` (default).
//!
//! Not here: what they must do ([`crate::store`]).

pub mod embedded;
pub mod memory;
