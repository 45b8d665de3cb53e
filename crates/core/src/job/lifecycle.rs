//! Applying lifecycle rules: a walk over all files of the spaces that have any, at a pace.
//!
//! Promises: one walk per `lifecycle.interval` at most, also over restarts; it goes on where it
//! was. What it does to a file is decided again in the transaction that does it, which compares
//! the rules and the file: a rule that has been changed or removed is not applied, a file that
//! has been overwritten is judged by what it is then. Ages are judged as retention does
//! (hazard C09): by a clock that does not follow steps, and not at all for an hour after an
//! absence that is not believed. Expired files go to the trash, deleted by `lifecycle`.
//! Memory: one page of entries.
//!
//! Not here: the rules themselves (`crate::lifecycle`), ends of single files (`expiry`).

use std::time::Duration;

use bytes::Bytes;
use larder_base::{
    ErrorKind, Timestamp,
    id::{JobId, NodeId, SpaceId},
    name::EntryName,
};
use serde::{Deserialize, Serialize};

use crate::{
    Larder,
    board::{self, Running},
    caller::Caller,
    entry::Target,
    error::Result,
    lifecycle::{Expire, LifecycleRule, Noncurrent, lifecycle_of},
    revision::{self, file_state},
    room::Room,
    schema::{
        self, Dirent, DirentBody, FileState, Job, JobState, JobWork, Lifecycle, Space, SpaceState,
        Walked,
    },
    tree::lookup::{self, Found},
    txn::{self, Pages, Txn, transact},
};

/// Entries looked at per page.
pub(super) const PAGE: usize = 512;

/// Pages after which it is written down how far the walk is.
pub(super) const PAGES_NOTED: u64 = 32;

/// Pause after each page: a walk is never in a hurry.
pub(super) const PACE: Duration = Duration::from_millis(2);

/// Shortest pause between two walks, whatever the setting says.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Files of one directory that one transaction puts into the trash: each is up to four records.
pub(super) const EXPIRE_BATCH: usize = 12;

/// Older revisions removed by one transaction.
pub(super) const REVISIONS_BATCH: usize = 30;

/// Who has deleted what a rule expired.
pub(super) const AUTHOR: &str = "lifecycle";

/// How far a walk is and what it has done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Cursor {
    space: Option<SpaceId>,
    /// Key of the last entry that was looked at.
    pub(super) after: Option<Vec<u8>>,
    pub(super) expired: u64,
    pub(super) revisions: u64,
}

/// A file that a rule may be about.
struct Candidate {
    node: NodeId,
    revision: u64,
}

impl Larder {
    /// Pause between two looks whether a walk is due.
    pub(crate) fn lifecycle_pause(&self) -> Duration {
        self.inner.config.lifecycle_interval.max(INTERVAL_MIN)
    }

    /// Queues a walk if the last one began long enough ago and there are rules.
    pub(crate) async fn queue_lifecycle_if_due(&self) -> Result<()> {
        let uptime = self.inner.env.monotonic();
        let interval = self.lifecycle_pause();
        if uptime < *crate::locked(&self.inner.lifecycle_due) {
            return Ok(());
        }
        let now = self.steady_now();
        if !self.time_is_believable(now).await? {
            return Ok(());
        }
        let mut pause = interval;
        if self.any_rules().await? {
            let key = schema::walked_key();
            let work = JobWork::Lifecycle { space: None };
            transact!(self, None, |txn| {
                if let Some(last) = txn.get::<Walked>(&key).await? {
                    let passed = now.since(last.value.began);
                    // A last walk in the future is one of another clock.
                    if last.value.began <= now && passed < interval {
                        pause = interval - passed;
                        break_off(&mut pause, self, uptime);
                        return Ok(());
                    }
                    txn.hold(key.clone(), last.version);
                }
                txn.frees();
                txn.put(key.clone(), &Walked { began: now });
                // One that somebody has asked for will do.
                if board::same_job(&*txn.snapshot, &work).await?.is_none() {
                    let job = Job {
                        work: work.clone(),
                        state: JobState::Queued,
                        progress: 0,
                        created: txn.now,
                        updated: txn.now,
                        detail: None,
                    };
                    txn.put(schema::job_key(JobId::new(&self.inner.env)), &job);
                }
            });
        }
        break_off(&mut pause, self, uptime);
        Ok(())
    }

    async fn any_rules(&self) -> Result<bool> {
        let mut pages = Pages::of(schema::lifecycles_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let stored: Lifecycle = schema::decode(key, &record.value)?;
                // Without any it stands for those of a bucket.
                if stored.rules.is_empty() || stored.rules.iter().any(|rule| rule.enabled) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Applies the rules of all spaces, or of one; answers what came of it.
    pub(crate) async fn lifecycle_job(
        &self,
        job: &Running,
        only: Option<SpaceId>,
    ) -> Result<String> {
        if !self.time_is_believable(self.steady_now()).await? {
            return Ok("nothing expires yet: the server was away for long, or its clock"
                .to_owned()
                + " was set");
        }
        let mut cursor: Cursor = match job.note.cursor.as_slice() {
            [] => Cursor::default(),
            bytes => schema::decode(b"jx", bytes)?,
        };
        let mut pages = Pages::of(schema::lifecycles_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let id = SpaceId::from_bytes(schema::trailing_id(key)?);
                let stored: Lifecycle = schema::decode(key, &record.value)?;
                let passed = cursor.space.is_some_and(|at| id < at);
                if passed || only.is_some_and(|only| only != id) {
                    continue;
                }
                if cursor.space != Some(id) {
                    cursor.space = Some(id);
                    cursor.after = None;
                }
                if stored.rules.is_empty() {
                    self.walk_bucket(job, id, &mut cursor).await?;
                } else {
                    self.walk_space(job, id, &mut cursor).await?;
                }
            }
        }
        let Cursor { expired, revisions, .. } = cursor;
        Ok(format!("{expired} files expired, {revisions} older revisions removed"))
    }

    /// Looks at every entry of a space.
    async fn walk_space(&self, job: &Running, id: SpaceId, cursor: &mut Cursor) -> Result<()> {
        let prefix = schema::space_dirents_prefix(id);
        let mut pages = 0u64;
        loop {
            job.go_on()?;
            let now = self.steady_now();
            let snapshot = self.inner.meta.snapshot().await?;
            let Some((room, rules)) = rules_of(&*snapshot, id).await? else { return Ok(()) };
            let page = txn::page(&*snapshot, &prefix, cursor.after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            cursor.after = Some(last.to_vec());
            let mut due: Vec<(NodeId, Vec<Candidate>)> = Vec::new();
            let mut older = Vec::new();
            let mut parent: Option<(NodeId, Option<Vec<EntryName>>)> = None;
            for (key, record) in &page {
                let dirent: Dirent = schema::decode(key, &record.value)?;
                let DirentBody::File(state) = &dirent.body else { continue };
                if state.is_marker() {
                    continue;
                }
                let expires = rules.iter().any(|rule| rule.is_due(state.modified, now));
                let trims = state.older > 0 && rules.iter().any(|rule| rule.noncurrent.is_some());
                if !expires && !trims {
                    continue;
                }
                let dir = schema::dirent_parent(key)?;
                if parent.as_ref().is_none_or(|(known, _)| *known != dir) {
                    parent = Some((dir, path_of(&*snapshot, &room, dir).await?));
                }
                // Not attached: it is in the trash, or part of a copy.
                let Some((_, Some(names))) = &parent else { continue };
                let names = [&names[..], &[schema::dirent_name(key)?]].concat();
                let node = dirent.node;
                if rules.iter().any(|rule| rule.covers(&names) && rule.is_due(state.modified, now))
                {
                    let candidate = Candidate { node, revision: state.revision };
                    match due.last_mut() {
                        Some((known, files)) if *known == dir => files.push(candidate),
                        _ => due.push((dir, vec![candidate])),
                    }
                } else if trims
                    && rules.iter().any(|rule| rule.noncurrent.is_some() && rule.covers(&names))
                {
                    older.push(node);
                }
            }
            drop(snapshot);
            for (_, files) in &due {
                for batch in files.chunks(EXPIRE_BATCH) {
                    job.go_on()?;
                    cursor.expired += self.expire_batch(id, batch, now).await?;
                }
            }
            for node in older {
                job.go_on()?;
                cursor.revisions += self.remove_noncurrent(id, node, now).await?;
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

    /// Puts files of one directory into the trash if they still are what was seen and a rule of
    /// now says so; answers how many.
    async fn expire_batch(&self, id: SpaceId, batch: &[Candidate], now: Timestamp) -> Result<u64> {
        let author = Caller::of_system(AUTHOR);
        let (expired, _) = transact!(self, id, |txn| {
            let Some((room, rules)) = enter_rules(&mut txn, id).await? else { return Ok(0) };
            let mut expired = 0;
            for Candidate { node, revision } in batch {
                let Some(found) = self.find_attached(&txn, &room, *node).await? else { continue };
                let state = file_state(&found)?;
                let path = found.parent.join_from_root(&found.name);
                let is_due = |rule: &LifecycleRule| {
                    rule.covers(path.names()) && rule.is_due(state.modified, now)
                };
                if state.revision == *revision && rules.iter().any(is_due) {
                    self.expire_file(&mut txn, &author, &room, &found).await?;
                    expired += 1;
                }
            }
            if expired == 0 {
                return Ok(0);
            }
            expired
        });
        Ok(expired)
    }

    /// Puts a file into the trash in a transaction of our own.
    pub(crate) async fn expire_file(
        &self,
        txn: &mut Txn,
        author: &Caller,
        room: &Room,
        found: &Found,
    ) -> Result<()> {
        found.parent.hold(txn).await?;
        let key = schema::dirent_key(room.id, found.parent.dir(), &found.name);
        txn.delete(key);
        txn.frees();
        self.trash_entry(txn, author, room, found).await?;
        Ok(())
    }

    /// The file with this id, unless it is gone or in the trash.
    pub(crate) async fn find_attached(
        &self,
        txn: &Txn,
        room: &Room,
        node: NodeId,
    ) -> Result<Option<Found>> {
        match self.find(&*txn.snapshot, room, &Target::Node(node)).await {
            Ok(found) => Ok(found.filter(|found| file_state(found).is_ok())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes older revisions of a file as the rules say; answers how many.
    async fn remove_noncurrent(&self, id: SpaceId, node: NodeId, now: Timestamp) -> Result<u64> {
        let mut all = 0;
        loop {
            let (removed, _) = transact!(self, id, |txn| {
                let Some((room, rules)) = enter_rules(&mut txn, id).await? else {
                    return Ok(all);
                };
                let Some(found) = self.find_attached(&txn, &room, node).await? else {
                    return Ok(all);
                };
                let path = found.parent.join_from_root(&found.name);
                let covering = rules.iter().filter(|rule| rule.covers(path.names()));
                let limits: Vec<Noncurrent> = covering.filter_map(|rule| rule.noncurrent).collect();
                let page = revision::oldest(&txn, id, node, REVISIONS_BATCH + 1).await?;
                let mut old = removable(&page, file_state(&found)?, &limits, now);
                old.retain(|state| !state.is_locked(now));
                if old.is_empty() {
                    return Ok(all);
                }
                txn.frees();
                revision::remove_older(&mut txn, id, &room, &found, &old).await?;
                old.len()
            });
            all += removed as u64;
            if removed < REVISIONS_BATCH {
                return Ok(all);
            }
        }
    }
}

/// Says when the next look is.
fn break_off(pause: &mut Duration, larder: &Larder, uptime: Duration) {
    *crate::locked(&larder.inner.lifecycle_due) = uptime + *pause;
}

/// Of the oldest revisions of a file, those that the limits remove, at most a batch.
fn removable(
    oldest: &[FileState],
    current: &FileState,
    limits: &[Noncurrent],
    now: Timestamp,
) -> Vec<FileState> {
    let next = oldest.iter().skip(1).chain([current]);
    let mut newer = current.older;
    let mut old = Vec::new();
    for (state, next) in oldest.iter().zip(next).take(REVISIONS_BATCH) {
        newer = newer.saturating_sub(1);
        // It is older since the next one took its place.
        let age = now.since(next.modified);
        if limits.iter().any(|limit| newer >= limit.keep_newest && age >= limit.older_than) {
            old.push(state.clone());
        }
    }
    old
}

impl LifecycleRule {
    /// Whether it is about the entry at `names`.
    fn covers(&self, names: &[EntryName]) -> bool {
        // What cannot be a path covers nothing.
        self.enabled && self.names().is_ok_and(|prefix| names.starts_with(&prefix))
    }

    /// Whether a file that last changed then has reached its end.
    fn is_due(&self, modified: Timestamp, now: Timestamp) -> bool {
        self.enabled
            && match self.expire {
                None => false,
                Some(Expire::After(age)) => now.since(modified) >= age,
                Some(Expire::At(time)) => now >= time,
            }
    }
}

/// The enabled rules of a space, and a room for applying them; nothing if there are none.
async fn rules_of(
    snapshot: &dyn larder_meta::Snapshot,
    id: SpaceId,
) -> Result<Option<(Room, Vec<LifecycleRule>)>> {
    let Some(stored) = lifecycle_of(snapshot, id).await? else { return Ok(None) };
    let Some(room) = room_of(snapshot, id).await? else { return Ok(None) };
    let rules: Vec<_> = stored.value.rules.into_iter().filter(|rule| rule.enabled).collect();
    Ok((!rules.is_empty()).then_some((room, rules)))
}

/// A room for applying rules; nothing if the space is not enabled.
pub(super) async fn room_of(
    snapshot: &dyn larder_meta::Snapshot,
    id: SpaceId,
) -> Result<Option<Room>> {
    let space = txn::get::<Space>(snapshot, &schema::space_key(id)).await?;
    let space = space.filter(|space| space.value.state == SpaceState::Enabled);
    Ok(space.map(|space| Room::of_system(id, space.value)))
}

/// Demands that a space and its rules are the same at the commit; answers whether both are there.
pub(super) async fn hold_rules(txn: &mut Txn, id: SpaceId, rules: Bytes) -> Result<bool> {
    for key in [schema::space_key(id), rules] {
        match txn.snapshot.get(&key).await? {
            Some(record) => txn.hold(key, record.version),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// The same for a change: both must be the same at the commit.
async fn enter_rules(txn: &mut Txn, id: SpaceId) -> Result<Option<(Room, Vec<LifecycleRule>)>> {
    if !hold_rules(txn, id, schema::lifecycle_key(id)).await? {
        return Ok(None);
    }
    let snapshot = txn.snapshot.clone();
    rules_of(&*snapshot, id).await
}

/// The names from the root of the space to a directory; nothing if it is not attached.
async fn path_of(
    snapshot: &dyn larder_meta::Snapshot,
    room: &Room,
    dir: NodeId,
) -> Result<Option<Vec<EntryName>>> {
    match lookup::chain_of(snapshot, room, dir).await {
        Ok(chain) => Ok(Some(chain.path().to_vec())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use larder_base::{
        Env,
        digest::Sha256,
        id::{BlobId, Incarnation, RuleId},
    };

    use super::*;
    use crate::schema::Origin;

    fn state(revision: u64, modified: i64, older: u32) -> FileState {
        FileState {
            revision,
            size: 1,
            blob: BlobId { incarnation: Incarnation(1), counter: revision },
            sha256: Some(Sha256::of(b"")),
            content_type: "text/plain".into(),
            modified: Timestamp::from_millis(modified),
            author: "x".into(),
            origin: Origin::Upload,
            older,
            older_bytes: 0,
            object: None,
            version: None,
        }
    }

    #[test]
    fn older_revisions_go_when_they_are_old_and_not_among_the_newest() {
        // Written at 0, 10, 20, 30 s; the last one is current.
        let older = [state(1, 0, 0), state(2, 10_000, 0), state(3, 20_000, 0)];
        let current = state(4, 30_000, 3);
        let gone = |older_than, keep_newest, now: i64| {
            let limit = Noncurrent { older_than: Duration::from_secs(older_than), keep_newest };
            let now = Timestamp::from_millis(1000 * now);
            let gone = removable(&older, &current, &[limit], now);
            gone.into_iter().map(|state| state.revision).collect::<Vec<_>>()
        };
        assert_eq!(gone(0, 0, 30), [1, 2, 3]);
        assert_eq!(gone(0, 2, 30), [1], "the newest two stay");
        // Revision 2 became old at 20 s, so it is 15 s old at 35 s.
        assert_eq!(gone(15, 0, 35), [1, 2]);
        assert_eq!(gone(15, 2, 35), [1]);
        assert_eq!(gone(1000, 0, 35), [0; 0]);
    }

    #[test]
    fn a_prefix_is_whole_names() {
        let (env, _) = Env::manual(1);
        let rule = LifecycleRule {
            id: RuleId::new(&env),
            name: String::new(),
            enabled: true,
            prefix: "a/b".into(),
            expire: None,
            noncurrent: None,
            abort_uploads_after: None,
        };
        let covers = |path: &str| {
            let path = larder_base::name::TreePath::parse(path).expect("a path");
            rule.covers(path.names())
        };
        assert!(covers("a/b/c") && covers("a/b"));
        assert!(!covers("a/bc") && !covers("a") && !covers("b/a/b"));
    }
}
