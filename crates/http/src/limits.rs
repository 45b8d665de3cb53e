//! Who may come in, how often and how fast: address lists, rates, connections by address.
//!
//! One [`Limits`] is shared by all doors of a process. A door asks it three things: whose request
//! this is ([`Limits::client`]), whether that address may ask anything ([`Limits::admit`]), and,
//! once it knows the user, whether the user may ask now and at which pace bytes go
//! ([`Limits::admit_user`]).
//!
//! Promises: nothing is taken from a user's budget by a request that is refused for it; what is
//! over a rate is refused with the exact pause, bytes are slowed down and never cut off. Limits
//! that are off cost a comparison: no lock, no allocation.
//!
//! Not here: slow clients ([`crate::serve`]), the queue of work (core).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use larder_base::{Env, ErrorKind, id::UserId};
use larder_core::Error;

use crate::{
    network::{self, ForwardedHeader, Networks},
    rate::{Pace, Rate, Table},
};

/// Buckets of one table: some 10 MiB if all are in use.
const BUCKETS_MAX: usize = 1 << 16;

/// What is limited; by default nothing is.
#[derive(Clone, Debug, Default)]
pub struct LimitsOptions {
    /// Who may come in; nobody else, if there are any.
    pub allow: Networks,
    /// Who may not, even if allowed.
    pub deny: Networks,
    /// Proxies that are believed to say whose request they bring.
    pub trusted_proxies: Networks,
    /// The header in which they say it.
    pub forwarded_header: ForwardedHeader,
    /// Most connections of one address, unless it is a trusted proxy.
    pub connections_per_address: Option<usize>,
    /// Requests of one address.
    pub requests_per_address: Option<Rate>,
    /// Requests of one user, however authenticated.
    pub requests_per_user: Option<Rate>,
    /// Requests with one key.
    pub requests_per_key: Option<Rate>,
    /// Bytes of bodies, both ways together, of one address.
    pub bytes_per_address: Option<Rate>,
    /// The same of one user.
    pub bytes_per_user: Option<Rate>,
    /// The same with one key.
    pub bytes_per_key: Option<Rate>,
}

/// A limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// The lists of addresses.
    Address = 0,
    /// Requests of one address.
    AddressRate = 1,
    /// Requests of one user.
    UserRate = 2,
    /// Requests with one key.
    KeyRate = 3,
    /// Connections of one address.
    Connections = 4,
}

impl Limit {
    /// All of them with their names in metrics.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Address, "address_list"),
        (Self::AddressRate, "requests_per_address"),
        (Self::UserRate, "requests_per_user"),
        (Self::KeyRate, "requests_per_key"),
        (Self::Connections, "connections_per_address"),
    ];
}

/// The limits of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    env: Env,
    options: LimitsOptions,
    requests: Tables,
    bytes: Tables,
    seats: Mutex<HashMap<u128, usize>>,
    refused: [AtomicU64; Limit::ALL.len()],
}

#[derive(Debug)]
struct Tables {
    address: Option<Table<u128>>,
    user: Option<Table<UserId>>,
    key: Option<Table<Bytes>>,
}

impl Tables {
    fn new(address: Option<Rate>, user: Option<Rate>, key: Option<Rate>) -> Self {
        Self {
            address: address.map(|rate| Table::new(rate, BUCKETS_MAX)),
            user: user.map(|rate| Table::new(rate, BUCKETS_MAX)),
            key: key.map(|rate| Table::new(rate, BUCKETS_MAX)),
        }
    }
}

impl Limits {
    /// Limits as `options` has them.
    pub fn new(options: LimitsOptions, env: &Env) -> Self {
        let requests = Tables::new(
            options.requests_per_address,
            options.requests_per_user,
            options.requests_per_key,
        );
        let bytes =
            Tables::new(options.bytes_per_address, options.bytes_per_user, options.bytes_per_key);
        let (seats, refused) = (Mutex::default(), std::array::from_fn(|_| AtomicU64::new(0)));
        Self(Arc::new(Inner { env: env.clone(), options, requests, bytes, seats, refused }))
    }

    /// No limits.
    pub fn none(env: &Env) -> Self {
        Self::new(LimitsOptions::default(), env)
    }

    /// Whose request it is: the address of the connection, or the one that a trusted proxy says.
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let Inner { options, .. } = &*self.0;
        if options.trusted_proxies.is_empty() {
            return peer.ip().to_canonical();
        }
        let header = options.forwarded_header;
        network::client(peer.ip(), headers, &options.trusted_proxies, header)
    }

    /// Whether a trusted proxy says that a request came to it by HTTPS. Of a connection's own TLS
    /// this knows nothing.
    pub fn by_https(&self, peer: SocketAddr, headers: &HeaderMap) -> bool {
        let Inner { options, .. } = &*self.0;
        let (trusted, header) = (&options.trusted_proxies, options.forwarded_header);
        network::by_https(peer.ip(), headers, trusted, header)
    }

    /// Whether the lists let an address in.
    ///
    /// # Errors
    /// `Denied`.
    pub fn enter(&self, client: IpAddr) -> Result<(), Error> {
        let Inner { options: LimitsOptions { allow, deny, .. }, .. } = &*self.0;
        let denied = !deny.is_empty() && deny.contain(client);
        if denied || (!allow.is_empty() && !allow.contain(client)) {
            self.count(Limit::Address);
            return Err(Error::new(ErrorKind::Denied, "requests from this address are refused"));
        }
        Ok(())
    }

    /// Whether an address may ask something now.
    ///
    /// # Errors
    /// `RateLimited` with the pause after which it may.
    pub fn admit(&self, client: IpAddr) -> Result<(), Error> {
        let Some(table) = &self.0.requests.address else { return Ok(()) };
        table.take(&network::household(client), self.0.env.monotonic()).map_err(|pause| {
            self.count(Limit::AddressRate);
            limited("too many requests come from this address", pause)
        })
    }

    /// Whether a user may ask something now, with the key or link that was used if it was one
    /// (which alone counts for visitors by a link), and at which pace the bytes of the request and
    /// its answer may go; `None` is any.
    ///
    /// # Errors
    /// `RateLimited` with the pause after which it may.
    pub fn admit_user(
        &self,
        client: IpAddr,
        (user, key): (Option<UserId>, Option<&Bytes>),
    ) -> Result<Option<Pace>, Error> {
        let Inner { env, requests, bytes, .. } = &*self.0;
        if let (Some(table), Some(key)) = (&requests.key, key) {
            table.take(key, env.monotonic()).map_err(|pause| {
                self.count(Limit::KeyRate);
                limited("too many requests come with this key", pause)
            })?;
        }
        if let (Some(table), Some(user)) = (&requests.user, user) {
            table.take(&user, env.monotonic()).map_err(|pause| {
                if let (Some(table), Some(key)) = (&requests.key, key) {
                    table.give_back(key, env.monotonic());
                }
                self.count(Limit::UserRate);
                limited("too many requests come from this user", pause)
            })?;
        }
        if bytes.address.is_none() && bytes.user.is_none() && bytes.key.is_none() {
            return Ok(None);
        }
        let now = env.monotonic();
        let mut shares = Vec::with_capacity(3);
        if let Some(table) = &bytes.address {
            table.join(&mut shares, &network::household(client), now);
        }
        if let (Some(table), Some(user)) = (&bytes.user, user) {
            table.join(&mut shares, &user, now);
        }
        if let (Some(table), Some(key)) = (&bytes.key, key) {
            table.join(&mut shares, key, now);
        }
        Ok(Pace::new(env, shares))
    }

    /// How often each limit was met, in the order of [`Limit::ALL`].
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.refused.iter().map(|count| count.load(Relaxed));
        Limit::ALL.iter().map(|(_, name)| *name).zip(counts)
    }

    /// A seat for one more connection of `peer`; `None` if it has as many as it may.
    pub(crate) fn sit(&self, peer: SocketAddr) -> Option<Seat> {
        let Inner { options, seats, .. } = &*self.0;
        let Some(most) = options.connections_per_address else { return Some(Seat(None)) };
        if options.trusted_proxies.contain(peer.ip()) {
            return Some(Seat(None));
        }
        let household = network::household(peer.ip());
        let mut seats = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.entry(household).or_default();
        if *taken >= most {
            drop(seats);
            self.count(Limit::Connections);
            return None;
        }
        *taken += 1;
        Some(Seat(Some((self.clone(), household))))
    }

    fn count(&self, limit: Limit) {
        if let Some(count) = self.0.refused.get(limit as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}

fn limited(detail: &'static str, pause: Duration) -> Error {
    Error::new(ErrorKind::RateLimited, detail).with_retry_after(pause)
}

/// One connection of an address; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Option<(Limits, u128)>);

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((limits, household)) = &self.0 else { return };
        let mut seats = limits.0.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = seats.get_mut(household) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                seats.remove(household);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut LimitsOptions)) -> (Limits, larder_base::env::ManualClock) {
        let mut options = LimitsOptions::default();
        change(&mut options);
        let (env, clock) = Env::manual(1);
        (Limits::new(options, &env), clock)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn rate(text: &str) -> Option<Rate> {
        Some(text.parse().expect("a rate"))
    }

    #[test]
    fn whoever_is_denied_or_not_allowed_stays_outside() {
        let (all, _) = limits(|_| {});
        assert!(all.enter(ip("203.0.113.9")).is_ok());
        let (some, _) = limits(|options| {
            options.allow = "10.0.0.0/8, ::1".parse().expect("networks");
            options.deny = "10.6.0.0/16".parse().expect("networks");
        });
        for (address, inside) in
            [("10.1.1.1", true), ("10.6.1.1", false), ("192.0.2.1", false), ("::1", true)]
        {
            let kind = some.enter(ip(address)).map_err(|error| error.kind());
            assert_eq!(kind, if inside { Ok(()) } else { Err(ErrorKind::Denied) }, "{address}");
        }
        assert_eq!(some.refused().next(), Some(("address_list", 2)));
    }

    #[test]
    fn rates_count_each_address_user_and_key_for_itself() {
        let (limits, clock) = limits(|options| {
            options.requests_per_address = rate("2/s");
            options.requests_per_user = rate("3/s");
            options.requests_per_key = rate("2/s");
        });
        let (ann, bob) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let (key, other) = (Bytes::from_static(b"key"), Bytes::from_static(b"other"));
        let here = ip("192.0.2.1");
        assert!(limits.admit(here).is_ok() && limits.admit(here).is_ok());
        let error = limits.admit(here).expect_err("over the rate");
        assert_eq!(error.kind(), ErrorKind::RateLimited);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(500)));
        assert!(limits.admit(ip("192.0.2.2")).is_ok());

        let ask = |user, key| limits.admit_user(here, (Some(user), key)).map(|pace| pace.is_some());
        assert!(matches!(ask(ann, Some(&key)), Ok(false)));
        assert!(ask(ann, Some(&key)).is_ok());
        assert!(ask(ann, Some(&key)).is_err(), "the key is over its rate");
        assert!(ask(ann, Some(&other)).is_ok());
        // The user is over the rate now; that takes nothing from the key's.
        assert!(ask(ann, Some(&other)).is_err() && ask(ann, None).is_err());
        assert!(ask(bob, Some(&other)).is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(ask(ann, None).is_ok() && limits.admit(here).is_ok());
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_trusted_proxy_more() {
        let (limits, _) = limits(|options| {
            options.connections_per_address = Some(2);
            options.trusted_proxies = "10.0.0.0/8".parse().expect("networks");
        });
        let peer = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let first = limits.sit(peer("192.0.2.1:1")).expect("a seat");
        let second = limits.sit(peer("192.0.2.1:2")).expect("a seat");
        assert!(limits.sit(peer("192.0.2.1:3")).is_none());
        assert!(limits.sit(peer("192.0.2.2:1")).is_some());
        drop(first);
        let third = limits.sit(peer("192.0.2.1:4")).expect("a seat again");
        let proxies: Vec<_> = (1..10).map(|n| limits.sit(([10, 0, 0, 1], n).into())).collect();
        assert!(proxies.iter().all(Option::is_some));
        drop((second, third));
        assert!(limits.0.seats.lock().expect("no panic").is_empty());
    }
}
