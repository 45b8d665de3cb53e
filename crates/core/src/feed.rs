//! The change feed of a space: what happened to its tree, in the order of commits.
//!
//! Promises: I-FEED-1 a change is in the feed exactly if its commit is: they are one transaction;
//! I-FEED-2 who reads on from the cursor that they were given is told every change once and in
//! order, whoever writes meanwhile, over restarts and crashes; I-FEED-3 where that is not
//! possible any more, because the changes after a cursor are kept no longer or the cursor is of
//! another history, the answer is `Gone`, never a hole.
//!
//! A position is the number of a commit and an index in it. A snapshot sees all commits up to its
//! number and none after it, so a feed that has been read to the end of a snapshot has been read
//! up to that number. Waiting is in memory: a commit that changed a feed wakes all who wait for
//! it, by stripes of spaces; without waiters that is one atomic read.
//!
//! Not here: what the operations report (they do, with [`Txn::change`]), removing old changes
//! (`job::feed`).

use std::{
    collections::BTreeMap,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use larder_base::{
    ErrorKind, Timestamp,
    id::{NodeId, SpaceId},
    limits::PAGE_ENTRIES_MAX,
    name::TreePath,
};
use larder_meta::{Append, Revision, Snapshot, spec::append_position};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{EntryKind, SpaceRef},
    error::{Error, Result},
    locked,
    schema::{self, ChangeRecord, Dirent, DirentBody, FeedBase},
    txn::{self, Txn},
};

/// The cursor that stands for the end of the feed at the moment of the request.
pub const CURSOR_NOW: &str = "now";

/// Spaces share the wake-ups of a stripe; one for each bit of a word.
const STRIPES: usize = u64::BITS as usize;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// A file, directory or reference was made. A directory may have been made with what is in
    /// it, as a copy: list it.
    Created,
    /// A file has a new content.
    Updated,
    /// An entry has another place, and with a directory all that is in it.
    Moved,
    /// An entry is gone from the tree, and with a directory all that was in it.
    Deleted,
    /// An entry is back from the trash, and with a directory all that is in it: list it.
    Restored,
    /// An older revision of a file is gone; the file is as it was.
    RevisionDeleted,
}

impl ChangeKind {
    /// Its name in every protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Moved => "moved",
            Self::Deleted => "deleted",
            Self::Restored => "restored",
            Self::RevisionDeleted => "revision_deleted",
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One change of a space's tree.
#[derive(Clone, Debug)]
pub struct Change {
    /// Reading on from here gives what came after this change.
    pub cursor: String,
    /// What happened.
    pub kind: ChangeKind,
    /// The node that it happened to.
    pub node: NodeId,
    /// What that is.
    pub entry: EntryKind,
    /// Its path from the root of the space, without a leading slash, when it happened.
    pub path: String,
    /// The path that a moved entry had before.
    pub from: Option<String>,
    /// The revision of a file that is current afterwards; `None` for all but files.
    pub revision: Option<u64>,
    /// Name of the user who did it; empty if it was nobody's doing.
    pub author: Arc<str>,
    /// When, by this server's clock. Clocks may go back; the order of the feed does not.
    pub at: Timestamp,
}

/// Some changes, in the order in which they happened.
#[derive(Clone, Debug)]
pub struct ChangePage {
    /// The changes.
    pub changes: Vec<Change>,
    /// Reading on from here gives what comes after them. Always another page can be asked for:
    /// an empty one means that nothing has happened since.
    pub cursor: String,
}

/// A place in a feed: everything up to and including it has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) revision: u64,
    pub(crate) index: u16,
}

impl Position {
    const START: Self = Self { revision: 0, index: 0 };

    /// After everything that commits up to this one have done.
    fn after(revision: Revision) -> Self {
        Self { revision: revision.0, index: u16::MAX }
    }

    /// The position in the key of a change.
    pub(crate) fn of_key(key: &[u8]) -> Result<Self> {
        let (revision, index) = append_position(key)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "key without a position"))?;
        Ok(Self { revision: revision.0, index })
    }

    /// As users see it: `tag` says which feed it belongs to.
    fn text(self, tag: u32) -> String {
        format!("{tag:08x}{:016x}{:04x}", self.revision, self.index)
    }

    /// The tag and the position of a cursor.
    fn parse(text: &str) -> Option<(u32, Self)> {
        if text.len() != 28 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let tag = u32::from_str_radix(text.get(..8)?, 16).ok()?;
        let revision = u64::from_str_radix(text.get(8..24)?, 16).ok()?;
        let index = u16::from_str_radix(text.get(24..)?, 16).ok()?;
        Some((tag, Self { revision, index }))
    }
}

/// Who waits for feeds, and what the job that trims them remembers.
#[derive(Debug)]
pub(crate) struct Feeds {
    waiters: [Notify; STRIPES],
    trimming: Mutex<Trimming>,
}

/// What the job that trims feeds remembers.
#[derive(Debug, Default)]
pub(crate) struct Trimming {
    /// When it looks again, by the monotonic clock.
    pub(crate) due: Duration,
    /// How many changes of a space there are up to a position.
    pub(crate) counted: BTreeMap<SpaceId, (Position, u64)>,
}

impl Default for Feeds {
    fn default() -> Self {
        Self { waiters: std::array::from_fn(|_| Notify::new()), trimming: Mutex::default() }
    }
}

impl Feeds {
    fn stripe(id: u8) -> usize {
        usize::from(id) % STRIPES
    }

    fn of(&self, space: SpaceId) -> &Notify {
        let [.., last] = *space.as_bytes();
        &self.waiters[Self::stripe(last)]
    }

    /// The stripes whose feeds a transaction changes.
    pub(crate) fn touched(appends: &[Append]) -> u64 {
        let feeds = appends.iter().filter(|append| schema::is_changes_prefix(&append.prefix));
        feeds
            .filter_map(|append| append.prefix.last())
            .fold(0, |all, id| all | 1 << Self::stripe(*id))
    }

    /// Wakes who waits for feeds of these stripes.
    pub(crate) fn wake(&self, mut stripes: u64) {
        while stripes != 0 {
            self.waiters[stripes.trailing_zeros() as usize].notify_waiters();
            stripes &= stripes - 1;
        }
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        self.wake(u64::MAX);
    }

    pub(crate) fn trimming(&self) -> MutexGuard<'_, Trimming> {
        locked(&self.trimming)
    }
}

/// What an operation reports.
pub(crate) struct Happened {
    pub(crate) kind: ChangeKind,
    pub(crate) node: NodeId,
    pub(crate) entry: EntryKind,
    /// From the root of the space.
    pub(crate) path: String,
    pub(crate) from: Option<String>,
    /// Of a file.
    pub(crate) revision: Option<u64>,
}

impl Happened {
    /// Of an entry at `path`, from the root of the space.
    pub(crate) fn to(dirent: &Dirent, kind: ChangeKind, path: &TreePath) -> Self {
        let revision = match &dirent.body {
            DirentBody::File(state) => Some(state.revision),
            DirentBody::Dir | DirentBody::Ref(_) => None,
        };
        let (node, entry, path) = (dirent.node, dirent.kind(), path.to_string());
        Self { kind, node, entry, path, from: None, revision }
    }
}

impl Txn {
    /// Reports a change of a tree with the commit that makes it. Its author is who the
    /// transaction was entered by.
    pub(crate) fn change(&mut self, space: SpaceId, happened: Happened) {
        let Happened { kind, node, entry, path, from, revision } = happened;
        let author = self.author.clone().unwrap_or_default();
        let record = ChangeRecord { kind, node, entry, path, from, revision, author, at: self.now };
        let prefix = schema::changes_prefix(space);
        self.spec.append.push(Append { prefix, value: schema::encode(&record) });
    }
}

impl Larder {
    /// Changes of a space after `cursor`, at most `limit`. Without a cursor, from the beginning of
    /// what is kept; [`CURSOR_NOW`] is the end. The caller must be allowed to read all of it.
    ///
    /// Errors: `Invalid` for what is no cursor; `Gone` if not everything since the cursor can be
    /// told: the space must be listed anew, from a cursor that was taken before.
    pub async fn changes(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<ChangePage> {
        self.changes_within(caller, space, cursor, limit, Duration::ZERO).await
    }

    /// As [`Larder::changes`]; if there are none, waits up to `wait` for the first. Whether the
    /// caller may be told them, and still is who they were, is decided after the wait.
    ///
    /// Cancel-safe: cursors are the client's, so nothing is lost with an answer.
    pub async fn changes_within(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        cursor: Option<&str>,
        limit: usize,
        wait: Duration,
    ) -> Result<ChangePage> {
        let id = self.locate_space(caller, space).await?;
        let tag = self.feed_tag(id);
        let mut from = match cursor {
            None => Begin::Oldest,
            Some(CURSOR_NOW) => Begin::Now,
            Some(text) => match Position::parse(text) {
                Some((of, position)) if of == tag => Begin::Position(position),
                Some(_) => return Err(gone("the cursor is of another feed")),
                None => return Err(Error::invalid("the cursor is not one that a feed gave")),
            },
        };
        let env = &self.inner.env;
        let until = env.monotonic().saturating_add(wait);
        loop {
            // Before the snapshot, so that no commit after it is missed.
            let mut changed = pin!(self.inner.feeds.of(id).notified());
            changed.as_mut().enable();
            let (changes, reached) = self.read_changes(caller, id, from, limit).await?;
            let left = until.saturating_sub(env.monotonic());
            if !changes.is_empty() || left.is_zero() || self.inner.stopping() {
                return Ok(ChangePage { changes, cursor: reached.text(tag) });
            }
            from = Begin::Position(reached);
            tokio::select! {
                () = changed => {}
                () = env.sleep(left) => {}
            }
        }
    }

    /// One page, and up to where everything has been told with it.
    async fn read_changes(
        &self,
        caller: &Caller,
        id: SpaceId,
        from: Begin,
        limit: usize,
    ) -> Result<(Vec<Change>, Position)> {
        let snapshot = self.inner.meta.snapshot().await?;
        check_login(&*snapshot, caller).await?;
        self.read_space(&*snapshot, caller, id, Right::Read).await?;
        let end = Position::after(snapshot.revision());
        let base = txn::get::<FeedBase>(&*snapshot, &schema::feed_base_key(id)).await?;
        let base = base.map_or(Position::START, |base| base.value.removed);
        let start = match from {
            Begin::Now => return Ok((Vec::new(), end)),
            Begin::Oldest => base,
            Begin::Position(position) if position < base => {
                return Err(gone("the changes since the cursor are kept no longer"));
            }
            // What a backup brought back has not happened yet.
            Begin::Position(position) if position > end => {
                return Err(gone("the cursor is of another history of the space"));
            }
            Begin::Position(position) => position,
        };
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let after = schema::change_key(id, start);
        let prefix = schema::changes_prefix(id);
        let records = txn::page(&*snapshot, &prefix, Some(&after), limit).await?;
        let tag = self.feed_tag(id);
        let mut changes = Vec::with_capacity(records.len());
        let mut reached = end;
        for (key, record) in &records {
            let position = Position::of_key(key)?;
            let ChangeRecord { kind, node, entry, path, from, revision, author, at } =
                schema::decode(key, &record.value)?;
            let cursor = position.text(tag);
            changes.push(Change { cursor, kind, node, entry, path, from, revision, author, at });
            if changes.len() == limit {
                reached = position;
            }
        }
        Ok((changes, reached))
    }

    /// What marks the cursors of this installation's feed of a space.
    fn feed_tag(&self, space: SpaceId) -> u32 {
        let tail = |bytes: &[u8; 16]| {
            let [.., a, b, c, d] = *bytes;
            u32::from_be_bytes([a, b, c, d])
        };
        tail(space.as_bytes()) ^ tail(self.inner.instance.as_bytes())
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    Oldest,
    Now,
    Position(Position),
}

/// Whether the caller's account, and the key or link that they came with, are as they were when
/// they logged in: whoever waits must not be told what they may not know any more.
async fn check_login(snapshot: &dyn Snapshot, caller: &Caller) -> Result<()> {
    let mut keys = vec![schema::user_key(caller.user)];
    let mut versions = vec![caller.record];
    if let Some((key, version)) = &caller.credential {
        keys.push(key.clone());
        versions.push(*version);
    }
    let records = snapshot.get_many(&keys).await?;
    let same = records
        .iter()
        .zip(&versions)
        .all(|(record, version)| record.as_ref().is_some_and(|record| record.version == *version));
    if same {
        return Ok(());
    }
    let detail = "the account, key or link changed while the request ran: log in again";
    Err(Error::new(ErrorKind::Unauthenticated, detail))
}

fn gone(why: &'static str) -> Error {
    let detail = format!("{why}: list the space anew, from a cursor taken before");
    Error::new(ErrorKind::Gone, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_sort_as_positions_do() {
        let positions = [(0, 0), (1, 0), (1, 1), (1, u16::MAX), (2, 0), (u64::MAX, 7)]
            .map(|(revision, index)| Position { revision, index });
        assert!(positions.is_sorted());
        for position in positions {
            assert_eq!(Position::parse(&position.text(9)), Some((9, position)));
        }
        for text in ["", "now", "0", &"g".repeat(28), &"0".repeat(27), &"0".repeat(29)] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_commit_wakes_the_stripes_of_its_feeds_only() {
        let append = |prefix: Vec<u8>| Append { prefix: prefix.into(), value: "".into() };
        let feed = |last: u8| append([&b"cf"[..], &[0; 15], &[last]].concat());
        assert_eq!(Feeds::touched(&[]), 0);
        assert_eq!(Feeds::touched(&[feed(3), feed(67), feed(64)]), 0b1001);
        assert_eq!(Feeds::touched(&[append(b"other".to_vec())]), 0);
    }
}
