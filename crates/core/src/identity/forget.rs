//! What is left of users and groups that were removed, step by step.
//!
//! A removal is one commit, after which nothing that is left has an effect: no credential without
//! a user is accepted, no membership without both its records counts, and ids never recur. The
//! job that the commit queued then calls the steps here, and those of grants, links and upload
//! sessions, in bounded transactions; it can be stopped and begun again anywhere.
//!
//! Not here: the job (`job::forget`).

use larder_base::id::{GroupId, UserId};

use crate::{
    Larder,
    error::Result,
    identity::{group, key},
    schema,
    txn::{self, transact},
};

/// Credentials removed by one transaction: each is up to five records.
const KEYS_BATCH: usize = 15;

/// Memberships removed by one transaction: each is two records.
const MEMBERS_BATCH: usize = 40;

impl Larder {
    /// Removes some of the credentials of a user who is no more; answers whether there were any.
    pub(crate) async fn forget_keys(&self, user: UserId) -> Result<bool> {
        let (any, _) = transact!(self, None, |txn| {
            txn.frees();
            let ids = key::ids_of(&*txn.snapshot, user, KEYS_BATCH).await?;
            for id in &ids {
                match key::find(&*txn.snapshot, *id).await? {
                    Some(found) => key::remove(&mut txn, *id, &found.value),
                    None => txn.delete(schema::user_api_key_key(user, *id)),
                }
            }
            if ids.is_empty() {
                txn.delete(schema::additions_key(user));
            }
            !ids.is_empty()
        });
        Ok(any)
    }

    /// Removes some of the memberships of a user who is no more; answers whether there were any.
    pub(crate) async fn forget_memberships(&self, user: UserId) -> Result<bool> {
        let (any, _) = transact!(self, None, |txn| {
            txn.frees();
            let prefix = schema::user_groups_prefix(user);
            let page = txn::page(&*txn.snapshot, &prefix, None, MEMBERS_BATCH).await?;
            for (key, _) in &page {
                let group = GroupId::from_bytes(schema::trailing_id(key)?);
                group::remove(&mut txn, group, user);
            }
            !page.is_empty()
        });
        Ok(any)
    }

    /// Removes some of the members of a group that is no more; answers whether there were any.
    pub(crate) async fn forget_members(&self, group: GroupId) -> Result<bool> {
        let (any, _) = transact!(self, None, |txn| {
            txn.frees();
            let prefix = schema::members_prefix(group);
            let page = txn::page(&*txn.snapshot, &prefix, None, MEMBERS_BATCH).await?;
            for (key, _) in &page {
                let user = UserId::from_bytes(schema::trailing_id(key)?);
                group::remove(&mut txn, group, user);
            }
            !page.is_empty()
        });
        Ok(any)
    }
}
