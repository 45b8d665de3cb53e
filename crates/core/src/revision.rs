//! Older revisions of a file: list, restore, delete.
//!
//! Promises: I-REV-1 revisions are numbered in commit order and never change; I-REV-2 restoring
//! makes a new revision with all attributes of the old one and keeps the one before as the
//! policy says, so nothing is mixed and nothing is lost (hazards U08 to U10); I-REV-3 the current
//! revision is never deleted alone.
//!
//! Not here: how an upload makes one (`version::supersede`), retention by age (`job::retention`).

use larder_base::{
    ErrorKind,
    id::{NodeId, SpaceId},
    name::TreePath,
};
use larder_meta::Snapshot;

use crate::{
    Larder,
    access::Right,
    blob::References,
    caller::Caller,
    entry::{Entry, ListOptions, Page, RevisionInfo, SpaceRef, Target},
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    idempotency::{self, KeptEntry},
    object::Versioning,
    quota::{self, delta},
    room::Room,
    schema::{self, Dirent, DirentBody, FileState, Origin, Space},
    tree::lookup::{self, Found, through},
    txn::{self, Txn, transact},
    version::{self, Replaced, supersede},
};

impl Larder {
    /// One page of the revisions of a file, newest first; the cursor is the last number given.
    pub async fn revisions(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        options: &ListOptions,
    ) -> Result<Page<RevisionInfo>> {
        through!(|space, path| self.revisions_at(caller, space, path, options))
    }

    async fn revisions_at(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        options: &ListOptions,
    ) -> Result<Page<RevisionInfo>> {
        let at = self.locate(caller, space).await?;
        let id = at.space;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, at, Right::Read).await?;
        let found = self.find_file(&*snapshot, &room, path).await?;
        let node = found.dirent.value.node;
        let current = file_state(&found)?;
        let limit = options.page_limit();
        let before = match &options.cursor {
            None => u64::MAX,
            Some(cursor) => cursor
                .parse()
                .map_err(|_| Error::invalid("the cursor is not one that a page gave"))?,
        };
        let mut entries = Vec::new();
        if current.revision < before {
            entries.push(info(node, current));
        }
        let start = schema::revisions_prefix(id, node);
        let end = schema::revision_key(id, node, before);
        let older = snapshot.scan_back(&start, &end, limit - entries.len()).await?;
        for (key, record) in &older {
            entries.push(info(node, &schema::decode(key, &record.value)?));
        }
        let full = entries.len() == limit;
        let cursor = entries.last().filter(|_| full).map(|last| last.revision.to_string());
        Ok(Page { entries, cursor })
    }

    /// Makes the content of an older revision current again, as a new revision.
    ///
    /// Errors: `NotFound`; `QuotaExceeded` if it is larger than the current one by too much.
    pub async fn restore_revision(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        revision: u64,
    ) -> Result<Entry> {
        if let Some((before, _)) = idempotency::entry_before()? {
            return Ok(before);
        }
        through!(|space, path| self.restore_revision_at(caller, space, path, revision))
    }

    async fn restore_revision_at(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        revision: u64,
    ) -> Result<Entry> {
        let at = self.locate(caller, space).await?;
        let id = at.space;
        let (entry, _) = transact!(self, id, |txn| {
            let space = self.enter_room(&mut txn, caller, at.clone(), Right::Write).await?;
            let found = self.find_file(&*txn.snapshot, &space, path).await?;
            let current = file_state(&found)?.clone();
            let old = self.revision_state(&txn, id, &found, revision).await?;
            let more = old.size.saturating_sub(current.size);
            self.promise(&mut txn, id, &space, more).await?;
            found.parent.hold(&mut txn).await?;
            let next = FileState {
                modified: txn.now,
                author: caller.name.clone(),
                origin: Origin::Restore(revision),
                ..old
            };
            let mut references = References::default();
            references.retain(next.blob);
            let next = if space.versioning() == Versioning::Off {
                let replaced = replaced(&found, self.versions_keep(&space));
                supersede(&mut txn, &space, &replaced, &current, next, &mut references).await?
            } else {
                let Found { parent: chain, name, dirent, .. } = &found;
                let (node, entry) = (dirent.value.node, dirent.version);
                let spot = version::Spot { space: &space, chain, name };
                let before = version::Object { node, state: current, entry };
                let next = FileState { version: None, ..next };
                spot.push(&mut txn, Some(&before), node, next, &mut references).await?
            };
            references.apply(&mut txn).await?;
            let path = found.path(&space);
            let entry = lookup::file_entry(id, path, found.dirent.value.node, &next);
            txn.outcome(&KeptEntry::of(&entry, false));
            entry
        });
        Ok(entry)
    }

    /// Removes one older revision. `Conflict` for the current one.
    pub async fn delete_revision(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        revision: u64,
    ) -> Result<()> {
        through!(|space, path| self.delete_revision_at(caller, space, path, revision))
    }

    async fn delete_revision_at(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        revision: u64,
    ) -> Result<()> {
        let at = self.locate(caller, space).await?;
        let id = at.space;
        transact!(self, id, |txn| {
            let space = self.enter_room(&mut txn, caller, at.clone(), Right::Write).await?;
            let found = self.find_file(&*txn.snapshot, &space, path).await?;
            self.remove_revision(&mut txn, &space, &found, revision).await?;
        });
        self.wake_jobs();
        Ok(())
    }

    /// Removes one older revision of the file with this id. `Conflict` for the current one.
    pub async fn delete_revision_by_id(
        &self,
        caller: &Caller,
        node: NodeId,
        revision: u64,
    ) -> Result<()> {
        let target = Target::Node(node);
        let at = self.space_of(caller, &target).await?;
        let id = at.space;
        transact!(self, id, |txn| {
            let room = self.enter_room(&mut txn, caller, at.clone(), Right::Write).await;
            let room = room.map_err(|error| lookup::hide_space(&target, error))?;
            let found = self.find(&*txn.snapshot, &room, &target).await?;
            let found = found.ok_or_else(|| Error::invalid("this cannot be done to a root"))?;
            self.remove_revision(&mut txn, &room, &found, revision).await?;
        });
        self.wake_jobs();
        Ok(())
    }

    async fn remove_revision(
        &self,
        txn: &mut Txn,
        room: &Room,
        found: &Found,
        revision: u64,
    ) -> Result<()> {
        if file_state(found)?.revision == revision {
            let detail = "the current revision cannot be deleted alone: delete the file";
            return Err(Error::new(ErrorKind::Conflict, detail));
        }
        let old = self.revision_state(txn, room.id, found, revision).await?;
        txn.frees();
        remove_older(txn, room.id, room, found, &[old]).await
    }

    /// The file at `path`: of a room that begins at a file, the root is that file.
    async fn find_file(
        &self,
        snapshot: &dyn Snapshot,
        room: &Room,
        path: &TreePath,
    ) -> Result<Found> {
        let target = Target::Path(SpaceRef::Id(room.id), path.clone());
        let found = self.find(snapshot, room, &target).await?;
        let found = found.ok_or_else(|| Error::invalid("this cannot be done to a root"))?;
        match found.dirent.value.body {
            DirentBody::Ref(to) => Err(lookup::leave(room, &found.parent, &found.name, to, &[])),
            DirentBody::File(_) | DirentBody::Dir => Ok(found),
        }
    }

    /// The state of a revision, current or older.
    async fn revision_state(
        &self,
        txn: &Txn,
        id: SpaceId,
        found: &Found,
        revision: u64,
    ) -> Result<FileState> {
        let current = file_state(found)?;
        if current.revision == revision {
            return Ok(current.clone());
        }
        let key = schema::revision_key(id, found.dirent.value.node, revision);
        let stored = txn.get::<FileState>(&key).await?;
        Ok(stored.ok_or_else(|| Error::not_found("revision"))?.value)
    }
}

/// Removes older revisions of a file in one transaction.
pub(crate) async fn remove_older(
    txn: &mut Txn,
    id: SpaceId,
    space: &Space,
    found: &Found,
    old: &[FileState],
) -> Result<()> {
    found.parent.hold(txn).await?;
    let mut current = file_state(found)?.clone();
    let node = found.dirent.value.node;
    let mut references = References::default();
    let mut bytes = 0;
    for state in old {
        version::require_unlocked(txn, state)?;
        if let Some(mark) = &mut current.version {
            mark.null = mark.null.filter(|null| *null != state.revision);
        }
        references.release(state.blob);
        txn.delete(schema::revision_key(id, node, state.revision));
        current.older = current.older.saturating_sub(1);
        current.older_bytes = current.older_bytes.saturating_sub(state.size);
        bytes += state.size;
    }
    references.apply(txn).await?;
    quota::charge(txn, id, space.limits.live, 0, -delta(bytes));
    let key = schema::dirent_key(id, found.parent.dir(), &found.name);
    txn.hold(key.clone(), found.dirent.version);
    let dirent = Dirent { node, body: DirentBody::File(current) };
    txn.put(key, &dirent);
    // What retention removes is told to nobody: it is the policy, and may be very much.
    if txn.author.is_some() {
        let path = found.parent.join_from_root(&found.name);
        txn.change(id, Happened::to(&dirent, ChangeKind::RevisionDeleted, &path));
    }
    Ok(())
}

/// The current revision of what was found, if it is a file.
pub(crate) fn file_state(found: &Found) -> Result<&FileState> {
    match &found.dirent.value.body {
        DirentBody::File(state) => Ok(state),
        DirentBody::Dir => Err(Error::new(ErrorKind::WrongType, "it is a directory")),
        DirentBody::Ref(_) => Err(Error::new(ErrorKind::WrongType, "it is a reference")),
    }
}

fn replaced(found: &Found, keep: Option<u32>) -> Replaced<'_> {
    Replaced {
        chain: &found.parent,
        name: &found.name,
        node: found.dirent.value.node,
        version: found.dirent.version,
        keep,
    }
}

fn info(node: NodeId, state: &FileState) -> RevisionInfo {
    RevisionInfo {
        revision: state.revision,
        size: state.size,
        etag: state.etag(node),
        sha256: state.sha256,
        content_type: state.content_type.clone(),
        author: state.author.clone(),
        created: state.modified,
        origin: state.origin.to_string(),
    }
}

/// Older revisions of a file, oldest first, at most `limit`.
pub(crate) async fn oldest(
    txn: &Txn,
    id: SpaceId,
    node: NodeId,
    limit: usize,
) -> Result<Vec<FileState>> {
    let prefix = schema::revisions_prefix(id, node);
    let page = txn::page(&*txn.snapshot, &prefix, None, limit).await?;
    page.iter().map(|(key, record)| schema::decode(key, &record.value)).collect()
}
