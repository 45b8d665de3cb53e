//! What is kept of what is overwritten or deleted: older revisions of files as the policy of their
//! space says, and in buckets with versioning the versions that S3 has.
//!
//! The versions of an object are the revisions of its node. The current one stands in the entry;
//! if that is a delete marker, in an entry that directories do not show, so that listings pay
//! nothing for what is deleted. Older ones, markers too, are revisions like those of any file.
//!
//! Promises: I-VER-1 of all that is written to a key of a versioned bucket nothing is destroyed
//! but by name; I-VER-2 there is at most one version `null`; I-VER-3 what is locked is not
//! destroyed by anything, except that who manages a bucket may bypass a governance retention.
//!
//! Not here: who asks for what (`upload`, `trash`, `bucket`).

use larder_base::{
    ErrorKind, Timestamp,
    id::{NodeId, SpaceId},
    name::EntryName,
};
use larder_meta::Version;

use crate::{
    blob::References,
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    object::{RetentionMode, Versioning},
    quota::{self, delta},
    schema::{
        self, Dirent, DirentBody, FileState, Location, NO_BLOB, Origin, Place, Space, VersionMark,
    },
    tree::lookup::Chain,
    txn::{self, Stored, Txn},
};

/// Older revisions that one commit removes because they are more than the space keeps: each is
/// up to three records.
const TRIM_BATCH: usize = 20;

/// An object of a versioned bucket, as a transaction found it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) node: NodeId,
    /// Its current version.
    pub(crate) state: FileState,
    /// Version of its entry.
    pub(crate) entry: Version,
}

/// Where an object stands, or would.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    pub(crate) space: &'a Space,
    pub(crate) chain: &'a Chain,
    pub(crate) name: &'a EntryName,
}

impl Spot<'_> {
    fn id(&self) -> SpaceId {
        self.chain.space
    }

    /// The key of the entry with this current version.
    fn entry_key(&self, marker: bool) -> bytes::Bytes {
        let (id, dir) = (self.id(), self.chain.dir());
        if marker {
            schema::marked_key(id, dir, self.name)
        } else {
            schema::dirent_key(id, dir, self.name)
        }
    }

    /// The object that stands there, deleted or not.
    pub(crate) async fn find(&self, txn: &Txn) -> Result<Option<Object>> {
        for marker in [false, true] {
            if marker && self.space.versioning() == Versioning::Off {
                continue;
            }
            let found = txn.get::<Dirent>(&self.entry_key(marker)).await?;
            if let Some(Stored { value: Dirent { node, body }, version }) = found {
                let DirentBody::File(state) = body else {
                    return Err(Error::new(ErrorKind::Corrupt, "an object is no file"));
                };
                return Ok(Some(Object { node, state, entry: version }));
            }
        }
        Ok(None)
    }

    /// Makes `next` the current version, whatever stands there. Answers it as it was written.
    pub(crate) async fn push(
        &self,
        txn: &mut Txn,
        before: Option<&Object>,
        node: NodeId,
        mut next: FileState,
        references: &mut References,
    ) -> Result<FileState> {
        let mut mark = next.mark();
        mark.named = self.space.versioning() == Versioning::Enabled;
        mark.null = None;
        let mut retained = 0;
        if let Some(Object { state, .. }) = before {
            next.revision = state.revision + 1;
            next.older = state.older;
            next.older_bytes = state.older_bytes;
            let old = state.mark();
            // Without versioning there is one, which is overwritten.
            let keeps = mark.named || old.named;
            if keeps {
                retained += keep(txn, self.id(), node, state, &mut next);
            } else {
                require_unlocked(txn, state)?;
                references.release(state.blob);
            }
            let null = if old.named { old.null } else { keeps.then_some(state.revision) };
            if mark.named {
                mark.null = null;
            } else if let Some(number) = null.filter(|_| old.named) {
                let dropped = take_older(txn, (self.id(), node), number, false, references).await?;
                retained -= forget(&mut next, &dropped);
            }
        }
        next.version = Some(mark);
        self.write(txn, before, node, &next, retained);
        Ok(next)
    }

    /// Destroys one version; answers it.
    ///
    /// Errors: `NotFound` if there is none of this number; `Denied` if it is locked, unless that is
    /// a governance retention and `bypass` says that it does not count.
    pub(crate) async fn destroy(
        &self,
        txn: &mut Txn,
        object: &Object,
        number: u64,
        bypass: bool,
        references: &mut References,
    ) -> Result<FileState> {
        let (id, node) = (self.id(), object.node);
        txn.frees();
        if number != object.state.revision {
            let mut current = object.state.clone();
            let dropped = take_older(txn, (id, node), number, bypass, references).await?;
            let retained = -forget(&mut current, &dropped);
            let mut mark = current.mark();
            mark.null = mark.null.filter(|null| *null != number);
            current.version = Some(mark);
            self.write(txn, Some(object), node, &current, retained);
            return Ok(dropped);
        }
        require_destroyable(txn, &object.state, bypass)?;
        references.release(object.state.blob);
        let start = schema::revisions_prefix(id, node);
        let end = schema::revision_key(id, node, number);
        let newest = txn.snapshot.scan_back(&start, &end, 1).await?;
        let Some((key, record)) = newest.into_iter().next() else {
            self.remove(txn, object);
            return Ok(object.state.clone());
        };
        let mut promoted: FileState = schema::decode(&key, &record.value)?;
        txn.hold(key.clone(), record.version);
        txn.delete(key);
        promoted.older = object.state.older.saturating_sub(1);
        promoted.older_bytes = object.state.older_bytes.saturating_sub(promoted.size);
        let mut mark = promoted.mark();
        mark.null = object.state.mark().null.filter(|null| *null != promoted.revision);
        promoted.version = Some(mark);
        self.write(txn, Some(object), node, &promoted, -delta(promoted.size));
        Ok(object.state.clone())
    }

    /// Destroys older versions; answers them.
    pub(crate) async fn destroy_older(
        &self,
        txn: &mut Txn,
        object: &Object,
        numbers: &[u64],
        references: &mut References,
    ) -> Result<Vec<FileState>> {
        let (id, node) = (self.id(), object.node);
        let mut current = object.state.clone();
        let mut mark = current.mark();
        let mut all = Vec::with_capacity(numbers.len());
        let mut retained = 0;
        for number in numbers {
            let dropped = take_older(txn, (id, node), *number, false, references).await?;
            retained -= forget(&mut current, &dropped);
            mark.null = mark.null.filter(|null| null != number);
            all.push(dropped);
        }
        current.version = Some(mark);
        self.write(txn, Some(object), node, &current, retained);
        Ok(all)
    }

    /// Writes the current version of an object in place of the one before.
    fn write(
        &self,
        txn: &mut Txn,
        before: Option<&Object>,
        node: NodeId,
        next: &FileState,
        retained: i64,
    ) {
        let id = self.id();
        let was = before.filter(|object| !object.state.is_marker());
        let (before_size, before_files) =
            was.map_or((0, 0), |object| (delta(object.state.size), 1));
        let is_marker = next.is_marker();
        let grows = delta(next.size) - before_size;
        self.chain.add(txn, grows, i64::from(!is_marker) - before_files, 0);
        quota::charge(txn, id, self.space.limits.live, grows, retained);
        let key = self.entry_key(is_marker);
        match before {
            Some(object) => {
                let old = self.entry_key(object.state.is_marker());
                txn.hold(old.clone(), object.entry);
                if old != key {
                    txn.delete(old);
                    txn.hold_absent(key.clone());
                }
            }
            None => {
                txn.hold_absent(self.entry_key(true));
                txn.hold_absent(self.entry_key(false));
            }
        }
        let dirent = Dirent { node, body: DirentBody::File(next.clone()) };
        txn.put(key, &dirent);
        let (dir, name) = (self.chain.dir(), self.name.clone());
        let place = if is_marker { Place::Marked(dir, name) } else { Place::File(dir, name) };
        if before.is_none_or(|object| object.state.is_marker() != is_marker) {
            txn.put(schema::location_key(node), &Location { space: id, place });
        }
        let path = self.chain.join_from_root(self.name);
        let same = before.is_some_and(|object| object.state.revision == next.revision);
        let happened = match (was, is_marker) {
            (None, true) => None,
            (Some(_), true) => Some(ChangeKind::Deleted),
            (None, false) if before.is_some() && next.origin != Origin::Deleted => {
                Some(ChangeKind::Restored)
            }
            (None, false) => Some(ChangeKind::Created),
            (Some(_), false) if same => Some(ChangeKind::RevisionDeleted),
            (Some(_), false) => Some(ChangeKind::Updated),
        };
        if let Some(kind) = happened {
            txn.change(id, Happened::to(&dirent, kind, &path));
        }
    }

    /// Removes the last version of an object, and with it the object.
    fn remove(&self, txn: &mut Txn, object: &Object) {
        let (id, state) = (self.id(), &object.state);
        let key = self.entry_key(state.is_marker());
        txn.hold(key.clone(), object.entry);
        txn.delete(key);
        txn.delete(schema::location_key(object.node));
        if state.is_marker() {
            self.chain.add(txn, 0, 0, 0);
            return;
        }
        self.chain.add(txn, -delta(state.size), -1, 0);
        quota::charge(txn, id, self.space.limits.live, -delta(state.size), 0);
        let dirent = Dirent { node: object.node, body: DirentBody::File(state.clone()) };
        let path = self.chain.join_from_root(self.name);
        txn.change(id, Happened::to(&dirent, ChangeKind::Deleted, &path));
    }
}

/// A delete marker of this author.
pub(crate) fn marker(now: Timestamp, author: std::sync::Arc<str>) -> FileState {
    FileState {
        revision: 1,
        size: 0,
        blob: NO_BLOB,
        sha256: None,
        content_type: "".into(),
        modified: now,
        author,
        origin: Origin::Deleted,
        older: 0,
        older_bytes: 0,
        object: None,
        version: Some(VersionMark { marker: true, ..VersionMark::default() }),
    }
}

/// A file whose current revision a transaction replaces.
pub(crate) struct Replaced<'a> {
    pub(crate) chain: &'a Chain,
    pub(crate) name: &'a EntryName,
    pub(crate) node: NodeId,
    /// Version of its directory entry.
    pub(crate) version: Version,
    /// Older revisions that are kept; `None` is all.
    pub(crate) keep: Option<u32>,
}

/// Makes `next` the current revision of a file and keeps the one before as the policy says:
/// the numbers of revisions go up by one in the order of commits. Answers the state written.
pub(crate) async fn supersede(
    txn: &mut Txn,
    space: &Space,
    file: &Replaced<'_>,
    current: &FileState,
    mut next: FileState,
    references: &mut References,
) -> Result<FileState> {
    let id = file.chain.space;
    next.revision = current.revision + 1;
    next.older = current.older;
    next.older_bytes = current.older_bytes;
    let mut retained = 0;
    let keep = file.keep;
    if keep == Some(0) {
        references.release(current.blob);
    } else {
        let kept = FileState { older: 0, older_bytes: 0, ..current.clone() };
        txn.put(schema::revision_key(id, file.node, current.revision), &kept);
        next.older += 1;
        next.older_bytes += current.size;
        retained += delta(current.size);
    }
    // More than one when the policy has been changed to keep less.
    let over = keep.map_or(0, |keep| next.older.saturating_sub(keep));
    let over = usize::try_from(over).unwrap_or(TRIM_BATCH).min(TRIM_BATCH);
    for old in oldest_revisions(txn, id, file.node, over).await? {
        references.release(old.blob);
        txn.delete(schema::revision_key(id, file.node, old.revision));
        next.older = next.older.saturating_sub(1);
        next.older_bytes = next.older_bytes.saturating_sub(old.size);
        retained -= delta(old.size);
    }
    let grows = delta(next.size) - delta(current.size);
    quota::charge(txn, id, space.limits.live, grows, retained);
    file.chain.add(txn, grows, 0, 0);
    let key = schema::dirent_key(id, file.chain.dir(), file.name);
    txn.hold(key.clone(), file.version);
    let dirent = Dirent { node: file.node, body: DirentBody::File(next.clone()) };
    txn.put(key, &dirent);
    let path = file.chain.join_from_root(file.name);
    txn.change(id, Happened::to(&dirent, ChangeKind::Updated, &path));
    Ok(next)
}

/// The oldest revisions of a file, at most so many.
async fn oldest_revisions(
    txn: &Txn,
    space: SpaceId,
    node: NodeId,
    count: usize,
) -> Result<Vec<FileState>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let prefix = schema::revisions_prefix(space, node);
    let oldest = txn::page(&*txn.snapshot, &prefix, None, count).await?;
    oldest.iter().map(|(key, record)| schema::decode(key, &record.value)).collect()
}

/// Keeps a version that was current; answers by how much the retained bytes grow.
fn keep(
    txn: &mut Txn,
    space: SpaceId,
    node: NodeId,
    state: &FileState,
    next: &mut FileState,
) -> i64 {
    let mark = VersionMark { null: None, ..state.mark() };
    let kept = FileState { older: 0, older_bytes: 0, version: Some(mark), ..state.clone() };
    txn.put(schema::revision_key(space, node, state.revision), &kept);
    next.older += 1;
    next.older_bytes += state.size;
    delta(state.size)
}

/// Takes an older version away; answers it.
async fn take_older(
    txn: &mut Txn,
    (space, node): (SpaceId, NodeId),
    number: u64,
    bypass: bool,
    references: &mut References,
) -> Result<FileState> {
    let key = schema::revision_key(space, node, number);
    let stored = txn::get::<FileState>(&*txn.snapshot, &key).await?;
    let Stored { value, version } = stored.ok_or_else(|| Error::not_found("version"))?;
    require_destroyable(txn, &value, bypass)?;
    txn.hold(key.clone(), version);
    txn.delete(key);
    references.release(value.blob);
    Ok(value)
}

/// Counts an older version no more; answers its bytes.
fn forget(current: &mut FileState, dropped: &FileState) -> i64 {
    current.older = current.older.saturating_sub(1);
    current.older_bytes = current.older_bytes.saturating_sub(dropped.size);
    delta(dropped.size)
}

/// The same, where `bypass` says that a governance retention does not count.
fn require_destroyable(txn: &Txn, state: &FileState, bypass: bool) -> Result<()> {
    let VersionMark { retention, hold, .. } = state.mark();
    let governed = retention.is_some_and(|retention| retention.mode == RetentionMode::Governance);
    if bypass && governed && !hold {
        return Ok(());
    }
    require_unlocked(txn, state)
}

/// Refuses to destroy what is locked (I-VER-3).
pub(crate) fn require_unlocked(txn: &Txn, state: &FileState) -> Result<()> {
    if state.is_locked(txn.now) {
        let detail = "the version is under retention or legal hold";
        return Err(Error::new(ErrorKind::Denied, detail));
    }
    Ok(())
}
