//! What a server is doing right now, for `/ready`, `/metrics` and those who wait for its end.
//!
//! Not here: counting requests ([`Requests`]).

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

use crate::Requests;

/// Shared numbers of all listeners of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    draining: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    panicked: AtomicU64,
    cut: [AtomicU64; Cut::ALL.len()],
    doors: Mutex<Vec<Arc<Requests>>>,
    closed: Notify,
}

/// What a client was too slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cut {
    /// The handshake of TLS.
    Handshake = 0,
    /// The head of a request.
    Head = 1,
    /// The body of a request.
    Body = 2,
    /// Taking an answer.
    Answer = 3,
}

impl Cut {
    /// All of them with their names in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Handshake, "handshake"),
        (Self::Head, "head"),
        (Self::Body, "body"),
        (Self::Answer, "answer"),
    ];
}

impl Status {
    /// Whether the server is going away: it finishes what it has and takes nothing new.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Relaxed)
    }

    /// Says that the server is going away, before it closes its listeners.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Relaxed);
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// Connections taken since the start.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Relaxed)
    }

    /// Connections turned away because there were too many.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// Requests whose handler panicked: each one is a defect.
    pub fn panicked(&self) -> u64 {
        self.0.panicked.load(Relaxed)
    }

    /// Connections cut off because the client was too slow, in the order of [`Cut::ALL`].
    pub fn cut(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.cut.iter().map(|count| count.load(Relaxed));
        Cut::ALL.iter().map(|(_, name)| *name).zip(counts)
    }

    /// Counts for one more door with these `routes`, of which the last is for what is none of
    /// them.
    pub fn door(
        &self,
        name: &'static str,
        routes: impl Iterator<Item = &'static str>,
    ) -> Arc<Requests> {
        let requests = Arc::new(Requests::new(name, routes));
        let mut doors = self.0.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.push(Arc::clone(&requests));
        requests
    }

    /// The counts of all doors.
    pub fn doors(&self) -> Vec<Arc<Requests>> {
        self.0.doors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count_cut(&self, cut: Cut) {
        if let Some(count) = self.0.cut.get(cut as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_panic(&self) {
        self.0.panicked.fetch_add(1, Relaxed);
    }

    /// Takes one of `max` places, or counts a refusal.
    pub(super) fn take(&self, max: usize) -> Option<Place> {
        let free = |open: usize| (open < max).then_some(open + 1);
        if self.0.open.fetch_update(Relaxed, Relaxed, free).is_err() {
            self.0.refused.fetch_add(1, Relaxed);
            return None;
        }
        self.0.accepted.fetch_add(1, Relaxed);
        Some(Place(self.clone()))
    }

    /// Waits until no connection is open.
    pub(super) async fn closed(&self) {
        loop {
            let changed = self.0.closed.notified();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// The place of one open connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Status);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.0.closed.notify_waiters();
        }
    }
}
