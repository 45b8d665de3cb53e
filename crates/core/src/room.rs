//! The one decision about who may do what with a space and what is in it.
//!
//! A caller may use a space as its owner, as an administrator, or through *grants*: a role for a
//! user or a group on a node, which holds for everything below it. A public link is one grant of
//! its own. What a credential's scope leaves out is left out of all of them.
//!
//! Promises: every public operation of [`Larder`] on files asks here before anything else; doors
//! hold no policy. What justified an operation is compared at its commit (P1): a [`Room`] knows
//! the grants that a caller has in a space, a chain of directories that is found in it knows what
//! covers it ([`Cover`]), and holding the chain holds that. Who may not even know that something
//! exists is told `NotFound` (attic rule).
//!
//! Not here: how grants come and go (`share`), who belongs to a group (`identity::group`).

use std::{borrow::Cow, collections::BTreeSet, ops::Deref, sync::Arc};

use bytes::Bytes;
use larder_base::{
    ErrorKind, Timestamp,
    id::{NodeId, SpaceId},
    name::{EntryName, TreePath},
};
use larder_meta::{Snapshot, Version};

use crate::{
    Larder,
    access::{Principal, Right, Role, check_scope, require_admin},
    caller::Caller,
    entry::SpaceKind,
    error::{Error, Result},
    identity::group,
    schema::{self, Grant, Space, SpaceState},
    txn::{self, Stored, Txn},
};

/// Most grants that count for one caller in one space.
const GRANTS_MAX: usize = 1000;

/// A grant that a caller has, and the records that say so.
#[derive(Clone, Debug)]
struct Held {
    node: NodeId,
    role: Role,
    records: Vec<(Bytes, Version)>,
}

/// Why a caller may be in a space.
#[derive(Clone, Debug)]
enum Standing {
    /// As its owner or as an administrator: everywhere.
    Whole,
    /// Through grants.
    Granted(Arc<[Held]>),
}

/// Where paths of a request begin.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) space: SpaceId,
    /// The node that the path is relative to, if it is not the root of the space.
    pub(crate) base: Option<NodeId>,
    /// The path of that node as the caller sees it.
    pub(crate) shown: TreePath,
}

impl From<SpaceId> for Located {
    fn from(space: SpaceId) -> Self {
        Self { space, base: None, shown: TreePath::root() }
    }
}

/// A space as a caller may use it for one operation, as one snapshot has it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) id: SpaceId,
    pub(crate) at: Located,
    /// What the operation is.
    pub(crate) right: Right,
    space: Arc<Space>,
    standing: Standing,
}

impl Deref for Room {
    type Target = Space;

    fn deref(&self) -> &Space {
        &self.space
    }
}

/// The spaces that a caller has grants in.
pub(crate) struct KnownSpaces(BTreeSet<SpaceId>);

impl KnownSpaces {
    /// Whether a list of spaces shows this one to `caller`.
    pub(crate) fn has(&self, caller: &Caller, id: SpaceId, space: &Space) -> bool {
        let any = caller.admin || space.owner == caller.user || self.0.contains(&id);
        any && caller.link.is_none() && check_scope(caller, id, Right::Read).is_ok()
    }
}

/// What covers a place: nothing, everything, or the strongest grant on the way to it.
#[derive(Clone, Debug)]
pub(crate) enum Cover {
    Nothing,
    Whole,
    Granted(Role, Vec<(Bytes, Version)>),
}

impl Cover {
    /// Whether that is enough. Who has nothing here learns nothing of it.
    pub(crate) fn require(&self, right: Right) -> Result<()> {
        match self {
            Self::Whole => Ok(()),
            Self::Granted(role, _) if role.allows(right) => Ok(()),
            // Who may only add must not learn what is there.
            Self::Granted(Role::Uploader, _) if right == Right::Read => {
                Err(Error::not_found("file or directory"))
            }
            Self::Granted(..) => {
                Err(Error::new(ErrorKind::Denied, "your role here does not allow this"))
            }
            Self::Nothing => Err(Error::not_found("file or directory")),
        }
    }

    /// Whether it is for adding alone, without seeing anything.
    pub(crate) fn is_for_adding(&self) -> bool {
        matches!(self, Self::Granted(Role::Uploader, _))
    }

    /// Demands that what justified the operation is the same at the commit.
    pub(crate) fn hold(&self, txn: &mut Txn) {
        if let Self::Granted(_, records) = self {
            for (key, version) in records {
                txn.hold(key.clone(), *version);
            }
        }
    }
}

impl Room {
    /// A room for work of our own, which nobody's rights limit.
    pub(crate) fn of_system(id: SpaceId, space: Space) -> Self {
        let at = Located::from(id);
        let (space, standing) = (Arc::new(space), Standing::Whole);
        Self { id, at, right: Right::Write, space, standing }
    }

    /// The names of `path` here: in a bucket all of it is one key.
    pub(crate) fn names<'a>(&self, path: &'a TreePath) -> Result<Cow<'a, [EntryName]>> {
        if self.space.kind != SpaceKind::Bucket || path.names().len() < 2 {
            return Ok(Cow::Borrowed(path.names()));
        }
        Ok(Cow::Owned(vec![EntryName::key(&path.to_string())?]))
    }

    /// What covers the way so far.
    pub(crate) fn cover_of_nothing(&self) -> Cover {
        match self.standing {
            Standing::Whole => Cover::Whole,
            Standing::Granted(_) => Cover::Nothing,
        }
    }

    /// What covers `node`, if `above` covers the way to it: of several grants the strongest.
    pub(crate) fn cover(&self, above: Cover, node: NodeId) -> Cover {
        let Standing::Granted(grants) = &self.standing else { return above };
        grants.iter().filter(|held| held.node == node).fold(above, |best, held| match &best {
            Cover::Granted(role, _) if *role >= held.role => best,
            _ => Cover::Granted(held.role, held.records.clone()),
        })
    }

    /// What covers the root of the space.
    fn cover_of_root(&self) -> Cover {
        self.cover(self.cover_of_nothing(), self.space.root)
    }
}

/// Why `caller` may be in this space.
async fn standing(
    snapshot: &dyn Snapshot,
    caller: &Caller,
    id: SpaceId,
    space: &Space,
    now: Timestamp,
) -> Result<Standing> {
    if let Some(link) = &caller.link {
        let mine = link.space == id;
        let held = mine.then(|| Held {
            node: link.node,
            role: link.role,
            // The link's own record is the caller's credential, which every commit compares.
            records: Vec::new(),
        });
        return Ok(Standing::Granted(held.into_iter().collect()));
    }
    if caller.admin || space.owner == caller.user {
        return Ok(Standing::Whole);
    }
    let mut grants = Vec::new();
    grants_of(snapshot, Principal::User(caller.user), &[], id, now, &mut grants).await?;
    for membership in group::groups_of(snapshot, caller.user).await? {
        let principal = Principal::Group(membership.group);
        grants_of(snapshot, principal, &membership.records, id, now, &mut grants).await?;
    }
    Ok(Standing::Granted(grants.into()))
}

/// Adds the grants of a principal in a space.
async fn grants_of(
    snapshot: &dyn Snapshot,
    principal: Principal,
    membership: &[(Bytes, Version)],
    id: SpaceId,
    now: Timestamp,
    grants: &mut Vec<Held>,
) -> Result<()> {
    let prefix = schema::grants_prefix(principal, id);
    let room = GRANTS_MAX.saturating_sub(grants.len());
    for (key, record) in txn::page(snapshot, &prefix, None, room).await? {
        let grant: Grant = schema::decode(&key, &record.value)?;
        if grant.expires.is_some_and(|expires| expires <= now) {
            continue;
        }
        let node = NodeId::from_bytes(schema::trailing_id(&key)?);
        let records = [&[(key, record.version)], membership].concat();
        grants.push(Held { node, role: grant.role, records });
    }
    Ok(())
}

impl Larder {
    /// The spaces that `caller` has grants in, for lists of spaces.
    pub(crate) async fn known_spaces(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
    ) -> Result<KnownSpaces> {
        let mut known = BTreeSet::new();
        if caller.admin || caller.link.is_some() {
            return Ok(KnownSpaces(known));
        }
        let now = self.inner.env.now();
        let mut principals = vec![Principal::User(caller.user)];
        let groups = group::groups_of(snapshot, caller.user).await?;
        principals.extend(groups.iter().map(|member| Principal::Group(member.group)));
        for principal in principals {
            let prefix = schema::principal_grants_prefix(principal);
            for (key, record) in txn::page(snapshot, &prefix, None, GRANTS_MAX).await? {
                let grant: Grant = schema::decode(&key, &record.value)?;
                let lives = grant.expires.is_none_or(|expires| expires > now);
                known.extend(schema::grant_place(&key).filter(|_| lives).map(|place| place.0));
            }
        }
        Ok(KnownSpaces(known))
    }

    /// A space as `caller` may use it through paths or ids in it. Which of them the caller may
    /// use is decided when they are found.
    pub(crate) async fn open_room(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        at: impl Into<Located>,
        right: Right,
    ) -> Result<Room> {
        Ok(self.room(snapshot, caller, at.into(), right).await?.0)
    }

    async fn room(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        at: Located,
        right: Right,
    ) -> Result<(Room, Version)> {
        let id = at.space;
        let found = txn::get::<Space>(snapshot, &schema::space_key(id)).await?;
        let Stored { value: space, version } = found.ok_or_else(|| Error::not_found("space"))?;
        if space.state == SpaceState::Purging {
            return Err(Error::not_found("space"));
        }
        let now = self.inner.env.now();
        let standing = standing(snapshot, caller, id, &space, now).await?;
        if matches!(&standing, Standing::Granted(grants) if grants.is_empty()) {
            return Err(Error::not_found("space"));
        }
        check_scope(caller, id, right)?;
        caller.grounds.check(snapshot).await?;
        if right == Right::Administer {
            require_admin(caller)?;
        }
        Ok((Room { id, at, right, space: Arc::new(space), standing }, version))
    }

    /// The same for a change: the space, the caller and what the caller came with must be as
    /// they are until the commit (P1).
    pub(crate) async fn enter_room(
        &self,
        txn: &mut Txn,
        caller: &Caller,
        at: impl Into<Located>,
        right: Right,
    ) -> Result<Room> {
        let (room, version) = self.room(&*txn.snapshot, caller, at.into(), right).await?;
        txn.hold(schema::space_key(room.id), version);
        caller.hold(txn);
        Ok(room)
    }

    /// Whether who asks, and what they came with, are still as they were when they logged in.
    pub(crate) async fn check_login(&self, caller: &Caller) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let user = (schema::user_key(caller.user), caller.record);
        for (key, version) in [Some(user), caller.credential.clone()].into_iter().flatten() {
            let now = snapshot.get(&key).await?.map(|record| record.version);
            if now != Some(version) {
                let detail = "the account, key or link changed while the request ran";
                return Err(Error::new(ErrorKind::Unauthenticated, detail));
            }
        }
        caller.grounds.check(&*snapshot).await
    }

    /// Reads a space and checks that the caller may do this with the whole of it.
    pub(crate) async fn read_space(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        id: SpaceId,
        right: Right,
    ) -> Result<Stored<Space>> {
        let (room, version) = self.room(snapshot, caller, id.into(), right).await?;
        whole(&room, right)?;
        Ok(Stored { value: Arc::unwrap_or_clone(room.space), version })
    }

    /// The same for a change: it must all be as it is until the commit.
    pub(crate) async fn enter_space(
        &self,
        txn: &mut Txn,
        caller: &Caller,
        id: SpaceId,
        right: Right,
    ) -> Result<Space> {
        let room = self.enter_room(txn, caller, id, right).await?;
        whole(&room, right)?.hold(txn);
        Ok(Arc::unwrap_or_clone(room.space))
    }
}

/// What covers the whole space; who has a grant in it may know that it exists.
fn whole(room: &Room, right: Right) -> Result<Cover> {
    let cover = room.cover_of_root();
    match cover.require(right) {
        Ok(()) => Ok(cover),
        Err(_) => {
            let detail = "your role in this space does not allow this";
            Err(Error::new(ErrorKind::Denied, detail))
        }
    }
}
