//! Counts of this door, in OpenMetrics text together with core's.
//!
//! Plain atomics, because each request touches them: one counter by route and class of status,
//! one histogram by route. Latency ends when the head of the answer is ready.
//!
//! Not here: what core counts ([`larder_core::Larder::metrics`]).

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use larder_http::{Limits, Status};

use crate::route::{CLASSES, NONE, TABLE};

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

/// Name and meaning.
type Metric = (&'static str, &'static str);

const BUILD: Metric = ("larder_build_info", "1, with the `version` as a label.");
const CONNECTIONS: Metric = ("larder_http_connections", "Connections that are open.");
const ACCEPTED: Metric = ("larder_http_accepted_total", "Connections taken.");
const REFUSED: Metric =
    ("larder_http_refused_total", "Connections turned away because there were too many.");
const PANICS: Metric =
    ("larder_http_panics_total", "Requests whose handler panicked: each one is a defect.");
const LIMITED: Metric = (
    "larder_http_limited_total",
    "Requests and connections refused by a limit of an address, user or key, by `limit`.",
);
const CUT: Metric = (
    "larder_http_cut_total",
    "Connections cut off because the client was too slow, by what it was slow `with`.",
);
const REQUESTS: Metric =
    ("larder_http_requests_total", "Requests by `door`, `route` and class of `status`.");
const SECONDS: Metric =
    ("larder_http_request_seconds", "Time up to the head of the answer, by `door` and `route`.");

/// Every metric of this door.
pub(crate) const METRICS: &[Metric] =
    &[BUILD, CONNECTIONS, ACCEPTED, REFUSED, PANICS, LIMITED, CUT, REQUESTS, SECONDS];

/// Metrics of parts that the door does not know, as OpenMetrics text without its end.
#[derive(Clone, Default)]
pub struct MoreMetrics(Option<Arc<dyn Fn() -> String + Send + Sync>>);

impl MoreMetrics {
    /// What `render` says at each request; it must not block.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(render)))
    }

    pub(crate) fn render(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |render| render())
    }
}

impl fmt::Debug for MoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MoreMetrics({})", self.0.is_some())
    }
}

#[derive(Debug, Default)]
struct Class {
    /// By the first digit of the status, from 1.
    statuses: [AtomicU64; 5],
    /// By the first bound that holds; what is above all of them is in the count alone.
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// The counts of one door.
#[derive(Debug)]
pub(crate) struct Metrics([Class; CLASSES]);

impl Metrics {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Class::default()))
    }

    /// Counts one request.
    pub(crate) fn count(&self, class: usize, status: StatusCode, took: Duration) {
        let Some(class) = self.0.get(class).or(self.0.get(NONE)) else { return };
        let hundreds = usize::from(status.as_u16() / 100);
        if let Some(counter) = class.statuses.get(hundreds.wrapping_sub(1)) {
            counter.fetch_add(1, Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound);
        if let Some(bucket) = bucket.and_then(|bucket| class.buckets.get(bucket)) {
            bucket.fetch_add(1, Relaxed);
        }
        class.count.fetch_add(1, Relaxed);
        class.micros.fetch_add(micros, Relaxed);
    }

    /// The whole page: `core` is core's part.
    pub(crate) fn page(
        &self,
        core: &str,
        (server, limits): (&Status, &Limits),
        version: &str,
    ) -> String {
        let mut page = String::with_capacity(16 << 10);
        page.push_str(core);
        if !page.is_empty() && !page.ends_with('\n') {
            page.push('\n');
        }
        if self.write(&mut page, server, limits, version).is_err() {
            tracing::error!("write metrics into a string");
        }
        page.push_str("# EOF\n");
        page
    }

    fn write(
        &self,
        page: &mut String,
        server: &Status,
        limits: &Limits,
        version: &str,
    ) -> fmt::Result {
        begin(page, BUILD, "info")?;
        writeln!(page, "larder_build_info{{version=\"{version}\"}} 1")?;
        begin(page, CONNECTIONS, "gauge")?;
        writeln!(page, "{} {}", CONNECTIONS.0, server.open())?;
        for (metric, value) in [
            (ACCEPTED, server.accepted()),
            (REFUSED, server.refused()),
            (PANICS, server.panicked()),
        ] {
            begin(page, metric, "counter")?;
            writeln!(page, "{} {value}", metric.0)?;
        }
        begin(page, LIMITED, "counter")?;
        for (limit, value) in limits.refused() {
            writeln!(page, "{}{{limit=\"{limit}\"}} {value}", LIMITED.0)?;
        }
        begin(page, CUT, "counter")?;
        for (with, value) in server.cut() {
            writeln!(page, "{}{{with=\"{with}\"}} {value}", CUT.0)?;
        }
        begin(page, REQUESTS, "counter")?;
        for (class, (route, _)) in self.0.iter().zip(TABLE) {
            for (hundreds, counter) in (1..).zip(&class.statuses) {
                let value = counter.load(Relaxed);
                if value > 0 {
                    writeln!(
                        page,
                        "larder_http_requests_total{{door=\"rest\",route=\"{route}\",\
                         status=\"{hundreds}xx\"}} {value}"
                    )?;
                }
            }
        }
        begin(page, SECONDS, "histogram")?;
        for (class, (route, _)) in self.0.iter().zip(TABLE) {
            class.histogram(page, route)?;
        }
        Ok(())
    }
}

/// The lines before the values of a metric.
fn begin(page: &mut String, (name, help): Metric, kind: &str) -> fmt::Result {
    let family = name.trim_end_matches("_total").trim_end_matches("_info");
    writeln!(page, "# HELP {family} {help}\n# TYPE {family} {kind}")?;
    if family.ends_with("_seconds") {
        writeln!(page, "# UNIT {family} seconds")?;
    }
    Ok(())
}

impl Class {
    fn histogram(&self, page: &mut String, route: &str) -> fmt::Result {
        const NAME: &str = SECONDS.0;
        // Read first: what is counted meanwhile is in the buckets at the most.
        let (count, micros) = (self.count.load(Relaxed), self.micros.load(Relaxed));
        if count == 0 {
            return Ok(());
        }
        let labels = format!("door=\"rest\",route=\"{route}\"");
        let mut below = 0;
        for (bucket, (_, bound)) in self.buckets.iter().zip(BOUNDS) {
            below = (below + bucket.load(Relaxed)).min(count);
            writeln!(page, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
        }
        writeln!(page, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
        writeln!(page, "{NAME}_sum{{{labels}}} {}.{:06}", micros / 1_000_000, micros % 1_000_000)?;
        writeln!(page, "{NAME}_count{{{labels}}} {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_was_counted_and_ends_once() {
        let metrics = Metrics::new();
        metrics.count(7, StatusCode::OK, Duration::from_micros(300));
        metrics.count(7, StatusCode::OK, Duration::from_secs(60));
        metrics.count(7, StatusCode::NOT_FOUND, Duration::from_micros(80));
        let (status, limits) = (Status::default(), Limits::none(&larder_base::Env::system()));
        let page = metrics.page("# TYPE larder_x gauge\nlarder_x 1", (&status, &limits), "1.2.3");
        for line in [
            "larder_x 1",
            "larder_build_info{version=\"1.2.3\"} 1",
            "larder_http_limited_total{limit=\"address_list\"} 0",
            "larder_http_cut_total{with=\"head\"} 0",
            "larder_http_requests_total{door=\"rest\",route=\"file\",status=\"2xx\"} 2",
            "larder_http_requests_total{door=\"rest\",route=\"file\",status=\"4xx\"} 1",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"0.0001\"} 1",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"0.0005\"} 2",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"30.0\"} 2",
            "larder_http_request_seconds_bucket{door=\"rest\",route=\"file\",le=\"+Inf\"} 3",
            "larder_http_request_seconds_sum{door=\"rest\",route=\"file\"} 60.000380",
            "larder_http_request_seconds_count{door=\"rest\",route=\"file\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("\n# EOF\n"));
        assert_eq!(page.matches("# EOF").count(), 1);
    }
}
