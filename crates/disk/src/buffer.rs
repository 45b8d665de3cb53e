//! Aligned buffers from a bounded pool.
//!
//! Placeholder until the pool is written.

/// An aligned buffer.
#[derive(Debug)]
pub struct Buffer;

/// The pool.
#[derive(Debug)]
pub struct BufferPool;
