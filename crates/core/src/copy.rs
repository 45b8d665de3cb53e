//! Copies: a file is a new reference to the same blob; a directory is built detached and then
//! attached, so that it is visible whole or not at all.
//!
//! Promises (docs/semantics.md, Copy): a copy equals one state of its source; a replaced
//! destination is in the trash; copying into one's own descendant ends, because what is copied is a
//! snapshot.
//! Crash: a copy that was never attached is removed by a job that was queued before its first
//! record (`job::purge`).
//! Memory: one directory's batch and a stack of directories, one level deep each.
//!
//! Not here: moves (`relocate`).

use std::sync::Arc;

use larder_base::{
    ErrorKind,
    id::{Incarnation, JobId, NodeId, SpaceId},
    name::TreePath,
};
use larder_meta::{FieldOp, Snapshot};

use crate::{
    Larder,
    access::Right,
    blob::References,
    board::{Running, cancelled},
    caller::Caller,
    entry::{Entry, SpaceRef},
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    idempotency::{self, KeptEntry},
    quota::{self, delta},
    relocate::Destination,
    room::{Located, Room},
    schema::{
        self, Authority, DirState, Dirent, DirentBody, FileState, Job, JobEnd, JobNote, JobState,
        JobWork, Location, Origin, Place, STAT_DIRS, STAT_FILES, STAT_SIZE,
    },
    trash,
    tree::{
        create::exists,
        lookup::{self, Found},
    },
    txn::{self, transact},
    upload::put_new_file,
    work::{Class, Task},
};

/// Entries copied by one transaction: each is up to three records.
const BATCH: usize = 30;

impl Larder {
    /// Copies a file or a directory, also into another space. Answers the copy, and whether the
    /// name was free before.
    ///
    /// Errors: as [`Larder::move_entry`], and `QuotaExceeded` of the destination's space.
    pub async fn copy_entry(
        &self,
        caller: &Caller,
        from: (&SpaceRef, &TreePath),
        to: (&SpaceRef, &TreePath),
        overwrite: bool,
    ) -> Result<(Entry, bool)> {
        if let Some(before) = idempotency::entry_before()? {
            return Ok(before);
        }
        let copied = self.copy_at(caller, from, to, overwrite).await;
        let Err(error) = copied else { return copied };
        error.into_redirect()?;
        let from = self.pass_reference(caller, from.0, from.1).await?;
        let to = self.pass_reference(caller, to.0, to.1).await?;
        Box::pin(self.copy_at(caller, (&from.0, &from.1), (&to.0, &to.1), overwrite)).await
    }

    async fn copy_at(
        &self,
        caller: &Caller,
        from: (&SpaceRef, &TreePath),
        to: (&SpaceRef, &TreePath),
        overwrite: bool,
    ) -> Result<(Entry, bool)> {
        let source_at = self.locate(caller, from.0).await?;
        let at = self.locate(caller, to.0).await?;
        // The note before the snapshot: see `blob::epoch`.
        let _note = self.inner.epochs.note();
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, source_at.clone(), Right::Read).await?;
        let source = lookup::resolve(&*snapshot, &room, from.1).await?;
        let space = at.space;
        let job = CopyJob { larder: self, caller, space, at, to: to.1, overwrite };
        match &source.dirent.value.body {
            DirentBody::File(_) => job.file(source_at, from.1).await,
            DirentBody::Dir => job.directory(&*snapshot, &source).await,
            DirentBody::Ref(_) => {
                let detail = "a reference is not copied: make another one to the same target";
                Err(Error::new(ErrorKind::WrongType, detail))
            }
        }
    }
}

struct CopyJob<'a> {
    larder: &'a Larder,
    caller: &'a Caller,
    space: SpaceId,
    at: Located,
    to: &'a TreePath,
    overwrite: bool,
}

impl CopyJob<'_> {
    /// What it takes to put something to the destination.
    fn right(&self) -> Right {
        if self.overwrite { Right::Write } else { Right::Create }
    }

    /// The destination, with what stands there put into the trash, and the live bytes of that.
    async fn clear_destination(
        &self,
        txn: &mut txn::Txn,
        space: &Room,
        source: Option<&Found>,
    ) -> Result<(Destination, u64)> {
        let mut freed = 0;
        let place = Destination::resolve(txn, space, self.to).await?;
        if let Some(existing) = &place.existing {
            let node = existing.dirent.value.node;
            if let Some(source) = source {
                let same = source.dirent.value.node == node;
                if same || source.parent.contains(node) {
                    let detail = "the destination is or holds the source";
                    return Err(Error::new(ErrorKind::Denied, detail));
                }
            }
            if !self.overwrite {
                return Err(exists(node));
            }
            freed = self.larder.trash_entry(txn, self.caller, space, existing).await?.size;
        }
        Ok((place, freed))
    }

    async fn file(&self, source_at: Located, from: &TreePath) -> Result<(Entry, bool)> {
        let id = self.space;
        let larder = self.larder;
        let (result, _) = transact!(larder, id, |txn| {
            let space =
                larder.enter_room(&mut txn, self.caller, self.at.clone(), self.right()).await?;
            let source_at = source_at.clone();
            let source = larder.enter_room(&mut txn, self.caller, source_at, Right::Read).await?;
            let found = lookup::resolve(&*txn.snapshot, &source, from).await?;
            found.parent.hold(&mut txn).await?;
            let key = schema::dirent_key(source.id, found.parent.dir(), &found.name);
            txn.hold(key, found.dirent.version);
            let DirentBody::File(state) = &found.dirent.value.body else {
                return Err(Error::new(ErrorKind::Busy, "the source changed its kind: try again"));
            };
            let (place, freed) = self.clear_destination(&mut txn, &space, Some(&found)).await?;
            larder.promise(&mut txn, id, &space, state.size.saturating_sub(freed)).await?;
            let node = NodeId::new(&larder.inner.env);
            let copy = copied(state, self.caller, txn.now);
            let dirent = Dirent { node, body: DirentBody::File(copy.clone()) };
            place.put(&mut txn, &dirent).await?;
            let path = place.chain.join_from_root(&place.name);
            txn.change(id, Happened::to(&dirent, ChangeKind::Created, &path));
            let location = Place::File(place.chain.dir(), place.name.clone());
            txn.put(schema::location_key(node), &Location { space: id, place: location });
            place.chain.add(&mut txn, delta(copy.size), 1, 0);
            quota::charge(&mut txn, id, space.limits.live, delta(copy.size), 0);
            let mut references = References::default();
            references.retain(copy.blob);
            references.apply(&mut txn).await?;
            let created = place.existing.is_none();
            let shown = place.chain.join(&place.name);
            let entry = lookup::file_entry(id, shown, node, &copy);
            txn.outcome(&KeptEntry::of(&entry, created));
            (entry, created)
        });
        Ok(result)
    }

    async fn directory(&self, snapshot: &dyn Snapshot, source: &Found) -> Result<(Entry, bool)> {
        let task = self.larder.inner.work.enter(&self.caller.client(), Class::Copy)?;
        let mut staging = self.stage().await?;
        self.fill(snapshot, source, &staging, &task).await?;
        let result = self.attach(source, &staging).await;
        staging.attached = result.is_ok();
        result
    }

    /// Makes the root of the detached tree, and the job that removes it should this copy break.
    async fn stage(&self) -> Result<Staging> {
        let larder = self.larder;
        let root = NodeId::new(&larder.inner.env);
        let job = JobId::new(&larder.inner.env);
        larder.inner.copies().insert(job);
        let record = self.unstage_job(root, larder.inner.incarnation, larder.inner.env.now());
        let note = JobNote { by: Some(Arc::clone(&self.caller.name)), cursor: Vec::new() };
        let running = larder.run_as(job, record.clone(), note.clone());
        let staging = Staging { larder: larder.clone(), root, job, running, attached: false };
        transact!(larder, self.space, |txn| {
            larder.enter_room(&mut txn, self.caller, self.at.clone(), self.right()).await?;
            txn.incidental();
            txn.put(schema::job_key(job), &record);
            txn.put(schema::job_note_key(job), &note);
            let authority = Authority { place: None, state: DirState::Staging };
            txn.put(schema::authority_key(self.space, root), &authority);
            let location = Location { space: self.space, place: Place::Dir };
            txn.put(schema::location_key(root), &location);
            let now = FieldOp::Max(txn.now.millis());
            let fields = [FieldOp::Add(0), FieldOp::Add(0), FieldOp::Add(0), now];
            txn.add(schema::stat_key(self.space, root), fields);
        });
        Ok(staging)
    }

    fn unstage_job(&self, root: NodeId, owner: Incarnation, now: larder_base::Timestamp) -> Job {
        Job {
            work: JobWork::Unstage { space: self.space, root, owner },
            state: JobState::Queued,
            progress: 0,
            created: now,
            updated: now,
            detail: None,
        }
    }

    /// Copies everything below the source, batch by batch.
    async fn fill(
        &self,
        snapshot: &dyn Snapshot,
        source: &Found,
        staging: &Staging,
        task: &Task,
    ) -> Result<()> {
        let root =
            Copying { from: source.dirent.value.node, chain: vec![staging.root], after: None };
        let mut stack = vec![root];
        while let Some(mut dir) = stack.pop() {
            staging.running.go_on()?;
            let prefix = schema::dirents_prefix(source.parent.space, dir.from);
            let page = txn::page(snapshot, &prefix, dir.after.as_deref(), BATCH).await?;
            let Some((last, _)) = page.last() else { continue };
            dir.after = Some(last.clone());
            let mut entries = Vec::with_capacity(page.len());
            for (key, record) in &page {
                let name = schema::dirent_name(key)?;
                entries.push((name, schema::decode::<Dirent>(key, &record.value)?));
            }
            let turn = task.turn().await;
            let below = self.copy_batch(&dir, &entries).await?;
            drop(turn);
            staging.running.live.advance(entries.len() as u64);
            stack.push(dir);
            stack.extend(below);
        }
        Ok(())
    }

    /// Copies some entries of one directory; answers the directories among them.
    async fn copy_batch(
        &self,
        dir: &Copying,
        entries: &[(larder_base::name::EntryName, Dirent)],
    ) -> Result<Vec<Copying>> {
        let larder = self.larder;
        let parent = *dir.chain.last().ok_or_else(|| Error::internal("copy without a root"))?;
        let (below, _) = transact!(larder, self.space, |txn| {
            larder.enter_room(&mut txn, self.caller, self.at.clone(), self.right()).await?;
            txn.incidental();
            let mut references = References::default();
            let mut below = Vec::new();
            let (mut size, mut files) = (0, 0);
            for (name, dirent) in entries {
                let node = NodeId::new(&larder.inner.env);
                match &dirent.body {
                    DirentBody::File(state) => {
                        let copy = copied(state, self.caller, txn.now);
                        put_new_file(&mut txn, self.space, parent, name, node, &copy);
                        references.retain(copy.blob);
                        size += delta(copy.size);
                        files += 1;
                    }
                    // What it stands for is not copied, and a copy of it would be a surprise.
                    DirentBody::Ref(_) => {}
                    DirentBody::Dir => {
                        larder.put_dir(&mut txn, self.space, parent, name, node);
                        let now = FieldOp::Max(txn.now.millis());
                        let none = FieldOp::Add(0);
                        txn.add(schema::stat_key(self.space, node), [none, none, none, now]);
                        let chain = [&dir.chain[..], &[node]].concat();
                        below.push(Copying { from: dirent.node, chain, after: None });
                    }
                }
            }
            references.apply(&mut txn).await.map_err(|error| match error.kind() {
                // Purged meanwhile: this snapshot of the source cannot be had any more.
                ErrorKind::Corrupt => {
                    Error::new(ErrorKind::Busy, "the source is being purged: try again")
                }
                _ => error,
            })?;
            let dirs = i64::try_from(below.len()).unwrap_or(0);
            for ancestor in &dir.chain {
                let fields = [
                    FieldOp::Add(size),
                    FieldOp::Add(files),
                    FieldOp::Add(dirs),
                    FieldOp::Max(txn.now.millis()),
                ];
                txn.add(schema::stat_key(self.space, *ancestor), fields);
            }
            if dirs > 0 {
                for (ancestor, levels) in dir.chain.iter().rev().zip(1..) {
                    lookup::raise(&mut txn, self.space, *ancestor, levels);
                }
            }
            below
        });
        Ok(below)
    }

    /// Makes the copy visible, and charges for it.
    async fn attach(&self, source: &Found, staging: &Staging) -> Result<(Entry, bool)> {
        let larder = self.larder;
        let id = self.space;
        let (result, _) = transact!(larder, id, |txn| {
            let space =
                larder.enter_room(&mut txn, self.caller, self.at.clone(), self.right()).await?;
            staging.running.go_on()?;
            // Who was told that it is cancelled must not see it.
            let cancel = schema::job_cancel_key(staging.job);
            if txn.snapshot.get(&cancel).await?.is_some() {
                return Err(cancelled());
            }
            txn.hold_absent(cancel);
            let same_space = source.parent.space == id;
            let source = same_space.then_some(source);
            let (place, freed) = self.clear_destination(&mut txn, &space, source).await?;
            let stat =
                trash::attach(&mut txn, &place.chain, &[], staging.root, &place.name).await?;
            let size = stat[STAT_SIZE];
            let more = u64::try_from(size).unwrap_or(0).saturating_sub(freed);
            larder.promise(&mut txn, id, &space, more).await?;
            let dirent = Dirent { node: staging.root, body: DirentBody::Dir };
            place.put(&mut txn, &dirent).await?;
            let path = place.chain.join_from_root(&place.name);
            txn.change(id, Happened::to(&dirent, ChangeKind::Created, &path));
            place.chain.add(&mut txn, size, stat[STAT_FILES], stat[STAT_DIRS] + 1);
            quota::charge(&mut txn, id, space.limits.live, size, 0);
            staging.running.close(&mut txn, JobEnd::Done, String::new());
            // Its own statistics were complete before: they and their version stay.
            let (created, shown) = (place.existing.is_none(), place.chain.join(&place.name));
            let entry = lookup::entry(&*txn.snapshot, id, shown, &dirent).await?;
            txn.outcome(&KeptEntry::of(&entry, created));
            (entry, created)
        });
        Ok(result)
    }
}

/// The detached tree of a copy. While it lives, the job that removes it waits; dropped, the tree
/// is left to that job, whatever ended the copy.
struct Staging {
    larder: Larder,
    root: NodeId,
    job: JobId,
    running: Running,
    attached: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.larder.inner.copies().remove(&self.job);
        if !self.attached {
            self.larder.wake_jobs();
        }
    }
}

/// A directory that is being copied.
struct Copying {
    from: NodeId,
    /// The copies of the directories from the root of the copy down to this one.
    chain: Vec<NodeId>,
    after: Option<bytes::Bytes>,
}

/// The first revision of a copy of `state`.
fn copied(state: &FileState, caller: &Caller, now: larder_base::Timestamp) -> FileState {
    FileState {
        revision: 1,
        modified: now,
        author: caller.name.clone(),
        origin: Origin::Copy,
        older: 0,
        older_bytes: 0,
        ..state.clone()
    }
}
