//! Rates: buckets of tokens, in tables of bounded size.
//!
//! A bucket for `100/s` holds 100 tokens and fills with 100 a second. It is kept as one number,
//! the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371), so
//! that taking is one compare-and-swap and a bucket that is full is the same as none.
//!
//! Promises: whoever is refused is told the exact time after which the same is granted, if nobody
//! takes it first; a refusal takes nothing. A table never has more than its number of buckets.
//! When more are wanted those go that are full, which loses nothing, and if that is not enough
//! the half that is nearest to full.
//!
//! Not here: what is counted and for whom ([`crate::limits`]).

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use larder_base::Env;

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    per: u64,
}

impl Rate {
    /// `count` in each `per`; `None` if either is 0 or `per` is longer than a century.
    pub fn new(count: u64, per: Duration) -> Option<Self> {
        let per = u64::try_from(per.as_nanos()).ok().filter(|per| *per <= i64::MAX as u64)?;
        (count > 0 && per > 0).then_some(Self { count, per })
    }

    /// How many in a second, rounded down.
    pub fn per_second(&self) -> u64 {
        let count = u128::from(self.count) * 1_000_000_000 / u128::from(self.per);
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// How long `amount` takes, in nanoseconds.
    fn time(&self, amount: u64) -> u64 {
        let nanos = u128::from(amount) * u128::from(self.per) / u128::from(self.count);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// How many in a tenth of a second.
    fn tenth(&self) -> u64 {
        let count = u128::from(self.count) * 100_000_000 / u128::from(self.per);
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `100/s`, `5/m`, `1000/h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a rate is needed, such as 100/s, 600/m or 5000/h".to_owned();
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let count = count.parse().map_err(|_| wrong())?;
        Self::new(count, unit_of(unit).ok_or_else(wrong)?).ok_or_else(wrong)
    }
}

/// What stands behind the slash of a rate: `s`, `m` or `h`.
pub fn unit_of(text: &str) -> Option<Duration> {
    let seconds = match text {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A bucket: the time at which it will be full, in nanoseconds of the monotonic clock.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `amount`, or says after which time it would get it.
    fn take(&self, rate: &Rate, amount: u64, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let cost = rate.time(amount);
        let after = |full: u64| full.max(now).saturating_add(cost);
        let latest = now.saturating_add(rate.per);
        let granted = |full: u64| Some(after(full)).filter(|full| *full <= latest);
        match self.0.fetch_update(Relaxed, Relaxed, granted) {
            Ok(_) => Ok(()),
            Err(full) => Err(Duration::from_nanos(after(full) - latest)),
        }
    }

    /// Gives back what has just been taken.
    fn give_back(&self, rate: &Rate, amount: u64) {
        let cost = rate.time(amount);
        // It may have been thrown away and be another one now, so it may hold less.
        let back = |full: u64| Some(full.saturating_sub(cost));
        self.0.fetch_update(Relaxed, Relaxed, back).ok();
    }

    /// Takes `amount` even if that is not there; after which time the debt is paid.
    fn charge(&self, rate: &Rate, amount: u64, now: Duration) -> Duration {
        let now = nanos(now);
        let cost = rate.time(amount);
        let after = |full: u64| full.max(now).saturating_add(cost);
        let before = self.0.fetch_update(Relaxed, Relaxed, |full| Some(after(full)));
        let full = before.map_or(0, after);
        Duration::from_nanos(full.saturating_sub(now.saturating_add(rate.per)))
    }
}

/// Parts of a table, each with a lock of its own.
const SHARDS: usize = 16;

/// Buckets of one rate, by key.
#[derive(Debug)]
pub(crate) struct Table<K> {
    rate: Rate,
    shards: [Mutex<HashMap<K, Arc<Bucket>>>; SHARDS],
    hasher: RandomState,
    shard_buckets_max: usize,
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// A table of at most about `buckets_max` buckets.
    pub(crate) fn new(rate: Rate, buckets_max: usize) -> Self {
        Self {
            rate,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            shard_buckets_max: (buckets_max / SHARDS).max(4),
        }
    }

    /// Takes one for `key`, or says after which time it would get it.
    pub(crate) fn take(&self, key: &K, now: Duration) -> Result<(), Duration> {
        self.bucket(key, now).take(&self.rate, 1, now)
    }

    /// Gives back one that `key` has just taken.
    pub(crate) fn give_back(&self, key: &K, now: Duration) {
        self.bucket(key, now).give_back(&self.rate, 1);
    }

    /// Adds the bucket of `key` to those that `pace` goes by.
    pub(crate) fn join(&self, pace: &mut Vec<Share>, key: &K, now: Duration) {
        pace.push(Share { rate: self.rate, bucket: self.bucket(key, now) });
    }

    fn bucket(&self, key: &K, now: Duration) -> Arc<Bucket> {
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(shard) else { return Arc::default() };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = shard.get(key) {
            return bucket.clone();
        }
        if shard.len() >= self.shard_buckets_max {
            self.make_room(&mut shard, nanos(now));
        }
        let bucket = Arc::<Bucket>::default();
        shard.insert(key.clone(), bucket.clone());
        bucket
    }

    /// Removes what is full, and half of all if that is not a half. What a stream goes by stays:
    /// there are no more of those than connections.
    fn make_room(&self, shard: &mut HashMap<K, Arc<Bucket>>, now: u64) {
        let idle = |bucket: &Arc<Bucket>| Arc::strong_count(bucket) == 1;
        shard.retain(|_, bucket| !idle(bucket) || bucket.0.load(Relaxed) > now);
        if shard.len() <= self.shard_buckets_max / 2 {
            return;
        }
        let mut times: Vec<u64> = shard.values().map(|bucket| bucket.0.load(Relaxed)).collect();
        let middle = times.len() / 2;
        let (_, middle, _) = times.select_nth_unstable(middle);
        let middle = *middle;
        shard.retain(|_, bucket| !idle(bucket) || bucket.0.load(Relaxed) > middle);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no panic").len()).sum()
    }
}

/// A bucket that a stream goes by.
#[derive(Debug)]
pub(crate) struct Share {
    rate: Rate,
    bucket: Arc<Bucket>,
}

/// Bytes moved in one step at the least and at most: neither a packet each nor a lump.
const STEP_BYTES: std::ops::RangeInclusive<u64> = 1024..=256 << 10;

/// The pace of a stream: every bucket that its bytes are taken from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Steps>);

#[derive(Debug)]
struct Steps {
    env: Env,
    shares: Vec<Share>,
    step: usize,
}

impl Pace {
    pub(crate) fn new(env: &Env, shares: Vec<Share>) -> Option<Self> {
        let slowest = shares.iter().map(|share| share.rate.tenth()).min()?;
        let step = slowest.clamp(*STEP_BYTES.start(), *STEP_BYTES.end());
        let step = usize::try_from(step).unwrap_or(1024);
        Some(Self(Arc::new(Steps { env: env.clone(), shares, step })))
    }

    /// Most bytes that should be moved in one step.
    pub fn step(&self) -> usize {
        self.0.step
    }

    /// Counts `bytes` that have been moved; returns when more may be, on the monotonic clock.
    pub fn moved(&self, bytes: usize) -> Option<Duration> {
        let now = self.0.env.monotonic();
        let waits = self.0.shares.iter().map(|s| s.bucket.charge(&s.rate, bytes as u64, now));
        waits.max().filter(|wait| !wait.is_zero()).map(|wait| now.saturating_add(wait))
    }

    /// Waits until `time`, if that is still to come.
    pub async fn wait(&self, time: Duration) {
        let now = self.0.env.monotonic();
        if let Some(left) = time.checked_sub(now).filter(|left| !left.is_zero()) {
            self.0.env.sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn rates_are_read_in_one_way() {
        assert_eq!(rate("100/s"), Rate::new(100, at(1000)).expect("a rate"));
        assert_eq!(rate("5/m"), Rate::new(5, at(60_000)).expect("a rate"));
        assert_eq!(rate("7/h"), Rate::new(7, at(3_600_000)).expect("a rate"));
        for text in ["", "1", "/s", "0/s", "-1/s", "+1/s", "1/", "1/d", "1/2s", "1.5/s", "1 /s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate_and_says_exactly_when() {
        for text in ["1/s", "3/s", "7/m", "1000/h"] {
            let (rate, bucket) = (rate(text), Bucket::default());
            let mut now = at(5000);
            for _ in 0..rate.count {
                assert_eq!(bucket.take(&rate, 1, now), Ok(()), "{text}");
            }
            for _ in 0..50 {
                let wait = bucket.take(&rate, 1, now).expect_err("it is empty");
                let early = wait - Duration::from_nanos(1);
                assert!(bucket.take(&rate, 1, now + early).is_err(), "{text}");
                now += wait;
                assert_eq!(bucket.take(&rate, 1, now), Ok(()), "{text}");
            }
            assert!(now - at(5000) >= Duration::from_nanos(rate.time(49)), "{text}");
        }
    }

    #[test]
    fn a_refusal_takes_nothing_and_what_is_given_back_is_there() {
        let (rate, bucket) = (rate("2/s"), Bucket::default());
        assert_eq!((bucket.take(&rate, 1, at(0)), bucket.take(&rate, 1, at(0))), (Ok(()), Ok(())));
        for _ in 0..100 {
            assert_eq!(bucket.take(&rate, 1, at(0)), Err(at(500)));
        }
        bucket.give_back(&rate, 1);
        assert_eq!(bucket.take(&rate, 1, at(0)), Ok(()));
        assert_eq!(bucket.take(&rate, 1, at(500)), Ok(()));
    }

    #[test]
    fn a_table_stays_in_its_bounds_and_remembers_who_is_empty() {
        let table = Table::new(rate("2/s"), 1000);
        for _ in 0..2 {
            assert_eq!(table.take(&0_u128, at(0)), Ok(()));
        }
        for key in 1..100_000_u128 {
            assert_eq!(table.take(&key, at(0)), Ok(()));
            assert!(table.len() <= 1000);
        }
        assert!(table.take(&0, at(0)).is_err(), "the emptiest buckets stay");
        for key in 1..100_000_u128 {
            assert_eq!(table.take(&key, at(10_000)), Ok(()));
        }
        assert!(table.len() <= 1000);
    }

    #[test]
    fn streams_of_one_bucket_have_its_rate_together() {
        let (env, _clock) = Env::manual(1);
        let table = Table::new(rate("1000000/s"), 16);
        let pace = || {
            let mut shares = Vec::new();
            table.join(&mut shares, &7, env.monotonic());
            Pace::new(&env, shares).expect("a pace")
        };
        let (one, two) = (pace(), pace());
        assert_eq!(one.moved(600_000), None);
        assert_eq!(two.moved(400_000), None);
        assert_eq!(one.moved(500_000), Some(at(500)));
        assert_eq!(two.moved(500_000), Some(at(1000)));
        assert_eq!(one.step(), 100_000);
        assert!(Pace::new(&env, Vec::new()).is_none());
    }
}
