//! Listing directories in pages, in byte order of names, each page from one snapshot.
//!
//! Promises: a name that exists throughout a paged listing appears exactly once, whatever else
//! is created, renamed or deleted meanwhile (hazard N20): a cursor is the last name given, not a
//! position. A recursive listing is depth-first; its cursor is the last path given.
//! Memory: one page, and one open directory per level.
//!
//! Not here: stat of one entry (`lookup`).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use larder_base::{
    id::{NodeId, SpaceId},
    limits::PATH_DEPTH_MAX,
    name::{EntryName, TreePath},
};
use larder_meta::Snapshot;

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{Entry, EntryKind, ListOptions, Page, SpaceRef},
    error::{Error, Result},
    schema::{self, Dirent, DirentBody},
    tree::lookup::{self, through},
    txn,
    work::Class,
};

impl Larder {
    /// One page of the entries of a directory.
    ///
    /// Errors: `NotFound`, `WrongType` for a file, `Invalid` for a cursor that is none.
    pub async fn list(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        options: &ListOptions,
    ) -> Result<Page<Entry>> {
        let _turn = match options.recursive {
            true => Some(self.admit(caller, Class::List).await?),
            false => None,
        };
        through!(|space, path| self.list_at(caller, space, path, options))
    }

    async fn list_at(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        options: &ListOptions,
    ) -> Result<Page<Entry>> {
        let at = self.locate(caller, space).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, at, Right::Read).await?;
        let chain = lookup::resolve_dir(&*snapshot, &room, path.names()).await?;
        let base = &chain.shown_path(&[]);
        let limit = options.page_limit();
        let after = match &options.cursor {
            Some(cursor) => read_cursor(cursor)?.names().to_vec(),
            None => Vec::new(),
        };
        let listing = Listing { snapshot: &*snapshot, space: room.id, base };
        let mut entries = if options.recursive {
            listing.walk(chain.dir(), &after, limit).await?
        } else {
            listing.flat(chain.dir(), after.last(), limit).await?
        };
        for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Ref) {
            *entry = self.with_target(&*snapshot, caller, entry.clone()).await?;
        }
        let full = entries.len() == limit;
        let cursor = entries.last().filter(|_| full).map(|last| {
            let below = last.path.names().get(base.names().len()..).unwrap_or_default();
            write_cursor(below)
        });
        Ok(Page { entries, cursor })
    }
}

/// A cursor: the names below the listed directory, so that it means the same on every gateway.
fn write_cursor(names: &[EntryName]) -> String {
    let path: Vec<&str> = names.iter().map(EntryName::as_str).collect();
    URL_SAFE_NO_PAD.encode(path.join("/"))
}

fn read_cursor(text: &str) -> Result<TreePath> {
    let invalid = || Error::invalid("the cursor is not one that a page gave");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
    let path = String::from_utf8(bytes).map_err(|_| invalid())?;
    let names = path.split('/').take(PATH_DEPTH_MAX).map(EntryName::new);
    Ok(TreePath::of_entry(names.collect::<Result<_, _>>().map_err(|_| invalid())?))
}

struct Listing<'a> {
    snapshot: &'a dyn Snapshot,
    space: SpaceId,
    base: &'a TreePath,
}

/// An open directory of a recursive listing.
struct Level {
    dir: NodeId,
    names: Vec<EntryName>,
    after: Option<Bytes>,
    waiting: std::vec::IntoIter<(EntryName, Dirent)>,
    ended: bool,
}

/// Entries read at once per level of a recursive listing.
const LEVEL_ENTRIES: usize = 128;

impl Listing<'_> {
    /// Reads entries of `dir` after the key `after`.
    async fn read(
        &self,
        dir: NodeId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(EntryName, Dirent)>> {
        let prefix = schema::entries_prefix(self.space, dir);
        let records = txn::page(self.snapshot, &prefix, after, limit).await?;
        records
            .iter()
            .map(|(key, record)| {
                Ok((schema::dirent_name(key)?, schema::decode(key, &record.value)?))
            })
            .collect()
    }

    async fn flat(
        &self,
        dir: NodeId,
        after: Option<&EntryName>,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        let after = after.map(|name| schema::dirent_key(self.space, dir, name));
        let read = self.read(dir, after.as_deref(), limit).await?;
        let entries = read.into_iter().map(|(name, dirent)| {
            (TreePath::of_entry([self.base.names(), &[name]].concat()), dirent)
        });
        self.entries(entries.collect()).await
    }

    /// Entries below `dir` in depth-first order after the path `after`.
    async fn walk(&self, dir: NodeId, after: &[EntryName], limit: usize) -> Result<Vec<Entry>> {
        let mut levels = self.reopen(dir, after).await?;
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(level) = levels.last_mut() else { break };
            let Some((name, dirent)) = level.waiting.next() else {
                if level.ended {
                    levels.pop();
                } else {
                    self.refill(level).await?;
                }
                continue;
            };
            let mut names = level.names.clone();
            names.push(name);
            if dirent.kind() == EntryKind::Dir {
                levels.push(Level::new(dirent.node, names.clone(), None));
            }
            let whole = [self.base.names(), &names].concat();
            found.push((TreePath::of_entry(whole), dirent));
        }
        self.entries(found).await
    }

    /// The open directories of a listing that has got as far as `after`. If a directory on it is
    /// gone, the listing goes on with what follows its name.
    async fn reopen(&self, dir: NodeId, after: &[EntryName]) -> Result<Vec<Level>> {
        let mut levels = Vec::new();
        let mut node = dir;
        let mut names = Vec::new();
        for name in after {
            let key = schema::dirent_key(self.space, node, name);
            let dirent = txn::get::<Dirent>(self.snapshot, &key).await?;
            levels.push(Level::new(node, names.clone(), Some(key)));
            names.push(name.clone());
            match dirent {
                Some(dirent) if dirent.value.kind() == EntryKind::Dir => node = dirent.value.node,
                _ => return Ok(levels),
            }
        }
        levels.push(Level::new(node, names, None));
        Ok(levels)
    }

    async fn refill(&self, level: &mut Level) -> Result<()> {
        let read = self.read(level.dir, level.after.as_deref(), LEVEL_ENTRIES).await?;
        level.ended = read.len() < LEVEL_ENTRIES;
        if let Some((name, _)) = read.last() {
            level.after = Some(schema::dirent_key(self.space, level.dir, name));
        }
        level.waiting = read.into_iter();
        Ok(())
    }

    /// Public forms; the statistics of all directories among them are read at once.
    async fn entries(&self, found: Vec<(TreePath, Dirent)>) -> Result<Vec<Entry>> {
        let keys: Vec<Bytes> = found
            .iter()
            .filter(|(_, dirent)| dirent.kind() == EntryKind::Dir)
            .map(|(_, dirent)| schema::stat_key(self.space, dirent.node))
            .collect();
        let mut stats = keys.iter().zip(self.snapshot.get_many(&keys).await?);
        let entries = found.into_iter().map(|(path, dirent)| match &dirent.body {
            DirentBody::File(state) => Ok(lookup::file_entry(self.space, path, dirent.node, state)),
            DirentBody::Ref(to) => Ok(lookup::ref_entry(self.space, path, dirent.node, to)),
            DirentBody::Dir => {
                let (key, record) =
                    stats.next().ok_or_else(|| Error::internal("fewer records than keys"))?;
                let (stat, version) = txn::decode_counters(key, record)?;
                Ok(lookup::dir_entry(self.space, path, dirent.node, &stat, version))
            }
        });
        entries.collect()
    }
}

impl Level {
    fn new(dir: NodeId, names: Vec<EntryName>, after: Option<Bytes>) -> Self {
        Self { dir, names, after, waiting: Vec::new().into_iter(), ended: false }
    }
}
