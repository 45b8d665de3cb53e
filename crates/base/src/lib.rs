//! Words, numbers and clock of Larder: what every other crate may rely on.
//!
//! Promises: nothing here touches a disk or a socket; every value that leaves this crate has
//! been parsed, so that a [`name::TreePath`] cannot hold `..` and an id cannot be half an id.
//! The words themselves are the glossary of `ARCHITECTURE.md`.
//!
//! Not here: rules about files (core), stored formats (meta, chunk), wire formats (doors).

pub mod checksum;
pub mod digest;
pub mod env;
pub mod failpoint;
pub mod id;
pub mod kind;
pub mod limits;
pub mod memory;
pub mod name;
pub mod time;

pub use env::Env;
pub use kind::{ErrorKind, Outcome};
pub use memory::Memory;
pub use time::Timestamp;
