//! Groups of users, and who belongs to them.
//!
//! Two records decide whether a user belongs to a group: the group's (`gr`) and the membership
//! (`gm/{group}/{user}`). A change that relies on a membership compares both at its commit
//! ([`Membership::records`]), so that a removed member and a removed group change nothing any more.
//! `ug/{user}/{group}` is the index of `gm`, written by the same commits; it may outlive its
//! group until a job has removed it.
//!
//! Promises: at most [`GROUPS_OF_USER_MAX`] groups of one user; a group of any size is removed by
//! one commit, what is left of it by a job.
//!
//! Not here: what a group may do (grants).

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::{GroupId, UserId},
};
use larder_meta::{Snapshot, Version};

use super::key;
use crate::{
    Larder,
    access::{require_admin, require_full},
    account::{GroupInfo, GroupRef, MemberInfo, UserRef},
    caller::Caller,
    entry::{ListOptions, Page},
    error::{Error, Result},
    schema::{self, Group, JobWork, Member, User},
    txn::{self, Stored, Txn, transact},
};

/// Most groups that one user belongs to.
pub(crate) const GROUPS_OF_USER_MAX: usize = 256;

/// That a user belongs to a group, and the records that say so.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// The group.
    pub(crate) group: GroupId,
    /// The group's record and the membership's: whoever relies on it compares both.
    pub(crate) records: [(Bytes, Version); 2],
}

/// The membership of `user` in `group`; `None` if there is none.
pub(crate) async fn membership(
    snapshot: &dyn Snapshot,
    group: GroupId,
    user: UserId,
) -> Result<Option<Membership>> {
    let keys = (schema::group_key(group), schema::member_key(group, user));
    let Some(member) = txn::get::<Member>(snapshot, &keys.1).await? else { return Ok(None) };
    let Some(found) = txn::get::<Group>(snapshot, &keys.0).await? else { return Ok(None) };
    let records = [(keys.0, found.version), (keys.1, member.version)];
    Ok(Some(Membership { group, records }))
}

/// All groups that `user` belongs to, by id: at most [`GROUPS_OF_USER_MAX`].
pub(crate) async fn groups_of(snapshot: &dyn Snapshot, user: UserId) -> Result<Vec<Membership>> {
    let mut groups = Vec::new();
    let prefix = schema::user_groups_prefix(user);
    let page = txn::page(snapshot, &prefix, None, GROUPS_OF_USER_MAX).await?;
    for (key, _) in &page {
        let group = GroupId::from_bytes(schema::trailing_id(key)?);
        // A group that was removed may still have its index.
        groups.extend(membership(snapshot, group, user).await?);
    }
    Ok(groups)
}

/// The two ids in the key of a membership or of its index.
pub(crate) fn pair(key: &[u8]) -> Option<([u8; 16], [u8; 16])> {
    let (first, second) = key.get(2..)?.split_first_chunk::<16>()?;
    Some((*first, second.try_into().ok()?))
}

/// Removes a membership and its index.
pub(crate) fn remove(txn: &mut Txn, group: GroupId, user: UserId) {
    txn.delete(schema::member_key(group, user));
    txn.delete(schema::user_group_key(user, group));
}

impl Larder {
    /// One page of the groups: all for administrators, else those that the caller belongs to.
    /// The cursor is the last id given.
    pub async fn groups(&self, caller: &Caller, options: &ListOptions) -> Result<Page<GroupInfo>> {
        require_full(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let limit = options.page_limit();
        let after = options.cursor.as_deref().map(cursor::<GroupId>).transpose()?;
        let mut entries = Vec::new();
        let full = if caller.admin {
            let after = after.map(schema::group_key);
            let prefix = schema::groups_prefix();
            let records = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
            for (key, record) in &records {
                let id = GroupId::from_bytes(schema::trailing_id(key)?);
                entries.push(info(id, schema::decode(key, &record.value)?));
            }
            records.len() == limit
        } else {
            let own = groups_of(&*snapshot, caller.user).await?;
            for membership in own.iter().filter(|own| after.is_none_or(|after| own.group > after)) {
                let key = schema::group_key(membership.group);
                if let Some(group) = txn::get::<Group>(&*snapshot, &key).await? {
                    entries.push(info(membership.group, group.value));
                }
            }
            entries.truncate(limit);
            entries.len() == limit
        };
        let cursor = entries.last().filter(|_| full).map(|last| last.id.to_string());
        Ok(Page { entries, cursor })
    }

    /// Makes a group. Administrators only.
    ///
    /// Errors: `AlreadyExists` with the id of the group that has the name.
    pub async fn create_group(&self, caller: &Caller, name: &str) -> Result<GroupInfo> {
        require_admin(caller)?;
        super::check_name(name, "group")?;
        let id = GroupId::new(&self.inner.env);
        let (made, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            claim_name(&mut txn, name, id).await?;
            let group = Group { name: name.to_owned(), created: txn.now };
            txn.put(schema::group_key(id), &group);
            info(id, group)
        });
        Ok(made)
    }

    /// A group, for administrators and its members.
    pub async fn group(&self, caller: &Caller, group: &GroupRef) -> Result<GroupInfo> {
        let snapshot = self.inner.meta.snapshot().await?;
        let (id, stored) = find(&*snapshot, caller, group).await?;
        Ok(info(id, stored.value))
    }

    /// Gives a group another name. Administrators only.
    pub async fn rename_group(
        &self,
        caller: &Caller,
        group: &GroupRef,
        name: &str,
    ) -> Result<GroupInfo> {
        require_admin(caller)?;
        super::check_name(name, "group")?;
        let (changed, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            let (id, stored) = find(&*txn.snapshot, caller, group).await?;
            txn.hold(schema::group_key(id), stored.version);
            let mut group = stored.value;
            if group.name != name {
                claim_name(&mut txn, name, id).await?;
                txn.delete(schema::group_name_key(&group.name));
                name.clone_into(&mut group.name);
                txn.put(schema::group_key(id), &group);
            }
            info(id, group)
        });
        Ok(changed)
    }

    /// Removes a group of any size: from the answer on nobody has a right through it. A job
    /// removes its memberships and grants. Administrators only.
    pub async fn delete_group(&self, caller: &Caller, group: &GroupRef) -> Result<()> {
        require_admin(caller)?;
        transact!(self, None, |txn| {
            txn.frees();
            caller.hold(&mut txn);
            let (id, stored) = find(&*txn.snapshot, caller, group).await?;
            txn.hold(schema::group_key(id), stored.version);
            txn.delete(schema::group_key(id));
            txn.delete(schema::group_name_key(&stored.value.name));
            self.queue_job(&mut txn, JobWork::ForgetGroup { group: id });
        });
        self.wake_jobs();
        Ok(())
    }

    /// One page of the members of a group, for administrators and its members. The cursor is the
    /// last user's id.
    pub async fn group_members(
        &self,
        caller: &Caller,
        group: &GroupRef,
        options: &ListOptions,
    ) -> Result<Page<MemberInfo>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let (id, _) = find(&*snapshot, caller, group).await?;
        let limit = options.page_limit();
        let after = options.cursor.as_deref().map(cursor::<UserId>).transpose()?;
        let after = after.map(|user| schema::member_key(id, user));
        let prefix = schema::members_prefix(id);
        let records = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
        let mut entries = Vec::new();
        let mut last = None;
        for (key, record) in &records {
            let user = UserId::from_bytes(schema::trailing_id(key)?);
            last = Some(user);
            let Member { since } = schema::decode(key, &record.value)?;
            // One that was removed may still be counted here.
            if let Some(found) = txn::get::<User>(&*snapshot, &schema::user_key(user)).await? {
                entries.push(MemberInfo { user, name: found.value.name, since });
            }
        }
        let cursor = last.filter(|_| records.len() == limit).map(|user| user.to_string());
        Ok(Page { entries, cursor })
    }

    /// Makes a user a member; answers whether they were none before. Administrators only.
    ///
    /// Errors: `Conflict` if the user belongs to too many groups.
    pub async fn add_member(
        &self,
        caller: &Caller,
        group: &GroupRef,
        user: &UserRef,
    ) -> Result<bool> {
        require_admin(caller)?;
        let (added, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            let (id, stored) = find(&*txn.snapshot, caller, group).await?;
            let (user, record) = self.find_user(&*txn.snapshot, caller, user).await?;
            let key = schema::member_key(id, user);
            if txn.snapshot.get(&key).await?.is_some() {
                return Ok(false);
            }
            txn.hold(schema::group_key(id), stored.version);
            txn.hold(schema::user_key(user), record.version);
            key::hold_additions(&mut txn, user).await?;
            let prefix = schema::user_groups_prefix(user);
            let own = txn::page(&*txn.snapshot, &prefix, None, GROUPS_OF_USER_MAX).await?;
            if own.len() >= GROUPS_OF_USER_MAX {
                let detail = format!("a user belongs to at most {GROUPS_OF_USER_MAX} groups");
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            txn.hold_absent(key.clone());
            txn.put(key, &Member { since: txn.now });
            txn.put(schema::user_group_key(user, id), &());
            true
        });
        Ok(added)
    }

    /// Ends a membership: rights through the group end at once. Administrators only.
    pub async fn remove_member(
        &self,
        caller: &Caller,
        group: &GroupRef,
        user: &UserRef,
    ) -> Result<()> {
        require_admin(caller)?;
        transact!(self, None, |txn| {
            // A full disk must keep nobody's right alive.
            txn.frees();
            caller.hold(&mut txn);
            let (id, _) = find(&*txn.snapshot, caller, group).await?;
            let (user, _) = self.find_user(&*txn.snapshot, caller, user).await?;
            let key = schema::member_key(id, user);
            let member = txn.get::<Member>(&key).await?;
            txn.hold(key, member.ok_or_else(|| Error::not_found("member"))?.version);
            remove(&mut txn, id, user);
        });
        Ok(())
    }
}

async fn locate(snapshot: &dyn Snapshot, group: &GroupRef) -> Result<(GroupId, Stored<Group>)> {
    let missing = || Error::not_found("group");
    let id = match group {
        GroupRef::Id(id) => *id,
        GroupRef::Name(name) => {
            let found = txn::get::<GroupId>(snapshot, &schema::group_name_key(name)).await?;
            found.ok_or_else(missing)?.value
        }
    };
    let stored = txn::get::<Group>(snapshot, &schema::group_key(id)).await?;
    Ok((id, stored.ok_or_else(missing)?))
}

/// The group, if the caller administers or belongs to it; nobody else learns that it exists.
async fn find(
    snapshot: &dyn Snapshot,
    caller: &Caller,
    group: &GroupRef,
) -> Result<(GroupId, Stored<Group>)> {
    require_full(caller)?;
    let (id, stored) = locate(snapshot, group).await?;
    if !caller.admin && membership(snapshot, id, caller.user).await?.is_none() {
        return Err(Error::not_found("group"));
    }
    Ok((id, stored))
}

/// Takes a name for a group.
async fn claim_name(txn: &mut Txn, name: &str, id: GroupId) -> Result<()> {
    let key = schema::group_name_key(name);
    if let Some(other) = txn.get::<GroupId>(&key).await? {
        let error = Error::new(ErrorKind::AlreadyExists, "a group has this name");
        return Err(error.with_existing(other.value));
    }
    txn.hold_absent(key.clone());
    txn.put(key, &id);
    Ok(())
}

fn cursor<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::invalid("the cursor is not one that a page gave"))
}

fn info(id: GroupId, group: Group) -> GroupInfo {
    GroupInfo { id, name: group.name, created: group.created }
}
