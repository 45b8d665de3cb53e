//! From paths and ids to entries, and the chain of directories that vouches for them.
//!
//! Promises: a [`Chain`] is what one snapshot said; held in a transaction ([`Chain::hold`]) it
//! proves at the commit that every directory on it is still where it was and attached (I-TREE-3,
//! I-TREE-5). Walks are loops bounded by the depth limit, never recursion.
//!
//! Not here: permissions (`access`).

use larder_base::{
    ErrorKind, Timestamp,
    id::{NodeId, SpaceId},
    limits::{PATH_DEPTH_MAX, TXN_ITEMS_MAX},
    name::{EntryName, TreePath},
};
use larder_meta::{FieldOp, Snapshot, Version};

use crate::{
    Larder,
    access::{Right, authorize},
    caller::Caller,
    entry::{Entry, EntryKind, Etag, SpaceRef, Target},
    error::{Error, Result},
    schema::{self, Authority, DirState, Dirent, DirentBody, Location, Place, Space, SpaceState},
    txn::{self, Stored, Txn},
};

/// Most authority records of one chain that are compared one by one; two chains, and what else
/// a move compares, fit into a transaction.
const CHAIN_COMPARES_MAX: usize = (TXN_ITEMS_MAX - 20) / 2;

/// The directories from the root of a space down to one of them, as one snapshot had them.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) space: SpaceId,
    links: Vec<Link>,
    path: Vec<EntryName>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    node: NodeId,
    version: Version,
}

/// An entry that a lookup found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) parent: Chain,
    pub(crate) name: EntryName,
    pub(crate) dirent: Stored<Dirent>,
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

    /// Demands that all of it is unchanged at the commit.
    pub(crate) async fn hold(&self, txn: &mut Txn) -> Result<()> {
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

    /// The path of `name` in the directory at its end.
    pub(crate) fn join(&self, name: &EntryName) -> TreePath {
        let mut names = self.path.clone();
        names.push(name.clone());
        TreePath::of_entry(names)
    }

    fn push(&mut self, node: NodeId, version: Version, name: EntryName) -> Result<()> {
        if self.links.len() > PATH_DEPTH_MAX {
            return Err(Error::invalid("the path is too deep"));
        }
        self.links.push(Link { node, version });
        self.path.push(name);
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

/// The chain of the root of a space.
pub(crate) async fn root_chain(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
) -> Result<Chain> {
    let root = authority(snapshot, id, space.root).await?;
    let links = vec![Link { node: space.root, version: root.version }];
    Ok(Chain { space: id, links, path: Vec::new() })
}

/// Goes one step down; `None` if there is no such entry.
pub(crate) async fn child(
    snapshot: &dyn Snapshot,
    chain: &Chain,
    name: &EntryName,
) -> Result<Option<Stored<Dirent>>> {
    txn::get(snapshot, &schema::dirent_key(chain.space, chain.dir(), name)).await
}

/// Steps into the directory that `dirent` stands for.
pub(crate) async fn descend(
    snapshot: &dyn Snapshot,
    chain: &mut Chain,
    name: &EntryName,
    dirent: &Dirent,
) -> Result<()> {
    if dirent.kind() != EntryKind::Dir {
        let detail = format!("`{name}` is a file, not a directory");
        return Err(Error::new(ErrorKind::WrongType, detail));
    }
    let authority = authority(snapshot, chain.space, dirent.node).await?;
    chain.push(dirent.node, authority.version, name.clone())
}

/// The chain of the directory at `names`.
pub(crate) async fn resolve_dir(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
    names: &[EntryName],
) -> Result<Chain> {
    let mut chain = root_chain(snapshot, id, space).await?;
    for name in names {
        let dirent = child(snapshot, &chain, name)
            .await?
            .ok_or_else(|| Error::not_found("file or directory"))?;
        descend(snapshot, &mut chain, name, &dirent.value).await?;
    }
    Ok(chain)
}

/// The entry at `path`, which is not the root.
pub(crate) async fn resolve(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
    path: &TreePath,
) -> Result<Found> {
    let (name, parents) =
        path.split_last().ok_or_else(|| Error::invalid("this cannot be done to a root"))?;
    let parent = resolve_dir(snapshot, id, space, parents).await?;
    let dirent = child(snapshot, &parent, name)
        .await?
        .ok_or_else(|| Error::not_found("file or directory"))?;
    Ok(Found { parent, name: name.clone(), dirent })
}

/// The chain of a directory by its id; `NotFound` unless it is attached.
pub(crate) async fn chain_of(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
    dir: NodeId,
) -> Result<Chain> {
    let mut links = Vec::new();
    let mut path = Vec::new();
    let mut node = dir;
    for _ in 0..=PATH_DEPTH_MAX {
        let key = schema::authority_key(id, node);
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
            None if node == space.root => {
                links.reverse();
                path.reverse();
                return Ok(Chain { space: id, links, path });
            }
            None => return Err(corrupt(format!("directory {node} is a second root"))),
        }
    }
    Err(corrupt(format!("directory {dir} lies deeper than a tree can be")))
}

impl Larder {
    /// The id of the space that a request names; makes the caller's home at its first use.
    pub(crate) async fn locate_space(&self, caller: &Caller, space: &SpaceRef) -> Result<SpaceId> {
        match space {
            SpaceRef::Id(id) => Ok(*id),
            SpaceRef::Home => self.home(caller).await,
            SpaceRef::Name(name) => {
                let snapshot = self.inner.meta.snapshot().await?;
                let found = txn::get::<SpaceId>(&*snapshot, &schema::space_name_key(name)).await?;
                Ok(found.ok_or_else(|| Error::not_found("space"))?.value)
            }
        }
    }

    /// Reads a space and checks that the caller may do this with it.
    pub(crate) async fn read_space(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        id: SpaceId,
        right: Right,
    ) -> Result<Stored<Space>> {
        let found = txn::get::<Space>(snapshot, &schema::space_key(id)).await?;
        let space = found.ok_or_else(|| Error::not_found("space"))?;
        if space.value.state == SpaceState::Purging {
            return Err(Error::not_found("space"));
        }
        authorize(caller, &space.value, right)?;
        Ok(space)
    }

    /// The same for a change: the space must be as it is until the commit.
    pub(crate) async fn enter_space(
        &self,
        txn: &mut Txn,
        caller: &Caller,
        id: SpaceId,
        right: Right,
    ) -> Result<Space> {
        let space = self.read_space(&*txn.snapshot, caller, id, right).await?;
        txn.hold(schema::space_key(id), space.version);
        // A right that is taken while the request runs is not used at its commit (P1).
        txn.hold(schema::user_key(caller.user), caller.record);
        txn.caller = Some(caller.user);
        Ok(space.value)
    }

    /// The space of a target, without any check of rights: the next step has it.
    pub(crate) async fn space_of(&self, caller: &Caller, target: &Target) -> Result<SpaceId> {
        match target {
            Target::Path(space, _) => self.locate_space(caller, space).await,
            Target::Node(node) => {
                let snapshot = self.inner.meta.snapshot().await?;
                let key = schema::location_key(*node);
                let location = txn::get::<Location>(&*snapshot, &key).await?;
                Ok(location.ok_or_else(|| Error::not_found("file or directory"))?.value.space)
            }
        }
    }

    /// The entry that a target names; `None` for the root of the space.
    pub(crate) async fn find(
        &self,
        snapshot: &dyn Snapshot,
        id: SpaceId,
        space: &Space,
        target: &Target,
    ) -> Result<Option<Found>> {
        match target {
            Target::Path(_, path) if path.is_root() => Ok(None),
            Target::Path(_, path) => Ok(Some(resolve(snapshot, id, space, path).await?)),
            Target::Node(node) => find_node(snapshot, id, space, *node).await,
        }
    }

    /// The state of the entry or root that a target names.
    pub async fn stat(&self, caller: &Caller, target: &Target) -> Result<Entry> {
        let id = self.space_of(caller, target).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let space = self.read_space(&*snapshot, caller, id, Right::Read).await?.value;
        match self.find(&*snapshot, id, &space, target).await? {
            Some(found) => {
                let path = found.parent.join(&found.name);
                entry(&*snapshot, id, path, &found.dirent.value).await
            }
            None => {
                let root = Dirent { node: space.root, body: DirentBody::Dir };
                entry(&*snapshot, id, TreePath::root(), &root).await
            }
        }
    }
}

impl Larder {
    /// The public form of what a commit has just put to `path`. If it cannot be read, the caller
    /// must not be told that nothing happened.
    pub(crate) async fn committed_entry(
        &self,
        space: SpaceId,
        path: TreePath,
        dirent: &Dirent,
    ) -> Result<Entry> {
        let read = async {
            let snapshot = self.inner.meta.snapshot().await?;
            entry(&*snapshot, space, path, dirent).await
        };
        read.await.map_err(Error::of_unknown_outcome)
    }
}

/// The entry of an attached node by its id; `None` for the root of the space.
async fn find_node(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
    node: NodeId,
) -> Result<Option<Found>> {
    if node == space.root {
        return Ok(None);
    }
    let missing = || Error::not_found("file or directory");
    let location =
        txn::get::<Location>(snapshot, &schema::location_key(node)).await?.ok_or_else(missing)?;
    let (parent, name) = match location.value.place {
        Place::Trash(_) => return Err(missing()),
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
    let parent = chain_of(snapshot, id, space, parent).await?;
    let dirent = child(snapshot, &parent, &name).await?;
    let dirent = dirent
        .filter(|dirent| dirent.value.node == node)
        .ok_or_else(|| corrupt(format!("node {node} has no entry where it should be")))?;
    Ok(Some(Found { parent, name, dirent }))
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
    }
}
