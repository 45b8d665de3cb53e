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
};
use larder_meta::Snapshot;

use super::content::object_entry;
use crate::{
    Larder,
    access::Right,
    bucket::walk::TreeKeys,
    caller::Caller,
    entry::SpaceKind,
    error::Result,
    object::{Bucket, KeyEntry, KeyListing, KeyPage},
    schema::{self, Dirent, DirentBody},
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
            SpaceKind::Bucket => Keys::Flat(FlatKeys::new(bucket.id, root, listing)),
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
                let object = object_entry(key.clone(), dirent.node, state);
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
fn group<'a>(listing: &KeyListing, key: &'a str) -> Option<&'a str> {
    let delimiter = listing.delimiter.as_deref().filter(|text| !text.is_empty())?;
    let rest = key.strip_prefix(listing.prefix.as_str())?;
    let at = rest.find(delimiter)?;
    key.get(..listing.prefix.len() + at + delimiter.len())
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
const PAGE_WITH_DELIMITER: usize = 32;

impl FlatKeys {
    fn new(space: SpaceId, root: NodeId, listing: &KeyListing) -> Self {
        let all = schema::keys_prefix(space, root);
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
