//! Reading what nobody reads: a walk over all chunks that verifies their checksums.
//!
//! Promises: passes are spread evenly over the interval in which everything shall be read; each
//! reads at most a budget and goes on where the one before ended; a damaged
//! chunk is moved out of the way by its store, so that it is never served, and named in the log,
//! in the metrics and by the checker.
//!
//! Not here: repair from other copies, which needs other copies.

use std::time::Duration;

use crate::{Larder, error::Result};

/// Least that a pass reads per store, so that small stores are not read in crumbs.
const PASS_BYTES_MIN: u64 = 16 << 20;

/// Most that a pass reads per store: it shares the disk with everything else.
const PASS_BYTES_MAX: u64 = 1 << 30;

impl Larder {
    /// Verifies as much of every store as is due after `passed`, if all is due after `interval`.
    pub(crate) async fn scrub_some(&self, passed: Duration, interval: Duration) -> Result<()> {
        for store in self.inner.stores.all() {
            let server = store.server();
            let capacity = store.capacity().await?;
            let used = capacity.total.saturating_sub(capacity.free);
            let share = passed.as_secs_f64() / interval.as_secs_f64().max(1.0);
            // A share of what the disk holds: exact enough for a pace.
            let budget = ((used as f64 * share) as u64).clamp(PASS_BYTES_MIN, PASS_BYTES_MAX);
            let after = self.inner.scrub_cursors().get(&server).copied();
            let report = store.scrub(after, budget).await?;
            self.inner.metrics.scrubbed_bytes.add(report.bytes);
            self.inner.metrics.scrub_damaged.add(report.damaged.len() as u64);
            for chunk in &report.damaged {
                tracing::error!(%chunk, %server, "scrub found a damaged chunk");
            }
            let mut cursors = self.inner.scrub_cursors();
            match report.next {
                Some(next) => cursors.insert(server, next),
                None => cursors.remove(&server),
            };
        }
        Ok(())
    }
}
