//! Large uploads give way to small changes, which wait for the same disk and processors.
//!
//! A small change is over within a millisecond, and a step of a large upload may stand in its way
//! for several: a sync waits for what the disk was given before it. So while somebody makes one
//! small change after another, the steps are short and few at once, and after each the uploads
//! rest for as long as leaves them their share of the time. Where small changes are rare they
//! cost the uploads next to nothing: those rest while one is on its way, and a moment longer,
//! because the next often follows at once (anticipatory scheduling; Iyer and Druschel, SOSP '01).
//!
//! Promises: uploads have their share of the time however many small changes are made, and all
//! of it where none are. No step waits longer than [`REST_MAX`], nor for steps that end after it
//! began to wait.
//!
//! Not here: who has the next turn (`work`), what a small change is (`txn`).

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use larder_base::Env;

/// How long after a small change the next one is expected.
const EXPECT: Duration = Duration::from_millis(2);

/// After how long without any small change steps may be long, and many at once.
pub(super) const CALM_AFTER: Duration = Duration::from_secs(1);

/// How often uploads that rest look whether they still must: the resolution of timers.
const LOOK: Duration = Duration::from_millis(1);

/// Longest rest: a step that took long because the disk stood still must not stop uploads for
/// several times as long.
const REST_MAX: Duration = Duration::from_secs(1);

/// Most bytes of a step while small changes are made. Measured on a disk of 2 GB/s: a sync of 4
/// KiB takes 0.16 ms (99th percentile 0.32), beside a writer of 256 KiB pieces 0.36 (0.65), of 1
/// MiB pieces 1.1 (1.8), and beside four of those 3.7 (6.2).
const STEP_BYTES: usize = 256 << 10;

/// What is known of small changes and of uploads.
#[derive(Debug)]
pub(super) struct Way {
    /// Of the time, what uploads may take while small changes are made; 100 is all of it.
    percent: u32,
    small: AtomicUsize,
    /// When the last of them ended, in microseconds by the monotonic clock; 0 is never.
    last_small: AtomicU64,
    /// Until when uploads rest if they must.
    rest_until: AtomicU64,
    rests: AtomicU64,
}

/// What else is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// A small change is on its way, or the next one is expected.
    Now,
    /// There was one a short time ago.
    Lately,
    /// There was none for a while.
    None,
}

impl Way {
    pub(super) fn new(percent: u32) -> Self {
        Self {
            percent: percent.clamp(1, 100),
            small: AtomicUsize::new(0),
            last_small: AtomicU64::new(0),
            rest_until: AtomicU64::new(0),
            rests: AtomicU64::new(0),
        }
    }

    /// A small change begins.
    pub(super) fn begin_small(&self) {
        self.small.fetch_add(1, Relaxed);
    }

    /// It has ended, however it did.
    pub(super) fn end_small(&self, now: Duration) {
        self.last_small.store(micros(now).max(1), Relaxed);
        self.small.fetch_sub(1, Relaxed);
    }

    pub(super) fn traffic(&self, now: Duration) -> Traffic {
        if self.small.load(Relaxed) > 0 {
            return Traffic::Now;
        }
        match self.last_small.load(Relaxed) {
            0 => Traffic::None,
            last => match Duration::from_micros(micros(now).saturating_sub(last)) {
                since if since < EXPECT => Traffic::Now,
                since if since <= CALM_AFTER => Traffic::Lately,
                _ => Traffic::None,
            },
        }
    }

    /// Most bytes that the next step should have.
    pub(super) fn step_bytes_max(&self, now: Duration) -> usize {
        match self.traffic(now) {
            Traffic::Now | Traffic::Lately => STEP_BYTES,
            Traffic::None => usize::MAX,
        }
    }

    /// A step has ended that took so long.
    pub(super) fn worked(&self, now: Duration, took: Duration) {
        let rest = (took * (100 - self.percent) / self.percent).min(REST_MAX);
        self.rest_until.store(micros(now.saturating_add(rest)), Relaxed);
    }

    /// Waits as long as uploads must rest. Cancel-safe.
    pub(super) async fn rest(&self, env: &Env) {
        // As it is now: the steps of others that end meanwhile must not put this one off.
        let until = self.rest_until.load(Relaxed);
        if self.must_rest(env.monotonic(), until) {
            self.rests.fetch_add(1, Relaxed);
        }
        while self.must_rest(env.monotonic(), until) {
            env.sleep(LOOK).await;
        }
    }

    /// How often one had to.
    pub(super) fn rests(&self) -> u64 {
        self.rests.load(Relaxed)
    }

    fn must_rest(&self, now: Duration, until: u64) -> bool {
        micros(now) < until && self.traffic(now) == Traffic::Now
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    impl Way {
        fn must_rest_at(&self, now: Duration) -> bool {
            self.must_rest(now, self.rest_until.load(Relaxed))
        }
    }

    #[test]
    fn uploads_rest_while_a_small_change_is_on_its_way_until_they_have_their_share() {
        let way = Way::new(25);
        way.worked(10 * MS, 2 * MS);
        assert!(!way.must_rest_at(10 * MS), "nobody makes a small change");
        way.begin_small();
        assert!(way.must_rest_at(10 * MS));
        assert!(way.must_rest_at(15 * MS), "three times as long as they worked");
        assert!(!way.must_rest_at(16 * MS), "however many small changes there are");
    }

    #[test]
    fn they_go_on_a_moment_after_the_last_small_change() {
        let way = Way::new(1);
        way.worked(10 * MS, 10 * MS);
        way.begin_small();
        way.begin_small();
        way.end_small(11 * MS);
        assert!(way.must_rest_at(20 * MS), "another is on its way");
        way.end_small(20 * MS);
        assert!(way.must_rest_at(21 * MS), "the next one is expected");
        assert!(!way.must_rest_at(20 * MS + EXPECT));
    }

    #[test]
    fn steps_of_others_that_end_meanwhile_put_nobody_off() {
        let (env, clock) = Env::manual(1);
        let way = Way::new(25);
        way.begin_small();
        way.worked(env.monotonic(), MS);
        let mut rest = Box::pin(way.rest(&env));
        let mut poll = || rest.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        clock.advance(2 * MS);
        way.worked(env.monotonic(), MS);
        assert!(poll().is_pending());
        clock.advance(MS);
        assert!(poll().is_ready(), "three times as long as the step before it took");
    }

    #[test]
    fn a_disk_that_stood_still_stops_uploads_no_longer_than_the_bound() {
        let way = Way::new(1);
        way.begin_small();
        way.worked(Duration::ZERO, Duration::from_secs(60));
        assert!(way.must_rest_at(REST_MAX - MS));
        assert!(!way.must_rest_at(REST_MAX));
    }

    #[test]
    fn all_of_the_time_is_no_rest() {
        let way = Way::new(100);
        way.begin_small();
        way.worked(10 * MS, 10 * MS);
        assert!(!way.must_rest_at(10 * MS));
    }

    #[test]
    fn steps_are_short_until_there_was_no_small_change_for_a_while() {
        let way = Way::new(25);
        assert_eq!(way.step_bytes_max(Duration::ZERO), usize::MAX, "there was none ever");
        way.begin_small();
        way.end_small(Duration::ZERO);
        assert_eq!(way.step_bytes_max(CALM_AFTER), STEP_BYTES);
        assert_eq!(way.step_bytes_max(CALM_AFTER + MS), usize::MAX);
    }
}
