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

/// Heavy work and memory, in the order in which `work` renders them.
pub(crate) const WORK: [(&str, &str); 15] = [
    ("larder_work_running", "Heavy steps that have their turn."),
    ("larder_work_waiting", "Heavy steps that wait for their turn."),
    ("larder_work_tasks", "Long transfers and expensive requests that have begun."),
    ("larder_work_refused_total", "Those that were refused because too many steps waited."),
    (
        "larder_work_rests_total",
        "Steps of large uploads that waited while small changes went first.",
    ),
    ("larder_memory_budget_bytes", "What all buffers may have together."),
    ("larder_memory_used_bytes", "What they have."),
    ("larder_memory_connections_bytes", "Of that, connections."),
    ("larder_memory_bodies_bytes", "Of that, small bodies and answers made in memory."),
    ("larder_memory_writes_bytes", "Of that, contents on their way to a disk."),
    ("larder_memory_reads_bytes", "Of that, contents on their way from a disk."),
    ("larder_memory_kept_bytes", "Of that, empty buffers kept for reuse."),
    ("larder_memory_waiting", "Requests that wait for memory."),
    ("larder_memory_waits_total", "How often one had to."),
    ("larder_memory_refused_total", "How often it waited in vain."),
];

macro_rules! metrics {
    ($($field:ident $name:literal $help:literal;)+) => {
        /// What core counts.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(#[doc = $help] pub(crate) $field: Counter,)+
        }

        impl Metrics {
            /// Name and meaning of every metric, but those of engines.
            pub(crate) const TABLE: &[(&str, &str)] = &[
                $((concat!($name, "_total"), $help),)+
                WORK[0], WORK[1], WORK[2], WORK[3], WORK[4], WORK[5], WORK[6], WORK[7], WORK[8],
                WORK[9], WORK[10], WORK[11], WORK[12], WORK[13], WORK[14], READY,
            ];

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
    feed_trimmed "larder_core_feed_trimmed" "Changes removed from feeds by age or number.";
    sessions_created "larder_core_sessions_created" "Upload sessions begun.";
    sessions_completed "larder_core_sessions_completed" "Those that became a file.";
    sessions_aborted "larder_core_sessions_aborted" "Those that were ended by somebody.";
    sessions_expired "larder_core_sessions_expired" "Those that nothing came to for too long.";
    sessions_dropped_bytes "larder_core_sessions_dropped_bytes" "Bytes of both.";
    session_appends "larder_core_session_appends" "Appends and parts begun.";
    session_cut_offs "larder_core_session_cut_offs" "Appends that a newer request cut off.";
    session_merges "larder_core_session_merges" "Merges of small pieces.";
    session_merged_bytes "larder_core_session_merged_bytes" "Bytes copied by them.";
    job_failures "larder_core_job_failures" "Runs of background jobs that failed.";
    logins_failed "larder_core_logins_failed" "Requests with wrong credentials.";
    logins_delayed "larder_core_logins_delayed" "Passwords not looked at, after many wrong ones.";
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
