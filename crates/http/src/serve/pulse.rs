//! The pulse of each connection and the watch that takes it: every time-out of the server.
//!
//! A connection only notes what it does, in its own few words of memory; one sweep per worker
//! looks at all of them. So a request arms no timer and reads no clock (hyper's own header
//! time-out would arm one for each).
//!
//! Promises: a connection that is idle too long, takes too long over a handshake or the head of a
//! request, or takes its answer too slowly is cut off, at most one sweep late, and sooner while
//! memory is short; while a handler works nothing here hurries it.
//!
//! Not here: request bodies that trickle ([`crate::body::RequestBody`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use larder_base::Memory;
use tokio::sync::Notify;

use super::{Cut, ServeOptions, Status};

/// While memory is short, connections that are slow for so long have to go.
pub(crate) const SHORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Free eighths of the memory budget below which it is short: before others have to wait for it.
const SHORT_EIGHTHS: usize = 2;

/// Whether slow clients have to make room for others.
pub(crate) fn is_short(memory: &Memory) -> bool {
    memory.room() < SHORT_EIGHTHS
}

/// How long a closed connection may still be read from, so that its last answer is not lost.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between two requests.
    Idle = 0,
    /// Some of the next request's head has come.
    Head = 1,
    /// A request is worked on or its answer sent.
    Busy = 2,
    /// Our side is closed; what still comes is thrown away.
    Linger = 3,
    /// Both sides agree on TLS.
    Handshake = 4,
}

/// What a connection is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Go on.
    Go = 0,
    /// Finish what is begun, then close.
    Drain = 1,
    /// Close now.
    Cut = 2,
}

/// The notes of one connection. Only its own task writes them, but for the order.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    phase: AtomicU8,
    turn: AtomicU32,
    received: AtomicU64,
    sent: AtomicU64,
    blocked: AtomicBool,
    order: AtomicU8,
    pub(super) ordered: Notify,
}

impl Pulse {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Linger,
            _ => Phase::Handshake,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        // Plain load and store: there is one writer, and this is on every request's path.
        self.turn.store(self.turn.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.store(self.received.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.store(self.sent.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
        self.blocked.store(false, Relaxed);
    }

    pub(super) fn block(&self) {
        self.blocked.store(true, Relaxed);
    }

    pub(super) fn order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Go,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Relaxed);
        self.ordered.notify_one();
    }
}

/// What the last sweep saw of a connection.
#[derive(Debug)]
struct Watched {
    pulse: Arc<Pulse>,
    turn: u32,
    moved: u64,
    since: Duration,
    sent: u64,
    sent_since: Duration,
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Ward {
    beds: Mutex<Beds>,
}

#[derive(Debug, Default)]
struct Beds {
    next: u64,
    draining: bool,
    watched: BTreeMap<u64, Watched>,
}

impl Ward {
    /// Takes in a new connection.
    pub(super) fn admit(self: &Arc<Self>, now: Duration) -> Admission {
        let pulse = Arc::new(Pulse::default());
        let mut beds = self.beds();
        if beds.draining {
            pulse.give(Order::Drain);
        }
        let number = beds.next;
        beds.next += 1;
        let watched = Watched {
            pulse: pulse.clone(),
            turn: 0,
            moved: 0,
            since: now,
            sent: 0,
            sent_since: now,
        };
        beds.watched.insert(number, watched);
        drop(beds);
        Admission { ward: self.clone(), number, pulse }
    }

    /// Tells every connection, and those still to come, to finish.
    pub(super) fn drain(&self) {
        let mut beds = self.beds();
        beds.draining = true;
        beds.watched.values().for_each(|watched| watched.pulse.give(Order::Drain));
    }

    /// Cuts every connection off.
    pub(super) fn cut(&self) {
        self.beds().watched.values().for_each(|watched| watched.pulse.give(Order::Cut));
    }

    /// Looks at every connection and cuts off those that overstay.
    pub(super) fn sweep(&self, now: Duration, options: &ServeOptions, status: &Status) {
        let short = is_short(&options.memory);
        for watched in self.beds().watched.values_mut() {
            if watched.pulse.order() == Order::Cut {
                continue;
            }
            let Some(why) = watched.overstays(now, options, short) else { continue };
            watched.pulse.give(Order::Cut);
            if let Overstay::Slow(cut) = why {
                status.count_cut(cut);
            }
        }
    }

    fn beds(&self) -> std::sync::MutexGuard<'_, Beds> {
        self.beds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overstay {
    /// It had nothing more to do.
    Idle,
    /// Its client is too slow.
    Slow(Cut),
}

impl Watched {
    fn overstays(
        &mut self,
        now: Duration,
        options: &ServeOptions,
        short: bool,
    ) -> Option<Overstay> {
        let most = if short { SHORT_TIMEOUT } else { Duration::MAX };
        let idle_timeout = options.idle_timeout.min(most);
        let stall_timeout = options.stall_timeout.min(most);
        let pulse = &self.pulse;
        let sent = pulse.sent.load(Relaxed);
        let least = options.stall_bytes(stall_timeout);
        if !pulse.blocked.load(Relaxed) || sent.wrapping_sub(self.sent) >= least {
            self.sent = sent;
            self.sent_since = now;
        }
        let turn = pulse.turn.load(Relaxed);
        let moved = pulse.received.load(Relaxed).wrapping_add(sent);
        let phase = pulse.phase();
        let same = turn == self.turn
            && match phase {
                Phase::Idle => moved == self.moved,
                Phase::Head | Phase::Linger | Phase::Handshake => true,
                Phase::Busy => false,
            };
        if !same {
            self.turn = turn;
            self.moved = moved;
            self.since = now;
        }
        let (limit, why) = match phase {
            Phase::Idle => (idle_timeout, Overstay::Idle),
            Phase::Head => (options.header_timeout, Overstay::Slow(Cut::Head)),
            Phase::Busy => (Duration::MAX, Overstay::Idle),
            Phase::Linger => (LINGER_MAX.min(options.idle_timeout), Overstay::Idle),
            Phase::Handshake => (options.header_timeout, Overstay::Slow(Cut::Handshake)),
        };
        if now.saturating_sub(self.since) >= limit {
            return Some(why);
        }
        let stalled = now.saturating_sub(self.sent_since) >= stall_timeout;
        stalled.then_some(Overstay::Slow(Cut::Answer))
    }
}

/// A connection's stay; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    ward: Arc<Ward>,
    number: u64,
    pub(super) pulse: Arc<Pulse>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.ward.beds().watched.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn options() -> ServeOptions {
        ServeOptions {
            header_timeout: at(10),
            idle_timeout: at(60),
            stall_timeout: at(30),
            ..ServeOptions::default()
        }
    }

    fn sweep(ward: &Ward, pulse: &Pulse, seconds: u64) -> Order {
        ward.sweep(at(seconds), &options(), &Status::default());
        pulse.order()
    }

    #[test]
    fn idle_connections_are_cut_off_and_each_byte_counts_as_life() {
        let ward = Arc::new(Ward::default());
        let stay = ward.admit(at(0));
        let pulse = &*stay.pulse;
        assert_eq!(sweep(&ward, pulse, 59), Order::Go);
        pulse.sent(1);
        assert_eq!(sweep(&ward, pulse, 60), Order::Go);
        assert_eq!(sweep(&ward, pulse, 119), Order::Go);
        assert_eq!(sweep(&ward, pulse, 120), Order::Cut);
    }

    #[test]
    fn a_head_that_trickles_is_cut_off_however_it_trickles() {
        let ward = Arc::new(Ward::default());
        let stay = ward.admit(at(0));
        let pulse = &*stay.pulse;
        for second in 1..=10 {
            pulse.received(1);
            assert_eq!(sweep(&ward, pulse, second), Order::Go, "after {second} s");
        }
        pulse.received(1);
        assert_eq!(sweep(&ward, pulse, 11), Order::Cut);
    }

    #[test]
    fn a_handshake_has_as_long_as_a_head() {
        let ward = Arc::new(Ward::default());
        let stay = ward.admit(at(0));
        stay.pulse.enter(Phase::Handshake);
        let status = Status::default();
        for second in 0..30 {
            stay.pulse.received(1);
            ward.sweep(at(second), &options(), &status);
            let expected = if second < 10 { Order::Go } else { Order::Cut };
            assert_eq!(stay.pulse.order(), expected, "after {second} s");
        }
        assert!(status.cut().eq([("handshake", 1), ("head", 0), ("body", 0), ("answer", 0)]));
    }

    #[test]
    fn an_answer_must_be_taken_at_the_least_rate_over_each_window() {
        let ward = Arc::new(Ward::default());
        let (slow, steady) = (ward.admit(at(0)), ward.admit(at(0)));
        let options = ServeOptions { min_rate: Some(1000), ..options() };
        slow.pulse.enter(Phase::Busy);
        steady.pulse.enter(Phase::Busy);
        for second in 1..=100 {
            for (pulse, bytes) in [(&slow.pulse, 900), (&steady.pulse, 1100)] {
                pulse.sent(bytes);
                pulse.block();
            }
            ward.sweep(at(second), &options, &Status::default());
            assert_eq!(steady.pulse.order(), Order::Go, "after {second} s");
            let expected = if second < 30 { Order::Go } else { Order::Cut };
            assert_eq!(slow.pulse.order(), expected, "after {second} s");
        }
    }

    #[test]
    fn a_working_handler_is_never_hurried() {
        let ward = Arc::new(Ward::default());
        let stay = ward.admit(at(0));
        stay.pulse.enter(Phase::Busy);
        assert_eq!(sweep(&ward, &stay.pulse, 100_000), Order::Go);
    }

    #[test]
    fn a_client_that_does_not_take_its_answer_is_cut_off() {
        let ward = Arc::new(Ward::default());
        let stay = ward.admit(at(0));
        let pulse = &*stay.pulse;
        pulse.enter(Phase::Busy);
        pulse.sent(100_000);
        pulse.block();
        assert_eq!(sweep(&ward, pulse, 1), Order::Go);
        pulse.sent(1);
        pulse.block();
        assert_eq!(sweep(&ward, pulse, 30), Order::Go);
        assert_eq!(sweep(&ward, pulse, 31), Order::Cut);

        let stay = ward.admit(at(0));
        let pulse = &*stay.pulse;
        pulse.enter(Phase::Busy);
        for second in (0..600).step_by(20) {
            pulse.sent(10_000);
            pulse.block();
            assert_eq!(sweep(&ward, pulse, second), Order::Go, "slow but steady");
        }
    }

    #[test]
    fn whoever_comes_during_a_drain_is_told_so() {
        let ward = Arc::new(Ward::default());
        let before = ward.admit(at(0));
        ward.drain();
        let after = ward.admit(at(0));
        assert_eq!((before.pulse.order(), after.pulse.order()), (Order::Drain, Order::Drain));
        drop(before);
        ward.cut();
        assert_eq!(after.pulse.order(), Order::Cut);
    }
}
