//! Applying the lifecycle rules of buckets, as part of the walk of `job::lifecycle`.
//!
//! Promises: those of that walk: what it does to an object is decided again in the transaction
//! that does it, which compares the rules and the object. An expired object of a bucket that
//! keeps versions gets a delete marker; older versions end only by a rule about them. What is
//! locked stays. Memory: one page of entries.
//!
//! Not here: the rules themselves (`bucket::lifecycle`), when a walk is due (`job::lifecycle`).

use larder_base::{
    Timestamp,
    id::{SpaceId, UploadId},
    name::EntryName,
};
use larder_meta::Snapshot;

use super::lifecycle::{
    AUTHOR, Cursor, EXPIRE_BATCH, PACE, PAGE, PAGES_NOTED, REVISIONS_BATCH, hold_rules, room_of,
};
use crate::{
    Larder,
    blob::References,
    board::Running,
    bucket::lifecycle::{BucketRule, bucket_rules_of, day_after},
    caller::Caller,
    error::Result,
    object::{BucketSetting, Versioning},
    room::Room,
    schema::{self, Dirent, DirentBody, FileState, session as records},
    tree::lookup::{self, Chain},
    txn::{self, Pages, Txn, transact},
    version::{self, Object, Spot},
};

/// The current version of an object, as the walk has seen it.
struct Seen {
    name: EntryName,
    revision: u64,
}

impl Larder {
    /// Looks at every object of a bucket, and at the unfinished uploads to it.
    pub(super) async fn walk_bucket(
        &self,
        job: &Running,
        id: SpaceId,
        cursor: &mut Cursor,
    ) -> Result<()> {
        self.abort_stale(job, id).await?;
        let prefix = schema::space_dirents_prefix(id);
        let mut pages = 0u64;
        loop {
            job.go_on()?;
            let now = self.steady_now();
            let snapshot = self.inner.meta.snapshot().await?;
            let Some((room, rules)) = rules_of(&*snapshot, id).await? else { return Ok(()) };
            let page = txn::page(&*snapshot, &prefix, cursor.after.as_deref(), PAGE).await?;
            drop(snapshot);
            let Some((last, _)) = page.last() else { return Ok(()) };
            cursor.after = Some(last.to_vec());
            let (mut due, mut older) = (Vec::new(), Vec::new());
            for (key, record) in &page {
                let dirent: Dirent = schema::decode(key, &record.value)?;
                let DirentBody::File(state) = &dirent.body else { continue };
                let name = schema::dirent_name(key)?;
                if self.any_due(&rules, &name, state, now) {
                    due.push(Seen { name, revision: state.revision });
                } else if state.older > 0 && trims(&rules, &name) {
                    older.push(name);
                }
            }
            // Removed for good objects go one by one: two of them may refer to the same bytes.
            let at_once = if room.versioning() == Versioning::Off { 1 } else { EXPIRE_BATCH };
            for batch in due.chunks(at_once) {
                job.go_on()?;
                cursor.expired += self.expire_objects(id, batch, now).await?;
            }
            for name in older {
                job.go_on()?;
                cursor.revisions += self.remove_versions(id, &name, now).await?;
            }
            job.live.advance(page.len() as u64);
            pages += 1;
            if pages.is_multiple_of(PAGES_NOTED) {
                self.note_cursor(job, schema::encode(&*cursor).into()).await?;
            }
            tokio::select! {
                () = self.inner.env.sleep(PACE) => {}
                () = job.live.unwanted(&self.inner) => {}
            }
        }
    }

    fn any_due(
        &self,
        rules: &[BucketRule],
        name: &EntryName,
        state: &FileState,
        now: Timestamp,
    ) -> bool {
        let day = self.inner.config.lifecycle_day;
        rules.iter().any(|rule| rule.is_due(name.as_str(), state, now, day))
    }

    /// Ends objects if they still are what was seen and a rule of now says so; answers how many.
    async fn expire_objects(&self, id: SpaceId, batch: &[Seen], now: Timestamp) -> Result<u64> {
        let author = Caller::of_system(AUTHOR);
        let (expired, _) = transact!(self, id, |txn| {
            let Some((room, rules, chain)) = enter_rules(&mut txn, id).await? else {
                return Ok(0);
            };
            txn.author.get_or_insert_with(|| AUTHOR.into());
            txn.frees();
            let mut references = References::default();
            let mut expired = 0;
            for Seen { name, revision } in batch {
                let spot = Spot { space: &room, chain: &chain, name };
                let Some(object) = spot.find(&txn).await? else { continue };
                let state = &object.state;
                if state.revision != *revision || !self.any_due(&rules, name, state, now) {
                    continue;
                }
                if room.versioning() == Versioning::Off {
                    let found = self.find_attached(&txn, &room, object.node).await?;
                    let Some(found) = found else { continue };
                    self.expire_file(&mut txn, &author, &room, &found).await?;
                } else if state.is_marker() {
                    spot.destroy(&mut txn, &object, *revision, false, &mut references).await?;
                } else {
                    let marker = version::marker(txn.now, AUTHOR.into());
                    let node = object.node;
                    spot.push(&mut txn, Some(&object), node, marker, &mut references).await?;
                }
                expired += 1;
            }
            if expired == 0 {
                return Ok(0);
            }
            references.apply(&mut txn).await?;
            expired
        });
        Ok(expired)
    }

    /// Removes older versions of an object as the rules say; answers how many.
    async fn remove_versions(&self, id: SpaceId, name: &EntryName, now: Timestamp) -> Result<u64> {
        let (mut all, mut passed, mut kept) = (0, None, 0);
        loop {
            let ((removed, seen, last), _) = transact!(self, id, |txn| {
                let Some((room, rules, chain)) = enter_rules(&mut txn, id).await? else {
                    return Ok(all);
                };
                let spot = Spot { space: &room, chain: &chain, name };
                let Some(object) = spot.find(&txn).await? else { return Ok(all) };
                let prefix = schema::revisions_prefix(id, object.node);
                let after = passed.map(|number| schema::revision_key(id, object.node, number));
                // One more, to know when the last of them became old.
                let limit = REVISIONS_BATCH + 1;
                let page = txn::page(&*txn.snapshot, &prefix, after.as_deref(), limit).await?;
                let states = page.iter().map(|(key, record)| schema::decode(key, &record.value));
                let older = states.collect::<Result<Vec<FileState>>>()?;
                let covering: Vec<&BucketRule> =
                    rules.iter().filter(|rule| rule.covers(name.as_str())).collect();
                let old = self.removable(&older, &object, kept, &covering, now);
                let last = older.get(REVISIONS_BATCH - 1).map(|state| state.revision);
                let seen = older.len().min(REVISIONS_BATCH);
                if !old.is_empty() {
                    txn.frees();
                    txn.author.get_or_insert_with(|| AUTHOR.into());
                    let mut references = References::default();
                    spot.destroy_older(&mut txn, &object, &old, &mut references).await?;
                    references.apply(&mut txn).await?;
                }
                if old.is_empty() && last.is_none() {
                    return Ok(all);
                }
                (old.len(), seen, last)
            });
            all += removed as u64;
            kept += seen - removed;
            if last.is_none() {
                return Ok(all);
            }
            passed = last;
        }
    }

    /// Of a page of older versions, oldest first, the numbers of those that rules remove. `kept`
    /// of them are still older.
    fn removable(
        &self,
        older: &[FileState],
        object: &Object,
        kept: usize,
        rules: &[&BucketRule],
        now: Timestamp,
    ) -> Vec<u64> {
        let day = self.inner.config.lifecycle_day;
        let mut newer = (object.state.older as usize).saturating_sub(kept);
        let next = older.iter().skip(1).chain([&object.state]);
        let mut old = Vec::new();
        for (state, next) in older.iter().zip(next).take(REVISIONS_BATCH) {
            newer = newer.saturating_sub(1);
            let ends = |rule: &&BucketRule| {
                // It is older since the next one took its place.
                let due = rule.noncurrent.is_some_and(|(days, keep)| {
                    newer >= keep as usize && now >= day_after(next.modified, days, day)
                });
                due && rule.fits_version(state)
            };
            if !state.is_locked(now) && rules.iter().any(ends) {
                old.push(state.revision);
            }
        }
        old
    }

    /// Ends unfinished uploads that are too old.
    async fn abort_stale(&self, job: &Running, id: SpaceId) -> Result<()> {
        let day = self.inner.config.lifecycle_day;
        let mut pages = Pages::of(records::multiparts_prefix(id, ""), PAGE);
        loop {
            job.go_on()?;
            let snapshot = self.inner.meta.snapshot().await?;
            let Some((_, rules)) = rules_of(&*snapshot, id).await? else { return Ok(()) };
            if rules.iter().all(|rule| rule.abort_after.is_none()) {
                return Ok(());
            }
            let Some(page) = pages.next(&*snapshot).await? else { return Ok(()) };
            let now = self.steady_now();
            for (key, _) in &page {
                let upload = UploadId::from_bytes(schema::trailing_id(key)?);
                let Some(stored) = self.read_session(&*snapshot, upload).await? else { continue };
                let Some(multipart) = stored.value.multipart() else { continue };
                let created = stored.value.created;
                let is_due = rules.iter().any(|rule| {
                    rule.covers(&multipart.key)
                        && rule.abort_after.is_some_and(|days| now >= day_after(created, days, day))
                });
                if is_due {
                    job.go_on()?;
                    self.give_up_session(upload).await?;
                }
            }
        }
    }
}

/// Whether any rule removes older versions of this object.
fn trims(rules: &[BucketRule], name: &EntryName) -> bool {
    rules.iter().any(|rule| rule.noncurrent.is_some() && rule.covers(name.as_str()))
}

/// The enabled rules of a bucket, and a room for applying them; nothing if there are none.
async fn rules_of(snapshot: &dyn Snapshot, id: SpaceId) -> Result<Option<(Room, Vec<BucketRule>)>> {
    let Some(stored) = bucket_rules_of(snapshot, id).await? else { return Ok(None) };
    let Some(room) = room_of(snapshot, id).await? else { return Ok(None) };
    let rules: Vec<_> = stored.value.rules.into_iter().filter(|rule| rule.enabled).collect();
    Ok((!rules.is_empty()).then_some((room, rules)))
}

/// The same for a change: space and rules must be the same at the commit.
async fn enter_rules(txn: &mut Txn, id: SpaceId) -> Result<Option<(Room, Vec<BucketRule>, Chain)>> {
    let rules = schema::bucket_setting_key(id, BucketSetting::Lifecycle);
    if !hold_rules(txn, id, rules).await? {
        return Ok(None);
    }
    let snapshot = txn.snapshot.clone();
    let Some((room, rules)) = rules_of(&*snapshot, id).await? else { return Ok(None) };
    let chain = lookup::root_chain(&*snapshot, &room).await?;
    chain.hold(txn).await?;
    Ok(Some((room, rules, chain)))
}
