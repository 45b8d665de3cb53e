//! Putting into the trash the files whose end has come.
//!
//! Promises: a file goes to the trash within one round of jobs after its end, deleted by
//! `expiry`; one that has been overwritten since is left alone: the transaction compares the
//! revision. Time is judged as retention does (hazard C09). Cost: what is due, not what there is.
//!
//! Not here: where ends come from (`crate::expiry`).

use larder_base::{Timestamp, id::NodeId};

use crate::{
    Larder,
    caller::Caller,
    error::Result,
    revision::file_state,
    room::Room,
    schema::{self, Expiry, Space, SpaceState},
    txn::{self, Pages, Stored, Txn, transact},
};

/// Ends looked at per page.
const PAGE: usize = 256;

/// Who has deleted what came to its end.
const AUTHOR: &str = "expiry";

impl Larder {
    /// Puts every file whose end has come into the trash.
    pub(crate) async fn expire_due(&self, now: Timestamp) -> Result<()> {
        let mut pages = Pages::of(schema::expires_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, _) in &page {
                let due = schema::time_of(key).is_some_and(|at| at <= now);
                if !due || self.inner.stopping() {
                    return Ok(());
                }
                let node = NodeId::from_bytes(schema::trailing_id(key)?);
                if let Err(error) = self.expire_one(key, node).await {
                    // One damaged file must not keep all others.
                    self.inner.metrics.job_failures.add(1);
                    tracing::error!(%error, %node, "a file cannot be expired");
                }
            }
        }
        Ok(())
    }

    async fn expire_one(&self, key: &[u8], node: NodeId) -> Result<()> {
        let key = bytes::Bytes::copy_from_slice(key);
        let record = schema::expiry_key(node);
        let snapshot = self.inner.meta.snapshot().await?;
        let expiry = txn::get::<Expiry>(&*snapshot, &record).await?;
        drop(snapshot);
        let space = expiry.map(|expiry| expiry.value.space);
        transact!(self, space, |txn| {
            txn.frees();
            txn.delete(key.clone());
            if let Some(expiry) = txn.get::<Expiry>(&record).await? {
                self.expire_in(&mut txn, &key, node, &expiry).await?;
            }
        });
        Ok(())
    }

    async fn expire_in(
        &self,
        txn: &mut Txn,
        key: &[u8],
        node: NodeId,
        expiry: &Stored<Expiry>,
    ) -> Result<()> {
        let Expiry { at, space: id, revision } = expiry.value;
        // Another end was given meanwhile: that one has its own place in the order.
        if schema::expires_key(at, node) != key {
            return Ok(());
        }
        let record = schema::expiry_key(node);
        txn.hold(record.clone(), expiry.version);
        txn.delete(record);
        let space = txn.get::<Space>(&schema::space_key(id)).await?;
        let Some(space) = space.filter(|space| space.value.state == SpaceState::Enabled) else {
            return Ok(());
        };
        txn.hold(schema::space_key(id), space.version);
        let room = Room::of_system(id, space.value);
        if let Some(found) = self.find_attached(txn, &room, node).await?
            && file_state(&found)?.revision == revision
        {
            let author = Caller::of_system(AUTHOR);
            self.expire_file(txn, &author, &room, &found).await?;
        }
        Ok(())
    }
}
