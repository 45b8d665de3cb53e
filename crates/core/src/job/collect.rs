//! Giving back bytes: condemned blobs past every reader, and leftovers of dead processes.
//!
//! Promises: I-COLL-1 a blob's bytes go only after a commit has made it `deleting`, which needs
//! that no reader can have seen it committed (`blob::epoch`); a crash anywhere resumes from the
//! records. I-COLL-2 a chunk without a record goes only if its process is fenced, or says that it
//! is not staging it: storage is listed first and the metadata read after (docs/transactions.md
//! section 6, hazards B04 to B06).
//!
//! Not here: what condemns a blob (`blob::References`).

use larder_base::{
    ErrorKind, failpoint,
    id::{BlobId, ChunkId, Incarnation},
};
use larder_chunk::ChunkStore;

use crate::{
    Larder,
    error::{Error, Result},
    report::CollectReport,
    schema::{self, Blob, BlobState, Content},
    session,
    txn::{Pages, Txn, transact},
};

/// Condemned blobs or chunks looked at per page.
const PAGE: usize = 500;

/// Blobs that one transaction marks or forgets: each is two records at most.
const MARK_BATCH: usize = 50;

impl Larder {
    /// Destroys the bytes of condemned blobs that no reader can need.
    pub(crate) async fn collect_condemned(&self) -> Result<CollectReport> {
        let mut report = CollectReport::default();
        let mut pages = Pages::of(schema::condemned_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            // All of the page was condemned before now, so one epoch does for all of it.
            let epoch = self.inner.epochs.advance();
            let first_seen: Vec<(BlobId, u64)> = {
                let mut seen = self.inner.condemned_epochs();
                page.iter()
                    .map(|(key, _)| {
                        let blob = BlobId::from_bytes(schema::trailing_id(key)?);
                        Ok((blob, *seen.entry(blob).or_insert(epoch)))
                    })
                    .collect::<Result<_>>()?
            };
            let passed = |epoch| self.inner.epochs.passed(epoch);
            let (ready, waiting): (Vec<_>, Vec<_>) =
                first_seen.into_iter().partition(|(_, epoch)| passed(*epoch));
            report.waiting += waiting.len() as u64;
            let blobs: Vec<BlobId> = ready.into_iter().map(|(blob, _)| blob).collect();
            self.destroy(&blobs, &mut report).await?;
        }
        Ok(report)
    }

    /// Takes condemned blobs to their end: first all are marked, then their chunks go, then, when
    /// no power cut can bring those back, their records.
    async fn destroy(&self, blobs: &[BlobId], report: &mut CollectReport) -> Result<()> {
        let mut marked = Vec::with_capacity(blobs.len());
        for batch in blobs.chunks(MARK_BATCH) {
            failpoint::reach("collect.condemned");
            let (deleting, _) = transact!(self, None, |txn| {
                txn.frees();
                mark_deleting(&mut txn, batch).await?
            });
            marked.extend(deleting);
        }
        failpoint::reach("collect.deleting");
        for (_, blob) in &marked {
            if let Content::Chunks(chunks) = &blob.content {
                for chunk in chunks {
                    self.inner.stores.holding(chunk)?.delete(chunk.id).await?;
                }
            }
        }
        for store in self.inner.stores.all() {
            store.sync_deletes().await?;
        }
        failpoint::reach("collect.bytes-deleted");
        // Chunks that came through sessions may have been staged under other ids.
        for (id, blob) in &marked {
            if let Content::Chunks(chunks) = &blob.content {
                self.remove_owners(session::foreign_blobs(*id, chunks)).await?;
            }
        }
        for batch in blobs.chunks(MARK_BATCH) {
            transact!(self, None, |txn| {
                txn.frees();
                for id in batch {
                    txn.delete(schema::blob_key(*id));
                    txn.delete(schema::condemned_key(*id));
                }
            });
        }
        for id in blobs {
            self.inner.condemned_epochs().remove(id);
        }
        let bytes = marked.iter().map(|(_, blob)| blob.size).sum();
        report.blobs += marked.len() as u64;
        report.bytes += bytes;
        self.inner.metrics.collected_blobs.add(marked.len() as u64);
        self.inner.metrics.collected_bytes.add(bytes);
        Ok(())
    }

    /// Removes chunks that dead processes staged and never committed; answers how many. A process
    /// that has been dealt with is marked, so that its chunks are not listed again.
    pub(crate) async fn reconcile_dead(&self) -> Result<u64> {
        let mut removed = 0;
        for store in self.inner.stores.all() {
            for owner in store.owners().await? {
                // Fenced at our start, in the commit that made us the running process.
                if owner >= self.inner.incarnation {
                    continue;
                }
                let key = schema::reconciled_key(owner);
                let snapshot = self.inner.meta.snapshot().await?;
                let done = snapshot.get(&key).await?.is_some();
                drop(snapshot);
                if done {
                    continue;
                }
                let disowned = self.inner.sessions.disowned();
                removed += self.reconcile(&**store, owner).await?;
                if self.inner.sessions.disowned() != disowned {
                    // Something became nobody's behind us.
                    continue;
                }
                transact!(self, None, |txn| {
                    txn.frees();
                    txn.put(key.clone(), &());
                });
            }
        }
        Ok(removed)
    }

    /// Removes chunks that this process staged and gave up; answers how many.
    pub(crate) async fn reconcile_own(&self) -> Result<u64> {
        let mut removed = 0;
        for store in self.inner.stores.all() {
            removed += self.reconcile(&**store, self.inner.incarnation).await?;
        }
        Ok(removed)
    }

    /// Removes chunks of a process number that no process has and that nothing refers to.
    pub(crate) async fn reconcile_all(&self, owner: Incarnation) -> Result<()> {
        for store in self.inner.stores.all() {
            self.reconcile(&**store, owner).await?;
        }
        Ok(())
    }

    async fn reconcile(&self, store: &dyn ChunkStore, owner: Incarnation) -> Result<u64> {
        let mut removed = 0;
        let mut after = None;
        loop {
            let chunks = store.list(owner, after, PAGE).await?;
            let Some(last) = chunks.last() else {
                store.sync_deletes().await?;
                return Ok(removed);
            };
            after = Some(*last);
            failpoint::reach("reconcile.listed");
            let staged: Vec<ChunkId> = chunks
                .into_iter()
                .filter(|chunk| !self.inner.staging.is_open(chunk.blob))
                .collect();
            // After the listing and after asking who still stages: what is not referred to now
            // never will be.
            let snapshot = self.inner.meta.snapshot().await?;
            for chunk in staged {
                if !session::is_needed(&*snapshot, chunk).await? {
                    store.delete(chunk).await?;
                    removed += 1;
                    self.inner.metrics.orphans.add(1);
                }
            }
        }
    }
}

/// Marks condemned blobs as deleting; answers those that are, with what they hold. One whose
/// record is gone already has only its place in the queue left.
async fn mark_deleting(txn: &mut Txn, blobs: &[BlobId]) -> Result<Vec<(BlobId, Blob)>> {
    let mut deleting = Vec::with_capacity(blobs.len());
    for id in blobs {
        let key = schema::blob_key(*id);
        let Some(mut stored) = txn.get_blob(&key).await? else { continue };
        match stored.value.state {
            BlobState::Deleting => {}
            BlobState::Condemned => {
                stored.value.state = BlobState::Deleting;
                txn.hold(key.clone(), stored.version);
                txn.put_blob(key, &stored.value);
            }
            BlobState::Committed => {
                let detail = format!("blob {id} is committed and condemned");
                return Err(Error::new(ErrorKind::Corrupt, detail));
            }
        }
        deleting.push((*id, stored.value));
    }
    Ok(deleting)
}
