//! The figures that the embedded engine shows: names and meanings.
//!
//! Promises: a name once released keeps its meaning; names that end in `_total` only grow.
//!
//! Not here: how they are counted ([`super::shared`]).

/// Name and meaning of each figure, in the order in which
/// [`MetaStore::statistics`](crate::MetaStore::statistics) gives them.
pub const STATISTICS: &[(&str, &str)] = &[
    ("commits_total", "Commits that were accepted."),
    ("refused_total", "Commits that were refused: races, bounds, full disks."),
    ("syncs_total", "Syncs of the log; each makes a group of commits durable."),
    ("group_size", "Commits in the last group."),
    ("log_segments", "Segments of the log that hold something."),
    ("log_segments_ready", "Segments that are ready to be written."),
    ("log_bytes", "Room on the disk that the log takes, ready segments included."),
    ("log_live_bytes", "Bytes in the log that records still refer to."),
    ("log_written_bytes_total", "Bytes written to the log by commits."),
    ("log_moved_bytes_total", "Bytes written again to free segments of which little is alive."),
    ("log_recycled_total", "Segments freed for new contents."),
    ("stalls_total", "Groups of commits that had to wait for background work."),
    ("tables", "Files of tables."),
    ("tables_bytes", "Room on the disk that the tables take."),
    ("tables_flushes_total", "Times that the overlay was written to a table."),
    ("tables_flushes_full_total", "Those of them because of a full overlay."),
    ("tables_merges_total", "Merges of tables."),
    ("tables_runs", "Tables that a read may have to look into."),
    ("records", "Records in the tables, deleted ones included until they are merged away."),
    ("overlay_bytes", "Memory of what is not yet in the tables."),
    ("views", "Snapshots that are open."),
];
