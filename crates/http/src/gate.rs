//! A bound on what may come while the head of a part of a form is awaited.
//!
//! Parsers of `multipart/form-data` collect such heads without a limit of their own. The door
//! closes the gate before it asks for the next part and opens it when the head is there; what
//! reads the body asks the gate about each piece.
//!
//! Promises: between closing and opening, at most [`HEAD_BYTES_MAX`] and one piece pass.
//!
//! Not here: forms themselves (each door has its own).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use larder_core::Error;

/// Bytes that may come before the head of a part is complete.
pub const HEAD_BYTES_MAX: u64 = 32 << 10;

/// More than any body has: an open gate.
const OPEN: u64 = u64::MAX;

/// The gate of one body, open at first. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct HeadGate(Arc<AtomicU64>);

impl Default for HeadGate {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(OPEN)))
    }
}

impl HeadGate {
    /// Lets a piece of so many bytes pass.
    ///
    /// # Errors
    /// `Invalid` if the head is too long.
    pub fn pass(&self, bytes: usize) -> Result<(), Error> {
        // A piece may bring the end of the head together with much content: it is only too
        // much if the pieces before have used up everything.
        match self.0.load(Relaxed) {
            OPEN => Ok(()),
            0 => Err(Error::invalid("the head of a part is too long")),
            left => {
                self.0.store(left.saturating_sub(bytes as u64), Relaxed);
                Ok(())
            }
        }
    }

    /// From now on a head is awaited.
    pub fn close(&self) {
        self.0.store(HEAD_BYTES_MAX, Relaxed);
    }

    /// It has come.
    pub fn open(&self) {
        self.0.store(OPEN, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_does_not_end_is_refused() {
        let gate = HeadGate::default();
        assert!(gate.pass(1 << 30).is_ok(), "content is not bounded here");
        gate.close();
        assert!(gate.pass(20 << 10).is_ok() && gate.pass(20 << 10).is_ok());
        assert!(gate.clone().pass(1).is_err());
        gate.open();
        assert!(gate.pass(1).is_ok());
    }
}
