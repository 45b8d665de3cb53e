//! Sharing: grants to users and groups, public links, and references to what is shared.
//!
//! Promises: I-SHARE-1 a grant or link takes effect with the commit that makes it, and ends with
//! the commit that revokes it: whatever relied on it and has not committed by then is refused
//! (P1). I-SHARE-2 whoever may share a node sees and revokes everything shared of it, whoever made
//! it. I-SHARE-3 of several grants for one principal on one node there is one. I-SHARE-4 a share
//! is of a node, not of a name: it goes with the node wherever that is moved.
//!
//! Not here: what a grant allows (`access`), how it is found at work (`room`).

use larder_base::{
    ErrorKind, Timestamp,
    id::{GroupId, NodeId, ShareId, SpaceId, UserId},
};
use larder_meta::{Snapshot, Version};

use crate::{
    Larder,
    access::{Principal, Right, Role, check_scope, require_full},
    account::UserRef,
    caller::Caller,
    entry::{EntryKind, ListOptions, Page, Target},
    error::{Error, Result},
    identity::group,
    room::Room,
    schema::{self, Grant, Group, Link, Shared, User},
    tree::lookup::{self, Chain},
    txn::{self, Txn, transact},
};

pub(crate) mod forget;
pub(crate) mod link;
mod reference;

pub use link::LinkView;

/// Most grants and links of one node.
const SHARES_OF_NODE_MAX: usize = 500;

/// With whom something is to be shared.
#[derive(Clone, Debug)]
pub enum ShareWith {
    /// A user, by id or name.
    User(String),
    /// A group, by id or name.
    Group(String),
    /// Whoever has the link.
    Link(LinkTerms),
}

/// The terms of a public link.
#[derive(Clone, Default)]
pub struct LinkTerms {
    /// What its maker calls it.
    pub name: String,
    /// Password that it wants; `None` is none.
    pub password: Option<String>,
    /// Downloads that it allows; `None` is any number.
    pub downloads_max: Option<u64>,
}

impl std::fmt::Debug for LinkTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkTerms({:?})", self.name)
    }
}

/// A share to be made.
#[derive(Clone, Debug)]
pub struct NewShare {
    /// What is shared.
    pub target: Target,
    /// With whom.
    pub with: ShareWith,
    /// What they may do.
    pub role: Role,
    /// When it ends; `None` is never.
    pub expires: Option<Timestamp>,
}

/// A change of a share; what is `None` stays.
#[derive(Clone, Default)]
pub struct ShareChange {
    /// Another role.
    pub role: Option<Role>,
    /// Another end.
    pub expires: Option<Option<Timestamp>>,
    /// Of a link: another password.
    pub password: Option<Option<String>>,
    /// Of a link: another number of downloads.
    pub downloads_max: Option<Option<u64>>,
    /// Of a link: another name.
    pub name: Option<String>,
}

impl std::fmt::Debug for ShareChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareChange").field("role", &self.role).finish_non_exhaustive()
    }
}

/// A grant or link, as those who may manage or use it see it.
#[derive(Clone, Debug)]
pub struct ShareInfo {
    /// Its id.
    pub id: ShareId,
    /// The space of what is shared.
    pub space: SpaceId,
    /// What is shared.
    pub node: NodeId,
    /// Its kind and its path in the space; `None` while it is in the trash.
    pub place: Option<(EntryKind, String)>,
    /// With whom.
    pub with: SharedWith,
    /// What they may do.
    pub role: Role,
    /// Name of the user who made it; empty if that user is gone.
    pub by: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// With whom something is shared.
#[derive(Clone, Debug)]
pub enum SharedWith {
    /// A user and their name.
    User(UserId, String),
    /// A group and its name.
    Group(GroupId, String),
    /// Whoever has the link.
    Link(LinkInfo),
}

/// A public link, as those who may manage it see it.
#[derive(Clone)]
pub struct LinkInfo {
    /// What its maker calls it.
    pub name: String,
    /// The secret part of its URL; empty if it was sealed under another master key.
    pub token: String,
    /// Whether it wants a password.
    pub has_password: bool,
    /// Downloads that it allows.
    pub downloads_max: Option<u64>,
    /// Downloads so far, if they are limited.
    pub downloads: u64,
}

impl std::fmt::Debug for LinkInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkInfo({:?})", self.name)
    }
}

/// Which shares are listed.
#[derive(Clone, Debug)]
pub enum ShareFilter {
    /// What others have given to the caller, directly or through a group.
    WithMe,
    /// What the caller has made.
    ByMe,
    /// Everything shared of one node. For those who may share it.
    Of(Target),
    /// Everything shared in a space. For those who may share all of it.
    In(crate::SpaceRef),
}

/// The record of a share, whichever kind it is.
enum Found {
    Grant(Grant, Version),
    Link(Link, Version),
}

/// Demands that a node is still in its place at the commit: else its purge, which removes what
/// is shared of it, could have been through already.
async fn hold_place(txn: &mut Txn, space: SpaceId, node: NodeId) -> Result<()> {
    // A directory's record of its place is its authority, a file's its location.
    for key in [schema::authority_key(space, node), schema::location_key(node)] {
        if let Some(record) = txn.snapshot.get(&key).await? {
            txn.hold(key, record.version);
            return Ok(());
        }
    }
    Err(Error::not_found("file or directory"))
}

impl Larder {
    /// Shares a node.
    ///
    /// Errors: `Denied` without the right to share there; `NotFound` for the node, user or group;
    /// `AlreadyExists`, naming the share, if the same principal has a grant on the node already;
    /// `Invalid`.
    pub async fn create_share(&self, caller: &Caller, new: NewShare) -> Result<ShareInfo> {
        require_full(caller)?;
        self.check_terms(&new)?;
        let prepared = match &new.with {
            ShareWith::Link(terms) => Some(self.prepare_link(terms).await?),
            ShareWith::User(_) | ShareWith::Group(_) => None,
        };
        let at = self.space_of(caller, &new.target).await?;
        let id = ShareId::new(&self.inner.env);
        transact!(self, at.space, |txn| {
            let room = self.enter_room(&mut txn, caller, at.clone(), Right::Share).await;
            let room = room.map_err(|error| lookup::hide_space(&new.target, error))?;
            let (chain, node) = self.shared_node(&*txn.snapshot, &room, &new.target).await?;
            chain.hold(&mut txn).await?;
            hold_place(&mut txn, room.id, node).await?;
            let (space, by) = (room.id, caller.user);
            let prefix = schema::shared_at_prefix(space, node);
            let limit = SHARES_OF_NODE_MAX + 1;
            if txn::page(&*txn.snapshot, &prefix, None, limit).await?.len() > SHARES_OF_NODE_MAX {
                let detail = "this is shared too often: revoke something first";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            let to = match (&new.with, &prepared) {
                (ShareWith::Link(terms), Some(prepared)) => {
                    link::put(&mut txn, id, (space, node, by), &new, terms, prepared);
                    None
                }
                (with, _) => {
                    let to = self.principal(&mut txn, &room, with).await?;
                    let key = schema::grant_key(to, space, node);
                    if let Some(grant) = txn.get::<Grant>(&key).await? {
                        let detail = "this is shared with them already: change that share";
                        let error = Error::new(ErrorKind::AlreadyExists, detail);
                        return Err(error.with_existing(grant.value.share));
                    }
                    txn.hold_absent(key.clone());
                    let (role, created, expires) = (new.role, txn.now, new.expires);
                    txn.put(key, &Grant { share: id, role, by, created, expires });
                    Some(to)
                }
            };
            txn.put(schema::shared_key(id), &Shared { space, node, by, to });
            txn.put(schema::shared_at_key(space, node, id), &());
            txn.put(schema::shared_by_key(by, id), &());
        });
        // Committed: what fails now must not be told as if nothing had happened.
        self.share(caller, id).await.map_err(Error::of_unknown_outcome)
    }

    fn check_terms(&self, new: &NewShare) -> Result<()> {
        if new.expires.is_some_and(|expires| expires <= self.inner.env.now()) {
            return Err(Error::invalid("the share would have ended already"));
        }
        match (&new.with, new.role) {
            (ShareWith::Link(_), Role::Manager) => {
                Err(Error::invalid("a link cannot make its holder a manager"))
            }
            (ShareWith::User(_) | ShareWith::Group(_), Role::Uploader) => {
                Err(Error::invalid("only a link can be for uploads alone"))
            }
            (ShareWith::Link(terms), _) => link::check_terms(&terms.name, terms.downloads_max),
            _ => Ok(()),
        }
    }

    /// The user or group that something is shared with; it must still exist at the commit.
    async fn principal(&self, txn: &mut Txn, room: &Room, with: &ShareWith) -> Result<Principal> {
        match with {
            ShareWith::User(text) => {
                let missing = || Error::not_found("user");
                let id = match UserRef::parse(text) {
                    UserRef::Id(id) => id,
                    UserRef::Me => return Err(Error::invalid("you have it already")),
                    UserRef::Name(name) => {
                        let key = schema::user_name_key(&name);
                        txn.get::<UserId>(&key).await?.ok_or_else(missing)?.value
                    }
                };
                let key = schema::user_key(id);
                let user = txn.get::<User>(&key).await?.ok_or_else(missing)?;
                if id == room.owner {
                    return Err(Error::invalid("the space is theirs already"));
                }
                txn.hold(key, user.version);
                Ok(Principal::User(id))
            }
            ShareWith::Group(text) => {
                let missing = || Error::not_found("group");
                let id = match text.parse() {
                    Ok(id) => id,
                    Err(_) => {
                        let key = schema::group_name_key(text);
                        txn.get::<GroupId>(&key).await?.ok_or_else(missing)?.value
                    }
                };
                let key = schema::group_key(id);
                let group = txn.get::<Group>(&key).await?.ok_or_else(missing)?;
                txn.hold(key, group.version);
                Ok(Principal::Group(id))
            }
            ShareWith::Link(_) => Err(Error::internal("a link has no principal")),
        }
    }

    /// The node that a target names, and the chain whose cover decides about sharing it.
    async fn shared_node(
        &self,
        snapshot: &dyn Snapshot,
        room: &Room,
        target: &Target,
    ) -> Result<(Chain, NodeId)> {
        match self.find(snapshot, room, target).await? {
            Some(found) => {
                if found.dirent.value.kind() == EntryKind::Ref {
                    let detail = "a reference cannot be shared: share what it stands for";
                    return Err(Error::new(ErrorKind::WrongType, detail));
                }
                Ok((found.parent, found.dirent.value.node))
            }
            None => Ok((lookup::root_chain(snapshot, room).await?, room.root)),
        }
    }

    /// A share; for those who manage it, made it, or have it.
    pub async fn share(&self, caller: &Caller, id: ShareId) -> Result<ShareInfo> {
        // What is told of a link opens it.
        require_full(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let missing = || Error::not_found("share");
        let shared = txn::get::<Shared>(&*snapshot, &schema::shared_key(id)).await?;
        let shared = shared.ok_or_else(missing)?.value;
        let mine = self.is_mine(&*snapshot, caller, &shared).await?;
        let managed = self.manages(&*snapshot, caller, &shared).await?;
        if !managed && (!mine || caller.link.is_some()) {
            return Err(missing());
        }
        self.describe(&*snapshot, caller, id, shared).await?.ok_or_else(missing)
    }

    /// Whether the caller made a share, or has it, and came with what opens its space.
    async fn is_mine(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        shared: &Shared,
    ) -> Result<bool> {
        if check_scope(caller, shared.space, Right::Share).is_err() {
            return Ok(false);
        }
        match shared.to {
            Some(Principal::User(user)) if user == caller.user => Ok(true),
            Some(Principal::Group(id)) => {
                let member = group::membership(snapshot, id, caller.user).await?;
                Ok(member.is_some() || shared.by == caller.user)
            }
            _ => Ok(shared.by == caller.user),
        }
    }

    /// Whether the caller may share what this is a share of.
    async fn manages(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        shared: &Shared,
    ) -> Result<bool> {
        let found = async {
            let room = self.open_room(snapshot, caller, shared.space, Right::Share).await?;
            // What is in the trash is the space's.
            match self.shared_node(snapshot, &room, &Target::Node(shared.node)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    lookup::resolve_dir(snapshot, &room, &[]).await.map(drop)
                }
                found => found?.0.require(),
            }
        };
        match found.await {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The public form of a share; `None` if it is gone.
    async fn describe(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        id: ShareId,
        shared: Shared,
    ) -> Result<Option<ShareInfo>> {
        let Some(found) = find(snapshot, id, &shared).await? else { return Ok(None) };
        let user = |id| async move {
            let user = txn::get::<User>(snapshot, &schema::user_key(id)).await?;
            Ok::<_, Error>(user.map(|user| user.value.name).unwrap_or_default())
        };
        let (with, role, created, expires) = match (found, shared.to) {
            (Found::Grant(grant, _), Some(to)) => {
                let with = match to {
                    Principal::User(id) => SharedWith::User(id, user(id).await?),
                    Principal::Group(id) => {
                        let group = txn::get::<Group>(snapshot, &schema::group_key(id)).await?;
                        let name = group.map(|group| group.value.name).unwrap_or_default();
                        SharedWith::Group(id, name)
                    }
                };
                (with, grant.role, grant.created, grant.expires)
            }
            (Found::Link(link, _), _) => {
                let info = self.link_info(snapshot, id, &link).await?;
                (SharedWith::Link(info), link.role, link.created, link.expires)
            }
            (Found::Grant(..), None) => return Ok(None),
        };
        let Shared { space, node, by, .. } = shared;
        let place = self.place_of(snapshot, caller, space, node).await?;
        let by = user(by).await?;
        Ok(Some(ShareInfo { id, space, node, place, with, role, by, created, expires }))
    }

    /// What a node is and where, for people; `None` if it is gone, or beyond the caller's reach:
    /// who once shared it does not learn what becomes of it.
    async fn place_of(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        space: SpaceId,
        node: NodeId,
    ) -> Result<Option<(EntryKind, String)>> {
        let found = async {
            let room = self.open_room(snapshot, caller, space, Right::Read).await?;
            lookup::find_node(snapshot, &room, node).await
        };
        match found.await {
            Ok(Some(found)) => {
                let path = found.parent.join(&found.name).to_string();
                Ok(Some((found.dirent.value.kind(), path)))
            }
            Ok(None) => Ok(Some((EntryKind::Dir, String::new()))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// One page of shares; the cursor is opaque.
    pub async fn shares(
        &self,
        caller: &Caller,
        filter: &ShareFilter,
        options: &ListOptions,
    ) -> Result<Page<ShareInfo>> {
        require_full(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let limit = options.page_limit();
        let mut ids = self.listed(&*snapshot, caller, filter).await?;
        ids.sort_unstable();
        ids.dedup();
        let after: Option<ShareId> =
            options
                .cursor
                .as_ref()
                .map(|text| text.parse())
                .transpose()
                .map_err(|_| Error::invalid("the cursor is not one that a page gave"))?;
        let mut entries = Vec::new();
        let mut cursor = None;
        for id in ids.into_iter().filter(|id| after.is_none_or(|after| *id > after)) {
            if entries.len() == limit {
                cursor = entries.last().map(|last: &ShareInfo| last.id.to_string());
                break;
            }
            let shared = txn::get::<Shared>(&*snapshot, &schema::shared_key(id)).await?;
            let inside = |shared: &Shared| check_scope(caller, shared.space, Right::Share).is_ok();
            if let Some(shared) = shared.map(|shared| shared.value).filter(inside) {
                entries.extend(self.describe(&*snapshot, caller, id, shared).await?);
            }
        }
        Ok(Page { entries, cursor })
    }

    /// The ids of the shares that a filter lets through: at most some thousands.
    async fn listed(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        filter: &ShareFilter,
    ) -> Result<Vec<ShareId>> {
        const MAX: usize = 10_000;
        let prefix = match filter {
            ShareFilter::WithMe => {
                let mut principals = vec![Principal::User(caller.user)];
                let groups = group::groups_of(snapshot, caller.user).await?;
                principals.extend(groups.iter().map(|member| Principal::Group(member.group)));
                let mut ids = Vec::new();
                for principal in principals {
                    let prefix = schema::principal_grants_prefix(principal);
                    for (key, record) in txn::page(snapshot, &prefix, None, MAX).await? {
                        let grant: Grant = schema::decode(&key, &record.value)?;
                        ids.push(grant.share);
                    }
                }
                return Ok(ids);
            }
            ShareFilter::ByMe => schema::shared_by_prefix(caller.user),
            ShareFilter::Of(target) => {
                let at = self.space_of(caller, target).await?;
                let room = self.open_room(snapshot, caller, at, Right::Share).await;
                let room = room.map_err(|error| lookup::hide_space(target, error))?;
                let (chain, node) = self.shared_node(snapshot, &room, target).await?;
                chain.require()?;
                schema::shared_at_prefix(room.id, node)
            }
            ShareFilter::In(space) => {
                let id = self.locate_space(caller, space).await?;
                self.read_space(snapshot, caller, id, Right::Share).await?;
                schema::shared_in_prefix(id)
            }
        };
        let page = txn::page(snapshot, &prefix, None, MAX).await?;
        page.iter().map(|(key, _)| Ok(ShareId::from_bytes(schema::trailing_id(key)?))).collect()
    }

    /// Changes a share: for those who may share what it is of.
    pub async fn change_share(
        &self,
        caller: &Caller,
        id: ShareId,
        change: ShareChange,
    ) -> Result<ShareInfo> {
        require_full(caller)?;
        let password = match &change.password {
            Some(Some(password)) => Some(Some(self.hash_password(password).await?)),
            Some(None) => Some(None),
            None => None,
        };
        transact!(self, None, |txn| {
            let (shared, found) = self.managed(&mut txn, caller, id, false).await?;
            match (found, shared.to) {
                (Found::Grant(mut grant, version), Some(to)) => {
                    let of_link = change.password.is_some()
                        || change.downloads_max.is_some()
                        || change.name.is_some();
                    if of_link || change.role == Some(Role::Uploader) {
                        return Err(Error::invalid("only a link has that"));
                    }
                    grant.role = change.role.unwrap_or(grant.role);
                    grant.expires = change.expires.unwrap_or(grant.expires);
                    let key = schema::grant_key(to, shared.space, shared.node);
                    txn.hold(key.clone(), version);
                    txn.put(key, &grant);
                }
                (Found::Link(mut link, version), _) => {
                    if change.role == Some(Role::Manager) {
                        return Err(Error::invalid("a link cannot make its holder a manager"));
                    }
                    link.role = change.role.unwrap_or(link.role);
                    link.expires = change.expires.unwrap_or(link.expires);
                    link.downloads_max = change.downloads_max.unwrap_or(link.downloads_max);
                    link.name = change.name.clone().unwrap_or(link.name);
                    link::check_terms(&link.name, link.downloads_max)?;
                    link.password = password.clone().unwrap_or(link.password);
                    txn.hold(schema::link_key(id), version);
                    txn.put(schema::link_key(id), &link);
                }
                (Found::Grant(..), None) => return Err(Error::not_found("share")),
            }
        });
        self.share(caller, id).await.map_err(Error::of_unknown_outcome)
    }

    /// Revokes a share: for those who may share what it is of, and for a user who has it.
    pub async fn delete_share(&self, caller: &Caller, id: ShareId) -> Result<()> {
        require_full(caller)?;
        transact!(self, None, |txn| {
            let (shared, found) = self.managed(&mut txn, caller, id, true).await?;
            // A full disk must keep nobody's right alive.
            txn.frees();
            forget::remove(&mut txn, id, &shared, &found);
        });
        Ok(())
    }

    /// A share that the caller may change, or end if it is theirs.
    async fn managed(
        &self,
        txn: &mut Txn,
        caller: &Caller,
        id: ShareId,
        or_mine: bool,
    ) -> Result<(Shared, Found)> {
        let missing = || Error::not_found("share");
        caller.hold(txn);
        let shared = txn.get::<Shared>(&schema::shared_key(id)).await?.ok_or_else(missing)?;
        txn.hold(schema::shared_key(id), shared.version);
        let shared = shared.value;
        let found = find(&*txn.snapshot, id, &shared).await?.ok_or_else(missing)?;
        let given = shared.to == Some(Principal::User(caller.user));
        if or_mine && given && check_scope(caller, shared.space, Right::Share).is_ok() {
            return Ok((shared, found));
        }
        let room = self.enter_room(txn, caller, shared.space, Right::Share).await;
        let room = room.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(),
            _ => error,
        })?;
        let target = Target::Node(shared.node);
        let chain = match self.shared_node(&*txn.snapshot, &room, &target).await {
            Ok((chain, _)) => chain,
            // In the trash, or hidden: then the right to the whole space decides.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let whole = lookup::resolve_dir(&*txn.snapshot, &room, &[]).await;
                match whole {
                    Ok(chain) => chain,
                    Err(_)
                        if shared.by == caller.user
                            || self.is_mine(&*txn.snapshot, caller, &shared).await? =>
                    {
                        let detail = "only those who may share this can change it";
                        return Err(Error::new(ErrorKind::Denied, detail));
                    }
                    Err(_) => return Err(missing()),
                }
            }
            Err(error) => return Err(error),
        };
        chain.hold(txn).await?;
        Ok((shared, found))
    }
}

/// The record of a share; `None` if it is gone.
async fn find(snapshot: &dyn Snapshot, id: ShareId, shared: &Shared) -> Result<Option<Found>> {
    match shared.to {
        Some(to) => {
            let key = schema::grant_key(to, shared.space, shared.node);
            let grant = txn::get::<Grant>(snapshot, &key).await?;
            let grant = grant.filter(|grant| grant.value.share == id);
            Ok(grant.map(|grant| Found::Grant(grant.value, grant.version)))
        }
        None => {
            let link = txn::get::<Link>(snapshot, &schema::link_key(id)).await?;
            Ok(link.map(|link| Found::Link(link.value, link.version)))
        }
    }
}
