//! Reading what nobody reads: a walk over all chunks that verifies their checksums.
//!
//! Promises: every pass reads at most a budget and goes on where the one before ended; a damaged
//! chunk is moved out of the way by its store, so that it is never served, and named in the log,
//! in the metrics and by the checker.
//!
//! Not here: repair from other copies, which needs other copies.

use crate::{Larder, error::Result};

impl Larder {
    /// Verifies some chunks of every store.
    pub(crate) async fn scrub_some(&self) -> Result<()> {
        let budget = self.inner.config.scrub_bytes;
        for store in self.inner.stores.all() {
            let server = store.server();
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
