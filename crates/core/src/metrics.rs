//! Every number that core counts, in one table: name, unit, meaning.
//!
//! Names are `larder_<area>_<what>_<unit>`; a name once released keeps its meaning. There are no
//! labels with users, paths or ids.
//!
//! Not here: how they are served (the REST door).

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether this process wants requests.
pub(crate) const READY: (&str, &str) =
    ("larder_ready", "1 if requests are welcome, 0 if `/ready` says why not.");

macro_rules! metrics {
    ($($field:ident $name:literal $help:literal;)+) => {
        /// What core counts.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(#[doc = $help] pub(crate) $field: Counter,)+
        }

        impl Metrics {
            /// Name and meaning of every metric, but those of engines.
            pub(crate) const TABLE: &[(&str, &str)] =
                &[$((concat!($name, "_total"), $help),)+ READY];

            fn values(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($name, $help, self.$field.get()),)+]
            }
        }
    };
}

metrics! {
    conflicts "larder_core_conflicts" "Attempts at an operation that met a concurrent change.";
    uploads "larder_core_uploads" "Revisions committed by uploads.";
    uploaded_bytes "larder_core_uploaded_bytes" "Bytes of them.";
    uploads_refused "larder_core_uploads_refused" "Uploads that were refused or broken off.";
    downloads "larder_core_downloads" "Downloads begun.";
    downloaded_bytes "larder_core_downloaded_bytes" "Bytes handed to downloads.";
    damaged_reads "larder_core_damaged_reads" "Reads that met damaged bytes.";
    collected_blobs "larder_core_collected_blobs" "Blobs whose bytes were destroyed.";
    collected_bytes "larder_core_collected_bytes" "Bytes of them.";
    orphans "larder_core_orphans" "Chunks without a blob that were removed.";
    purged_nodes "larder_core_purged_nodes" "Files and directories removed by purges.";
    scrubbed_bytes "larder_core_scrubbed_bytes" "Bytes verified by scrubs.";
    scrub_damaged "larder_core_scrub_damaged" "Damaged chunks found by scrubs.";
    job_failures "larder_core_job_failures" "Runs of background jobs that failed.";
    logins_failed "larder_core_logins_failed" "Requests with wrong credentials.";
}

impl Metrics {
    /// The counters as OpenMetrics text.
    pub(crate) fn render(&self, text: &mut String) {
        for (name, help, value) in self.values() {
            render_counter(text, name, help, value);
        }
    }
}

/// Appends one counter as OpenMetrics text.
fn render_counter(text: &mut String, name: &str, help: &str, value: u64) {
    // Writing to a String cannot fail.
    let written =
        write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name}_total {value}\n");
    debug_assert!(written.is_ok());
}

/// Appends one figure as OpenMetrics text: a counter if its name ends in `_total`, else a gauge.
pub(crate) fn render_figure(text: &mut String, name: &str, help: &str, value: u64) {
    match name.strip_suffix("_total") {
        Some(name) => render_counter(text, name, help, value),
        None => render_gauge(text, name, help, value),
    }
}

/// Appends one gauge as OpenMetrics text.
pub(crate) fn render_gauge(text: &mut String, name: &str, help: &str, value: u64) {
    let written = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    debug_assert!(written.is_ok());
}
