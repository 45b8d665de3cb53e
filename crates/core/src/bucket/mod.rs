//! Buckets and their objects, as S3 clients use them.
//!
//! A bucket is a space of its own kind: flat, its keys byte-exact, so that `a`, `a/` and `a/b`
//! are unrelated. The other spaces are reachable by keys too; there a key is a path, and the
//! rules of trees hold.
//!
//! Not here: the S3 protocol (the door), other spaces and what all of them share (`space`).

use larder_base::{
    ErrorKind,
    id::SpaceId,
    limits::PAGE_ENTRIES_MAX,
    name::{EntryName, TreePath},
};

use crate::{
    Larder,
    access::{Right, check_scope},
    caller::{Access, Caller},
    entry::{ListOptions, NewSpace, PolicyChange, SpaceInfo, SpaceKind, SpaceLimits, SpaceRef},
    error::{Error, Result},
    object::Bucket,
    schema::{self, STAT_FILES, Space},
    space::{check_name, name_taken},
    trash::hold_stat,
    txn::{self, transact},
};

mod access;
mod content;
pub(crate) mod lifecycle;
mod list;
mod multipart;
mod public;
mod versions;
mod walk;

pub use public::is_network;

/// Most buckets of one user; ten times what S3 gives to who does not ask for more.
const BUCKETS_MAX: usize = 1000;

impl Larder {
    /// The bucket, or tree that is reachable as one, of this name.
    ///
    /// Errors: `NotFound` if there is none that the caller may know of.
    pub async fn bucket(&self, caller: &Caller, name: &str) -> Result<Bucket> {
        let id = self.locate_space(caller, &SpaceRef::Name(name.to_owned())).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, id, Right::Read).await?;
        Ok(bucket(id, &room))
    }

    /// All that the caller may see, in order of names.
    pub async fn buckets(&self, caller: &Caller) -> Result<Vec<Bucket>> {
        let mut buckets = Vec::new();
        let mut options = ListOptions { limit: PAGE_ENTRIES_MAX, ..ListOptions::default() };
        loop {
            let page = self.spaces(caller, &options).await?;
            buckets.extend(page.entries.into_iter().map(Bucket::from));
            options.cursor = page.cursor;
            if options.cursor.is_none() {
                buckets.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(buckets);
            }
        }
    }

    /// Makes a bucket of the caller's own. The credential must open all spaces, and changes.
    ///
    /// Errors: `AlreadyExists` naming the space that has the name; `Invalid` for a name that no
    /// bucket can have; `RateLimited` if the caller has too many.
    pub async fn create_bucket(&self, caller: &Caller, name: &str) -> Result<Bucket> {
        if caller.scope.access < Access::Write || caller.scope.spaces.is_some() {
            let detail = "this key or link opens only what is there already";
            return Err(Error::new(ErrorKind::Denied, detail));
        }
        check_name(name)?;
        self.may_have_more(caller).await?;
        let id = SpaceId::new(&self.inner.env);
        let new = NewSpace {
            name: name.to_owned(),
            kind: SpaceKind::Bucket,
            limits: SpaceLimits::default(),
            policy: PolicyChange::default(),
        };
        transact!(self, id, |txn| {
            caller.hold(&mut txn);
            if let Some(other) = txn.get::<SpaceId>(&schema::space_name_key(name)).await? {
                return Err(name_taken(other.value));
            }
            self.put_space(&mut txn, caller, id, new.clone());
        });
        // Committed: what fails now must not be told as if nothing had happened.
        self.bucket(caller, name).await.map_err(Error::of_unknown_outcome)
    }

    async fn may_have_more(&self, caller: &Caller) -> Result<()> {
        let mut pages = txn::Pages::of(schema::spaces_prefix(), PAGE_ENTRIES_MAX);
        let mut own = 0;
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let space: Space = schema::decode(key, &record.value)?;
                own += usize::from(space.owner == caller.user);
            }
        }
        if own >= BUCKETS_MAX {
            let detail = format!("a user has at most {BUCKETS_MAX} buckets: delete some first");
            return Err(Error::new(ErrorKind::RateLimited, detail));
        }
        Ok(())
    }

    /// Removes a bucket in which there is nothing; unfinished uploads to it end.
    ///
    /// Errors: `NotEmpty`; `Denied` for those who do not manage it; `Conflict` for a tree.
    pub async fn delete_bucket(&self, caller: &Caller, bucket: &Bucket) -> Result<()> {
        let id = bucket.id;
        check_scope(caller, id, Right::Write)?;
        transact!(self, id, |txn| {
            let space = self.enter_space(&mut txn, caller, id, Right::Write).await?;
            if space.kind != SpaceKind::Bucket {
                let detail = "this is no bucket but a tree: it is removed as a space";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            if space.owner != caller.user {
                self.enter_space(&mut txn, caller, id, Right::Manage).await?;
            }
            let stat = hold_stat(&mut txn, id, space.root).await?;
            let any = schema::dirents_prefix(id, space.root);
            let any = txn::page(&*txn.snapshot, &any, None, 1).await?;
            if stat[STAT_FILES] != 0 || !any.is_empty() {
                return Err(Error::new(ErrorKind::NotEmpty, "the bucket is not empty"));
            }
            self.condemn_space(&mut txn, id, space);
        });
        self.wake_jobs();
        Ok(())
    }
}

/// The path of a key: in a tree the path that it spells, in exactly that way.
fn path_of(bucket: &Bucket, key: &str) -> Result<TreePath> {
    if bucket.kind == SpaceKind::Bucket {
        return Ok(TreePath::of_entry(vec![EntryName::key(key)?]));
    }
    let path = TreePath::parse(key)?;
    if path.to_string() != key {
        let detail = "in a tree a key is a path: names in NFC with one slash between them";
        return Err(Error::invalid(detail));
    }
    Ok(path)
}

/// What a key that names no object is answered.
fn no_object() -> Error {
    Error::not_found("object")
}

fn bucket(id: SpaceId, space: &Space) -> Bucket {
    let Space { name, kind, owner, created, .. } = space;
    Bucket {
        id,
        name: name.clone(),
        kind: *kind,
        owner: *owner,
        created: *created,
        versioning: space.versioning(),
        lock: space.bucket.and_then(|rules| rules.lock),
    }
}

impl From<SpaceInfo> for Bucket {
    fn from(space: SpaceInfo) -> Self {
        let SpaceInfo { id, name, kind, owner, created, versioning, lock, .. } = space;
        Self { id, name, kind, owner, created, versioning, lock }
    }
}
