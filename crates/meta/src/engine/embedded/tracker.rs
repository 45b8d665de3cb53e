//! Which commits readers see, and which of them still look at the past.
//!
//! A view sees the commits before its *bound*. The tables keep what open views see, and a log
//! segment is recycled only when every view was opened after the last pointer into it was gone.
//! What the tables keep for a view is memory: a view that stays open while a lot is written has
//! to be given up, and then reads of it fail.
//!
//! Not here: reading ([`super::view`]).

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

/// The visible commits and the open views.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    visible: AtomicU64,
    open: Mutex<Open>,
    /// Views with bounds below this were given up. Held by whoever reads through a view.
    given_up: RwLock<u64>,
}

#[derive(Debug, Default)]
struct Open {
    /// The last visible number that is a commit's, and so is durable. The tables draw numbers
    /// as well, and those may be drawn again after a crash: nobody outside may see them.
    committed: u64,
    /// How many views have this bound.
    views: BTreeMap<u64, u32>,
}

impl Tracker {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this commit can be seen. Only the committer says so.
    pub(super) fn publish(&self, commit: u64) {
        let mut open = self.open();
        open.committed = open.committed.max(commit);
        self.visible.fetch_max(commit, Ordering::AcqRel);
    }

    /// Everything up to this number can be seen, and none of it is a commit.
    pub(super) fn advance(&self, number: u64) {
        let _open = self.open();
        self.visible.fetch_max(number, Ordering::AcqRel);
    }

    /// The last number that can be seen.
    pub(super) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// Opens a view of everything visible; returns its bound, to be given to `leave`, and the
    /// last commit that it sees.
    pub(super) fn enter(&self) -> (u64, u64) {
        let mut open = self.open();
        // Read under the lock, so that `watermark` cannot pass a bound that is about to enter.
        let bound = self.visible() + 1;
        *open.views.entry(bound).or_insert(0) += 1;
        (bound, open.committed)
    }

    /// Opens a second view with the bound of one that is open.
    pub(super) fn enter_again(&self, bound: u64) {
        *self.open().views.entry(bound).or_insert(0) += 1;
    }

    /// To be held while something is read through a view; `None` if the view was given up.
    pub(super) fn reading(&self, bound: u64) -> Option<RwLockReadGuard<'_, u64>> {
        let given_up = self.given_up.read().unwrap_or_else(PoisonError::into_inner);
        (bound >= *given_up).then_some(given_up)
    }

    /// Gives up the oldest views; `false` if none is older than what is visible now. Waits for
    /// reads that are being done.
    pub(super) fn give_up_oldest(&self) -> bool {
        let mut given_up = self.given_up.write().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.open();
        let oldest = open.views.first_key_value().map(|(bound, _)| *bound);
        match oldest {
            Some(bound) if bound <= self.visible() => {
                open.views.remove(&bound);
                *given_up = bound + 1;
                true
            }
            _ => false,
        }
    }

    /// Closes a view.
    pub(super) fn leave(&self, bound: u64) {
        let mut open = self.open();
        if let Some(count) = open.views.get_mut(&bound) {
            *count -= 1;
            if *count == 0 {
                open.views.remove(&bound);
            }
        }
    }

    /// The least bound that any view has or will have.
    pub(super) fn watermark(&self) -> u64 {
        let open = self.open();
        let next = self.visible() + 1;
        open.views.first_key_value().map_or(next, |(bound, _)| next.min(*bound))
    }

    /// How many views are open.
    pub(super) fn views(&self) -> u64 {
        self.open().views.values().map(|count| u64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest_view() {
        let tracker = Tracker::default();
        tracker.publish(5);
        let (a, b) = (tracker.enter().0, tracker.enter().0);
        tracker.publish(9);
        let (c, _) = tracker.enter();
        assert_eq!((a, b, c), (6, 6, 10));
        assert_eq!(tracker.watermark(), 6);
        tracker.leave(a);
        assert_eq!(tracker.watermark(), 6);
        tracker.leave(b);
        assert_eq!(tracker.watermark(), 10);
        tracker.leave(c);
        tracker.publish(20);
        assert_eq!(tracker.watermark(), 21);
        assert_eq!(tracker.views(), 0);
    }

    #[test]
    fn a_view_names_the_last_commit_and_no_other_number() {
        let tracker = Tracker::default();
        tracker.publish(5);
        tracker.advance(7);
        assert_eq!(tracker.enter(), (8, 5));
        tracker.publish(8);
        assert_eq!(tracker.enter(), (9, 8));
    }

    #[test]
    fn only_the_oldest_views_are_given_up() {
        let tracker = Tracker::default();
        tracker.publish(5);
        let (old, _) = tracker.enter();
        tracker.publish(6);
        let (new, _) = tracker.enter();
        assert!(tracker.reading(old).is_some());
        assert!(tracker.give_up_oldest());
        assert!(tracker.reading(old).is_none() && tracker.reading(new).is_some());
        assert_eq!(tracker.watermark(), new);
        assert!(!tracker.give_up_oldest(), "a view of now costs nothing");
        tracker.leave(old);
        tracker.leave(new);
        assert_eq!(tracker.views(), 0);
    }
}
