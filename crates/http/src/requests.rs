//! Requests of a door by route and how long they took, as OpenMetrics lines.
//!
//! Plain atomics, because each request touches them: one counter by route and class of status,
//! one histogram by route. Latency ends when the head of the answer is ready.
//!
//! Not here: names and meanings of the metrics, and the page around the lines (the door that
//! shows them); which doors there are ([`crate::Status`]).

use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;

/// Upper bounds of the latency histogram: in microseconds, and as they are written in seconds.
const BOUNDS: [(u64, &str); 14] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (1_000_000, "1.0"),
    (5_000_000, "5.0"),
    (30_000_000, "30.0"),
];

/// The counts of one door.
#[derive(Debug)]
pub struct Requests {
    door: &'static str,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    name: &'static str,
    /// By the first digit of the status, from 1.
    statuses: [AtomicU64; 5],
    /// By the first bound that holds; what is above all of them is in the count alone.
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Requests {
    /// Nothing counted yet. The last of `routes` is for what is none of them.
    pub(crate) fn new(door: &'static str, routes: impl Iterator<Item = &'static str>) -> Self {
        let route = |name| Route {
            name,
            statuses: Default::default(),
            buckets: Default::default(),
            count: AtomicU64::default(),
            micros: AtomicU64::default(),
        };
        Self { door, routes: routes.map(route).collect() }
    }

    /// Counts one request to the route at this place.
    pub fn count(&self, route: usize, status: StatusCode, took: Duration) {
        let Some(route) = self.routes.get(route).or(self.routes.last()) else { return };
        let hundreds = usize::from(status.as_u16() / 100);
        if let Some(counter) = route.statuses.get(hundreds.wrapping_sub(1)) {
            counter.fetch_add(1, Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound);
        if let Some(bucket) = bucket.and_then(|bucket| route.buckets.get(bucket)) {
            bucket.fetch_add(1, Relaxed);
        }
        route.count.fetch_add(1, Relaxed);
        route.micros.fetch_add(micros, Relaxed);
    }

    /// The lines of a counter `metric` by `door`, `route` and class of `status`.
    ///
    /// # Errors
    /// Those of `page`; a `String` has none.
    pub fn write_counts(&self, page: &mut String, metric: &str) -> fmt::Result {
        let door = self.door;
        for Route { name, statuses, .. } in &self.routes {
            for (hundreds, counter) in (1..).zip(statuses) {
                let value = counter.load(Relaxed);
                if value > 0 {
                    writeln!(
                        page,
                        "{metric}{{door=\"{door}\",route=\"{name}\",status=\"{hundreds}xx\"}} \
                         {value}"
                    )?;
                }
            }
        }
        Ok(())
    }

    /// The lines of a histogram `metric` by `door` and `route`.
    ///
    /// # Errors
    /// Those of `page`; a `String` has none.
    pub fn write_times(&self, page: &mut String, metric: &str) -> fmt::Result {
        for route in &self.routes {
            // Read first: what is counted meanwhile is in the buckets at the most.
            let (count, micros) = (route.count.load(Relaxed), route.micros.load(Relaxed));
            if count == 0 {
                continue;
            }
            let labels = format!("door=\"{}\",route=\"{}\"", self.door, route.name);
            let mut below = 0;
            for (bucket, (_, bound)) in route.buckets.iter().zip(BOUNDS) {
                below = (below + bucket.load(Relaxed)).min(count);
                writeln!(page, "{metric}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
            }
            let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
            writeln!(page, "{metric}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
            writeln!(page, "{metric}_sum{{{labels}}} {seconds}.{rest:06}")?;
            writeln!(page, "{metric}_count{{{labels}}} {count}")?;
        }
        Ok(())
    }
}
