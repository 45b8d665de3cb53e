//! The trash: delete into it, list it, restore from it, purge it.
//!
//! Promises: I-TRASH-1 a delete is one commit however large the tree, and what it removes is one
//! item with place, deleter and time; I-TRASH-2 of n restores, or of restore and purge, exactly
//! one wins; I-TRASH-3 a restored node is the node it was, with all revisions; I-TRASH-4 names
//! never clash in the trash: items have ids (hazard N13).
//!
//! Not here: removing what a purge has condemned (`job::purge`).

use larder_base::{
    ErrorKind,
    id::{JobId, NodeId, SpaceId, TrashId},
    limits::PATH_DEPTH_MAX,
    name::{EntryName, TreePath},
};

use crate::{
    Larder,
    access::Right,
    blob::References,
    caller::Caller,
    entry::{
        Conditions, Entry, EntryKind, ListOptions, Page, RestoreOptions, SpaceKind, SpaceRef, Spot,
        Target, TrashItem,
    },
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    idempotency::{self, KeptEntry},
    object::Versioning,
    quota::{self, delta},
    room::Room,
    schema::{
        self, Authority, DirState, Dirent, DirentBody, FileState, Job, JobState, JobWork, Location,
        Place, STAT_DIRS, STAT_FILES, STAT_SIZE, Space, Trashed, TrashedBody,
    },
    tree::{
        create::{OpenPlace, free_name, open_parent},
        lookup::{self, Chain, Found, through},
    },
    txn::{self, Stored, Txn, transact},
    version,
};

/// Items that one transaction of "empty the trash" marks: each is two records.
const EMPTY_BATCH: usize = 40;

impl Larder {
    /// Moves an entry, with everything below it, into the trash.
    ///
    /// Errors: `NotFound`; `Precondition`; `Invalid` for a root.
    pub async fn delete(
        &self,
        caller: &Caller,
        target: &Target,
        conditions: &Conditions,
    ) -> Result<TrashItem> {
        match target {
            Target::Path(_, path) if path.is_root() => {
                Err(Error::invalid("the root cannot be deleted"))
            }
            Target::Path(space, path) => {
                through!(|space, path| self.delete_at(caller, Spot::Path(space, path), conditions))
            }
            Target::Node(node) => self.delete_at(caller, Spot::Node(*node), conditions).await,
        }
    }

    async fn delete_at(
        &self,
        caller: &Caller,
        target: Spot<'_>,
        conditions: &Conditions,
    ) -> Result<TrashItem> {
        let at = self.space_of(caller, target).await?;
        let id = at.space;
        let (item, _) = transact!(self, id, |txn| {
            let room = self.enter_room(&mut txn, caller, at.clone(), Right::Write).await;
            let space = room.map_err(|error| lookup::hide_space(target, error))?;
            let found = self.find(&*txn.snapshot, &space, target).await?;
            let found = found.ok_or_else(|| Error::invalid("the root cannot be deleted"))?;
            if !conditions.is_empty() {
                let path = TreePath::root();
                let entry = lookup::entry(&*txn.snapshot, id, path, &found.dirent.value).await?;
                match &found.dirent.value.body {
                    DirentBody::File(state) => {
                        conditions.check_file(Some((found.dirent.value.node, state)))?;
                    }
                    _ => conditions.check(Some((&[entry.etag.to_string()], entry.modified)))?,
                }
            }
            found.parent.hold(&mut txn).await?;
            txn.frees();
            if space.versioning() == Versioning::Off {
                let key = schema::dirent_key(id, found.parent.dir(), &found.name);
                txn.delete(key);
                self.trash_entry(&mut txn, caller, &space, &found).await?
            } else {
                found.hold_above(&mut txn)?;
                mark_deleted(&mut txn, caller, &space, &found).await?;
                let (node, name) = (found.dirent.value.node, &found.name);
                TrashItem {
                    item: TrashId::new(&self.inner.env),
                    id: node,
                    path: name.to_string(),
                    kind: EntryKind::File,
                    size: 0,
                    deleted_by: caller.name.clone(),
                    deleted: txn.now,
                }
            }
        });
        Ok(item)
    }

    /// Puts what was found into the trash. The caller has held the chain, and deletes or
    /// replaces the entry itself in the same transaction.
    pub(crate) async fn trash_entry(
        &self,
        txn: &mut Txn,
        caller: &Caller,
        space: &Space,
        found: &Found,
    ) -> Result<TrashItem> {
        found.hold_above(txn)?;
        let Found { parent, name, dirent, .. } = found;
        let id = parent.space;
        let item = TrashId::new(&self.inner.env);
        let node = dirent.value.node;
        txn.hold(schema::dirent_key(id, parent.dir(), name), dirent.version);
        txn.author.get_or_insert_with(|| caller.name.clone());
        let path = parent.join_from_root(name);
        txn.change(id, Happened::to(&dirent.value, ChangeKind::Deleted, &path));
        let (size, body) = match &dirent.value.body {
            // A bucket has no trash, and its objects have no directories to come back to.
            DirentBody::File(state) if space.kind == SpaceKind::Bucket => {
                return self.remove_object(txn, space, found, state, item).await;
            }
            DirentBody::File(state) => {
                parent.add(txn, -delta(state.size), -1, 0);
                let place = Place::Trash(item);
                txn.put(schema::location_key(node), &Location { space: id, place });
                (state.size, TrashedBody::File(state.clone()))
            }
            DirentBody::Dir => {
                let stat = detach(txn, id, node, DirState::Trash(item)).await?;
                parent.add(txn, -stat[STAT_SIZE], -stat[STAT_FILES], -stat[STAT_DIRS] - 1);
                let size = u64::try_from(stat[STAT_SIZE]).map_err(|error| {
                    let detail = format!("the size of directory {node} is negative");
                    Error::new(ErrorKind::Corrupt, detail).with_source(error)
                })?;
                (size, TrashedBody::Dir)
            }
            // What a reference stands for stays; it itself holds nothing worth keeping.
            DirentBody::Ref(to) => {
                txn.delete(schema::location_key(node));
                parent.add(txn, 0, 0, 0);
                let (id, kind, size) = (node, EntryKind::Ref, 0);
                let path = parent.join_from_root(name).to_string();
                let (deleted_by, deleted) = (caller.name.clone(), txn.now);
                tracing::debug!(reference = %node, target = %to.node, "reference removed");
                return Ok(TrashItem { item, id, path, kind, size, deleted_by, deleted });
            }
        };
        quota::charge(txn, id, space.limits.live, -delta(size), delta(size));
        let trashed = Trashed {
            node,
            parent: parent.dir(),
            name: name.clone(),
            path: parent.join_from_root(name).to_string(),
            deleted_by: caller.name.clone(),
            deleted: txn.now,
            size,
            purging: false,
            body,
        };
        txn.put(schema::trash_key(id, item), &trashed);
        Ok(public(item, &trashed))
    }

    /// Removes an object from its bucket for good: S3 has no trash. One without older revisions
    /// is gone with the commit; of others a job removes what is left.
    async fn remove_object(
        &self,
        txn: &mut Txn,
        space: &Space,
        found: &Found,
        state: &FileState,
        item: TrashId,
    ) -> Result<TrashItem> {
        let Found { parent, name, dirent, .. } = found;
        let (id, node) = (parent.space, dirent.value.node);
        parent.add(txn, -delta(state.size), -1, 0);
        let deleted_by = txn.author.clone().unwrap_or_default();
        let path = name.to_string();
        let shared = self.forget_shares_of(txn, id, &[node]).await?;
        if state.older == 0 && !shared {
            let mut references = References::default();
            references.release(state.blob);
            references.apply(txn).await?;
            quota::charge(txn, id, space.limits.live, -delta(state.size), 0);
            txn.delete(schema::location_key(node));
        } else {
            quota::charge(txn, id, space.limits.live, -delta(state.size), delta(state.size));
            txn.put(schema::location_key(node), &Location { space: id, place: Place::Trash(item) });
            let trashed = Trashed {
                node,
                parent: parent.dir(),
                name: name.clone(),
                path: path.clone(),
                deleted_by: deleted_by.clone(),
                deleted: txn.now,
                size: state.size,
                purging: true,
                body: TrashedBody::File(state.clone()),
            };
            txn.put(schema::trash_key(id, item), &trashed);
            self.queue_job(txn, JobWork::Purge { space: id, item });
        }
        let (kind, size, deleted) = (EntryKind::File, state.size, txn.now);
        Ok(TrashItem { item, id: node, path, kind, size, deleted_by, deleted })
    }

    /// One page of the trash, newest first; the cursor is the last item given.
    pub async fn trash(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        options: &ListOptions,
    ) -> Result<Page<TrashItem>> {
        let id = self.locate_space(caller, space).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        self.read_space(&*snapshot, caller, id, Right::Write).await?;
        let limit = options.page_limit();
        let prefix = schema::trash_prefix(id);
        let mut end = match &options.cursor {
            None => larder_meta::store::prefix_end(&prefix)
                .ok_or_else(|| Error::internal("prefix without an end"))?,
            Some(cursor) => {
                let item = cursor
                    .parse()
                    .map_err(|_| Error::invalid("the cursor is not one that a page gave"))?;
                schema::trash_key(id, item)
            }
        };
        let mut entries = Vec::new();
        loop {
            let records = snapshot.scan_back(&prefix, &end, limit).await?;
            for (key, record) in &records {
                let trashed: Trashed = schema::decode(key, &record.value)?;
                if !trashed.purging && entries.len() < limit {
                    let item = TrashId::from_bytes(schema::trailing_id(key)?);
                    entries.push(public(item, &trashed));
                }
            }
            match records.last() {
                Some((key, _)) if entries.len() < limit && records.len() == limit => {
                    end = key.clone();
                }
                _ => break,
            }
        }
        let full = entries.len() == limit;
        let cursor = entries.last().filter(|_| full).map(|last| last.item.to_string());
        Ok(Page { entries, cursor })
    }

    /// Puts an item back: where it was, or where `options` says.
    ///
    /// Errors: `NotFound` for the item; `Conflict` if its directory is gone and nothing else was
    /// said; `AlreadyExists` if the name is taken; `QuotaExceeded`.
    pub async fn restore(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        item: TrashId,
        options: &RestoreOptions,
    ) -> Result<Entry> {
        if let Some((before, _)) = idempotency::entry_before()? {
            return Ok(before);
        }
        let id = self.locate_space(caller, space).await?;
        let (entry, _) = transact!(self, id, |txn| {
            let space = self.enter_room(&mut txn, caller, id, Right::Write).await?;
            lookup::resolve_dir(&*txn.snapshot, &space, &[]).await?;
            let key = schema::trash_key(id, item);
            let trashed = read_item(&txn, &key).await?;
            self.promise(&mut txn, id, &space, trashed.value.size).await?;
            txn.hold(key.clone(), trashed.version);
            txn.delete(key);
            let (place, name) =
                self.restore_place(&mut txn, &space, &trashed.value, options).await?;
            let entry = self.restore_once(&mut txn, &space, &place, &name, &trashed.value).await?;
            txn.outcome(&KeptEntry::of(&entry, false));
            entry
        });
        Ok(entry)
    }

    /// Where an item goes back to, and under which free name.
    async fn restore_place(
        &self,
        txn: &mut Txn,
        room: &Room,
        trashed: &Trashed,
        options: &RestoreOptions,
    ) -> Result<(OpenPlace, EntryName)> {
        let parents = options.recreate_parents;
        let (place, name) = match &options.to {
            Some(to) => {
                let (name, above) =
                    to.split_last().ok_or_else(|| Error::invalid("a root is no place for it"))?;
                (open_parent(&*txn.snapshot, room, above, parents).await?, name.clone())
            }
            None => {
                let name = trashed.name.clone();
                match lookup::chain_of(&*txn.snapshot, room, trashed.parent).await {
                    Ok(chain) => (OpenPlace { chain, missing: Vec::new() }, name),
                    Err(error) if error.kind() == ErrorKind::NotFound && parents => {
                        let path = TreePath::parse(&trashed.path)?;
                        let above = path.split_last().map_or(&[][..], |(_, above)| above);
                        (open_parent(&*txn.snapshot, room, above, true).await?, name)
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        let detail = "the directory it was in is gone: \
                                      say where to, or recreate_parents";
                        return Err(Error::new(ErrorKind::Conflict, detail));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if !place.missing.is_empty() {
            return Ok((place, name));
        }
        let name = free_name(txn, &place.chain, &name, options.rename).await?;
        Ok((place, name))
    }

    async fn restore_once(
        &self,
        txn: &mut Txn,
        space: &Space,
        place: &OpenPlace,
        name: &EntryName,
        trashed: &Trashed,
    ) -> Result<Entry> {
        let id = place.chain.space;
        let node = trashed.node;
        let made = self.make_missing(txn, place).await?;
        let parent = made.last().copied().unwrap_or(place.chain.dir());
        let size = delta(trashed.size);
        let key = schema::dirent_key(id, parent, name);
        txn.hold_absent(key.clone());
        let (files, dirs, body) = match &trashed.body {
            TrashedBody::File(state) => {
                let place = Place::File(parent, name.clone());
                txn.put(schema::location_key(node), &Location { space: id, place });
                (1, 0, DirentBody::File(state.clone()))
            }
            TrashedBody::Dir => {
                let stat = attach(txn, &place.chain, &made, node, name).await?;
                (stat[STAT_FILES], stat[STAT_DIRS] + 1, DirentBody::Dir)
            }
        };
        let dirent = Dirent { node, body };
        txn.put(key, &dirent);
        for dir in made {
            let fields = [
                larder_meta::FieldOp::Add(size),
                larder_meta::FieldOp::Add(files),
                larder_meta::FieldOp::Add(dirs),
                larder_meta::FieldOp::Max(txn.now.millis()),
            ];
            txn.add(schema::stat_key(id, dir), fields);
        }
        place.chain.add(txn, size, files, dirs);
        quota::charge(txn, id, space.limits.live, size, -size);
        let names = [place.chain.path(), &place.missing, std::slice::from_ref(name)].concat();
        let path = TreePath::of_entry(names);
        txn.change(id, Happened::to(&dirent, ChangeKind::Restored, &path));
        lookup::entry(&*txn.snapshot, id, path, &dirent).await
    }

    /// Destroys an item: from the answer on it cannot be restored; a job removes its bytes.
    pub async fn purge(&self, caller: &Caller, space: &SpaceRef, item: TrashId) -> Result<()> {
        let id = self.locate_space(caller, space).await?;
        transact!(self, id, |txn| {
            self.enter_space(&mut txn, caller, id, Right::Write).await?;
            let key = schema::trash_key(id, item);
            let trashed = read_item(&txn, &key).await?;
            self.mark_purging(&mut txn, id, item, trashed);
        });
        self.wake_jobs();
        Ok(())
    }

    /// Destroys every item that is in the trash now. If it fails half way, its outcome is unknown.
    pub async fn empty_trash(&self, caller: &Caller, space: &SpaceRef) -> Result<()> {
        let id = self.locate_space(caller, space).await?;
        let mut after = None;
        loop {
            let batch = self.empty_some(caller, id, after.as_deref()).await;
            self.wake_jobs();
            match batch {
                Ok(Some(last)) => after = Some(last),
                Ok(None) => return self.record_silent_operation().await,
                Err(error) if after.is_some() => return Err(error.of_unknown_outcome()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Marks a batch of items as purging; answers the last of them, if there was any.
    async fn empty_some(
        &self,
        caller: &Caller,
        id: SpaceId,
        after: Option<&[u8]>,
    ) -> Result<Option<bytes::Bytes>> {
        let prefix = schema::trash_prefix(id);
        let (last, _) = transact!(self, id, |txn| {
            self.enter_space(&mut txn, caller, id, Right::Write).await?;
            txn.incidental();
            let records = txn::page(&*txn.snapshot, &prefix, after, EMPTY_BATCH).await?;
            let Some((last, _)) = records.last() else { return Ok(None) };
            for (key, record) in &records {
                let value: Trashed = schema::decode(key, &record.value)?;
                if !value.purging {
                    let item = TrashId::from_bytes(schema::trailing_id(key)?);
                    let stored = Stored { value, version: record.version };
                    self.mark_purging(&mut txn, id, item, stored);
                }
            }
            last.clone()
        });
        Ok(Some(last))
    }

    /// Makes an item gone for users, and queues the job that removes what is left of it.
    pub(crate) fn mark_purging(
        &self,
        txn: &mut Txn,
        id: SpaceId,
        item: TrashId,
        trashed: Stored<Trashed>,
    ) {
        let key = schema::trash_key(id, item);
        txn.frees();
        txn.hold(key.clone(), trashed.version);
        txn.put(key, &Trashed { purging: true, ..trashed.value });
        self.queue_job(txn, JobWork::Purge { space: id, item });
    }

    /// Queues a job with the transaction.
    pub(crate) fn queue_job(&self, txn: &mut Txn, work: JobWork) {
        let job = Job {
            work,
            state: JobState::Queued,
            progress: 0,
            created: txn.now,
            updated: txn.now,
            detail: None,
        };
        txn.put(schema::job_key(JobId::new(&self.inner.env)), &job);
    }
}

/// Puts a delete marker on an object of a bucket that keeps versions.
async fn mark_deleted(txn: &mut Txn, caller: &Caller, space: &Space, found: &Found) -> Result<()> {
    let Found { parent: chain, name, dirent, .. } = found;
    let DirentBody::File(state) = dirent.value.body.clone() else {
        return Err(Error::internal("an object is no file"));
    };
    let object = version::Object { node: dirent.value.node, state, entry: dirent.version };
    let marker = version::marker(txn.now, caller.name.clone());
    let mut references = References::default();
    let spot = version::Spot { space, chain, name };
    spot.push(txn, Some(&object), object.node, marker, &mut references).await?;
    references.apply(txn).await
}

/// An item that has not been purged.
async fn read_item(txn: &Txn, key: &[u8]) -> Result<Stored<Trashed>> {
    let stored = txn.get::<Trashed>(key).await?;
    stored.filter(|stored| !stored.value.purging).ok_or_else(|| Error::not_found("trash item"))
}

/// Takes a directory off its parent; answers its statistics, which must hold at the commit.
pub(crate) async fn detach(
    txn: &mut Txn,
    id: SpaceId,
    dir: NodeId,
    state: DirState,
) -> Result<[i64; 4]> {
    let key = schema::authority_key(id, dir);
    let authority = lookup::authority(&*txn.snapshot, id, dir).await?;
    txn.hold(key.clone(), authority.version);
    txn.put(key, &Authority { state, ..authority.value });
    txn.touch_topology(id);
    hold_stat(txn, id, dir).await
}

/// Puts a directory that is nobody's child into the last of `made`, which the same transaction
/// makes below `chain`, or into the end of `chain` itself; answers its statistics. `Invalid` if
/// something below it would lie deeper than a path can name (T5).
pub(crate) async fn attach(
    txn: &mut Txn,
    chain: &Chain,
    made: &[NodeId],
    dir: NodeId,
    name: &EntryName,
) -> Result<[i64; 4]> {
    let id = chain.space;
    let key = schema::authority_key(id, dir);
    let authority = lookup::authority(&*txn.snapshot, id, dir).await?;
    txn.hold(key.clone(), authority.version);
    let parent = made.last().copied().unwrap_or(chain.dir());
    let place = Some((parent, name.clone()));
    txn.put(key, &Authority { place, state: DirState::Live });
    txn.touch_topology(id);
    // What is made below it meanwhile changes its statistics, which are held.
    let (height, _) = txn::counters(&*txn.snapshot, &schema::height_key(id, dir)).await?;
    let levels = height[0] + 1;
    let depth = chain.path().len() + made.len();
    if usize::try_from(levels).unwrap_or(usize::MAX).saturating_add(depth) > PATH_DEPTH_MAX {
        let detail = format!("something below it would lie deeper than {PATH_DEPTH_MAX} names");
        return Err(Error::invalid(detail));
    }
    for (dir, levels) in made.iter().rev().zip(levels..) {
        lookup::raise(txn, id, *dir, levels);
    }
    chain.raise(txn, levels + i64::try_from(made.len()).unwrap_or(0));
    hold_stat(txn, id, dir).await
}

/// The statistics of a directory, which must hold at the commit.
pub(crate) async fn hold_stat(txn: &mut Txn, id: SpaceId, dir: NodeId) -> Result<[i64; 4]> {
    let key = schema::stat_key(id, dir);
    let (stat, version) = txn::counters(&*txn.snapshot, &key).await?;
    match version {
        Some(version) => txn.hold(key, version),
        None => txn.hold_absent(key),
    }
    Ok(stat)
}

fn public(item: TrashId, trashed: &Trashed) -> TrashItem {
    TrashItem {
        item,
        id: trashed.node,
        path: trashed.path.clone(),
        kind: trashed.kind(),
        size: trashed.size,
        deleted_by: trashed.deleted_by.clone(),
        deleted: trashed.deleted,
    }
}
