//! Guessing passwords is slow: failures are counted per account and address, and per address.
//!
//! After a few free failures each further one doubles the pause in which no other password is
//! even looked at. The pause belongs to the *pair* of account and address, so that whoever guesses
//! locks nobody else out: the same account logs in from elsewhere, and a password that was
//! verified before passes from anywhere (`login` asks its memory first). An address that tries
//! many accounts pauses as a whole, later and for less long, because many people may share it.
//!
//! An attempt counts as failed from its beginning until it is known to have succeeded: of a
//! thousand guesses at once no more are checked than of a thousand in a row, and breaking the
//! connection off undoes nothing.
//!
//! Promises: an unknown account is counted like a known one; at most [`ENTRIES_MAX`] pairs and as
//! many addresses are remembered, of fixed size each, and the most recent are kept.
//!
//! Not here: keys and app passwords, whose random bits nobody guesses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use larder_base::{Env, ErrorKind, digest::Sha256Stream};

use crate::error::{Error, Result};

/// Most pairs, and most addresses, that are remembered.
const ENTRIES_MAX: usize = 10_000;

/// How failures of one kind are counted.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Failures without a pause: people mistype.
    free: u32,
    /// The longest pause.
    pause_max: Duration,
}

/// Of one account from one address.
const PAIR: Rule = Rule { free: 5, pause_max: Duration::from_mins(15) };

/// Of one address.
const ADDRESS: Rule = Rule { free: 50, pause_max: Duration::from_mins(1) };

/// The first pause.
const PAUSE: Duration = Duration::from_secs(1);

/// After so long without a failure everything is forgotten.
const FORGET: Duration = Duration::from_mins(30);

/// Counts failures.
#[derive(Debug, Default)]
pub(crate) struct Guard(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    pairs: Table,
    addresses: Table,
}

/// Failures by the digest of what they are counted for.
type Table = BTreeMap<u128, Failures>;

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    /// When the last one began, by the monotonic clock.
    last: Duration,
    /// Until when no more are looked at.
    until: Duration,
}

/// One guess that may be checked. Dropped without [`Attempt::succeeded`] it is a failure.
#[derive(Debug)]
#[must_use]
pub(crate) struct Attempt<'a> {
    guard: &'a Guard,
    pair: u128,
    address: u128,
}

impl Attempt<'_> {
    /// The password was right: the pair begins anew, and the address is given this one back.
    pub(crate) fn succeeded(self) {
        let mut tables = self.guard.tables();
        tables.pairs.remove(&self.pair);
        forgive(&mut tables.addresses, self.address);
    }

    /// The password was not looked at.
    pub(crate) fn withdraw(self) {
        let mut tables = self.guard.tables();
        forgive(&mut tables.pairs, self.pair);
        forgive(&mut tables.addresses, self.address);
    }
}

impl Guard {
    /// Begins to check a password for `subject` that came from `from`.
    ///
    /// Errors: `RateLimited`, with the time when another may be tried.
    pub(crate) fn begin(
        &self,
        env: &Env,
        salt: &[u8; 32],
        subject: &str,
        from: IpAddr,
    ) -> Result<Attempt<'_>> {
        let address = digest(salt, &[&network(from)]);
        let pair = digest(salt, &[&network(from), subject.as_bytes()]);
        let now = env.monotonic();
        let mut tables = self.tables();
        let wait = pause_left(&tables.pairs, pair, now);
        let wait = wait.max(pause_left(&tables.addresses, address, now));
        if !wait.is_zero() {
            let detail = "too many wrong passwords from this address: try again later";
            return Err(Error::new(ErrorKind::RateLimited, detail).with_retry_after(wait));
        }
        count(&mut tables.pairs, pair, PAIR, now);
        count(&mut tables.addresses, address, ADDRESS, now);
        Ok(Attempt { guard: self, pair, address })
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one customer of a network is usually given: an IPv4 address, or 64 bits of IPv6.
fn network(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).octets()
        }
    }
}

/// Of fixed size, however long the names are that somebody tries, and not to be foreseen.
fn digest(salt: &[u8; 32], parts: &[&[u8]]) -> u128 {
    let mut digest = Sha256Stream::default();
    digest.update(salt);
    for part in parts {
        digest.update(part);
    }
    let [head @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = digest.finish().0;
    u128::from_be_bytes(head)
}

fn pause_left(table: &Table, key: u128, now: Duration) -> Duration {
    table.get(&key).map_or(Duration::ZERO, |failures| failures.until.saturating_sub(now))
}

fn count(table: &mut Table, key: u128, rule: Rule, now: Duration) {
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        make_room(table, now);
    }
    let failures = table.entry(key).or_default();
    if now.saturating_sub(failures.last) > FORGET + rule.pause_max {
        failures.count = 0;
    }
    failures.count = failures.count.saturating_add(1);
    failures.last = now;
    if let Some(more) = failures.count.checked_sub(rule.free + 1) {
        failures.until = now + rule.pause_max.min(PAUSE * 2u32.saturating_pow(more.min(20)));
    }
}

fn forgive(table: &mut Table, key: u128) {
    if let Some(failures) = table.get_mut(&key) {
        failures.count = failures.count.saturating_sub(1);
        failures.until = Duration::ZERO;
        if failures.count == 0 {
            table.remove(&key);
        }
    }
}

/// Forgets what is old, and of the rest the older half if need be.
fn make_room(table: &mut Table, now: Duration) {
    table.retain(|_, failures| now.saturating_sub(failures.last) <= FORGET);
    if table.len() < ENTRIES_MAX {
        return;
    }
    let mut times: Vec<Duration> = table.values().map(|failures| failures.last).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, failures| failures.last > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 32] = [7; 32];

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn wait(guard: &Guard, env: &Env, subject: &str, from: IpAddr) -> Option<Duration> {
        guard.begin(env, &SALT, subject, from).err().and_then(|error| {
            assert_eq!(error.kind(), ErrorKind::RateLimited);
            error.retry_after()
        })
    }

    #[test]
    fn pauses_double_after_the_free_failures_and_end_at_the_longest() {
        let (env, clock) = Env::manual(1);
        let guard = Guard::default();
        for _ in 0..=PAIR.free {
            assert_eq!(wait(&guard, &env, "alice", address(1)), None);
        }
        let mut pause = PAUSE;
        for _ in 0..20 {
            assert_eq!(wait(&guard, &env, "alice", address(1)), Some(pause));
            clock.advance(pause - Duration::from_millis(1));
            assert!(wait(&guard, &env, "alice", address(1)).is_some());
            clock.advance(Duration::from_millis(1));
            assert_eq!(wait(&guard, &env, "alice", address(1)), None);
            pause = (pause * 2).min(PAIR.pause_max);
        }
    }

    #[test]
    fn nobody_else_pauses_and_success_begins_anew() {
        let (env, _) = Env::manual(1);
        let guard = Guard::default();
        for _ in 0..=PAIR.free {
            assert_eq!(wait(&guard, &env, "alice", address(1)), None);
        }
        assert!(wait(&guard, &env, "alice", address(1)).is_some());
        assert_eq!(wait(&guard, &env, "bob", address(1)), None);
        for _ in 0..100 {
            guard.begin(&env, &SALT, "alice", address(2)).expect("not paused").succeeded();
            guard.begin(&env, &SALT, "carol", address(1)).expect("not paused").withdraw();
        }
    }

    #[test]
    fn an_address_that_tries_many_accounts_pauses_as_a_whole() {
        let (env, clock) = Env::manual(1);
        let guard = Guard::default();
        for i in 0..=ADDRESS.free {
            assert_eq!(wait(&guard, &env, &format!("user-{i}"), address(1)), None);
        }
        assert_eq!(wait(&guard, &env, "another", address(1)), Some(PAUSE));
        assert_eq!(wait(&guard, &env, "another", address(2)), None);
        // One network of a customer is one address, IPv4 in IPv6 is IPv4.
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(wait(&guard, &env, "another", mapped), Some(PAUSE));
        let six = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(six("2001:db8::1"), six("2001:db8::ffff:1"));
        assert_ne!(six("2001:db8::1"), six("2001:db8:0:1::1"));
        clock.advance(FORGET + ADDRESS.pause_max * 2);
        for i in 0..ADDRESS.free {
            assert_eq!(wait(&guard, &env, &format!("user-{i}"), address(1)), None, "forgotten");
        }
    }

    #[test]
    fn tables_stay_bounded_and_keep_the_recent() {
        let (env, clock) = Env::manual(1);
        let guard = Guard::default();
        for i in 0..3 * ENTRIES_MAX as u32 {
            clock.advance(Duration::from_millis(1));
            let from = IpAddr::from((0x0a00_0000 + i).to_be_bytes());
            assert_eq!(wait(&guard, &env, "alice", from), None);
            // The last of these is followed by many from elsewhere, and not forgotten for them.
            if (26_000..).step_by(500).take(6).any(|at| at == i) {
                assert_eq!(wait(&guard, &env, "victim", address(9)), None);
            }
        }
        assert_eq!(wait(&guard, &env, "victim", address(9)), None, "the first pause is over");
        assert_eq!(wait(&guard, &env, "victim", address(9)), Some(PAUSE * 2));
        let tables = guard.tables();
        assert!(tables.pairs.len() <= ENTRIES_MAX && tables.addresses.len() <= ENTRIES_MAX);
    }
}
