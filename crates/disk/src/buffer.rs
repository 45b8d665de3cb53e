//! Aligned buffers whose memory comes out of the one budget of the process.
//!
//! Bodies pass through these buffers between a socket and a disk. Who wants one gets less the
//! less room there is, and waits when there is none ([`larder_base::memory`]); that waiting is
//! the back-pressure that reaches the client.
//!
//! Promises: I-BUF-1 the memory of all pooled buffers, in use and kept for reuse, is part of the
//! budget; every buffer starts at a multiple of [`ALIGNMENT`], as direct I/O needs it; the bytes
//! between the content of a buffer and the next multiple of [`ALIGNMENT`] are zero.
//!
//! Relies on: who waits for a buffer lets go of those it has without anybody's help: a writer's
//! write in flight ends by itself, and a reader waits only for its first window or when the one
//! before is on its way out.
//!
//! Not here: files ([`crate::file`]).

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use larder_base::{
    Env,
    memory::{Memory as Budget, Share, Use},
};

use crate::file::ALIGNMENT;

/// The capacity of the smallest pooled buffer: what is had while room is scarce, and what a slow
/// client needs.
pub const LEAST: usize = 64 << 10;

/// The capacity of a small buffer.
pub const SMALL: usize = 256 << 10;

/// The capacity of a large buffer. Measured: direct writes of 1 MiB reach the disk's full rate
/// with one in flight, smaller ones do not.
pub const LARGE: usize = 1 << 20;

/// The least budget that makes sense: one large buffer in flight and one being filled.
pub const BUDGET_MIN: usize = 2 * LARGE;

/// Of the budget, what is kept for reuse at the most: one part in so many. More is only needed in
/// rare moments.
const KEPT_PART: usize = 4;

/// Of the budget, what buffers leave to connections and small bodies: one part in so many.
const LEAVE_PART: usize = 8;

/// Hands out [`Buffer`]s. Cheap to clone; clones share what is kept.
#[derive(Clone)]
pub struct BufferPool {
    budget: Budget,
    kept: Arc<Kept>,
}

/// Memory that waits to be used again, so that its pages need not be faulted in again.
struct Kept {
    most: usize,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    bytes: usize,
    /// By capacity: [`LEAST`], [`SMALL`], [`LARGE`].
    by_size: [Vec<(Memory, Share)>; 3],
}

/// A block of memory with an aligned start; its length is [`ALIGNMENT`] more than its capacity.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl BufferPool {
    /// A pool with a budget of its own of `budget` bytes, at least [`BUDGET_MIN`].
    pub fn new(budget: usize) -> Self {
        // Each buffer is a page larger than its content.
        Self::of(Budget::new(budget.max(BUDGET_MIN) / LEAST * (LEAST + ALIGNMENT)))
    }

    /// A pool that draws from `budget`. Of one budget there should be one pool.
    pub fn of(budget: Budget) -> Self {
        let kept = Arc::new(Kept { most: budget.budget() / KEPT_PART, free: Mutex::default() });
        let weak = Arc::downgrade(&kept);
        budget.on_shortage(move |missing| {
            if let Some(kept) = weak.upgrade() {
                kept.give_up(missing);
            }
        });
        Self { budget, kept }
    }

    /// The budget that it draws from.
    pub fn memory(&self) -> &Budget {
        &self.budget
    }

    /// Bytes of the whole budget.
    pub fn budget(&self) -> usize {
        self.budget.budget()
    }

    /// Bytes of the budget that are in use, for whatever.
    pub fn in_use(&self) -> usize {
        self.budget.used()
    }

    /// Takes an empty buffer for about `wanted` bytes, waiting up to `patience` for room; `None`
    /// if none came.
    ///
    /// It has [`LARGE`] bytes if more than [`SMALL`] are wanted, [`SMALL`] if more than [`LEAST`]
    /// are, as long as there is room for that, else [`LEAST`]. Waiters are
    /// served in order. Cancel-safe: a waiter that goes away loses its place and nothing else.
    pub async fn acquire(
        &self,
        kind: Use,
        wanted: usize,
        patience: Duration,
        env: &Env,
    ) -> Option<Buffer> {
        let room = self.budget.room();
        let leaves = self.budget() / LEAVE_PART;
        let capacity = capacity(kind, wanted, room);
        if room > 0
            && let Some(buffer) = self.at_once(kind, capacity, leaves)
        {
            return Some(buffer);
        }
        let least = LEAST + ALIGNMENT;
        let share = self.budget.take_leaving(kind, least, leaves, patience, env).await?;
        Some(Buffer::pooled(self, Memory::new(LEAST), share))
    }

    fn at_once(&self, kind: Use, capacity: usize, reserve: usize) -> Option<Buffer> {
        if let Some((memory, mut share)) = self.kept.take(capacity) {
            share.turn_into(kind);
            return Some(Buffer::pooled(self, memory, share));
        }
        let share = self.budget.try_take(kind, capacity + ALIGNMENT, reserve)?;
        Some(Buffer::pooled(self, Memory::new(capacity), share))
    }
}

/// The capacity of a buffer for `wanted` bytes while so many eighths of the budget are free. A
/// client may hold the window of an answer still for longer than what it sends, so those shrink
/// earlier: hundreds of clients that do not read leave room for others.
fn capacity(kind: Use, wanted: usize, room: usize) -> usize {
    let (large, small) = if kind == Use::Reads { (5, 4) } else { (4, 2) };
    match room {
        room if wanted > SMALL && room >= large => LARGE,
        room if wanted > LEAST && room >= small => SMALL,
        _ => LEAST,
    }
}

impl Kept {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, capacity: usize) -> Option<(Memory, Share)> {
        let mut free = self.free();
        let found = free.of(capacity)?.pop()?;
        free.bytes -= found.1.bytes();
        Some(found)
    }

    fn put_back(&self, memory: Memory, mut share: Share) {
        let mut free = self.free();
        if free.bytes + share.bytes() > self.most {
            drop(free);
            // The memory goes before the right to have it.
            drop(memory);
            drop(share);
            return;
        }
        free.bytes += share.bytes();
        if let Some(list) = free.of(memory.capacity) {
            // Not `turn_into` yet: it may call `give_up`, which locks.
            list.push((memory, share.split_kept()));
        }
        drop(free);
        drop(share);
    }

    /// Lets go of about `missing` bytes, the large ones first.
    fn give_up(&self, missing: usize) {
        let mut gone: Option<Share> = None;
        let mut free = self.free();
        for capacity in [LARGE, SMALL, LEAST] {
            while gone.as_ref().map_or(0, Share::bytes) < missing {
                let Some((memory, share)) = free.of(capacity).and_then(Vec::pop) else { break };
                drop(memory);
                free.bytes -= share.bytes();
                match &mut gone {
                    Some(all) => all.merge(share),
                    None => gone = Some(share),
                }
            }
        }
        drop(free);
        // Only now, because it serves those who wait.
        drop(gone);
    }
}

impl Free {
    fn of(&mut self, capacity: usize) -> Option<&mut Vec<(Memory, Share)>> {
        let [least, small, large] = &mut self.by_size;
        match capacity {
            LEAST => Some(least),
            SMALL => Some(small),
            LARGE => Some(large),
            _ => None,
        }
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
    kept: Arc<Kept>,
    share: Share,
}

/// Aligned memory with some content at its start. Dropping it returns it to its pool.
pub struct Buffer {
    memory: Memory,
    len: usize,
    lease: Option<Lease>,
    guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Buffer {
    fn pooled(pool: &BufferPool, memory: Memory, share: Share) -> Self {
        let lease = Lease { kept: Arc::clone(&pool.kept), share };
        Self { memory, len: 0, lease: Some(lease), guard: None }
    }

    /// An empty buffer outside of any pool with room for at least `capacity` bytes. For small
    /// things of bounded size (headers, checksums); the budget does not know it.
    pub fn detached(capacity: usize) -> Self {
        let memory = Memory::new(capacity.next_multiple_of(ALIGNMENT));
        Self { memory, len: 0, lease: None, guard: None }
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

    /// Keeps `guard` until the buffer goes back: what its holders hold while they work with it.
    pub fn keep(&mut self, guard: impl Send + Sync + 'static) {
        self.guard = Some(Box::new(guard));
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
        drop(self.guard.take());
        if let Some(Lease { kept, share }) = self.lease.take() {
            let empty = Memory { bytes: Vec::new(), start: 0, capacity: 0 };
            kept.put_back(std::mem::replace(&mut self.memory, empty), share);
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

    use larder_base::memory::WAIT_MAX;

    use super::*;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn take(pool: &BufferPool, kind: Use, wanted: usize) -> Option<Buffer> {
        let (env, _clock) = Env::manual(1);
        now(pool.acquire(kind, wanted, WAIT_MAX, &env)).flatten()
    }

    #[test]
    fn buffers_are_aligned_and_padded_with_zeros_even_when_used_again() {
        let pool = BufferPool::new(2 * BUDGET_MIN);
        for round in 0..3_usize {
            let mut buffer = take(&pool, Use::Writes, LARGE).expect("there is room");
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
        assert_eq!(pool.budget.figures().by_use[Use::Kept as usize], LARGE + ALIGNMENT);
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
    fn i_buf_1_buffers_shrink_with_the_room_and_the_budget_holds() {
        let pool = BufferPool::new(4 * LARGE);
        let mut sizes = Vec::new();
        let mut held: Vec<_> = std::iter::from_fn(|| {
            let buffer = take(&pool, Use::Reads, LARGE)?;
            sizes.push(buffer.capacity());
            Some(buffer)
        })
        .collect();
        assert!(sizes.is_sorted_by(|left, right| left >= right), "{sizes:?}");
        assert_eq!((sizes[0], sizes.last()), (LARGE, Some(&LEAST)));
        let leaves = pool.budget() - pool.in_use();
        assert!(leaves >= pool.budget() / LEAVE_PART, "buffers leave {leaves} to others");
        assert!(leaves < pool.budget() / LEAVE_PART + LEAST + ALIGNMENT, "and no more: {leaves}");
        assert!(take(&pool, Use::Writes, LEAST).is_none());
        held.pop();
        assert!(take(&pool, Use::Writes, LARGE).is_some_and(|it| it.capacity() == LEAST));
        drop(held);
        assert_eq!(pool.in_use(), 0);
        let kept = pool.budget.figures().by_use[Use::Kept as usize];
        assert!(kept > 0 && kept <= pool.budget() / KEPT_PART, "{kept} bytes are kept");
    }

    #[test]
    fn kept_buffers_give_way_to_other_uses_of_the_budget() {
        let pool = BufferPool::new(4 * LARGE);
        drop(take(&pool, Use::Writes, LARGE));
        let all = pool.memory().try_take(Use::Bodies, pool.budget(), 0);
        assert!(all.is_some(), "{:?}", pool.budget.figures());
        assert_eq!(pool.kept.free().bytes, 0);
    }
}
