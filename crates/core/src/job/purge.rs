//! Removing what users have destroyed: bottom-up, in bounded transactions, resumable anywhere.
//!
//! Promises: I-PURGE-1 every commit of a purge leaves a whole tree: a directory goes only when it
//! is empty, together with its entry; I-PURGE-2 enumeration is strict: a record that cannot be
//! read stops the job, and is never skipped (hazard N18). Meters and sizes are exact in every
//! commit on the way.
//! Memory: the directories from the root of what is purged down to where it is.
//!
//! Not here: the bytes of the blobs (`collect`).

use bytes::Bytes;
use larder_base::{
    failpoint,
    id::{NodeId, SpaceId, TrashId},
};
use larder_meta::FieldOp;

use crate::{
    Larder,
    blob::References,
    board::Running,
    error::{Error, Result},
    object::BucketSetting,
    quota::{self, delta},
    revision,
    schema::{
        self, Authority, DirState, Dirent, DirentBody, FileState, Job, JobEnd, Trashed, TrashedBody,
    },
    txn::{self, Stored, Txn, transact},
};

/// Files removed by one transaction: each is up to four records.
const FILES_BATCH: usize = 25;

/// Revisions removed by one transaction: each is up to three records.
const REVISIONS_BATCH: usize = 30;

/// How the bytes of what is removed are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// As retained: it was in the trash.
    Retained,
    /// Not at all, or its meters go with it.
    Not,
}

/// A directory on the way down.
struct Level {
    dir: NodeId,
    /// Its entry in the level above; none for the root of what is purged.
    entry: Option<(Bytes, larder_meta::Version)>,
}

impl Larder {
    /// Removes a trash item that has been marked as purging, and then the job.
    pub(crate) async fn purge_item(
        &self,
        job: Option<&Running>,
        id: SpaceId,
        item: TrashId,
    ) -> Result<()> {
        let key = schema::trash_key(id, item);
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = txn::get::<Trashed>(&*snapshot, &key).await?;
        drop(snapshot);
        let Some(trashed) = stored.map(|stored| stored.value) else {
            return self.finish_job(job, JobEnd::Done).await;
        };
        match trashed.body {
            TrashedBody::File(_) => self.purge_trashed_file(job, id, item).await,
            TrashedBody::Dir => {
                let last = |txn: &mut Txn| {
                    txn.delete(key.clone());
                    close(job, txn, JobEnd::Done);
                };
                self.purge_tree(job, id, trashed.node, Counted::Retained, last).await
            }
        }
    }

    async fn purge_trashed_file(
        &self,
        job: Option<&Running>,
        id: SpaceId,
        item: TrashId,
    ) -> Result<()> {
        let key = schema::trash_key(id, item);
        loop {
            let (done, _) = transact!(self, id, |txn| {
                txn.frees();
                let Some(stored) = txn.get::<Trashed>(&key).await? else { return Ok(()) };
                let Stored { value: mut trashed, version } = stored;
                let node = trashed.node;
                let TrashedBody::File(state) = &mut trashed.body else {
                    return Err(Error::internal("a trashed file became a directory"));
                };
                txn.hold(key.clone(), version);
                if self.forget_shares_of(&mut txn, id, &[node]).await? {
                    false
                } else if remove_revisions(&mut txn, id, node, state, Counted::Retained).await? {
                    txn.put(key.clone(), &trashed);
                    false
                } else {
                    let mut references = References::default();
                    references.release(state.blob);
                    references.apply(&mut txn).await?;
                    quota::charge(&mut txn, id, None, 0, -delta(state.size));
                    txn.delete(schema::location_key(node));
                    txn.delete(key.clone());
                    close(job, &mut txn, JobEnd::Done);
                    true
                }
            });
            failpoint::reach("purge.batch");
            if done {
                self.inner.metrics.purged_nodes.add(1);
                return Ok(());
            }
        }
    }

    /// Removes a copy that was never attached. One whose attaching had an unknown outcome may be
    /// part of the tree: it stays. From the first commit here on it can be attached no more,
    /// because that would compare the record which this one writes.
    pub(crate) async fn unstage(&self, job: &Running, id: SpaceId, root: NodeId) -> Result<()> {
        let key = schema::authority_key(id, root);
        transact!(self, id, |txn| {
            txn.frees();
            match txn.get::<Authority>(&key).await? {
                Some(found) if found.value.state == DirState::Staging => {
                    txn.hold(key.clone(), found.version);
                    txn.put(key.clone(), &found.value);
                }
                _ => return self.finish_job(Some(job), JobEnd::Done).await,
            }
        });
        let cancel = self.cancelled_by(job.id).await?;
        let why = match cancel {
            Some(cancel) => format!("cancelled by {}", cancel.by),
            None => "it was broken off".to_owned(),
        };
        let last = |txn: &mut Txn| job.close(txn, JobEnd::Cancelled, why.clone());
        self.purge_tree(Some(job), id, root, Counted::Not, last).await
    }

    /// Removes everything that a deleted space held, then the space, then the job.
    pub(crate) async fn purge_space(&self, job: &Running, id: SpaceId) -> Result<()> {
        self.end_sessions_in(id).await?;
        let prefix = schema::trash_prefix(id);
        loop {
            let snapshot = self.inner.meta.snapshot().await?;
            let page = txn::page(&*snapshot, &prefix, None, 1).await?;
            drop(snapshot);
            let Some((key, _)) = page.first() else { break };
            let item = TrashId::from_bytes(schema::trailing_id(key)?);
            // The item's own job, if there is one, will find nothing left to do.
            self.purge_item(None, id, item).await?;
            job.live.advance(1);
        }
        self.purge_feed(id).await?;
        self.forget_shares_in(id).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let space = txn::get::<schema::Space>(&*snapshot, &schema::space_key(id)).await?;
        drop(snapshot);
        let Some(space) = space else { return self.finish_job(Some(job), JobEnd::Done).await };
        let last = |txn: &mut Txn| {
            txn.delete(schema::space_key(id));
            txn.delete(schema::quota_key(id));
            txn.delete(schema::topology_key(id));
            txn.delete(schema::feed_base_key(id));
            txn.delete(schema::lifecycle_key(id));
            for setting in BucketSetting::ALL {
                txn.delete(schema::bucket_setting_key(id, setting));
            }
            close(Some(job), txn, JobEnd::Done);
        };
        self.purge_tree(Some(job), id, space.value.root, Counted::Not, last).await
    }

    async fn finish_job(&self, job: Option<&Running>, end: JobEnd) -> Result<()> {
        transact!(self, None, |txn| {
            txn.frees();
            close(job, &mut txn, end);
        });
        Ok(())
    }

    /// Removes a detached tree; `last` adds to the transaction that removes its root.
    async fn purge_tree(
        &self,
        job: Option<&Running>,
        id: SpaceId,
        root: NodeId,
        counted: Counted,
        last: impl Fn(&mut Txn),
    ) -> Result<()> {
        let mut levels = vec![Level { dir: root, entry: None }];
        let mut batches = 0u64;
        while let Some(level) = levels.last() {
            let (step, _) = transact!(self, id, |txn| {
                txn.frees();
                let step = self.purge_step(&mut txn, id, &levels, level, counted).await?;
                if step == Step::Removed && levels.len() == 1 {
                    last(&mut txn);
                }
                step
            });
            failpoint::reach("purge.batch");
            match step {
                Step::Descend(entry) => {
                    levels.push(Level { dir: entry.1, entry: Some((entry.0, entry.2)) });
                }
                Step::Again => {}
                Step::Removed => {
                    levels.pop();
                }
            }
            batches += 1;
            if let Some(job) = job {
                job.live.advance(1);
                if batches.is_multiple_of(256) {
                    self.note_progress(job).await?;
                }
            }
            if self.inner.stopping() {
                return Err(Error::new(larder_base::ErrorKind::Unavailable, "shutting down"));
            }
        }
        Ok(())
    }

    /// Writes down how far a job is.
    pub(crate) async fn note_progress(&self, job: &Running) -> Result<()> {
        let progress = job.live.progress();
        transact!(self, None, |txn| {
            txn.frees();
            let key = schema::job_key(job.id);
            let Some(stored) = txn.get::<Job>(&key).await? else { return Ok(()) };
            txn.hold(key.clone(), stored.version);
            let state = schema::JobState::Running;
            txn.put(key, &Job { progress, updated: txn.now, state, ..stored.value });
        });
        Ok(())
    }

    /// One bounded step at the deepest open directory.
    async fn purge_step(
        &self,
        txn: &mut Txn,
        id: SpaceId,
        levels: &[Level],
        level: &Level,
        counted: Counted,
    ) -> Result<Step> {
        let prefix = schema::dirents_prefix(id, level.dir);
        let page = txn::page(&*txn.snapshot, &prefix, None, FILES_BATCH).await?;
        let (mut files, mut leaves) = (Vec::new(), Vec::new());
        for (key, record) in &page {
            let dirent: Dirent = schema::decode(key, &record.value)?;
            match dirent.body {
                DirentBody::Dir if files.is_empty() && leaves.is_empty() => {
                    return Ok(Step::Descend((key.clone(), dirent.node, record.version)));
                }
                // After what is before it.
                DirentBody::Dir => break,
                DirentBody::Ref(_) => leaves.push((key.clone(), dirent.node, record.version)),
                DirentBody::File(state) => {
                    let stored = Stored { value: state, version: record.version };
                    files.push((key.clone(), dirent.node, stored));
                }
            }
        }
        // What is destroyed is shared with nobody any more: that is a step of its own.
        let nodes = files.iter().map(|file| file.1).chain([level.dir]).collect::<Vec<_>>();
        if self.forget_shares_of(txn, id, &nodes).await? {
            return Ok(Step::Again);
        }
        if page.is_empty() {
            remove_empty_dir(txn, id, levels, level).await?;
            self.inner.metrics.purged_nodes.add(1);
            return Ok(Step::Removed);
        }
        // A file with many revisions is a step of its own.
        if let Some((key, node, stored)) = files.iter_mut().find(|file| file.2.value.older > 0) {
            txn.hold(key.clone(), stored.version);
            remove_revisions(txn, id, *node, &mut stored.value, counted).await?;
            let body = DirentBody::File(stored.value.clone());
            txn.put(key.clone(), &Dirent { node: *node, body });
            return Ok(Step::Again);
        }
        remove_files(txn, id, levels, &files, &leaves, counted).await?;
        self.inner.metrics.purged_nodes.add((files.len() + leaves.len()) as u64);
        Ok(Step::Again)
    }
}

/// Ends the job with the transaction, if there is one.
fn close(job: Option<&Running>, txn: &mut Txn, end: JobEnd) {
    if let Some(job) = job {
        job.close(txn, end, String::new());
    }
}

/// What a step did.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The next thing to do is a directory below.
    Descend((Bytes, NodeId, larder_meta::Version)),
    /// Something was removed; there may be more.
    Again,
    /// The directory itself was removed.
    Removed,
}

/// Removes a directory that is empty, with its entry.
async fn remove_empty_dir(
    txn: &mut Txn,
    id: SpaceId,
    levels: &[Level],
    level: &Level,
) -> Result<()> {
    let key = schema::authority_key(id, level.dir);
    if let Some(record) = txn.snapshot.get(&key).await? {
        txn.hold(key.clone(), record.version);
    }
    txn.delete(key);
    txn.delete(schema::location_key(level.dir));
    txn.delete(schema::stat_key(id, level.dir));
    txn.delete(schema::height_key(id, level.dir));
    txn.spec.empty.push(schema::dirents_prefix(id, level.dir));
    if let Some((key, version)) = &level.entry {
        txn.hold(key.clone(), *version);
        txn.delete(key.clone());
        let above = levels.iter().take(levels.len().saturating_sub(1));
        for level in above {
            let fields = [FieldOp::Keep, FieldOp::Keep, FieldOp::Add(-1), FieldOp::Keep];
            txn.add(schema::stat_key(id, level.dir), fields);
        }
    }
    Ok(())
}

/// Removes files that have no older revisions, and references.
async fn remove_files(
    txn: &mut Txn,
    id: SpaceId,
    levels: &[Level],
    files: &[(Bytes, NodeId, Stored<FileState>)],
    leaves: &[(Bytes, NodeId, larder_meta::Version)],
    counted: Counted,
) -> Result<()> {
    let mut references = References::default();
    let (mut bytes, mut count) = (0, 0);
    for (key, node, stored) in files {
        txn.hold(key.clone(), stored.version);
        txn.delete(key.clone());
        txn.delete(schema::location_key(*node));
        references.release(stored.value.blob);
        bytes += delta(stored.value.size);
        // Nobody counts what is deleted.
        count += i64::from(!stored.value.is_marker());
    }
    // What they stand for is not theirs.
    for (key, node, version) in leaves {
        txn.hold(key.clone(), *version);
        txn.delete(key.clone());
        txn.delete(schema::location_key(*node));
    }
    references.apply(txn).await?;
    for level in levels {
        let fields = [FieldOp::Add(-bytes), FieldOp::Add(-count), FieldOp::Keep, FieldOp::Keep];
        txn.add(schema::stat_key(id, level.dir), fields);
    }
    if counted == Counted::Retained {
        quota::charge(txn, id, None, 0, -bytes);
    }
    Ok(())
}

/// Removes some older revisions of a file and keeps its tallies; answers whether there were any.
async fn remove_revisions(
    txn: &mut Txn,
    id: SpaceId,
    node: NodeId,
    state: &mut FileState,
    counted: Counted,
) -> Result<bool> {
    let old = revision::oldest(txn, id, node, REVISIONS_BATCH).await?;
    let mut references = References::default();
    let mut bytes = 0;
    for revision in &old {
        references.release(revision.blob);
        txn.delete(schema::revision_key(id, node, revision.revision));
        bytes += revision.size;
    }
    references.apply(txn).await?;
    state.older = state.older.saturating_sub(u32::try_from(old.len()).unwrap_or(u32::MAX));
    state.older_bytes = state.older_bytes.saturating_sub(bytes);
    if counted == Counted::Retained {
        quota::charge(txn, id, None, 0, -delta(bytes));
    }
    if old.is_empty() && state.older > 0 {
        let detail = format!("file {node} counts {} revisions that are not there", state.older);
        return Err(Error::new(larder_base::ErrorKind::Corrupt, detail));
    }
    Ok(!old.is_empty())
}
