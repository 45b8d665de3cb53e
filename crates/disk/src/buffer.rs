//! Aligned buffers from a pool with one byte budget for the whole process.
//!
//! Bodies pass through these buffers between a socket and a disk. The budget bounds the memory
//! of any number of transfers: who wants a buffer while none is left waits, first come first
//! served, and that waiting is the back-pressure that reaches the client.
//!
//! Promises: I-BUF-1 the memory of all pooled buffers, in use and kept for reuse, never exceeds
//! the budget; every buffer starts at a multiple of [`ALIGNMENT`], as direct I/O needs it; the
//! bytes between the content of a buffer and the next multiple of [`ALIGNMENT`] are zero.
//!
//! Relies on: nobody who holds a buffer waits for another one before it lets go of the first,
//! except writers, whose write in flight ends by itself. Readers therefore never wait
//! ([`BufferPool::try_acquire`]).
//!
//! Not here: files ([`crate::file`]).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::file::ALIGNMENT;

/// The unit of the pool, and the capacity of a small buffer.
pub const SMALL: usize = 256 << 10;

/// The capacity of a large buffer. Measured: direct writes of 1 MiB reach the disk's full rate
/// with one in flight, smaller ones do not.
pub const LARGE: usize = 1 << 20;

/// The least budget that makes sense: one large buffer in flight and one being filled.
pub const BUDGET_MIN: usize = 2 * LARGE;

const UNITS_LARGE: u32 = (LARGE / SMALL) as u32;

/// Hands out [`Buffer`]s. Cheap to clone; clones share the budget.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    units: usize,
    /// One permit a unit. Tokio's semaphore is fair: it serves waiters in the order they came.
    permits: Arc<Semaphore>,
    free: Mutex<Free>,
}

/// Memory that waits to be used again, so that its pages need not be faulted in again.
#[derive(Default)]
struct Free {
    large: Vec<Memory>,
    small: Vec<Memory>,
    /// Bytes of memory in buffers that are in use.
    used: usize,
}

/// A block of memory with an aligned start; its length is [`ALIGNMENT`] more than its capacity.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl BufferPool {
    /// A pool of `budget` bytes, rounded down to whole units and up to [`BUDGET_MIN`].
    pub fn new(budget: usize) -> Self {
        let units = budget.max(BUDGET_MIN) / SMALL;
        let permits = Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)));
        Self { shared: Arc::new(Shared { units, permits, free: Mutex::default() }) }
    }

    /// Bytes that all buffers in use may have together.
    pub fn budget(&self) -> usize {
        self.shared.units * SMALL
    }

    /// Bytes that the buffers in use have now.
    pub fn in_use(&self) -> usize {
        self.shared.units.saturating_sub(self.shared.permits.available_permits()) * SMALL
    }

    /// Takes an empty buffer for about `wanted` bytes, waiting while none is left.
    ///
    /// It has [`LARGE`] bytes if `wanted` is more than [`SMALL`] and less than half of the
    /// budget is in use, else [`SMALL`]. Waiters are served in order. Cancel-safe: a waiter that
    /// goes away loses its place and nothing else.
    pub async fn acquire(&self, wanted: usize) -> Buffer {
        if let Some(buffer) = self.try_large(wanted) {
            return buffer;
        }
        let permit = Arc::clone(&self.shared.permits).acquire_owned().await;
        self.buffer(SMALL, permit.expect("the semaphore is never closed"))
    }

    /// Takes an empty buffer as [`acquire`](Self::acquire), but never waits, and leaves the last
    /// quarter of the budget to those that do.
    pub fn try_acquire(&self, wanted: usize) -> Option<Buffer> {
        if let Some(buffer) = self.try_large(wanted) {
            return Some(buffer);
        }
        if self.in_use() >= self.budget() / 4 * 3 {
            return None;
        }
        let permit = Arc::clone(&self.shared.permits).try_acquire_owned().ok()?;
        Some(self.buffer(SMALL, permit))
    }

    fn try_large(&self, wanted: usize) -> Option<Buffer> {
        if wanted <= SMALL || self.in_use() >= self.budget() / 2 {
            return None;
        }
        let permit = Arc::clone(&self.shared.permits).try_acquire_many_owned(UNITS_LARGE).ok()?;
        Some(self.buffer(LARGE, permit))
    }

    fn buffer(&self, capacity: usize, permit: OwnedSemaphorePermit) -> Buffer {
        let memory = self.shared.take(capacity);
        let lease = Lease { shared: Arc::clone(&self.shared), _permit: permit };
        Buffer { memory, len: 0, lease: Some(lease) }
    }
}

impl Shared {
    fn take(&self, capacity: usize) -> Memory {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.used += capacity;
        let kept = if capacity == LARGE { free.large.pop() } else { free.small.pop() };
        if let Some(memory) = kept {
            return memory;
        }
        // The budget holds for kept memory too: give up some of the other kind.
        let room = (self.units * SMALL).saturating_sub(free.used);
        while free.kept() > room {
            if free.large.pop().is_none() {
                free.small.pop();
            }
        }
        drop(free);
        Memory::new(capacity)
    }

    fn put_back(&self, memory: Memory) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.used = free.used.saturating_sub(memory.capacity);
        // Half of the budget is kept at most: more is only needed in rare moments.
        if free.kept() + memory.capacity <= self.units * SMALL / 2 {
            if memory.capacity == LARGE { free.large.push(memory) } else { free.small.push(memory) }
        }
    }
}

impl Free {
    fn kept(&self) -> usize {
        self.large.len() * LARGE + self.small.len() * SMALL
    }
}

impl Memory {
    fn new(capacity: usize) -> Self {
        // Zeroed memory of this size comes from the kernel untouched: nothing is written here.
        let bytes = vec![0; capacity + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "an address of bytes can be aligned");
        Self { bytes, start, capacity }
    }

    fn all(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.capacity).unwrap_or_default()
    }

    fn all_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.capacity).unwrap_or_default()
    }
}

/// What a pooled buffer holds of its pool.
struct Lease {
    shared: Arc<Shared>,
    /// Returned after the memory (fields drop after the buffer's own `drop`), so that who gets
    /// the permit next finds the memory.
    _permit: OwnedSemaphorePermit,
}

/// Aligned memory with some content at its start. Dropping it returns it to its pool.
pub struct Buffer {
    memory: Memory,
    len: usize,
    lease: Option<Lease>,
}

impl Buffer {
    /// An empty buffer outside of any pool with room for at least `capacity` bytes. For small
    /// things of bounded size (headers, checksums); the budget does not know it.
    pub fn detached(capacity: usize) -> Self {
        let memory = Memory::new(capacity.next_multiple_of(ALIGNMENT));
        Self { memory, len: 0, lease: None }
    }

    /// Bytes that it can hold; a multiple of [`ALIGNMENT`].
    pub fn capacity(&self) -> usize {
        self.memory.capacity
    }

    /// Bytes of content.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no content.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it can still take.
    pub fn remaining(&self) -> usize {
        self.memory.capacity - self.len
    }

    /// Whether it can take no more.
    pub fn is_full(&self) -> bool {
        self.remaining() == 0
    }

    /// Appends as much of `bytes` as there is room for, and returns how much that was.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.remaining());
        let (start, end) = (self.len, self.len + taken);
        if let (Some(to), Some(from)) =
            (self.memory.all_mut().get_mut(start..end), bytes.get(..taken))
        {
            to.copy_from_slice(from);
        }
        // What lies behind the old content in its last block is zero already.
        if end > start.next_multiple_of(ALIGNMENT) {
            self.zero_tail(end);
        }
        self.len = end;
        taken
    }

    /// The whole memory, to be filled from a file; [`set_len`](Self::set_len) says how much of
    /// it is content then.
    pub fn capacity_mut(&mut self) -> &mut [u8] {
        self.len = 0;
        self.memory.all_mut()
    }

    /// Says that the first `len` bytes (at most the capacity) are content.
    pub fn set_len(&mut self, len: usize) {
        let len = len.min(self.memory.capacity);
        self.zero_tail(len);
        self.len = len;
    }

    /// Forgets the content.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The content.
    pub fn as_slice(&self) -> &[u8] {
        self.memory.all().get(..self.len).unwrap_or_default()
    }

    /// The content and zeros up to the next multiple of [`ALIGNMENT`]: what a direct write takes.
    pub fn as_padded(&self) -> &[u8] {
        self.memory.all().get(..self.len.next_multiple_of(ALIGNMENT)).unwrap_or_default()
    }

    fn zero_tail(&mut self, len: usize) {
        if let Some(tail) = self.memory.all_mut().get_mut(len..len.next_multiple_of(ALIGNMENT)) {
            tail.fill(0);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            let empty = Memory { bytes: Vec::new(), start: 0, capacity: 0 };
            lease.shared.put_back(std::mem::replace(&mut self.memory, empty));
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.len, self.capacity())
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} of {})", self.in_use(), self.budget())
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use super::*;

    fn now<F: Future>(future: F) -> F::Output {
        let mut future = pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("would wait"),
        }
    }

    #[test]
    fn buffers_are_aligned_and_padded_with_zeros_even_when_used_again() {
        let pool = BufferPool::new(BUDGET_MIN);
        for round in 0..3_usize {
            let mut buffer = now(pool.acquire(LARGE));
            assert_eq!(buffer.as_padded().as_ptr().align_offset(ALIGNMENT), 0);
            let mut expected = Vec::new();
            for size in [1, 4094, 2, 5000, 1, 3000, 100_000] {
                assert_eq!(buffer.extend_from_slice(&vec![round as u8 + 1; size]), size);
                expected.resize(expected.len() + size, round as u8 + 1);
                let padded = buffer.as_padded();
                assert_eq!(padded.len(), expected.len().next_multiple_of(ALIGNMENT));
                assert_eq!(&padded[..expected.len()], expected);
                assert!(padded[expected.len()..].iter().all(|byte| *byte == 0));
            }
            // Leaves garbage everywhere for the next round.
            buffer.capacity_mut().fill(0xee);
        }
    }

    #[test]
    fn a_full_buffer_takes_nothing_more() {
        let mut buffer = Buffer::detached(1);
        assert_eq!(buffer.capacity(), ALIGNMENT);
        assert_eq!(buffer.extend_from_slice(&[1; 5000]), ALIGNMENT);
        assert_eq!(buffer.extend_from_slice(&[1]), 0);
        assert!(buffer.is_full());
        buffer.clear();
        assert_eq!(buffer.extend_from_slice(&[2]), 1);
        assert!(buffer.as_padded()[1..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn buffers_shrink_when_half_of_the_budget_is_used_and_readers_leave_a_quarter() {
        let pool = BufferPool::new(4 * LARGE);
        let held: Vec<_> = (0..3).map(|_| now(pool.acquire(LARGE))).collect();
        let sizes: Vec<_> = held.iter().map(Buffer::capacity).collect();
        assert_eq!(sizes, [LARGE, LARGE, SMALL]);
        assert_eq!(now(pool.acquire(10)).capacity(), SMALL);
        let read: Vec<_> = std::iter::from_fn(|| pool.try_acquire(LARGE)).collect();
        assert_eq!(pool.in_use(), pool.budget() / 4 * 3);
        let rest: Vec<_> = (0..4).map(|_| now(pool.acquire(LARGE))).collect();
        assert_eq!(pool.in_use(), pool.budget());
        drop((held, read, rest));
        assert_eq!(pool.in_use(), 0);
    }

    #[tokio::test]
    async fn i_buf_1_waiters_are_served_in_order_and_the_budget_holds() {
        let pool = BufferPool::new(BUDGET_MIN);
        let mut held = Vec::new();
        while pool.in_use() < pool.budget() {
            held.push(pool.acquire(SMALL).await);
        }
        let mut first = pin!(pool.acquire(LARGE));
        let mut second = pin!(pool.acquire(LARGE));
        let waits = |poll: Poll<Buffer>| poll.is_pending();
        assert!(waits(futures(first.as_mut()).await));
        assert!(waits(futures(second.as_mut()).await));
        held.pop();
        assert!(waits(futures(second.as_mut()).await), "the second may not overtake the first");
        let buffer = first.await;
        assert_eq!(pool.in_use(), pool.budget());
        drop(buffer);
        drop(second.await);
        drop(held);
        assert_eq!(pool.in_use(), 0);
        let free = pool.shared.free.lock().unwrap();
        assert_eq!(free.used, 0);
        assert!(free.kept() <= pool.budget() / 2);
    }

    async fn futures<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }
}
