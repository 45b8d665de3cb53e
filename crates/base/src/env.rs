//! The only door to time, randomness and tasks.
//!
//! Everything that must behave the same twice in a simulation takes them from an [`Env`].
//! [`Env::system`] is the real world; [`Env::manual`] has a clock that only moves when told to
//! and entropy from a seed.
//!
//! Not here: time zones and text forms ([`crate::time`]).

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use tokio::task::JoinHandle;

use crate::time::Timestamp;

/// Time, randomness and tasks. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    inner: Arc<Inner>,
    /// The last number that [`Env::sequence`] gave.
    sequence: Arc<AtomicU64>,
}

#[expect(clippy::large_enum_variant, reason = "there is one per process")]
enum Inner {
    System { start: std::time::Instant },
    Manual { clock: ManualClock, entropy: Mutex<StdRng> },
}

impl Env {
    /// The real clock and the real entropy.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn system() -> Self {
        Self::of(Inner::System { start: std::time::Instant::now() })
    }

    /// A clock that stands at 2025-01-01 until it is moved, and entropy from `seed`.
    pub fn manual(seed: u64) -> (Self, ManualClock) {
        let clock = ManualClock::default();
        let entropy = Mutex::new(StdRng::seed_from_u64(seed));
        let inner = Inner::Manual { clock: clock.clone(), entropy };
        (Self::of(inner), clock)
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Arc::new(inner), sequence: Arc::default() }
    }

    /// The wall-clock time. It may step in either direction.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn now(&self) -> Timestamp {
        match &*self.inner {
            Inner::System { .. } => {
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO);
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Inner::Manual { clock, .. } => {
                Timestamp::from_millis(1_735_689_600_000).after(clock.elapsed())
            }
        }
    }

    /// Time since this `Env` was made. It never goes back.
    pub fn monotonic(&self) -> Duration {
        match &*self.inner {
            Inner::System { start } => start.elapsed(),
            Inner::Manual { clock, .. } => clock.elapsed(),
        }
    }

    /// Waits for `duration`; with a manual clock, until it has been moved that far.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
    pub async fn sleep(&self, duration: Duration) {
        match &*self.inner {
            Inner::System { .. } => tokio::time::sleep(duration).await,
            Inner::Manual { clock, .. } => {
                let wake = clock.elapsed() + duration;
                loop {
                    // Listen before looking: a move between the two would be missed.
                    let mut moved = std::pin::pin!(clock.moved.notified());
                    moved.as_mut().enable();
                    if clock.elapsed() >= wake {
                        break;
                    }
                    moved.await;
                }
            }
        }
    }

    /// Fills `bytes` with random bytes that nobody can guess (system) or that the seed
    /// determines (manual).
    #[expect(clippy::disallowed_methods, reason = "this is the one place that draws entropy")]
    pub fn fill_random(&self, bytes: &mut [u8]) {
        match &*self.inner {
            Inner::System { .. } => rand::rng().fill_bytes(bytes),
            Inner::Manual { entropy, .. } => {
                entropy.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
            }
        }
    }

    /// A number larger than all that were given before: the wall-clock time in milliseconds, and
    /// below that 12 bits that count (RFC 9562 section 6.2, method 1). Where the clock steps back
    /// or more are taken than fit into a millisecond, it runs ahead of the clock.
    pub fn sequence(&self) -> u64 {
        let now = u64::try_from(self.now().millis()).unwrap_or(0) << 12;
        let next = |last: u64| now.max(last + 1);
        let last = self.sequence.fetch_update(Relaxed, Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }

    /// A random number below `bound`, for jitter; 0 if `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }

    /// Starts `future` as a task of the current runtime. `name` says in logs what it is.
    ///
    /// Dropping the handle does not stop the task.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns tasks")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tracing::trace!(task = name, "start task");
        tokio::spawn(future)
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.inner {
            Inner::System { .. } => "Env(system)",
            Inner::Manual { .. } => "Env(manual)",
        })
    }
}

/// The hand on a manual clock.
#[derive(Clone, Default)]
pub struct ManualClock {
    elapsed: Arc<Mutex<Duration>>,
    moved: Arc<tokio::sync::Notify>,
}

impl ManualClock {
    /// Moves the clock forward and wakes whoever waited for that.
    pub fn advance(&self, duration: Duration) {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner) += duration;
        self.moved.notify_waiters();
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({:?})", self.elapsed())
    }
}
