//! Older revisions of a file: list, restore, delete.
//!
//! Promises: I-REV-1 revisions are numbered in commit order and never change; I-REV-2 restoring
//! makes a new revision with all attributes of the old one and keeps the one before as the
//! policy says, so nothing is mixed and nothing is lost (hazards U08 to U10); I-REV-3 the current
//! revision is never deleted alone.
//!
//! Not here: how an upload makes one (`upload::supersede`), retention by age (`job::retention`).

use larder_base::{ErrorKind, id::SpaceId, name::TreePath};

use crate::{
    Larder,
    access::Right,
    blob::References,
    caller::Caller,
    entry::{Entry, ListOptions, Page, RevisionInfo, SpaceRef},
    error::{Error, Result},
    quota::{self, delta},
    schema::{self, Dirent, DirentBody, FileState, Origin, Space},
    tree::lookup::{self, Found},
    txn::{self, Txn, transact},
    upload::{Replaced, supersede},
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
        let id = self.locate_space(caller, space).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let space = self.read_space(&*snapshot, caller, id, Right::Read).await?.value;
        let found = lookup::resolve(&*snapshot, id, &space, path).await?;
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
        let id = self.locate_space(caller, space).await?;
        let (entry, _) = transact!(self, id, |txn| {
            let space = self.enter_space(&mut txn, caller, id, Right::Write).await?;
            let found = lookup::resolve(&*txn.snapshot, id, &space, path).await?;
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
            let replaced = replaced(&found, self.versions_keep(&space));
            let next =
                supersede(&mut txn, &space, &replaced, &current, next, &mut references).await?;
            references.apply(&mut txn).await?;
            let path = found.parent.join(&found.name);
            lookup::file_entry(id, path, found.dirent.value.node, &next)
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
        let id = self.locate_space(caller, space).await?;
        transact!(self, id, |txn| {
            let space = self.enter_space(&mut txn, caller, id, Right::Write).await?;
            let found = lookup::resolve(&*txn.snapshot, id, &space, path).await?;
            if file_state(&found)?.revision == revision {
                let detail = "the current revision cannot be deleted alone: delete the file";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            let old = self.revision_state(&txn, id, &found, revision).await?;
            txn.frees();
            remove_older(&mut txn, id, &space, &found, &[old]).await?;
        });
        self.wake_jobs();
        Ok(())
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
    txn.put(key, &Dirent { node, body: DirentBody::File(current) });
    Ok(())
}

/// The current revision of what was found, if it is a file.
pub(crate) fn file_state(found: &Found) -> Result<&FileState> {
    match &found.dirent.value.body {
        DirentBody::File(state) => Ok(state),
        DirentBody::Dir => Err(Error::new(ErrorKind::WrongType, "it is a directory")),
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

fn info(node: larder_base::id::NodeId, state: &FileState) -> RevisionInfo {
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
    node: larder_base::id::NodeId,
    limit: usize,
) -> Result<Vec<FileState>> {
    let prefix = schema::revisions_prefix(id, node);
    let page = txn::page(&*txn.snapshot, &prefix, None, limit).await?;
    page.iter().map(|(key, record)| schema::decode(key, &record.value)).collect()
}
