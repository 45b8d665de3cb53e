//! Listings by keys: in the order of their bytes, from any point, whatever is written meanwhile.
//!
//! Promises: I-LIST-1 a key that was there before a listing began and is there when its last page
//! is told is in it once, in its place; pages cost what they tell: what a common prefix stands
//! for is stepped over, however many keys that is.
//!
//! Not here: how a position is written down for a client (the door).

use bytes::Bytes;
use larder_base::{
    id::{NodeId, SpaceId},
    limits::PAGE_ENTRIES_MAX,
    name::{EntryName, TreePath},
};
use larder_meta::Snapshot;

use super::{
    content::object_entry,
    versions::{Seen, version_in},
};
use crate::{
    Larder,
    access::Right,
    bucket::walk::TreeKeys,
    caller::Caller,
    entry::SpaceKind,
    error::Result,
    object::{Bucket, KeyEntry, KeyListing, KeyPage, VersionId, VersionListing},
    schema::{self, Dirent, DirentBody, FileState},
    tree::lookup,
    txn,
};

impl Larder {
    /// One page of the keys of a bucket.
    pub async fn list_objects(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        listing: &KeyListing,
    ) -> Result<KeyPage> {
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, bucket.id, Right::Read).await?;
        let root = lookup::resolve_dir(&*snapshot, &room, &[]).await?.dir();
        let limit = listing.limit.min(PAGE_ENTRIES_MAX);
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(KeyPage { entries, truncated: false });
        }
        let mut keys = match room.kind {
            SpaceKind::Bucket => {
                let all = schema::entries_prefix(bucket.id, root);
                Keys::Flat(FlatKeys::new(all, listing))
            }
            SpaceKind::Home | SpaceKind::Project => {
                Keys::Tree(TreeKeys::new(bucket.id, root, &listing.prefix))
            }
        };
        let mut position = start(listing);
        while let Some((key, dirent)) = keys.next(&*snapshot, &position).await? {
            if entries.len() == limit {
                return Ok(KeyPage { entries, truncated: true });
            }
            if let Some(prefix) = group(listing, &key) {
                position = Position::Behind(prefix.to_owned());
                entries.push(KeyEntry::Prefix(prefix.to_owned()));
                continue;
            }
            if let DirentBody::File(state) = &dirent.body {
                let object = object_entry(key.clone(), dirent.node, state, true);
                entries.push(KeyEntry::Object(Box::new(object)));
            }
            position = Position::After(key);
        }
        Ok(KeyPage { entries, truncated: false })
    }
}

/// How far a listing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Start,
    /// Behind this key.
    After(String),
    /// Behind all keys that begin with this.
    Behind(String),
}

/// Where a page begins. Behind a common prefix, which is the last that the page before told,
/// begins what does not have it.
fn start(listing: &KeyListing) -> Position {
    let Some(after) = &listing.after else { return Position::Start };
    match group(listing, after) {
        Some(prefix) => Position::Behind(prefix.to_owned()),
        None => Position::After(after.clone()),
    }
}

/// What a key has in common with others, if they are told as one.
pub(super) fn group<'a>(listing: &KeyListing, key: &'a str) -> Option<&'a str> {
    let delimiter = listing.delimiter.as_deref().filter(|text| !text.is_empty())?;
    let rest = key.strip_prefix(listing.prefix.as_str())?;
    let at = rest.find(delimiter)?;
    key.get(..listing.prefix.len() + at + delimiter.len())
}

impl Larder {
    /// One page of all versions of the objects of a bucket that keeps them, delete markers too:
    /// in order of keys, the newest of each first.
    pub async fn list_versions(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        listing: &VersionListing,
    ) -> Result<KeyPage> {
        let VersionListing { keys, after_version } = listing;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, bucket.id, Right::Read).await?;
        let root = lookup::resolve_dir(&*snapshot, &room, &[]).await?.dir();
        let limit = keys.limit.min(PAGE_ENTRIES_MAX);
        let mut page = Versions { space: bucket.id, entries: Vec::new(), limit };
        if limit == 0 {
            return Ok(page.end(false));
        }
        if let (Some(key), Some(version)) = (&keys.after, after_version)
            && key.starts_with(&keys.prefix)
        {
            let name = TreePath::of_entry(vec![EntryName::stored(key)?]);
            let current = version_in(&*snapshot, &room, &name, None).await;
            if let Ok(Seen { node, state, .. }) = current {
                let below = below(node, &state, *version);
                if page.add(&*snapshot, key, node, &state, below).await? {
                    return Ok(page.end(true));
                }
            }
        }
        let mut live = FlatKeys::new(schema::entries_prefix(bucket.id, root), keys);
        let mut marked = FlatKeys::new(schema::marked_prefix(bucket.id, root), keys);
        let mut position = match (&keys.after, after_version) {
            (Some(key), Some(_)) => Position::After(key.clone()),
            _ => start(keys),
        };
        let (mut first, mut second) = (None, None);
        loop {
            let passed = |found: &Option<(String, Dirent)>| {
                found.as_ref().is_none_or(|(key, _)| !position.is_before(key.as_bytes()))
            };
            if passed(&first) {
                first = live.next(&*snapshot, &position).await?;
            }
            if passed(&second) {
                second = marked.next(&*snapshot, &position).await?;
            }
            let next = match (&first, &second) {
                (None, None) => return Ok(page.end(false)),
                (Some((key, _)), Some((other, _))) if other < key => second.take(),
                (None, _) => second.take(),
                _ => first.take(),
            };
            let Some((key, dirent)) = next else { return Ok(page.end(false)) };
            if page.is_full() {
                return Ok(page.end(true));
            }
            if let Some(prefix) = group(keys, &key) {
                position = Position::Behind(prefix.to_owned());
                page.entries.push(KeyEntry::Prefix(prefix.to_owned()));
                continue;
            }
            if let DirentBody::File(state) = &dirent.body
                && page.add(&*snapshot, &key, dirent.node, state, u64::MAX).await?
            {
                return Ok(page.end(true));
            }
            position = Position::After(key);
        }
    }
}

/// The number below which the versions of an object are that come behind `version`.
fn below(node: NodeId, state: &FileState, version: VersionId) -> u64 {
    match version {
        VersionId::Revision(_, number) => number,
        VersionId::Null if state.version_id(node) == VersionId::Null => state.revision,
        VersionId::Null => state.mark().null.unwrap_or(0),
    }
}

/// A page of versions.
struct Versions {
    space: SpaceId,
    entries: Vec<KeyEntry>,
    limit: usize,
}

impl Versions {
    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    fn end(self, truncated: bool) -> KeyPage {
        KeyPage { entries: self.entries, truncated }
    }

    fn push(&mut self, key: &str, node: NodeId, state: &FileState, latest: bool) {
        let object = object_entry(key.to_owned(), node, state, latest);
        self.entries.push(KeyEntry::Object(Box::new(object)));
    }

    /// Adds the versions of an object with numbers below `below`; answers whether not all fit.
    async fn add(
        &mut self,
        snapshot: &dyn Snapshot,
        key: &str,
        node: NodeId,
        state: &FileState,
        below: u64,
    ) -> Result<bool> {
        if state.revision < below {
            if self.is_full() {
                return Ok(true);
            }
            self.push(key, node, state, true);
        }
        if state.older == 0 {
            return Ok(false);
        }
        let start = schema::revisions_prefix(self.space, node);
        let end = schema::revision_key(self.space, node, below.min(state.revision));
        let room = self.limit - self.entries.len();
        let older = snapshot.scan_back(&start, &end, room + 1).await?;
        for (record_key, record) in older.iter().take(room) {
            self.push(key, node, &schema::decode(record_key, &record.value)?, false);
        }
        Ok(older.len() > room)
    }
}

enum Keys {
    Flat(FlatKeys),
    Tree(TreeKeys),
}

impl Keys {
    /// The first key behind `position`.
    async fn next(
        &mut self,
        snapshot: &dyn Snapshot,
        position: &Position,
    ) -> Result<Option<(String, Dirent)>> {
        match self {
            Self::Flat(keys) => keys.next(snapshot, position).await,
            Self::Tree(keys) => Box::pin(keys.next(snapshot, position)).await,
        }
    }
}

/// The keys of a bucket: one range of records.
struct FlatKeys {
    /// Of the records of all keys.
    space: Bytes,
    /// Of those with the prefix.
    prefix: Bytes,
    page: std::vec::IntoIter<(Bytes, larder_meta::Record)>,
    /// The last key that was read, and whether there may be more behind it.
    read: Option<Bytes>,
    ended: bool,
    limit: usize,
}

/// Records read at once where common prefixes may make most of them useless.
pub(super) const PAGE_WITH_DELIMITER: usize = 32;

impl FlatKeys {
    /// Of the records that begin with `all`, which keys follow.
    fn new(all: Bytes, listing: &KeyListing) -> Self {
        let prefix = [&all[..], listing.prefix.as_bytes()].concat().into();
        let limit = match &listing.delimiter {
            Some(_) => PAGE_WITH_DELIMITER,
            None => listing.limit.min(PAGE_ENTRIES_MAX) + 1,
        };
        let page = Vec::new().into_iter();
        Self { space: all, prefix, page, read: None, ended: false, limit }
    }

    async fn next(
        &mut self,
        snapshot: &dyn Snapshot,
        position: &Position,
    ) -> Result<Option<(String, Dirent)>> {
        loop {
            for (key, record) in self.page.by_ref() {
                let name = key.get(self.space.len()..).unwrap_or_default();
                if position.is_before(name) {
                    let name = schema::dirent_name(&key)?.as_str().to_owned();
                    return Ok(Some((name, schema::decode(&key, &record.value)?)));
                }
            }
            if self.ended {
                return Ok(None);
            }
            let after = self.seek(position);
            let page = txn::page(snapshot, &self.prefix, after.as_deref(), self.limit).await?;
            self.ended = page.len() < self.limit;
            self.read = page.last().map(|(key, _)| key.clone());
            self.page = page.into_iter();
        }
    }

    /// The record behind which to read on.
    fn seek(&self, position: &Position) -> Option<Bytes> {
        let wanted: Option<Bytes> = match position {
            Position::Start => None,
            Position::After(key) => Some([&self.space[..], key.as_bytes()].concat().into()),
            // No text has this byte, so it comes behind all that begin with the prefix.
            Position::Behind(prefix) => {
                Some([&self.space[..], prefix.as_bytes(), &[0xff]].concat().into())
            }
        };
        // Bytes before the first key of the prefix are none to read behind.
        wanted.max(self.read.clone()).filter(|after| *after >= self.prefix)
    }
}

impl Position {
    /// Whether it is before this key.
    pub(super) fn is_before(&self, key: &[u8]) -> bool {
        match self {
            Self::Start => true,
            Self::After(after) => key > after.as_bytes(),
            Self::Behind(prefix) => key > prefix.as_bytes() && !key.starts_with(prefix.as_bytes()),
        }
    }
}
