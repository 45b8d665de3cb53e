//! Versions of objects: read, listed, removed and changed by their ids.
//!
//! Not here: how they come about (`version`).

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::NodeId,
    name::{EntryName, TreePath},
};
use larder_meta::Snapshot;

use super::{no_object, path_of};
use crate::{
    Larder,
    access::Right,
    blob::References,
    caller::Caller,
    download::Download,
    entry::{Conditions, SpaceKind, SpaceRef, Target},
    error::{Error, Result},
    object::{
        Bucket, LockRules, ObjectChange, Removed, Retention, RetentionMode, VersionId, Versioning,
    },
    room::Room,
    schema::{self, Dirent, DirentBody, FileState, etag_head},
    tree::lookup,
    txn::{self, Stored, Txn, transact},
    version::{self, Object, Spot},
};

/// Most tags of an object.
const TAGS_MAX: usize = 10;

impl Larder {
    /// The version of an object of a bucket that keeps them, to be read.
    pub(super) async fn object_version(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        path: &TreePath,
        version: Option<VersionId>,
    ) -> Result<Download> {
        // The note before the snapshot: see `blob::epoch`.
        let note = self.inner.epochs.note();
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, bucket.id, Right::Read).await?;
        let found = version_in(&*snapshot, &room, path, version).await?;
        let Seen { node, state, latest, .. } = found;
        if state.is_marker() {
            let id = state.version_id(node);
            let error = match version {
                None => no_object(),
                Some(_) => Error::new(ErrorKind::WrongType, "the version is a delete marker"),
            };
            return Err(error.with_existing(id));
        }
        let entry = lookup::file_entry(room.id, path.clone(), node, &state);
        Ok(self.found((note, snapshot), caller, entry, state, latest))
    }

    /// Removes an object, or one version of it. From a tree it goes into the trash; from a bucket
    /// for good, unless that keeps versions: then a delete marker becomes the current one. That
    /// there is nothing is fine.
    ///
    /// Errors: `Precondition`, also where conditions are given and there is nothing; `Denied`, for
    /// versions that are locked too.
    pub async fn delete_object(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
        conditions: &Conditions,
    ) -> Result<Removed> {
        self.take_object(caller, bucket, key, (version, false), conditions).await
    }

    /// The same, and a governance retention does not stop those who manage the bucket.
    pub async fn delete_object_bypassing(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
        conditions: &Conditions,
    ) -> Result<Removed> {
        self.take_object(caller, bucket, key, (version, true), conditions).await
    }

    async fn take_object(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        (version, bypass): (Option<VersionId>, bool),
        conditions: &Conditions,
    ) -> Result<Removed> {
        let nothing = Removed { existed: false, version: None, marker: false };
        let Ok(path) = path_of(bucket, key) else { return Ok(nothing) };
        if bucket.versioning == Versioning::Off {
            if version.is_some_and(|version| version != VersionId::Null) {
                return Ok(nothing);
            }
            let target = Target::Path(SpaceRef::Id(bucket.id), path);
            return match self.delete(caller, &target, conditions).await {
                Ok(_) => Ok(Removed { existed: true, ..nothing }),
                Err(error) if error.kind() == ErrorKind::NotFound && conditions.is_empty() => {
                    Ok(nothing)
                }
                Err(error) => Err(error),
            };
        }
        let (removed, _) = transact!(self, bucket.id, |txn| {
            let room = self.enter_room(&mut txn, caller, bucket.id, Right::Write).await?;
            let bypass = bypass && self.may_bypass(&mut txn, caller, bucket).await?;
            let chain = lookup::root_chain(&*txn.snapshot, &room).await?;
            chain.hold(&mut txn).await?;
            let name = path.split_last().map(|(name, _)| name).ok_or_else(no_object)?;
            let spot = Spot { space: &room, chain: &chain, name };
            let object = spot.find(&txn).await?;
            let current = object.as_ref().filter(|object| !object.state.is_marker());
            conditions.check_file(current.map(|object| (object.node, &object.state)))?;
            match version {
                None => self.mark_deleted(&mut txn, caller, &spot, object.as_ref()).await?,
                Some(version) => {
                    let number = object.as_ref().and_then(|object| number_of(object, version));
                    match object.zip(number) {
                        None => Removed { version: Some(version), ..nothing },
                        Some((object, number)) => {
                            destroy(&mut txn, &spot, &object, (number, version), bypass).await?
                        }
                    }
                }
            }
        });
        Ok(removed)
    }

    /// Whether the caller manages the bucket, and so may bypass a governance retention.
    async fn may_bypass(&self, txn: &mut Txn, caller: &Caller, bucket: &Bucket) -> Result<bool> {
        match self.enter_space(txn, caller, bucket.id, Right::Manage).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn mark_deleted(
        &self,
        txn: &mut Txn,
        caller: &Caller,
        spot: &Spot<'_>,
        object: Option<&Object>,
    ) -> Result<Removed> {
        txn.frees();
        let node = object.map_or_else(|| NodeId::new(&self.inner.env), |object| object.node);
        let marker = version::marker(txn.now, caller.name.clone());
        let mut references = References::default();
        let marker = spot.push(txn, object, node, marker, &mut references).await?;
        references.apply(txn).await?;
        let existed = object.is_some_and(|object| !object.state.is_marker());
        Ok(Removed { existed, version: Some(marker.version_id(node)), marker: true })
    }

    /// Changes tags, retention or legal hold of one version; it stays the version that it is.
    ///
    /// Errors: `NotFound`; `Invalid` for too many tags, or a lock in a bucket without object lock;
    /// `Denied` for a retention that must not be shortened or become another.
    pub async fn change_object(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
        change: &ObjectChange,
    ) -> Result<VersionId> {
        let path = path_of(bucket, key).map_err(|_no_name| no_object())?;
        let locks = change.retention.is_some() || change.hold.is_some();
        if change.tags.as_ref().is_some_and(|tags| tags.len() > TAGS_MAX) {
            return Err(Error::invalid(format!("an object has at most {TAGS_MAX} tags")));
        }
        let (id, _) = transact!(self, bucket.id, |txn| {
            let room = self.enter_room(&mut txn, caller, bucket.id, Right::Write).await?;
            let found = find_version(&txn, &room, &path, version).await?;
            let chain = lookup::resolve_dir(&*txn.snapshot, &room, found.above(&path)).await?;
            chain.hold(&mut txn).await?;
            let Found { key, node, mut state, entry, .. } = found;
            if locks && room.bucket.is_none_or(|rules| rules.lock.is_none()) {
                return Err(Error::invalid("the bucket has no object lock"));
            }
            if state.is_marker() {
                let error = Error::new(ErrorKind::WrongType, "the version is a delete marker");
                return Err(error.with_existing(state.version_id(node)));
            }
            let mut mark = state.mark();
            if let Some(retention) = change.retention {
                let bypass = change.bypass && self.may_bypass(&mut txn, caller, bucket).await?;
                may_retain(mark.retention, retention, bypass, &txn)?;
                mark.retention = retention;
            }
            mark.hold = change.hold.unwrap_or(mark.hold);
            if locks {
                state.version = Some(mark);
            }
            if let Some(tags) = &change.tags {
                let mut info = state.object.as_deref().cloned().unwrap_or_default();
                info.tags.clone_from(tags);
                state.object = Some(info.into());
            }
            if let Some(acl) = &change.acl {
                let mut info = state.object.as_deref().cloned().unwrap_or_default();
                info.acl.clone_from(acl);
                state.object = Some(info.into());
            }
            txn.hold(key.clone(), entry);
            let id = state.version_id(node);
            if found.current {
                txn.put(key, &Dirent { node, body: DirentBody::File(state) });
            } else {
                txn.put(key, &state);
            }
            id
        });
        Ok(id)
    }

    /// Changes what a bucket keeps.
    ///
    /// Errors: `Denied` for those who do not manage it; `Conflict` for a tree, and for versioning
    /// that object lock needs.
    pub async fn change_bucket(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        versioning: Option<Versioning>,
        lock: Option<LockRules>,
    ) -> Result<()> {
        let id = bucket.id;
        transact!(self, id, |txn| {
            let mut space = self.enter_space(&mut txn, caller, id, Right::Manage).await?;
            if space.kind != SpaceKind::Bucket {
                let detail = "a tree keeps revisions by its policy, not versions";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            let mut rules = space.bucket.unwrap_or_default();
            rules.versioning = versioning.unwrap_or(rules.versioning);
            rules.lock = lock.or(rules.lock);
            if rules.lock.is_some() && rules.versioning != Versioning::Enabled {
                let detail = "object lock needs versioning";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            space.bucket = Some(rules);
            txn.put(schema::space_key(id), &space);
        });
        Ok(())
    }
}

/// A version of an object as a transaction found it.
struct Found {
    key: Bytes,
    node: NodeId,
    state: FileState,
    entry: larder_meta::Version,
    current: bool,
    flat: bool,
}

impl Found {
    /// The names of the directory that it is in.
    fn above<'a>(&self, path: &'a TreePath) -> &'a [EntryName] {
        if self.flat { &[] } else { path.split_last().map_or(&[], |(_, above)| above) }
    }
}

async fn find_version(
    txn: &Txn,
    room: &Room,
    path: &TreePath,
    version: Option<VersionId>,
) -> Result<Found> {
    let snapshot = &*txn.snapshot;
    let flat = room.kind == SpaceKind::Bucket;
    if room.versioning() == Versioning::Off {
        if version.is_some_and(|version| version != VersionId::Null) {
            return Err(Error::not_found("version"));
        }
        let found = lookup::resolve(snapshot, room, path).await?;
        let Stored { value: Dirent { node, body }, version: entry } = found.dirent;
        let DirentBody::File(state) = body else { return Err(no_object()) };
        let key = schema::dirent_key(room.id, found.parent.dir(), &found.name);
        return Ok(Found { key, node, state, entry, current: true, flat });
    }
    let name = path.split_last().map(|(name, _)| name).ok_or_else(no_object)?;
    let chain = lookup::root_chain(snapshot, room).await?;
    chain.require()?;
    let object = Spot { space: room, chain: &chain, name }.find(txn).await?;
    let object = object.ok_or_else(no_object)?;
    let current = object.state.revision;
    let number = match version {
        None => Some(current),
        Some(version) => number_of(&object, version),
    };
    let number = number.ok_or_else(|| Error::not_found("version"))?;
    let Object { node, state, entry } = object;
    if number == current {
        let key = if state.is_marker() {
            schema::marked_key(room.id, chain.dir(), name)
        } else {
            schema::dirent_key(room.id, chain.dir(), name)
        };
        return Ok(Found { key, node, state, entry, current: true, flat });
    }
    let key = schema::revision_key(room.id, node, number);
    let older = txn.get::<FileState>(&key).await?;
    let Stored { value: state, version: entry } =
        older.ok_or_else(|| Error::not_found("version"))?;
    Ok(Found { key, node, state, entry, current: false, flat })
}

/// A version of an object, and whether it is the current one.
/// A version of an object as a snapshot has it.
pub(super) struct Seen {
    pub(super) node: NodeId,
    pub(super) state: FileState,
    /// Whether it is the current one.
    pub(super) latest: bool,
    /// The record that it stands in, and the version of that.
    pub(super) record: (Bytes, larder_meta::Version),
}

pub(super) async fn version_in(
    snapshot: &dyn Snapshot,
    room: &Room,
    path: &TreePath,
    version: Option<VersionId>,
) -> Result<Seen> {
    let chain = lookup::root_chain(snapshot, room).await?;
    chain.require()?;
    let name = path.split_last().map(|(name, _)| name).ok_or_else(no_object)?;
    let dir = chain.dir();
    let live = schema::dirent_key(room.id, dir, name);
    let marked = schema::marked_key(room.id, dir, name);
    let (key, found) = match txn::get::<Dirent>(snapshot, &live).await? {
        Some(found) => (live, Some(found)),
        None => {
            let found = txn::get::<Dirent>(snapshot, &marked).await?;
            (marked, found)
        }
    };
    let Stored { value: Dirent { node, body }, version: entry } = found.ok_or_else(no_object)?;
    let DirentBody::File(state) = body else { return Err(no_object()) };
    let object = Object { node, state, entry };
    let none = || Error::not_found("version");
    let number = match version {
        Some(version) => number_of(&object, version).ok_or_else(none)?,
        None => object.state.revision,
    };
    if number == object.state.revision {
        return Ok(Seen { node, state: object.state, latest: true, record: (key, entry) });
    }
    let key = schema::revision_key(room.id, node, number);
    let older = txn::get::<FileState>(snapshot, &key).await?.ok_or_else(none)?;
    Ok(Seen { node, state: older.value, latest: false, record: (key, older.version) })
}

/// The number of a version of an object, if it can have it.
fn number_of(object: &Object, version: VersionId) -> Option<u64> {
    let mark = object.state.mark();
    match version {
        VersionId::Null if !mark.named => Some(object.state.revision),
        VersionId::Null => mark.null,
        VersionId::Revision(head, number) => Some(number).filter(|number| {
            let null = if mark.named { mark.null } else { Some(object.state.revision) };
            head == etag_head(object.node) && null != Some(*number)
        }),
    }
}

async fn destroy(
    txn: &mut Txn,
    spot: &Spot<'_>,
    object: &Object,
    (number, version): (u64, VersionId),
    bypass: bool,
) -> Result<Removed> {
    let mut references = References::default();
    let dropped = match spot.destroy(txn, object, number, bypass, &mut references).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Removed { existed: false, version: Some(version), marker: false });
        }
        dropped => dropped?,
    };
    references.apply(txn).await?;
    Ok(Removed { existed: true, version: Some(version), marker: dropped.is_marker() })
}

/// Whether a retention may be set in place of the one before.
fn may_retain(
    before: Option<Retention>,
    next: Option<Retention>,
    bypass: bool,
    txn: &Txn,
) -> Result<()> {
    let Some(before) = before.filter(|before| before.until > txn.now) else { return Ok(()) };
    // Another mode is not a longer one: what is of governance was meant to be ended by somebody.
    let longer = next.is_some_and(|next| next.until >= before.until && next.mode == before.mode);
    let weaker = before.mode == RetentionMode::Governance && bypass;
    if longer || weaker {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "the retention of the version must not be shortened"))
}
