//! From paths and ids to entries, and the chain of directories that vouches for them.
//!
//! Promises: a [`Chain`] is what one snapshot said; held in a transaction ([`Chain::hold`]) it
//! proves at the commit that every directory on it is still where it was and attached (I-TREE-3,
//! I-TREE-5). Walks are loops bounded by the depth limit, never recursion.
//!
//! A chain is made in a [`Room`] and knows what covers it: nothing that is found is answered, and
//! no chain can be held, without the right that the room was opened for.
//!
//! References: a path that passes through one is answered by an error that names its target
//! ([`through!`]); the operation is then done there, once. Paths that begin at a mounted node
//! follow no further reference, so that there are no loops.
//!
//! Not here: who has which right (`room`).

use larder_base::{
    ErrorKind, Timestamp,
    id::{NodeId, SpaceId},
    limits::{PATH_DEPTH_MAX, TXN_ITEMS_MAX},
    name::{EntryName, TreePath},
};
use larder_meta::{FieldOp, Snapshot, Version};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{Entry, EntryKind, Etag, Mount, RefTarget, SpaceRef, Spot, Target},
    error::{Error, Redirect, Result},
    expiry,
    room::{Cover, Located, Room},
    schema::{self, Authority, DirState, Dirent, DirentBody, Location, Place, RefState},
    txn::{self, Stored, Txn},
};

/// Most authority records of one chain that are compared one by one; two chains, and what else
/// a move compares, fit into a transaction.
const CHAIN_COMPARES_MAX: usize = (TXN_ITEMS_MAX - 20) / 2;

/// Does an operation with `space` and `path`; if the path passes through a reference, does it at
/// the reference's target instead.
macro_rules! through {
    (|$space:ident, $path:ident| $call:expr) => {
        match $call.await {
            Ok(done) => Ok(done),
            Err(error) => match error.into_redirect() {
                Ok(redirect) => {
                    let (mount, rest) = $crate::tree::lookup::mount(redirect);
                    let ($space, $path) = (&mount, &rest);
                    Box::pin($call).await
                }
                Err(error) => Err(error),
            },
        }
    };
}
pub(crate) use through;

/// Where to go on after a redirect.
pub(crate) fn mount(redirect: Redirect) -> (SpaceRef, TreePath) {
    let Redirect { space, node, rest, shown } = redirect;
    (SpaceRef::Mount(Mount { space, node, shown }), TreePath::of_entry(rest))
}

/// The directories from the root of a space down to one of them, as one snapshot had them.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) space: SpaceId,
    links: Vec<Link>,
    path: Vec<EntryName>,
    /// Names at its start that the caller does not see, because paths begin below them.
    hidden: usize,
    /// What the caller sees in their place.
    shown: TreePath,
    /// What the operation is, and what covers this place.
    right: Right,
    pub(crate) cover: Cover,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    node: NodeId,
    version: Version,
}

/// An entry that a lookup found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its cover includes a grant on the entry itself.
    pub(crate) parent: Chain,
    /// What covers the directory that it is in: to take it from there, that must be enough.
    pub(crate) above: Cover,
    pub(crate) name: EntryName,
    pub(crate) dirent: Stored<Dirent>,
}

impl Found {
    /// Demands that the caller may take it from its place, now and at the commit.
    pub(crate) fn hold_above(&self, txn: &mut Txn) -> Result<()> {
        self.above.require(Right::Write)?;
        self.above.hold(txn);
        Ok(())
    }

    /// Its path as the caller sees it.
    pub(crate) fn path(&self, room: &Room) -> TreePath {
        if room.at.base == Some(self.dirent.value.node) {
            return room.at.shown.clone();
        }
        self.parent.join(&self.name)
    }
}

impl Chain {
    /// The directory at its end.
    pub(crate) fn dir(&self) -> NodeId {
        self.links.last().expect("a chain has its root at least").node
    }

    /// Names from the root to the directory at its end.
    pub(crate) fn path(&self) -> &[EntryName] {
        &self.path
    }

    /// Whether `node` is on it.
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.links.iter().any(|link| link.node == node)
    }

    /// Whether the caller may do here what the operation is.
    pub(crate) fn require(&self) -> Result<()> {
        self.cover.require(self.right)
    }

    /// Counts in a grant on `node`, which stands in the directory at the end, for an operation
    /// that needs `right` on it.
    pub(crate) fn extend(&mut self, room: &Room, node: NodeId, right: Right) {
        self.cover = room.cover(std::mem::replace(&mut self.cover, Cover::Nothing), node);
        self.right = right;
    }

    /// The error to tell of something on the way here: where nothing is covered, none.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match self.cover {
            Cover::Nothing => Error::not_found("file or directory"),
            Cover::Whole | Cover::Granted(..) => error,
        }
    }

    /// Demands that all of it is unchanged at the commit, and what gave the right to use it too.
    pub(crate) async fn hold(&self, txn: &mut Txn) -> Result<()> {
        self.require()?;
        self.cover.hold(txn);
        if self.links.len() > CHAIN_COMPARES_MAX {
            let key = schema::topology_key(self.space);
            match txn.snapshot.get(&key).await? {
                Some(record) => txn.hold(key, record.version),
                None => txn.hold_absent(key),
            }
        } else {
            for link in &self.links {
                txn.hold(schema::authority_key(self.space, link.node), link.version);
            }
        }
        Ok(())
    }

    /// Adds to the statistics of every directory on it (I-TREE-4).
    pub(crate) fn add(&self, txn: &mut Txn, size: i64, files: i64, dirs: i64) {
        let now = txn.now.millis();
        for link in &self.links {
            let fields =
                [FieldOp::Add(size), FieldOp::Add(files), FieldOp::Add(dirs), FieldOp::Max(now)];
            txn.add(schema::stat_key(self.space, link.node), fields);
        }
    }

    /// Notes that there are `levels` levels of directories below the end of this chain.
    pub(crate) fn raise(&self, txn: &mut Txn, levels: i64) {
        for (link, height) in self.links.iter().rev().zip(levels..) {
            raise(txn, self.space, link.node, height);
        }
    }

    /// The path of `name` in the directory at its end, as the caller sees it.
    pub(crate) fn join(&self, name: &EntryName) -> TreePath {
        self.shown_path(std::slice::from_ref(name))
    }

    /// The path of what lies below the directory at its end, as the caller sees it.
    pub(crate) fn shown_path(&self, below: &[EntryName]) -> TreePath {
        let seen = self.path.get(self.hidden..).unwrap_or_default();
        TreePath::of_entry([self.shown.names(), seen, below].concat())
    }

    /// The path of `name` from the root of the space.
    pub(crate) fn join_from_root(&self, name: &EntryName) -> TreePath {
        TreePath::of_entry([&self.path[..], std::slice::from_ref(name)].concat())
    }

    fn push(&mut self, room: &Room, node: NodeId, version: Version, name: EntryName) -> Result<()> {
        if self.links.len() > PATH_DEPTH_MAX {
            return Err(Error::invalid("the path is too deep"));
        }
        self.links.push(Link { node, version });
        self.path.push(name);
        self.cover = room.cover(std::mem::replace(&mut self.cover, Cover::Nothing), node);
        Ok(())
    }
}

/// Notes that there are `levels` levels of directories below `dir`.
pub(crate) fn raise(txn: &mut Txn, space: SpaceId, dir: NodeId, levels: i64) {
    if levels > 0 {
        let fields = [FieldOp::Max(levels), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
        txn.add(schema::height_key(space, dir), fields);
    }
}

fn corrupt(detail: String) -> Error {
    Error::new(ErrorKind::Corrupt, detail)
}

/// The authority record of a directory that must exist.
pub(crate) async fn authority(
    snapshot: &dyn Snapshot,
    space: SpaceId,
    dir: NodeId,
) -> Result<Stored<Authority>> {
    txn::get(snapshot, &schema::authority_key(space, dir))
        .await?
        .ok_or_else(|| corrupt(format!("directory {dir} has no authority record")))
}

/// The chain of the directory that paths begin at: the root of the space, or a node in it.
pub(crate) async fn root_chain(snapshot: &dyn Snapshot, room: &Room) -> Result<Chain> {
    if let Some(base) = room.at.base.filter(|base| *base != room.root) {
        let mut chain = chain_of(snapshot, room, base).await?;
        chain.hidden = chain.path.len();
        return Ok(chain);
    }
    let root = authority(snapshot, room.id, room.root).await?;
    let links = vec![Link { node: room.root, version: root.version }];
    let cover = room.cover(room.cover_of_nothing(), room.root);
    let (shown, right) = (room.at.shown.clone(), room.right);
    Ok(Chain { space: room.id, links, path: Vec::new(), hidden: 0, shown, right, cover })
}

/// Goes one step down; `None` if there is no such entry.
pub(crate) async fn child(
    snapshot: &dyn Snapshot,
    chain: &Chain,
    name: &EntryName,
) -> Result<Option<Stored<Dirent>>> {
    txn::get(snapshot, &schema::dirent_key(chain.space, chain.dir(), name)).await
}

/// Steps into the directory that `dirent` stands for, on the way to the names `rest` below it.
pub(crate) async fn descend(
    snapshot: &dyn Snapshot,
    room: &Room,
    chain: &mut Chain,
    name: &EntryName,
    dirent: &Dirent,
    rest: &[EntryName],
) -> Result<()> {
    match &dirent.body {
        DirentBody::Dir => {
            let authority = authority(snapshot, chain.space, dirent.node).await?;
            chain.push(room, dirent.node, authority.version, name.clone())
        }
        DirentBody::Ref(to) => Err(chain.hide(leave(room, chain, name, *to, rest))),
        DirentBody::File(_) => {
            let detail = format!("`{name}` is a file, not a directory");
            Err(chain.hide(Error::new(ErrorKind::WrongType, detail)))
        }
    }
}

/// The way on from a reference called `name`: to the names `rest` below its target.
pub(crate) fn leave(
    room: &Room,
    chain: &Chain,
    name: &EntryName,
    to: RefState,
    rest: &[EntryName],
) -> Error {
    let error = Error::new(ErrorKind::WrongType, format!("`{name}` is a reference"));
    // Within what a reference or a link opens, further references are shown and not followed.
    if room.at.base.is_some() {
        return error;
    }
    let shown = chain.join(name);
    error.with_redirect(Redirect { space: to.space, node: to.node, rest: rest.to_vec(), shown })
}

/// The chain of the directory at `names`, for an operation that the room's right allows there.
pub(crate) async fn resolve_dir(
    snapshot: &dyn Snapshot,
    room: &Room,
    names: &[EntryName],
) -> Result<Chain> {
    let chain = walk(snapshot, room, names, &[]).await?;
    chain.require()?;
    Ok(chain)
}

/// The chain of the directory at `names`, on the way to `below`.
async fn walk(
    snapshot: &dyn Snapshot,
    room: &Room,
    names: &[EntryName],
    below: &[EntryName],
) -> Result<Chain> {
    let mut chain = root_chain(snapshot, room).await?;
    for (i, name) in names.iter().enumerate() {
        let dirent = child(snapshot, &chain, name)
            .await?
            .ok_or_else(|| Error::not_found("file or directory"))?;
        let rest = [names.get(i + 1..).unwrap_or_default(), below].concat();
        descend(snapshot, room, &mut chain, name, &dirent.value, &rest).await?;
    }
    Ok(chain)
}

/// The entry at `path`, which is not the root.
pub(crate) async fn resolve(
    snapshot: &dyn Snapshot,
    room: &Room,
    path: &TreePath,
) -> Result<Found> {
    let names = room.names(path)?;
    let (name, parents) =
        names.split_last().ok_or_else(|| Error::invalid("this cannot be done to a root"))?;
    let parent = walk(snapshot, room, parents, std::slice::from_ref(name)).await?;
    let dirent = child(snapshot, &parent, name)
        .await?
        .ok_or_else(|| Error::not_found("file or directory"))?;
    found(room, parent, name.clone(), dirent)
}

/// What stands in the way at a place that is to be written to.
pub(crate) fn found_in(chain: &Chain, name: EntryName, dirent: Stored<Dirent>) -> Found {
    Found { parent: chain.clone(), above: chain.cover.clone(), name, dirent }
}

/// What was found, if the caller may do with it what the operation is.
fn found(room: &Room, mut parent: Chain, name: EntryName, dirent: Stored<Dirent>) -> Result<Found> {
    let above = parent.cover.clone();
    parent.cover = room.cover(parent.cover, dirent.value.node);
    parent.require()?;
    Ok(Found { parent, above, name, dirent })
}

/// The chain of a directory by its id; `NotFound` unless it is attached. The caller asks it for
/// the right that is needed.
pub(crate) async fn chain_of(snapshot: &dyn Snapshot, room: &Room, dir: NodeId) -> Result<Chain> {
    let mut links = Vec::new();
    let mut path = Vec::new();
    let mut node = dir;
    for _ in 0..=PATH_DEPTH_MAX {
        let key = schema::authority_key(room.id, node);
        let stored = txn::get::<Authority>(snapshot, &key)
            .await?
            .ok_or_else(|| Error::not_found("directory"))?;
        if stored.value.state != DirState::Live {
            return Err(Error::not_found("file or directory"));
        }
        links.push(Link { node, version: stored.version });
        match stored.value.place {
            Some((parent, name)) => {
                path.push(name);
                node = parent;
            }
            None if node == room.root => {
                links.reverse();
                path.reverse();
                return Ok(complete(room, links, path));
            }
            None => return Err(corrupt(format!("directory {node} is a second root"))),
        }
    }
    Err(corrupt(format!("directory {dir} lies deeper than a tree can be")))
}

/// A chain of these links, from the root down.
fn complete(room: &Room, links: Vec<Link>, path: Vec<EntryName>) -> Chain {
    let nothing = room.cover_of_nothing();
    let cover = links.iter().fold(nothing, |cover, link| room.cover(cover, link.node));
    // The base is on it as often as the caller came through it; else ids are shown from the root.
    let below = room.at.base.and_then(|base| links.iter().position(|link| link.node == base));
    let hidden = below.unwrap_or(0);
    let (shown, right) = (room.at.shown.clone(), room.right);
    Chain { space: room.id, links, path, hidden, shown, right, cover }
}

impl Larder {
    /// The id of the space that a request names; makes the caller's home at its first use.
    pub(crate) async fn locate_space(&self, caller: &Caller, space: &SpaceRef) -> Result<SpaceId> {
        Ok(self.locate(caller, space).await?.space)
    }

    /// Where the paths of a request begin.
    pub(crate) async fn locate(&self, caller: &Caller, space: &SpaceRef) -> Result<Located> {
        let missing = || Error::not_found("space");
        match space {
            SpaceRef::Id(id) => Ok((*id).into()),
            SpaceRef::Home if caller.link.is_some() => Err(missing()),
            SpaceRef::Home => Ok(self.home(caller).await?.into()),
            SpaceRef::Name(name) => {
                let snapshot = self.inner.meta.snapshot().await?;
                let found = txn::get::<SpaceId>(&*snapshot, &schema::space_name_key(name)).await?;
                Ok(found.ok_or_else(missing)?.value.into())
            }
            SpaceRef::Link => {
                let link = caller.link.ok_or_else(missing)?;
                let (base, shown) = (Some(link.node), TreePath::root());
                Ok(Located { space: link.space, base, shown })
            }
            SpaceRef::Mount(Mount { space, node, shown }) => {
                Ok(Located { space: *space, base: Some(*node), shown: shown.clone() })
            }
        }
    }

    /// Where a target is, without any check of rights: the next step has it.
    pub(crate) async fn space_of(
        &self,
        caller: &Caller,
        target: impl Into<Spot<'_>>,
    ) -> Result<Located> {
        match target.into() {
            Spot::Path(space, _) => self.locate(caller, space).await,
            Spot::Node(node) => {
                let snapshot = self.inner.meta.snapshot().await?;
                let key = schema::location_key(node);
                let location = txn::get::<Location>(&*snapshot, &key).await?;
                let missing = || Error::not_found("file or directory");
                Ok(location.ok_or_else(missing)?.value.space.into())
            }
        }
    }

    /// The entry that a target names; `None` for the root of the space.
    pub(crate) async fn find(
        &self,
        snapshot: &dyn Snapshot,
        room: &Room,
        target: impl Into<Spot<'_>>,
    ) -> Result<Option<Found>> {
        match target.into() {
            Spot::Path(_, path) if path.is_root() => match room.at.base {
                Some(base) => find_node(snapshot, room, base).await,
                None => {
                    root_chain(snapshot, room).await?.require()?;
                    Ok(None)
                }
            },
            Spot::Path(_, path) => Ok(Some(resolve(snapshot, room, path).await?)),
            Spot::Node(node) => find_node(snapshot, room, node).await,
        }
    }

    /// The state of the entry or root that a target names. A reference is shown itself.
    pub async fn stat(&self, caller: &Caller, target: &Target) -> Result<Entry> {
        match target {
            Target::Path(space, path) => {
                through!(|space, path| self.stat_at(caller, Spot::Path(space, path)))
            }
            Target::Node(node) => self.stat_at(caller, Spot::Node(*node)).await,
        }
    }

    async fn stat_at(&self, caller: &Caller, target: Spot<'_>) -> Result<Entry> {
        let at = self.space_of(caller, target).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, at, Right::Read).await;
        let room = room.map_err(|error| hide_space(target, error))?;
        let (id, found) = (room.id, self.find(&*snapshot, &room, target).await?);
        let Some(found) = found else {
            let root = Dirent { node: room.root, body: DirentBody::Dir };
            return entry(&*snapshot, id, room.at.shown.clone(), &root).await;
        };
        let mut entry = entry(&*snapshot, id, found.path(&room), &found.dirent.value).await?;
        if entry.kind == EntryKind::File {
            entry.expires = expiry::of(&*snapshot, entry.id, entry.revision).await?;
        }
        self.with_target(&*snapshot, caller, entry).await
    }

    /// Where a path leads: past the reference on the way to its last name, if there is one.
    pub(crate) async fn pass_reference(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
    ) -> Result<(SpaceRef, TreePath)> {
        let here = || (space.clone(), path.clone());
        let Some((name, above)) = path.split_last() else { return Ok(here()) };
        let at = self.locate(caller, space).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, at, Right::Read).await?;
        match walk(&*snapshot, &room, above, std::slice::from_ref(name)).await {
            Ok(_) => Ok(here()),
            // Whatever else is wrong with the path, the operation itself says it.
            Err(error) => Ok(error.into_redirect().map_or_else(|_| here(), mount)),
        }
    }

    /// Adds what a reference stands for, as far as the caller may know of it.
    pub(crate) async fn with_target(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        mut entry: Entry,
    ) -> Result<Entry> {
        let Some(to) = entry.target else { return Ok(entry) };
        let found = async {
            let room = self.open_room(snapshot, caller, to.space, Right::Read).await?;
            let found = find_node(snapshot, &room, to.node).await?;
            let root = Dirent { node: room.root, body: DirentBody::Dir };
            let dirent = found.map_or(root, |found| found.dirent.value);
            self::entry(snapshot, to.space, TreePath::root(), &dirent).await
        };
        match found.await {
            Ok(target) => {
                entry.target = Some(RefTarget { kind: Some(target.kind), ..to });
                (entry.size, entry.etag) = (target.size, target.etag);
                entry.modified = target.modified;
                Ok(entry)
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                Ok(entry)
            }
            Err(error) => Err(error),
        }
    }
}

/// Who asks for a node and may not enter its space learns as much as who asks for none.
pub(crate) fn hide_space<'a>(target: impl Into<Spot<'a>>, error: Error) -> Error {
    match (target.into(), error.kind()) {
        (Spot::Node(_), ErrorKind::NotFound) => Error::not_found("file or directory"),
        _ => error,
    }
}

/// The entry of an attached node by its id; `None` for the root of the space.
pub(crate) async fn find_node(
    snapshot: &dyn Snapshot,
    room: &Room,
    node: NodeId,
) -> Result<Option<Found>> {
    let id = room.id;
    if node == room.root {
        root_chain(snapshot, room).await?.require()?;
        return Ok(None);
    }
    let missing = || Error::not_found("file or directory");
    let location =
        txn::get::<Location>(snapshot, &schema::location_key(node)).await?.ok_or_else(missing)?;
    let (parent, name) = match location.value.place {
        Place::Trash(_) | Place::Marked(..) => return Err(missing()),
        Place::File(parent, name) => (parent, name),
        Place::Dir => {
            let own = txn::get::<Authority>(snapshot, &schema::authority_key(id, node)).await?;
            let own = own.ok_or_else(missing)?.value;
            match own.place {
                Some(place) if own.state == DirState::Live => place,
                _ => return Err(missing()),
            }
        }
    };
    if location.value.space != id {
        return Err(missing());
    }
    let parent = chain_of(snapshot, room, parent).await?;
    let dirent = child(snapshot, &parent, &name).await?;
    let dirent = dirent
        .filter(|dirent| dirent.value.node == node)
        .ok_or_else(|| corrupt(format!("node {node} has no entry where it should be")))?;
    Ok(Some(found(room, parent, name, dirent)?))
}

/// The public form of a directory entry.
pub(crate) async fn entry(
    snapshot: &dyn Snapshot,
    space: SpaceId,
    path: TreePath,
    dirent: &Dirent,
) -> Result<Entry> {
    match &dirent.body {
        DirentBody::File(state) => Ok(file_entry(space, path, dirent.node, state)),
        DirentBody::Dir => {
            let key = schema::stat_key(space, dirent.node);
            let (stat, version) = txn::counters(snapshot, &key).await?;
            Ok(dir_entry(space, path, dirent.node, &stat, version))
        }
        DirentBody::Ref(to) => Ok(ref_entry(space, path, dirent.node, to)),
    }
}

/// The public form of a reference, before its target is looked for.
pub(crate) fn ref_entry(space: SpaceId, path: TreePath, node: NodeId, to: &RefState) -> Entry {
    Entry {
        space,
        path,
        id: node,
        kind: EntryKind::Ref,
        size: 0,
        etag: Etag(schema::etag_head(node), 0),
        revision: 0,
        content_type: None,
        sha256: None,
        modified: to.created,
        expires: None,
        target: Some(RefTarget { space: to.space, node: to.node, kind: None }),
    }
}

/// The public form of a file.
pub(crate) fn file_entry(
    space: SpaceId,
    path: TreePath,
    node: NodeId,
    state: &schema::FileState,
) -> Entry {
    Entry {
        space,
        path,
        id: node,
        kind: EntryKind::File,
        size: state.size,
        etag: state.etag(node),
        revision: state.revision,
        content_type: Some(state.content_type.clone()),
        sha256: state.sha256,
        modified: state.modified,
        expires: None,
        target: None,
    }
}

/// The public form of a directory: its statistics change with everything below, and so does
/// their version, which makes the etag.
pub(crate) fn dir_entry(
    space: SpaceId,
    path: TreePath,
    node: NodeId,
    stat: &[i64; 4],
    version: Option<Version>,
) -> Entry {
    let [size, _, _, modified] = *stat;
    Entry {
        space,
        path,
        id: node,
        kind: EntryKind::Dir,
        size: u64::try_from(size).unwrap_or(0),
        etag: Etag(schema::etag_head(node), version.map_or(0, |version| version.0)),
        revision: 0,
        content_type: None,
        sha256: None,
        modified: Timestamp::from_millis(modified),
        expires: None,
        target: None,
    }
}
