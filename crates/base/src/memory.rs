//! One budget of memory that every buffer whose number grows with clients draws from.
//!
//! A [`Share`] is bytes of the budget that somebody may use; who wants one while there is no room
//! waits, first come first served and not for ever, and that waiting is the back-pressure that
//! reaches clients. Nothing is allocated here: a share is a right.
//!
//! Promises: I-MEM-1 shares that were waited or asked for never exceed the budget together, kept
//! memory included (what is taken by [`Memory::charge`] alone may, and makes others wait); waiters
//! are served in order, except that one who must leave a reserve to others lets them pass; one
//! that goes away leaves nothing behind.
//!
//! Relies on: who waits for a share holds none that only others could make it return. Shares for
//! what a client may hold still (bodies, windows of answers) are small when room is scarce.
//!
//! Not here: the memory itself (`larder_disk::buffer`), caches of fixed size.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::Env;

/// The budget where nobody says otherwise, in bytes.
pub const BUDGET_DEFAULT: usize = 64 << 20;

/// Longest wait for a share while a request runs. Room comes back as buffers are written or sent,
/// or as clients that stand still are given up; what has not come by then does not come soon.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// Longest wait for a share before a request has begun: it is told to come again instead. Longer
/// than clients may stand still while others wait, so that their share can come back.
pub const ENTRY_WAIT_MAX: Duration = Duration::from_secs(8);

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    /// Connections: their state and the protocol's own buffers.
    Connections = 0,
    /// Small bodies on their way into a commit, and answers made in memory.
    Bodies = 1,
    /// Contents on their way to a disk.
    Writes = 2,
    /// Contents on their way from a disk.
    Reads = 3,
    /// Memory without content that waits to be used again.
    Kept = 4,
}

impl Use {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Connections, Self::Bodies, Self::Writes, Self::Reads, Self::Kept];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Bodies => "bodies",
            Self::Writes => "writes",
            Self::Reads => "reads",
            Self::Kept => "kept",
        }
    }
}

/// The budget. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    budget: usize,
    state: Mutex<State>,
    by_use: [AtomicUsize; Use::ALL.len()],
    waits: AtomicU64,
    refusals: AtomicU64,
}

#[derive(Default)]
struct State {
    used: usize,
    /// Of these, what is kept without content.
    kept: usize,
    next: u64,
    waiting: VecDeque<Waiter>,
    /// Asks whoever keeps memory to let go of about so many bytes, and says how many it did.
    reclaim: Option<Reclaim>,
}

/// Lets go of kept memory; see [`Memory::on_shortage`].
type Reclaim = Arc<dyn Fn(usize) + Send + Sync>;

struct Waiter {
    number: u64,
    kind: Use,
    bytes: usize,
    /// What must be left to others.
    reserve: usize,
    serve: oneshot::Sender<Share>,
}

/// What of a budget is used, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All of it, in bytes.
    pub budget: usize,
    /// Bytes by [`Use`], in the order of [`Use::ALL`].
    pub by_use: [usize; Use::ALL.len()],
    /// Who waits now.
    pub waiting: usize,
    /// Shares that had to be waited for.
    pub waits: u64,
    /// Those of them that were given up.
    pub refusals: u64,
}

impl Memory {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let shared = Shared {
            budget: bytes,
            state: Mutex::default(),
            by_use: std::array::from_fn(|_| AtomicUsize::new(0)),
            waits: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Its size in bytes.
    pub fn budget(&self) -> usize {
        self.shared.budget
    }

    /// Bytes of all shares, without those for kept memory.
    pub fn used(&self) -> usize {
        let state = self.shared.state();
        state.used.saturating_sub(state.kept)
    }

    /// Bytes of all shares for `kind`.
    pub fn used_for(&self, kind: Use) -> usize {
        self.shared.of(kind).load(Relaxed)
    }

    /// How many eighths of it are free; none while somebody waits for room, and then clients that
    /// stand still have to go. Sizes of buffers depend on it too.
    pub fn room(&self) -> usize {
        let state = self.shared.state();
        if !state.waiting.is_empty() {
            return 0;
        }
        let free = (self.shared.budget + state.kept).saturating_sub(state.used);
        free * 8 / self.shared.budget.max(1)
    }

    /// Takes `bytes` if that leaves `reserve` bytes to others and nobody waits who comes first.
    pub fn try_take(&self, kind: Use, bytes: usize, reserve: usize) -> Option<Share> {
        self.fits(kind, bytes, reserve).then(|| Share::new(&self.shared, kind, bytes))
    }

    /// Whether `bytes` could be taken, which they are then; kept memory gives way.
    fn fits(&self, kind: Use, bytes: usize, reserve: usize) -> bool {
        let wanted = bytes.saturating_add(reserve);
        for reclaimed in [false, true] {
            let mut state = self.shared.state();
            if !state.may_pass(reserve) {
                return false;
            }
            let missing = state.missing(wanted, self.shared.budget);
            if missing == 0 {
                self.shared.add(&mut state, kind, bytes);
                return true;
            }
            if reclaimed || missing > state.kept {
                return false;
            }
            // Called without the lock: it returns shares.
            let reclaim = state.reclaim.clone();
            drop(state);
            if let Some(reclaim) = reclaim {
                reclaim(missing);
            }
        }
        false
    }

    /// Takes `bytes`, waiting up to `patience` for room; `None` if it did not come.
    ///
    /// No more than the whole budget can be had. Cancel-safe: a waiter that goes away loses its
    /// place and nothing else.
    pub async fn take(
        &self,
        kind: Use,
        bytes: usize,
        patience: Duration,
        env: &Env,
    ) -> Option<Share> {
        self.take_leaving(kind, bytes, 0, patience, env).await
    }

    /// As [`take`](Self::take), but leaves `reserve` bytes to others, whom it lets pass: for what
    /// a client may hold still.
    pub async fn take_leaving(
        &self,
        kind: Use,
        bytes: usize,
        reserve: usize,
        patience: Duration,
        env: &Env,
    ) -> Option<Share> {
        let bytes = bytes.min(self.shared.budget.saturating_sub(reserve));
        if let Some(share) = self.try_take(kind, bytes, reserve) {
            return Some(share);
        }
        self.shared.waits.fetch_add(1, Relaxed);
        let (serve, mut served) = oneshot::channel();
        let place = {
            let mut state = self.shared.state();
            let number = state.next;
            state.next += 1;
            state.waiting.push_back(Waiter { number, kind, bytes, reserve, serve });
            Place { shared: &self.shared, number }
        };
        // Room may have come between the two.
        self.shared.serve();
        let share = tokio::select! {
            biased;
            share = &mut served => share.ok(),
            () = env.sleep(patience) => None,
        };
        drop(place);
        if share.is_none() {
            self.shared.refusals.fetch_add(1, Relaxed);
        }
        share
    }

    /// Takes `bytes` whether there is room or not. For what is already there, or too small to
    /// wait for; if it is more than the budget has, others wait until it is back.
    pub fn charge(&self, kind: Use, bytes: usize) -> Share {
        let mut state = self.shared.state();
        self.shared.add(&mut state, kind, bytes);
        drop(state);
        Share::new(&self.shared, kind, bytes)
    }

    /// Has `reclaim` called with the number of missing bytes when something does not fit while
    /// memory is kept. It must return shares of kept memory, and must not wait.
    pub fn on_shortage(&self, reclaim: impl Fn(usize) + Send + Sync + 'static) {
        self.shared.state().reclaim = Some(Arc::new(reclaim));
    }

    /// What is used, and by what.
    pub fn figures(&self) -> Figures {
        // All at one moment: what moves from one use to another must not count twice.
        let state = self.shared.state();
        Figures {
            budget: self.shared.budget,
            by_use: std::array::from_fn(|i| {
                self.shared.by_use.get(i).map_or(0, |bytes| bytes.load(Relaxed))
            }),
            waiting: state.waiting.len(),
            waits: self.shared.waits.load(Relaxed),
            refusals: self.shared.refusals.load(Relaxed),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(BUDGET_DEFAULT)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, kind: Use) -> &AtomicUsize {
        self.by_use.get(kind as usize).unwrap_or(&self.by_use[0])
    }

    fn add(&self, state: &mut State, kind: Use, bytes: usize) {
        state.used += bytes;
        if kind == Use::Kept {
            state.kept += bytes;
        }
        self.of(kind).fetch_add(bytes, Relaxed);
    }

    fn remove(&self, kind: Use, bytes: usize) {
        let mut state = self.state();
        state.used -= bytes;
        if kind == Use::Kept {
            state.kept -= bytes;
        }
        self.of(kind).fetch_sub(bytes, Relaxed);
    }

    /// Serves those who wait, in order, as far as there is room.
    fn serve(self: &Arc<Self>) {
        let mut reclaimed = false;
        loop {
            let mut state = self.state();
            let Some((at, missing)) = state.next(self.budget) else { return };
            if missing > 0 {
                let reclaim = state.reclaim.clone().filter(|_| missing <= state.kept);
                drop(state);
                let Some(reclaim) = reclaim.filter(|_| !reclaimed) else { return };
                reclaim(missing);
                reclaimed = true;
                continue;
            }
            let Some(Waiter { kind, bytes, serve, .. }) = state.waiting.remove(at) else { return };
            self.add(&mut state, kind, bytes);
            drop(state);
            reclaimed = false;
            if let Err(share) = serve.send(Share::new(self, kind, bytes)) {
                // It has gone away; what it would have had is the next one's.
                share.forget();
            }
        }
    }
}

impl State {
    /// How many bytes are too few for `wanted`.
    fn missing(&self, wanted: usize, budget: usize) -> usize {
        self.used.saturating_add(wanted).saturating_sub(budget)
    }

    /// Whether somebody who leaves `reserve` may be served before all who wait.
    fn may_pass(&self, reserve: usize) -> bool {
        self.waiting.iter().all(|waiter| reserve == 0 && waiter.reserve > 0)
    }

    /// Who is served next, and how many bytes are too few for that.
    fn next(&self, budget: usize) -> Option<(usize, usize)> {
        let mut least: Option<(usize, usize)> = None;
        for (at, waiter) in self.waiting.iter().enumerate() {
            let missing = self.missing(waiter.bytes.saturating_add(waiter.reserve), budget);
            if least.is_none_or(|(_, least)| missing < least) {
                least = Some((at, missing));
            }
            if missing == 0 || waiter.reserve == 0 {
                break;
            }
        }
        least
    }
}

/// A place in the line; gives it up when dropped.
struct Place<'a> {
    shared: &'a Arc<Shared>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let before = state.waiting.len();
        state.waiting.retain(|waiter| waiter.number != self.number);
        let left = state.waiting.len() < before;
        drop(state);
        // Whoever stood behind may want less.
        if left {
            self.shared.serve();
        }
    }
}

/// Bytes of a budget. Dropping it returns them.
pub struct Share {
    shared: Arc<Shared>,
    kind: Use,
    bytes: usize,
    /// Whether its end serves nobody.
    quiet: bool,
}

impl Share {
    fn new(shared: &Arc<Shared>, kind: Use, bytes: usize) -> Self {
        Self { shared: Arc::clone(shared), kind, bytes, quiet: false }
    }

    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Uses it for something else from now on.
    pub fn turn_into(&mut self, kind: Use) {
        if kind == self.kind {
            return;
        }
        let mut state = self.shared.state();
        for (kind, more) in [(self.kind, false), (kind, true)] {
            let of = self.shared.of(kind);
            if more {
                of.fetch_add(self.bytes, Relaxed)
            } else {
                of.fetch_sub(self.bytes, Relaxed)
            };
            if kind == Use::Kept {
                let kept = &mut state.kept;
                *kept = if more { *kept + self.bytes } else { kept.saturating_sub(self.bytes) };
            }
        }
        self.kind = kind;
        drop(state);
        // Kept memory is room for those who wait.
        if kind == Use::Kept {
            self.shared.serve();
        }
    }

    /// The same bytes as a share for kept memory. What is left here is nothing, but dropping it
    /// serves those who wait: to be done once the lock over what is kept is free.
    #[must_use]
    pub fn split_kept(&mut self) -> Self {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.shared.state();
        state.kept += bytes;
        self.shared.of(self.kind).fetch_sub(bytes, Relaxed);
        self.shared.of(Use::Kept).fetch_add(bytes, Relaxed);
        drop(state);
        Self::new(&self.shared, Use::Kept, bytes)
    }

    /// Adds `other`, which must be of the same budget and use.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.shared, &other.shared) && self.kind == other.kind);
        self.bytes += std::mem::take(&mut other.bytes);
        other.quiet = true;
    }

    /// Returns all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let back = self.bytes.saturating_sub(bytes);
        if back > 0 {
            self.bytes -= back;
            self.shared.remove(self.kind, back);
            self.shared.serve();
        }
    }

    /// Returns the bytes without serving anybody.
    fn forget(mut self) {
        // `serve` goes on by itself; from within a drop it would go as deep as waiters are many.
        self.quiet = true;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.remove(self.kind, self.bytes);
        }
        if !self.quiet {
            self.shared.serve();
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} of {})", self.used(), self.budget())
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} for {})", self.bytes, self.kind.name())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn ready(poll: Poll<Option<Share>>) -> Share {
        match poll {
            Poll::Ready(Some(share)) => share,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waiters_are_served_in_order_and_the_budget_holds() {
        let (env, _clock) = Env::manual(1);
        let memory = Memory::new(100);
        let held = memory.try_take(Use::Writes, 90, 0).expect("room");
        assert!(memory.try_take(Use::Writes, 11, 0).is_none());
        assert!(memory.try_take(Use::Writes, 5, 6).is_none(), "the reserve is others'");
        let mut large = pin!(memory.take(Use::Bodies, 50, WAIT_MAX, &env));
        let mut small = pin!(memory.take(Use::Reads, 1, WAIT_MAX, &env));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending(), "nobody overtakes");
        assert!(memory.try_take(Use::Reads, 1, 0).is_none(), "nobody overtakes without asking");
        assert_eq!(memory.room(), 0);
        drop(held);
        let (large, small) = (ready(poll(large.as_mut())), ready(poll(small.as_mut())));
        assert_eq!(memory.used(), 51);
        assert_eq!(memory.figures().by_use, [0, 50, 0, 1, 0]);
        drop((large, small));
        assert_eq!(memory.figures().by_use, [0; 5]);
        assert_eq!((memory.used(), memory.figures().waits), (0, 2));
    }

    #[test]
    fn those_who_leave_a_reserve_let_others_pass() {
        let (env, _clock) = Env::manual(1);
        let memory = Memory::new(100);
        let held = memory.try_take(Use::Reads, 80, 20).expect("room");
        let mut read = pin!(memory.take_leaving(Use::Reads, 5, 20, WAIT_MAX, &env));
        assert!(poll(read.as_mut()).is_pending());
        let write = memory.try_take(Use::Writes, 20, 0).expect("the reserve");
        let mut second = pin!(memory.take(Use::Writes, 10, WAIT_MAX, &env));
        assert!(poll(second.as_mut()).is_pending());
        drop(write);
        let second = ready(poll(second.as_mut()));
        assert!(poll(read.as_mut()).is_pending());
        drop((held, second));
        drop(ready(poll(read.as_mut())));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_waiter_that_goes_away_or_loses_patience_lets_the_next_one_pass() {
        let (env, clock) = Env::manual(1);
        let memory = Memory::new(100);
        let held = memory.try_take(Use::Writes, 90, 0).expect("room");
        let mut gone = Box::pin(memory.take(Use::Bodies, 50, WAIT_MAX, &env));
        let mut tired = pin!(memory.take(Use::Bodies, 20, Duration::from_secs(1), &env));
        let mut last = pin!(memory.take(Use::Reads, 10, WAIT_MAX, &env));
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(tired.as_mut()).is_pending());
        assert!(poll(last.as_mut()).is_pending());
        drop(gone);
        assert!(poll(last.as_mut()).is_pending(), "20 bytes stand before it");
        clock.advance(Duration::from_secs(1));
        assert!(matches!(poll(tired.as_mut()), Poll::Ready(None)));
        let share = ready(poll(last.as_mut()));
        assert_eq!((memory.used(), memory.figures().waiting), (100, 0));
        drop((held, share));
        assert_eq!((memory.used(), memory.figures().refusals), (0, 1));
    }

    #[test]
    fn what_was_served_to_a_waiter_that_is_gone_is_the_next_ones() {
        let (env, _clock) = Env::manual(1);
        let memory = Memory::new(100);
        let held = memory.try_take(Use::Writes, 100, 0).expect("room");
        let mut gone = Box::pin(memory.take(Use::Bodies, 100, WAIT_MAX, &env));
        let mut next = pin!(memory.take(Use::Bodies, 100, WAIT_MAX, &env));
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(next.as_mut()).is_pending());
        drop(held);
        // It was served, but never looked.
        drop(gone);
        drop(ready(poll(next.as_mut())));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn kept_memory_gives_way_to_whoever_wants_it() {
        let (env, _clock) = Env::manual(1);
        let memory = Memory::new(100);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let taken = kept.clone();
        memory.on_shortage(move |_missing| {
            let share = taken.lock().unwrap().pop();
            drop(share);
        });
        let keep = |bytes| {
            let mut share = memory.try_take(Use::Reads, bytes, 0).expect("room");
            share.turn_into(Use::Kept);
            kept.lock().unwrap().push(share);
        };
        keep(80);
        assert_eq!((memory.used(), memory.room()), (0, 8));
        let share = memory.try_take(Use::Writes, 50, 0).expect("kept memory gives way");
        keep(50);
        let waited = pin!(memory.take(Use::Bodies, 20, WAIT_MAX, &env));
        drop(ready(poll(waited)));
        drop(share);
        assert_eq!(memory.figures().by_use, [0; 5]);
    }

    #[test]
    fn charges_go_beyond_the_budget_and_hold_others_back() {
        let memory = Memory::new(100);
        let over = memory.charge(Use::Connections, 150);
        assert!(memory.try_take(Use::Reads, 1, 0).is_none());
        assert_eq!(memory.room(), 0);
        drop(over);
        let mut share = memory.try_take(Use::Reads, 60, 0).expect("room again");
        share.merge(memory.charge(Use::Reads, 30));
        share.shrink(10);
        assert_eq!((memory.used(), share.bytes()), (10, 10));
    }
}
