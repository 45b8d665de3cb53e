//! Making directories: exactly one winner per name (I-TREE-1), hazards N01 and N03.
//!
//! Not here: files (`upload`), homes (`space`).

use larder_base::{
    ErrorKind,
    id::{NodeId, SpaceId},
    name::{EntryName, TreePath},
};
use larder_meta::FieldOp;

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{Entry, SpaceRef},
    error::{Error, Result},
    schema::{self, Authority, DirState, Dirent, DirentBody, Location, Place, Space},
    tree::lookup::{self, Chain},
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
        let id = self.locate_space(caller, space).await?;
        let (made, revision) = transact!(self, id, |txn| {
            let space = self.enter_space(&mut txn, caller, id, Right::Write).await?;
            match self.create_dir_once(&mut txn, id, &space, path, parents).await? {
                Made::New(node) => node,
                Made::Existing(entry) => return Ok((entry, false)),
            }
        });
        let now = made.1;
        let stat = [0, 0, 0, now.millis()];
        let version = Some(larder_meta::Version(revision.0));
        Ok((lookup::dir_entry(id, path.clone(), made.0, &stat, version), true))
    }

    async fn create_dir_once(
        &self,
        txn: &mut Txn,
        id: SpaceId,
        space: &Space,
        path: &TreePath,
        parents: bool,
    ) -> Result<Made> {
        let snapshot = txn.snapshot.clone();
        let Some((name, above)) = path.split_last() else {
            let root = Dirent { node: space.root, body: DirentBody::Dir };
            let entry = lookup::entry(&*snapshot, id, TreePath::root(), &root).await?;
            return if parents { Ok(Made::Existing(entry)) } else { Err(exists(space.root)) };
        };
        let mut place = self.open_parent(txn, id, space, above, parents).await?;
        if place.missing.is_empty()
            && let Some(dirent) = lookup::child(&*snapshot, &place.chain, name).await?
        {
            if parents && dirent.value.kind() == crate::EntryKind::Dir {
                let entry = lookup::entry(&*snapshot, id, path.clone(), &dirent.value).await?;
                return Ok(Made::Existing(entry));
            }
            return Err(exists(dirent.value.node));
        }
        place.missing.push(name.clone());
        let made = self.make_missing(txn, &place).await?;
        let node = made.last().copied().unwrap_or(place.chain.dir());
        Ok(Made::New((node, txn.now)))
    }

    /// The deepest directory on `names` that exists, and the names below it that do not, which
    /// is an error unless `parents`.
    pub(crate) async fn open_parent(
        &self,
        txn: &Txn,
        id: SpaceId,
        space: &Space,
        names: &[EntryName],
        parents: bool,
    ) -> Result<OpenPlace> {
        let snapshot = txn.snapshot.clone();
        let mut chain = lookup::root_chain(&*snapshot, id, space).await?;
        for (i, name) in names.iter().enumerate() {
            match lookup::child(&*snapshot, &chain, name).await? {
                Some(dirent) => {
                    lookup::descend(&*snapshot, &mut chain, name, &dirent.value).await?;
                }
                None if parents => {
                    let missing = names.get(i..).unwrap_or_default().to_vec();
                    return Ok(OpenPlace { chain, missing });
                }
                None => {
                    return Err(no_parent(name.as_str()));
                }
            }
        }
        Ok(OpenPlace { chain, missing: Vec::new() })
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

/// Most directories that one request makes: each is three records of a transaction.
const MISSING_MAX: usize = 30;

/// A place to make something in.
#[derive(Debug)]
pub(crate) struct OpenPlace {
    pub(crate) chain: Chain,
    /// Names below the chain's end that must be made first.
    pub(crate) missing: Vec<EntryName>,
}

enum Made {
    New((NodeId, larder_base::Timestamp)),
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
