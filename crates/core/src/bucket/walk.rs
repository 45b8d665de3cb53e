//! The keys of a tree, in the order that S3 has for them.
//!
//! A key is the path of a file. Keys are ordered by their bytes, and `/` is one of them: `a-b`
//! comes before `a/c`, although the directory `a` is found before the file `a-b`. So a directory
//! that was found waits until its first key could be next.
//!
//! Memory: one page of entries for each directory from the root to where the listing is.
//!
//! Not here: what is made of them (`bucket::list`).

use larder_base::{
    id::{NodeId, SpaceId},
    limits::PATH_DEPTH_MAX,
    name::EntryName,
};
use larder_meta::Snapshot;

use super::list::Position;
use crate::{
    error::Result,
    schema::{self, Dirent, DirentBody},
    txn,
};

/// Entries read at once.
const PAGE: usize = 128;

/// Walks a tree key by key.
pub(super) struct TreeKeys {
    space: SpaceId,
    root: NodeId,
    prefix: String,
    levels: Vec<Level>,
    begun: bool,
}

/// A directory that is being walked.
struct Level {
    dir: NodeId,
    /// Its path with a slash behind it; empty for the root.
    path: String,
    /// Where its entries are read on.
    after: Option<bytes::Bytes>,
    page: std::vec::IntoIter<(EntryName, Dirent)>,
    ended: bool,
    /// The entry that was read last and has not had its turn.
    peeked: Option<(EntryName, Dirent)>,
    /// Directories that wait for their turn, the next one last.
    waiting: Vec<(String, NodeId)>,
}

impl Level {
    /// Opens a directory for the keys from `bound` on, or all if that is elsewhere.
    ///
    /// Entries before the next name in `bound` have no such keys, but for directories whose name
    /// that one begins with: `a` has `a/x`, which comes behind `a-b`.
    async fn open(
        snapshot: &dyn Snapshot,
        space: SpaceId,
        dir: NodeId,
        path: String,
        bound: &str,
    ) -> Result<Self> {
        let mut level = Self {
            dir,
            path,
            after: None,
            page: Vec::new().into_iter(),
            ended: false,
            peeked: None,
            waiting: Vec::new(),
        };
        let Some(rest) = bound.strip_prefix(level.path.as_str()) else { return Ok(level) };
        let name = rest.split('/').next().unwrap_or_default();
        let all = schema::entries_prefix(space, dir);
        let key_of = |name: &str| [&all[..], name.as_bytes()].concat();
        for (at, _) in name.char_indices().skip(1).filter(|(_, next)| *next < '/') {
            let Some(shorter) = name.get(..at) else { continue };
            if let Some(dirent) = txn::get::<Dirent>(snapshot, &key_of(shorter)).await?
                && matches!(dirent.value.body, DirentBody::Dir)
            {
                level.wait(format!("{}{shorter}/", level.path), dirent.value.node);
            }
        }
        if !name.is_empty() {
            let key = key_of(name);
            if let Some(dirent) = txn::get::<Dirent>(snapshot, &key).await? {
                level.peeked = Some((schema::dirent_name(&key)?, dirent.value));
            }
            level.after = Some(key.into());
        }
        Ok(level)
    }

    /// Puts a directory among those that wait, in order of keys.
    fn wait(&mut self, path: String, dir: NodeId) {
        let at = self.waiting.partition_point(|(other, _)| *other > path);
        self.waiting.insert(at, (path, dir));
    }
}

/// What a level has next.
enum Step {
    File(String, Dirent),
    Directory(String, NodeId),
}

impl TreeKeys {
    pub(super) fn new(space: SpaceId, root: NodeId, prefix: &str) -> Self {
        Self { space, root, prefix: prefix.to_owned(), levels: Vec::new(), begun: false }
    }

    /// The first key behind `position`, which never goes back.
    pub(super) async fn next(
        &mut self,
        snapshot: &dyn Snapshot,
        position: &Position,
    ) -> Result<Option<(String, Dirent)>> {
        let bound = match position {
            Position::Start => self.prefix.as_str(),
            Position::After(key) | Position::Behind(key) => self.prefix.as_str().max(key),
        };
        if !self.begun {
            self.begun = true;
            let root = Level::open(snapshot, self.space, self.root, String::new(), bound);
            self.levels.push(root.await?);
        }
        while let Some(level) = self.levels.last_mut() {
            let wanted = |key: &str, whole: bool| {
                // Of a directory any key below it will do.
                let fits = if whole {
                    key.starts_with(&self.prefix)
                } else {
                    key.starts_with(&self.prefix) || self.prefix.starts_with(key)
                };
                fits && may_have(position, key, whole)
            };
            match level.step(snapshot, self.space).await? {
                None => {
                    self.levels.pop();
                }
                Some(Step::File(key, dirent)) => {
                    if wanted(&key, true) {
                        return Ok(Some((key, dirent)));
                    }
                    if key > self.prefix && !key.starts_with(&self.prefix) {
                        // All that follows here is behind the prefix.
                        self.levels.pop();
                    }
                }
                Some(Step::Directory(path, dir)) => {
                    if wanted(&path, false) && self.levels.len() <= PATH_DEPTH_MAX {
                        let level = Level::open(snapshot, self.space, dir, path, bound);
                        self.levels.push(level.await?);
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Whether a key, or one below the directory of this path, may be behind `position`.
fn may_have(position: &Position, key: &str, whole: bool) -> bool {
    if whole || position.is_before(key.as_bytes()) {
        return position.is_before(key.as_bytes());
    }
    match position {
        Position::Start => true,
        Position::After(after) => after.starts_with(key),
        Position::Behind(prefix) => prefix.starts_with(key) && prefix != key,
    }
}

impl Level {
    async fn step(&mut self, snapshot: &dyn Snapshot, space: SpaceId) -> Result<Option<Step>> {
        loop {
            if self.peeked.is_none() {
                self.peeked = self.read(snapshot, space).await?;
            }
            let waits = self.waiting.last().map(|(path, _)| path.clone());
            let Some((name, dirent)) = &self.peeked else {
                return Ok(self.waiting.pop().map(|(path, dir)| Step::Directory(path, dir)));
            };
            let is_dir = matches!(dirent.body, DirentBody::Dir);
            let slash = if is_dir { "/" } else { "" };
            let key = format!("{}{name}{slash}", self.path);
            if waits.is_some_and(|path| path < key) {
                return Ok(self.waiting.pop().map(|(path, dir)| Step::Directory(path, dir)));
            }
            let Some((_, dirent)) = self.peeked.take() else { return Ok(None) };
            match dirent.body {
                DirentBody::Dir => {
                    self.wait(key, dirent.node);
                }
                DirentBody::File(_) => return Ok(Some(Step::File(key, dirent))),
                // What a reference stands for is listed where it is.
                DirentBody::Ref(_) => {}
            }
        }
    }

    async fn read(
        &mut self,
        snapshot: &dyn Snapshot,
        space: SpaceId,
    ) -> Result<Option<(EntryName, Dirent)>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            if self.ended {
                return Ok(None);
            }
            let prefix = schema::entries_prefix(space, self.dir);
            let records = txn::page(snapshot, &prefix, self.after.as_deref(), PAGE).await?;
            self.ended = records.len() < PAGE;
            self.after = records.last().map(|(key, _)| key.clone());
            let entries = records.iter().map(|(key, record)| {
                Ok((schema::dirent_name(key)?, schema::decode(key, &record.value)?))
            });
            self.page = entries.collect::<Result<Vec<_>>>()?.into_iter();
        }
    }
}
