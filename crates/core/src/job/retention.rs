//! What has been kept long enough: trash past its days, revisions past theirs, and what is over
//! a space's limit of retained bytes, oldest first.
//!
//! Promises: nothing expires because a clock stepped (hazard C09): age is judged by a clock that
//! goes on from the wall-clock time of the start by the monotonic one, and if it seems that more
//! than a week passed since the last round, the next hour expires nothing and says so.
//!
//! Not here: removing what was marked (`purge`).

use std::{
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use larder_base::{
    ErrorKind, Timestamp,
    id::{JobId, NodeId, SpaceId, TrashId},
};

use crate::{
    Larder,
    board::Running,
    error::{Error, Result},
    object::Versioning,
    quota, revision,
    room::Room,
    schema::{
        self, FileState, Job, JobEnd, JobNote, JobState, JobWork, Space, SpaceState, Trashed,
    },
    txn::{self, Pages, transact},
};

/// Records looked at per page.
const PAGE: usize = 256;

/// Older revisions removed by one transaction.
const REVISIONS_BATCH: usize = 30;

/// Most older revisions that are chosen at once to be removed: the oldest of a space.
const TRIM_WINDOW: usize = 4096;

/// An absence longer than this is not believed at once.
const ABSENCE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long nothing expires after an absence that is not believed.
const ABSENCE_GRACE: Duration = Duration::from_secs(3600);

/// Longest pause between two looks for revisions past their age.
const REVISIONS_PAUSE_MAX: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Larder {
    /// The time by which age is judged: it does not follow steps of the wall clock.
    pub(crate) fn steady_now(&self) -> Timestamp {
        let inner = &self.inner;
        inner.started.after(inner.env.monotonic().saturating_sub(inner.started_monotonic))
    }

    /// One round over all spaces.
    pub(crate) async fn retain(&self) -> Result<()> {
        let now = self.steady_now();
        if !self.time_is_believable(now).await? {
            return Ok(());
        }
        self.trim_feeds(now, false).await?;
        self.expire_due(now).await?;
        self.forget_operations(now).await?;
        // Looking for old revisions reads all of them: not at every round.
        let uptime = self.inner.env.monotonic();
        let revisions = uptime >= *self.inner.revisions_due();
        let mut pause = REVISIONS_PAUSE_MAX;
        let mut pages = Pages::of(schema::spaces_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let id = SpaceId::from_bytes(schema::trailing_id(key)?);
                let space: Space = schema::decode(key, &record.value)?;
                if space.state == SpaceState::Enabled {
                    let keep = self.revisions_age(&space);
                    if let (true, Some(keep)) = (revisions, keep) {
                        self.expire_revisions(id, now, keep).await?;
                        pause = pause.min(keep / 10);
                    }
                    self.retain_space(id, &space, now).await?;
                }
            }
        }
        if revisions {
            *self.inner.revisions_due() = uptime + pause;
        }
        Ok(())
    }

    /// How long a space keeps older revisions; `None` is for ever.
    fn revisions_age(&self, space: &Space) -> Option<Duration> {
        if space.versioning() != Versioning::Off {
            // What S3 clients keep they remove themselves, or by rules of the bucket (I-VER-1).
            return None;
        }
        let days = space.policy.versions_days.map(|days| DAY.saturating_mul(days));
        days.or(self.inner.config.revisions_retention)
    }

    /// Whether the time since the last round is one that can have passed.
    pub(crate) async fn time_is_believable(&self, now: Timestamp) -> Result<bool> {
        let key = schema::retention_key();
        let up = self.inner.env.monotonic().saturating_sub(self.inner.started_monotonic);
        let (believable, _) = transact!(self, None, |txn| {
            let last = txn.get::<Timestamp>(&key).await?;
            let absence = last.as_ref().map_or(Duration::ZERO, |last| now.since(last.value));
            if absence > ABSENCE_MAX && up < ABSENCE_GRACE {
                tracing::warn!(?absence, "long absence or clock step: nothing expires yet");
                return Ok(false);
            }
            // Written seldom: it only tells weeks apart.
            if last.as_ref().is_some_and(|last| now.since(last.value) < DAY / 24) {
                return Ok(true);
            }
            txn.frees();
            txn.put(key.clone(), &now);
            true
        });
        Ok(believable)
    }

    async fn retain_space(&self, id: SpaceId, space: &Space, now: Timestamp) -> Result<()> {
        let days = |days: u32| DAY.saturating_mul(days);
        let trash_age = space.policy.trash_days.map(days).or(self.inner.config.trash_retention);
        if let Some(age) = trash_age {
            self.expire_trash(id, now, age).await?;
        }
        if let Some(limit) = space.limits.retained
            && self.retained(id).await? > limit
        {
            let job = JobId::new(&self.inner.env);
            let (record, _) = transact!(self, None, |txn| {
                txn.frees();
                let record = Job {
                    work: JobWork::Trim { space: id },
                    state: JobState::Running,
                    progress: 0,
                    created: txn.now,
                    updated: txn.now,
                    detail: None,
                };
                txn.put(schema::job_key(job), &record);
                record
            });
            self.trim(&self.run_as(job, record, JobNote::default()), id).await?;
        }
        Ok(())
    }

    async fn retained(&self, id: SpaceId) -> Result<u64> {
        let snapshot = self.inner.meta.snapshot().await?;
        Ok(quota::usage(&*snapshot, id).await?.retained)
    }

    /// Marks trash items that are older than `age`; items are in the order of their deletion.
    async fn expire_trash(&self, id: SpaceId, now: Timestamp, age: Duration) -> Result<()> {
        self.purge_oldest(id, |trashed| now.since(trashed.deleted) >= age).await.map(|_| ())
    }

    /// Marks trash items, oldest first, as long as `more` wants; answers whether it wanted all.
    async fn purge_oldest(
        &self,
        id: SpaceId,
        mut more: impl FnMut(&Trashed) -> bool,
    ) -> Result<bool> {
        let mut pages = Pages::of(schema::trash_prefix(id), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let trashed: Trashed = schema::decode(key, &record.value)?;
                if trashed.purging {
                    continue;
                }
                if !more(&trashed) {
                    return Ok(false);
                }
                let item = TrashId::from_bytes(schema::trailing_id(key)?);
                self.mark_if_there(id, key, item).await?;
                self.wake_jobs();
            }
        }
        Ok(true)
    }

    /// Marks an item unless it has been restored or purged meanwhile.
    async fn mark_if_there(&self, id: SpaceId, key: &[u8], item: TrashId) -> Result<()> {
        transact!(self, id, |txn| {
            match txn.get::<Trashed>(key).await? {
                Some(stored) if !stored.value.purging => {
                    self.mark_purging(&mut txn, id, item, stored);
                }
                _ => return Ok(()),
            }
        });
        Ok(())
    }

    /// Brings a space that retains too much below its limit, and ends the job: trash first, then
    /// revisions, both oldest first.
    pub(crate) async fn trim(&self, job: &Running, id: SpaceId) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let space = txn::get::<Space>(&*snapshot, &schema::space_key(id)).await?;
        drop(snapshot);
        let limit = space.and_then(|space| space.value.limits.retained);
        let Some(limit) = limit else {
            return self.end_job(job, JobEnd::Done, String::new()).await;
        };
        let before = self.retained(id).await?;
        let mut over = before.saturating_sub(limit);
        let all = self
            .purge_oldest(id, |trashed| {
                let wanted = over > 0;
                over = over.saturating_sub(trashed.size);
                wanted
            })
            .await?;
        let mut removed = 0;
        while all && over > 0 {
            if self.inner.stopping() {
                return Err(Error::new(ErrorKind::Unavailable, "shutting down"));
            }
            let (count, bytes) = self.trim_revisions(job, id, over).await?;
            over = over.saturating_sub(bytes);
            removed += count;
            if count == 0 {
                break;
            }
        }
        let detail = format!(
            "{before} bytes were retained, {limit} may be; {removed} older revisions removed"
        );
        self.end_job(job, JobEnd::Done, detail).await
    }

    /// Removes the oldest of all older revisions of a space until `over` bytes are gone, at most
    /// [`TRIM_WINDOW`] of them; answers how many, and their bytes.
    async fn trim_revisions(&self, job: &Running, id: SpaceId, over: u64) -> Result<(u64, u64)> {
        let mut pages = Pages::of(schema::space_revisions_prefix(id), PAGE);
        // The oldest so far, the youngest of them on top.
        let mut window = BinaryHeap::new();
        let mut bytes = 0u64;
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let state: FileState = schema::decode(key, &record.value)?;
                let Some((node, number)) = schema::revision_parts(key) else { continue };
                window.push((state.modified, node, number, state.size));
                bytes = bytes.saturating_add(state.size);
                // The youngest is not needed if the others are enough.
                while let Some((.., size)) = window.peek()
                    && (window.len() > TRIM_WINDOW || bytes.saturating_sub(*size) >= over)
                {
                    bytes = bytes.saturating_sub(*size);
                    window.pop();
                }
            }
        }
        // Those of one file go together: the fewer commits.
        let mut files: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
        for (_, node, number, _) in window.into_sorted_vec() {
            files.entry(node).or_default().push(number);
        }
        let (mut count, mut gone) = (0, 0);
        for (node, numbers) in files {
            for batch in numbers.chunks(REVISIONS_BATCH) {
                let (some, size) = self.remove_revisions_of(id, node, batch).await?;
                count += some;
                gone += size;
                job.live.advance(some);
            }
        }
        Ok((count, gone))
    }

    /// Removes these older revisions of a file, as far as they are there.
    async fn remove_revisions_of(
        &self,
        id: SpaceId,
        node: NodeId,
        numbers: &[u64],
    ) -> Result<(u64, u64)> {
        let (removed, _) = transact!(self, id, |txn| {
            let record = txn.get::<Space>(&schema::space_key(id)).await?;
            let Some(space) = record else { return Ok((0, 0)) };
            txn.hold(schema::space_key(id), space.version);
            let room = Room::of_system(id, space.value);
            if room.versioning() != Versioning::Off {
                return Ok((0, 0));
            }
            // In the trash, or gone: its revisions go with it.
            let Some(found) = self.find_attached(&txn, &room, node).await? else {
                return Ok((0, 0));
            };
            let mut old = Vec::new();
            for number in numbers {
                let key = schema::revision_key(id, node, *number);
                old.extend(txn.get::<FileState>(&key).await?.map(|stored| stored.value));
            }
            if old.is_empty() {
                return Ok((0, 0));
            }
            txn.frees();
            revision::remove_older(&mut txn, id, &room, &found, &old).await?;
            (old.len() as u64, old.iter().map(|state| state.size).sum())
        });
        Ok(removed)
    }

    /// Removes older revisions past their age.
    async fn expire_revisions(&self, id: SpaceId, now: Timestamp, keep: Duration) -> Result<()> {
        let mut pages = Pages::of(schema::space_revisions_prefix(id), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            let mut nodes = Vec::new();
            for (key, record) in &page {
                let state: FileState = schema::decode(key, &record.value)?;
                let old = now.since(state.modified) >= keep;
                if let (true, Some((node, _))) = (old, schema::revision_parts(key)) {
                    nodes.push(node);
                }
            }
            nodes.dedup();
            for node in nodes {
                self.expire_revisions_of(id, node, now, keep).await?;
            }
        }
        Ok(())
    }

    async fn expire_revisions_of(
        &self,
        id: SpaceId,
        node: NodeId,
        now: Timestamp,
        keep: Duration,
    ) -> Result<()> {
        loop {
            let (removed, _) = transact!(self, id, |txn| {
                let record = txn.get::<Space>(&schema::space_key(id)).await?;
                let Some(space) = record else { return Ok(()) };
                txn.hold(schema::space_key(id), space.version);
                let room = Room::of_system(id, space.value);
                // In the trash, or gone: its revisions go with it.
                let Some(found) = self.find_attached(&txn, &room, node).await? else {
                    return Ok(());
                };
                let mut old = revision::oldest(&txn, id, node, REVISIONS_BATCH).await?;
                old.retain(|state| now.since(state.modified) >= keep);
                if old.is_empty() {
                    return Ok(());
                }
                txn.frees();
                revision::remove_older(&mut txn, id, &room, &found, &old).await?;
                old.len()
            });
            if removed < REVISIONS_BATCH {
                return Ok(());
            }
        }
    }
}
