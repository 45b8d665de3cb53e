//! What tests of this crate, of doors and of simulations share: stores ready to use, a model of
//! the domain, operations to drive both with, and a judge of concurrent histories.
//!
//! Promises: the model says what the operations of [`Larder`](crate::Larder) promise a second
//! time, in the most naive way: plain ordered maps, meters that are added up when they are asked
//! for, no deltas. It shares no code with what it judges but the types of names and ids.
//!
//! Everything here panics at what a test does not expect.
//!
//! Not here: the tests (`tests/it`), faults of engines and stores (their `chaos`).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "for tests only: what is not expected stops the test"
)]

pub mod driver;
pub mod fixture;
pub mod generate;
pub mod history;
pub mod model;
pub mod op;
mod people;
pub mod steps;

pub use driver::{Driver, Observed};
pub use fixture::Fixture;
pub use model::{Body, Model};
pub use op::{At, Op, Outcome, When};
