//! Making directories: exactly one winner per name (I-TREE-1), hazards N01 and N03.
//!
//! Not here: files (`upload`), homes (`space`).

use larder_base::{
    ErrorKind,
    id::{NodeId, SpaceId},
    name::{EntryName, TreePath},
};
use larder_meta::{FieldOp, Snapshot};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{Entry, SpaceKind, SpaceRef},
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    idempotency::{self, KeptEntry},
    room::Room,
    schema::{self, Authority, DirState, Dirent, DirentBody, Location, Place},
    tree::lookup::{self, Chain, through},
    txn::{Txn, transact},
};

impl Larder {
    /// Makes a directory. With `parents`, missing directories above it too, and one that is
    /// there already is fine; answers whether this call made it.
    ///
    /// Errors: `AlreadyExists` naming the node that has the name; `Conflict` for a missing
    /// parent; `WrongType` where a file stands in the path.
    pub async fn create_dir(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        parents: bool,
    ) -> Result<(Entry, bool)> {
        if let Some(before) = idempotency::entry_before()? {
            return Ok(before);
        }
        through!(|space, path| self.create_dir_at(caller, space, path, parents))
    }

    async fn create_dir_at(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        parents: bool,
    ) -> Result<(Entry, bool)> {
        let at = self.locate(caller, space).await?;
        let id = at.space;
        let ((node, shown, now), revision) = transact!(self, id, |txn| {
            let room = self.enter_room(&mut txn, caller, at.clone(), Right::Create).await?;
            match self.create_dir_once(&mut txn, &room, path, parents).await? {
                Made::New((node, shown, now)) => {
                    // The version of its statistics is that of the commit.
                    let stat = [0, 0, 0, now.millis()];
                    let entry = lookup::dir_entry(id, shown.clone(), node, &stat, None);
                    txn.outcome(&KeptEntry::of(&entry, true));
                    (node, shown, now)
                }
                Made::Existing(entry) => {
                    self.record_operation(&KeptEntry::of(&entry, false)).await?;
                    return Ok((entry, false));
                }
            }
        });
        let stat = [0, 0, 0, now.millis()];
        let version = Some(larder_meta::Version(revision.0));
        Ok((lookup::dir_entry(id, shown, node, &stat, version), true))
    }

    async fn create_dir_once(
        &self,
        txn: &mut Txn,
        room: &Room,
        path: &TreePath,
        parents: bool,
    ) -> Result<Made> {
        let snapshot = txn.snapshot.clone();
        if room.kind == SpaceKind::Bucket && !path.is_root() {
            let detail = "a bucket has no directories: its keys may have slashes as they are";
            return Err(Error::new(ErrorKind::WrongType, detail));
        }
        let Some((name, above)) = path.split_last() else {
            let chain = lookup::resolve_dir(&*snapshot, room, &[]).await?;
            let root = Dirent { node: chain.dir(), body: DirentBody::Dir };
            let shown = room.at.shown.clone();
            let entry = lookup::entry(&*snapshot, room.id, shown, &root).await?;
            return if parents { Ok(Made::Existing(entry)) } else { Err(exists(chain.dir())) };
        };
        let place = open_parent(&*snapshot, room, above, parents).await;
        let mut place = place.map_err(|error| error.below(name))?;
        place.chain.require()?;
        if place.missing.is_empty()
            && let Some(dirent) = lookup::child(&*snapshot, &place.chain, name).await?
        {
            if parents && dirent.value.kind() == crate::EntryKind::Dir {
                let shown = place.chain.join(name);
                let entry = lookup::entry(&*snapshot, room.id, shown, &dirent.value).await?;
                return Ok(Made::Existing(entry));
            }
            return Err(exists(dirent.value.node));
        }
        place.missing.push(name.clone());
        let made = self.make_missing(txn, &place).await?;
        let node = made.last().copied().unwrap_or(place.chain.dir());
        Ok(Made::New((node, place.chain.shown_path(&place.missing), txn.now)))
    }

    /// Makes the missing directories of `place`, each in the one before, and answers them.
    pub(crate) async fn make_missing(
        &self,
        txn: &mut Txn,
        place: &OpenPlace,
    ) -> Result<Vec<NodeId>> {
        if place.missing.len() > MISSING_MAX {
            let detail = format!("at most {MISSING_MAX} missing directories are made at once");
            return Err(Error::invalid(detail));
        }
        place.chain.hold(txn).await?;
        let space = place.chain.space;
        let mut parent = place.chain.dir();
        let depth = place.missing.len();
        let mut made = Vec::with_capacity(depth);
        for (i, name) in place.missing.iter().enumerate() {
            let node = NodeId::new(&self.inner.env);
            self.put_dir(txn, space, parent, name, node);
            // What is made below it counts in it; it itself counts in those above.
            let below = i64::try_from(depth - i - 1).unwrap_or(0);
            let now = txn.now.millis();
            let fields = [FieldOp::Add(0), FieldOp::Add(0), FieldOp::Add(below), FieldOp::Max(now)];
            txn.add(schema::stat_key(space, node), fields);
            lookup::raise(txn, space, node, below);
            parent = node;
            made.push(node);
            let names = place.missing.get(..=i).unwrap_or_default();
            let path = TreePath::of_entry([place.chain.path(), names].concat());
            let dirent = Dirent { node, body: DirentBody::Dir };
            txn.change(space, Happened::to(&dirent, ChangeKind::Created, &path));
        }
        if depth > 0 {
            let levels = i64::try_from(depth).unwrap_or(0);
            place.chain.add(txn, 0, 0, levels);
            place.chain.raise(txn, levels);
        }
        Ok(made)
    }

    /// Writes the records of a new directory, its statistics excepted.
    pub(crate) fn put_dir(
        &self,
        txn: &mut Txn,
        space: SpaceId,
        parent: NodeId,
        name: &EntryName,
        node: NodeId,
    ) {
        let key = schema::dirent_key(space, parent, name);
        txn.hold_absent(key.clone());
        txn.put(key, &Dirent { node, body: DirentBody::Dir });
        let place = Some((parent, name.clone()));
        txn.put(schema::authority_key(space, node), &Authority { place, state: DirState::Live });
        txn.put(schema::location_key(node), &Location { space, place: Place::Dir });
    }
}

/// The deepest directory on `names` that exists, and the names below it that do not, which is an
/// error unless `parents`. Whether the caller may use it is asked later, at the latest when its
/// chain is held.
pub(crate) async fn open_parent(
    snapshot: &dyn Snapshot,
    room: &Room,
    names: &[EntryName],
    parents: bool,
) -> Result<OpenPlace> {
    let mut chain = lookup::root_chain(snapshot, room).await?;
    for (i, name) in names.iter().enumerate() {
        match lookup::child(snapshot, &chain, name).await? {
            Some(dirent) => {
                let rest = names.get(i + 1..).unwrap_or_default();
                lookup::descend(snapshot, room, &mut chain, name, &dirent.value, rest).await?;
            }
            None if parents => {
                let missing = names.get(i..).unwrap_or_default().to_vec();
                return Ok(OpenPlace { chain, missing });
            }
            None => return Err(chain.hide(no_parent(name.as_str()))),
        }
    }
    Ok(OpenPlace { chain, missing: Vec::new() })
}

/// Names tried when something may take another one than it wants.
const RENAMES_MAX: u32 = 100;

/// Most directories that one request makes: each is four records of a transaction.
const MISSING_MAX: usize = 25;

/// A place to make something in.
#[derive(Debug)]
pub(crate) struct OpenPlace {
    pub(crate) chain: Chain,
    /// Names below the chain's end that must be made first.
    pub(crate) missing: Vec<EntryName>,
}

enum Made {
    New((NodeId, TreePath, larder_base::Timestamp)),
    Existing(Entry),
}

/// The directory that something shall go into is not there.
pub(crate) fn no_parent(name: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("no such directory to put it into: `{name}`"))
}

/// The name is taken by `node`.
pub(crate) fn exists(node: NodeId) -> Error {
    Error::new(ErrorKind::AlreadyExists, "the name is taken").with_existing(node)
}

/// `name`, or the first of `name (2)`, `name (3)`, ... that is free.
pub(crate) async fn free_name(
    txn: &Txn,
    chain: &Chain,
    name: &EntryName,
    rename: bool,
) -> Result<EntryName> {
    let mut candidate = name.clone();
    for number in 2..=RENAMES_MAX {
        match lookup::child(&*txn.snapshot, chain, &candidate).await? {
            None => return Ok(candidate),
            Some(dirent) if !rename => return Err(exists(dirent.value.node)),
            Some(_) => {}
        }
        let (stem, extension) = match name.as_str().rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() => (stem, format!(".{extension}")),
            _ => (name.as_str(), String::new()),
        };
        candidate = EntryName::new(&format!("{stem} ({number}){extension}"))?;
    }
    Err(Error::new(ErrorKind::AlreadyExists, "no free name was found"))
}
