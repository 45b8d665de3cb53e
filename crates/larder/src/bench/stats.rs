//! Latency histogram, error tally and medians of `larder bench`.
//!
//! Promises: a histogram is a fixed array (no allocation while measuring), its percentiles are
//! within 1.6 % of the truth and its maximum is exact; merging two gives what recording into one
//! would have given.
//!
//! Not here: what is measured (`workload`), how it is printed (`report`).

use std::{collections::BTreeMap, time::Duration};

/// Linear sub-buckets per power of two: 64 gives a relative error below 1/64.
const SUB_BITS: u32 = 6;
/// Nanoseconds up to 2^42 (73 minutes) are told apart; longer ones share the last bucket.
const MAX_BITS: u32 = 42;
const BUCKETS: usize = ((MAX_BITS - SUB_BITS + 1) << SUB_BITS) as usize;
/// Sample messages kept per tally: enough to diagnose, too few to flood a terminal.
const SAMPLES: usize = 3;

/// Log-bucketed latency histogram, in nanoseconds (the HdrHistogram layout).
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0, max: 0 }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram").field("total", &self.total).field("max", &self.max).finish()
    }
}

/// Values below 2^SUB_BITS have a bucket each; above, the top SUB_BITS + 1 bits choose it.
fn bucket_of(ns: u64) -> usize {
    let ns = ns.min((1 << MAX_BITS) - 1);
    let bits = u64::BITS - ns.leading_zeros();
    if bits <= SUB_BITS {
        return ns as usize;
    }
    let shift = bits - SUB_BITS - 1;
    (((shift as u64) << SUB_BITS) + (ns >> shift)) as usize
}

/// The middle of a bucket, the value that stands for everything in it.
fn value_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let group = bucket >> SUB_BITS;
    if group <= 1 {
        return bucket;
    }
    let shift = group - 1;
    let low = (bucket - (shift << SUB_BITS)) << shift;
    low + (1 << shift) / 2
}

impl Histogram {
    /// Records one latency.
    pub(super) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)] += 1;
        self.total += 1;
        self.max = self.max.max(ns);
    }

    /// Adds everything `other` recorded.
    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// Number of latencies recorded.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The `q`-quantile (0 < q <= 1) in microseconds; 0 when nothing was recorded.
    pub(super) fn quantile_us(&self, q: f64) -> f64 {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return value_of(bucket).min(self.max) as f64 / 1e3;
            }
        }
        0.0
    }

    /// The largest latency in microseconds, exact.
    pub(super) fn max_us(&self) -> f64 {
        self.max as f64 / 1e3
    }
}

/// What one connection, or one step of all connections, did.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    /// Latencies of the operations that succeeded.
    pub(super) latency: Histogram,
    /// Body bytes of the operations that succeeded.
    pub(super) bytes: u64,
    /// Entries listed.
    pub(super) items: u64,
    /// Failures by what went wrong (`status 503`, `mismatch`, `timeout` ...).
    pub(super) errors: BTreeMap<String, u64>,
    /// The first few failures in words.
    pub(super) samples: Vec<String>,
    /// Kept-alive connections that the server closed before a request was answered; such a
    /// request is repeated once on a new connection and its latency includes both.
    pub(super) reconnects: u64,
}

impl Tally {
    /// Counts a failure of kind `key`.
    pub(super) fn fail(&mut self, key: String, detail: String) {
        *self.errors.entry(key).or_default() += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(detail);
        }
    }

    /// Adds everything `other` counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.bytes += other.bytes;
        self.items += other.items;
        self.reconnects += other.reconnects;
        self.merge_errors(other, "");
    }

    /// Adds only the failures of `other`, each named `prefix` + its kind.
    pub(super) fn merge_errors(&mut self, other: &Self, prefix: &str) {
        for (key, count) in &other.errors {
            *self.errors.entry(format!("{prefix}{key}")).or_default() += count;
        }
        let room = SAMPLES.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.iter().take(room).cloned());
    }

    /// Number of failures of any kind.
    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Middle value (mean of the two middle ones); `None` of nothing.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): cheap, seedable, good enough to choose files and bytes.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Next 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n` (`n` > 0), by Lemire's multiplication.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// The finalizer of SplitMix64: a bijection that scatters neighbouring numbers.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent_and_max_is_exact() {
        let mut histogram = Histogram::default();
        for us in 1..=10_000u64 {
            histogram.record(Duration::from_micros(us));
        }
        for (q, want) in [(0.5, 5_000.0), (0.9, 9_000.0), (0.99, 9_900.0)] {
            let got = histogram.quantile_us(q);
            assert!((got - want).abs() / want < 0.02, "p{q}: {got} instead of {want}");
        }
        assert_eq!(histogram.max_us(), 10_000.0);
        assert_eq!(histogram.total(), 10_000);
    }

    #[test]
    fn every_bucket_holds_the_value_that_stands_for_it() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(value_of(bucket)), bucket);
        }
        assert!(bucket_of(u64::MAX) < BUCKETS);
    }

    #[test]
    fn merging_equals_recording_into_one() {
        let (mut one, mut two, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        let mut rng = Rng::new(7);
        for i in 0..1_000 {
            let latency = Duration::from_nanos(rng.below(50_000_000));
            both.record(latency);
            if i % 3 == 0 { one.record(latency) } else { two.record(latency) }
        }
        one.merge(&two);
        for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
            assert_eq!(one.quantile_us(q), both.quantile_us(q));
        }
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn tally_counts_errors_by_kind_and_keeps_few_samples() {
        let mut sum = Tally::default();
        for i in 0..10 {
            let mut part = Tally::default();
            part.fail("status 503".into(), format!("sample {i}"));
            sum.merge(&part);
        }
        assert_eq!(sum.errors.get("status 503"), Some(&10));
        assert_eq!(sum.failed(), 10);
        assert_eq!(sum.samples.len(), SAMPLES);
    }
}
