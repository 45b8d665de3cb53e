//! Metrics of the engines, and the documentation of all metrics.
//!
//! The doors count requests and core counts what they come to; the decorators around the engines
//! count time. Here theirs become text, because neither door nor core knows them.
//!
//! Not here: what is counted elsewhere (`larder_core`, `larder_rest`), what is watched for
//! (`docs/operations.md`).

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use larder_chunk::observe::{Call, Observed};
use larder_core::Larder;
use larder_http::Tls;
use larder_meta::{
    engine::embedded::STATISTICS,
    observe::{BUCKETS, Latencies, ObservedStore},
};

/// Name and meaning.
type Metric = (&'static str, &'static str);

const COMMIT: Metric = ("larder_meta_commit_seconds", "Time of a commit, durable or refused.");
const GET: Metric =
    ("larder_meta_get_seconds", "Time of a read of records by key; a sample of all reads.");
const SCAN: Metric =
    ("larder_meta_scan_seconds", "Time of a read of records in order; a sample of all reads.");
const OUTCOMES: Metric = ("larder_meta_outcomes_total", "Commits by `outcome`.");
const READ_ERRORS: Metric =
    ("larder_meta_read_errors_total", "Reads that failed; a sample of all reads.");
const SLOW: Metric = ("larder_meta_slow_total", "Calls of the engine that took a second or more.");
const CALLS: Metric = ("larder_chunk_calls_total", "Calls of the chunk stores, by `call`.");
const ERRORS: Metric = ("larder_chunk_errors_total", "Those of them that failed, by `call`.");
const SECONDS: Metric = ("larder_chunk_seconds_total", "Time they took together, by `call`.");
const WRITTEN: Metric = ("larder_chunk_written_bytes_total", "Bytes of content of whole chunks.");
const READ: Metric = ("larder_chunk_read_bytes_total", "Bytes of content read from chunks.");
const CORRUPT: Metric = ("larder_chunk_corrupt_total", "Damaged chunks that were met.");

const OBSERVED: &[Metric] = &[
    COMMIT,
    GET,
    SCAN,
    OUTCOMES,
    READ_ERRORS,
    SLOW,
    CALLS,
    ERRORS,
    SECONDS,
    WRITTEN,
    READ,
    CORRUPT,
];

const HANDSHAKES_FAILED: Metric = (
    "larder_tls_failed_handshakes_total",
    "Handshakes that failed: plain HTTP, old versions, clients that do not trust us.",
);
const RELOADS: Metric =
    ("larder_tls_reloads_total", "New certificates that have been taken into use.");
const RELOADS_FAILED: Metric = (
    "larder_tls_failed_reloads_total",
    "New certificates that could not be used: the old one stays.",
);

/// What is counted where there is a certificate.
const TLS: &[Metric] = &[HANDSHAKES_FAILED, RELOADS, RELOADS_FAILED];

/// The engines that a server watches, and its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Engines {
    pub(crate) meta: Arc<ObservedStore>,
    pub(crate) stores: Vec<Observed>,
    pub(crate) tls: Option<Tls>,
}

impl Engines {
    /// What was measured, as OpenMetrics text without its end.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        // Writing to a String cannot fail.
        let written = self.write_meta(&mut text).and_then(|()| self.write_chunk(&mut text));
        let written = written.and_then(|()| self.write_tls(&mut text));
        debug_assert!(written.is_ok());
        text
    }

    fn write_tls(&self, text: &mut String) -> fmt::Result {
        let tls = self.tls.as_ref();
        counter(text, HANDSHAKES_FAILED, tls.map_or(0, Tls::failed_handshakes))?;
        counter(text, RELOADS, tls.map_or(0, Tls::reloads))?;
        counter(text, RELOADS_FAILED, tls.map_or(0, Tls::failed_reloads))
    }

    fn write_meta(&self, text: &mut String) -> fmt::Result {
        let metrics = self.meta.snapshot_metrics();
        histogram(text, COMMIT, &metrics.commit)?;
        histogram(text, GET, &metrics.get)?;
        histogram(text, SCAN, &metrics.scan)?;
        begin(text, OUTCOMES, "counter")?;
        let outcomes = metrics.outcomes;
        for (outcome, count) in [
            ("committed", outcomes.committed),
            ("repeated", outcomes.repeated),
            ("conflict", outcomes.conflicts),
            ("bound", outcomes.bounds),
            ("fenced", outcomes.fenced),
            ("spec", outcomes.specs),
            ("full", outcomes.full),
            ("unavailable", outcomes.unavailable),
            ("corrupt", outcomes.corrupt),
            ("unknown", outcomes.unknown),
        ] {
            writeln!(text, "{}{{outcome=\"{outcome}\"}} {count}", OUTCOMES.0)?;
        }
        counter(text, READ_ERRORS, metrics.read_errors)?;
        counter(text, SLOW, metrics.slow)
    }

    fn write_chunk(&self, text: &mut String) -> fmt::Result {
        let stores: Vec<_> = self.stores.iter().map(Observed::snapshot).collect();
        begin(text, CALLS, "counter")?;
        for call in Call::ALL {
            let count: u64 = stores.iter().map(|store| store.of(call).count).sum();
            writeln!(text, "{}{{call=\"{}\"}} {count}", CALLS.0, call.name())?;
        }
        begin(text, ERRORS, "counter")?;
        for call in Call::ALL {
            let count: u64 = stores.iter().map(|store| store.of(call).errors).sum();
            writeln!(text, "{}{{call=\"{}\"}} {count}", ERRORS.0, call.name())?;
        }
        begin(text, SECONDS, "counter")?;
        for call in Call::ALL {
            let time: f64 = stores.iter().map(|store| store.of(call).time.as_secs_f64()).sum();
            writeln!(text, "{}{{call=\"{}\"}} {time:.6}", SECONDS.0, call.name())?;
        }
        counter(text, WRITTEN, stores.iter().map(|store| store.bytes_written).sum())?;
        counter(text, READ, stores.iter().map(|store| store.bytes_read).sum())?;
        counter(text, CORRUPT, stores.iter().map(|store| store.corrupt).sum())
    }
}

/// The lines before the values of a metric.
fn begin(text: &mut String, (name, help): Metric, kind: &str) -> fmt::Result {
    let family = name.trim_end_matches("_total");
    writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}")?;
    if family.ends_with("_seconds") {
        writeln!(text, "# UNIT {family} seconds")?;
    }
    Ok(())
}

fn counter(text: &mut String, metric: Metric, value: u64) -> fmt::Result {
    begin(text, metric, "counter")?;
    writeln!(text, "{} {value}", metric.0)
}

fn histogram(text: &mut String, metric: Metric, latencies: &Latencies) -> fmt::Result {
    begin(text, metric, "histogram")?;
    let name = metric.0;
    let mut below = 0;
    for (bucket, count) in latencies.buckets.iter().enumerate() {
        below += count;
        // What is below the first few bounds is all fast; fewer lines say as much.
        match Latencies::upper_bound(bucket) {
            Some(bound) if bucket >= 3 => {
                writeln!(text, "{name}_bucket{{le=\"{}\"}} {below}", bound.as_secs_f64())?;
            }
            Some(_) => {}
            None => writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {below}")?,
        }
    }
    debug_assert_eq!(Latencies::upper_bound(BUCKETS - 1), None, "the last bucket has no bound");
    writeln!(text, "{name}_sum {:.6}", latencies.sum.as_secs_f64())?;
    writeln!(text, "{name}_count {below}")
}

/// `docs/metrics.md`.
pub(crate) fn docs() -> String {
    let mut page = String::from(DOCS_HEAD);
    let engine: Vec<(String, &str)> =
        STATISTICS.iter().map(|(name, help)| (format!("larder_meta_{name}"), *help)).collect();
    let engine = engine.iter().map(|(name, help)| (name.as_str(), *help)).collect();
    let (meta, chunk): (Vec<_>, Vec<_>) =
        OBSERVED.iter().copied().partition(|(name, _)| name.starts_with("larder_meta_"));
    for (title, metrics) in [
        ("Requests", larder_rest::metric_table().to_vec()),
        ("TLS", TLS.to_vec()),
        ("Files", Larder::metric_table().to_vec()),
        ("Metadata", meta),
        ("The embedded engine of metadata", engine),
        ("Chunks", chunk),
    ] {
        page += &format!("\n## {title}\n\n| metric | kind | meaning |\n| --- | --- | --- |\n");
        for (name, help) in metrics {
            page += &format!("| `{name}` | {} | {help} |\n", kind(name));
        }
    }
    page
}

/// The kind of a metric, which its name tells.
fn kind(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("total") => "counter",
        Some("seconds") => "histogram",
        Some("info") => "info",
        _ => "gauge",
    }
}

const DOCS_HEAD: &str = "\
# Metrics

Printed by `larder config metrics`; the meanings stand beside the code that counts.

`GET /metrics` shows them as OpenMetrics text. Counters end in `_total` and start at 0 with the
process; times are in seconds, sizes in bytes. No label has a user, a path or an id. A name once
released keeps its meaning.
";
