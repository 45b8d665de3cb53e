//! Proves that the records of users, groups and credentials agree with each other.
//!
//! I1 names and ids of users and groups lead to each other; I2 what decides and its index are both
//! there or neither: memberships, credentials, access keys, secrets; I3 nothing belongs to a user
//! or group that is no more, unless a job is about to remove it. A full check calls this.
//!
//! Not here: files (`check`), repair.

use std::collections::BTreeSet;

use bytes::Bytes;
use larder_base::id::{GroupId, KeyId, UserId};
use larder_meta::Snapshot;

use super::{group, key};
use crate::{
    error::Result,
    schema::{self, Group, Job, JobWork, User},
    txn::{self, Pages},
};

/// Records read at once.
const PAGE: usize = 1000;

/// What disagrees, with the letter of the rule; `report` is given each finding.
pub(crate) async fn audit(
    snapshot: &dyn Snapshot,
    report: &mut (dyn FnMut(&'static str, String) + Send + Sync),
) -> Result<()> {
    let mut audit = Audit { snapshot, report, going: BTreeSet::new() };
    audit.jobs().await?;
    audit.users().await?;
    audit.groups().await?;
    audit.memberships().await?;
    audit.credentials().await
}

struct Audit<'a> {
    snapshot: &'a dyn Snapshot,
    report: &'a mut (dyn FnMut(&'static str, String) + Send + Sync),
    /// Users and groups that jobs are about to forget.
    going: BTreeSet<[u8; 16]>,
}

impl Audit<'_> {
    async fn there(&self, key: &Bytes) -> Result<bool> {
        Ok(self.snapshot.get(key).await?.is_some())
    }

    async fn jobs(&mut self) -> Result<()> {
        let mut pages = Pages::of(schema::jobs_prefix(), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in &page {
                match schema::decode::<Job>(key, &record.value)?.work {
                    JobWork::ForgetUser { user } => self.going.insert(*user.as_bytes()),
                    JobWork::ForgetGroup { group } => self.going.insert(*group.as_bytes()),
                    _ => false,
                };
            }
        }
        Ok(())
    }

    async fn users(&mut self) -> Result<()> {
        let mut pages = Pages::of(schema::users_prefix(), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in &page {
                let id = UserId::from_bytes(schema::trailing_id(key)?);
                let user: User = schema::decode(key, &record.value)?;
                let name = schema::user_name_key(&user.name);
                let found = txn::get::<UserId>(self.snapshot, &name).await?;
                if found.is_none_or(|found| found.value != id) {
                    (self.report)("I1", format!("user {id} is not found by its name"));
                }
            }
        }
        Ok(())
    }

    async fn groups(&mut self) -> Result<()> {
        let mut pages = Pages::of(schema::groups_prefix(), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in &page {
                let id = GroupId::from_bytes(schema::trailing_id(key)?);
                let group: Group = schema::decode(key, &record.value)?;
                let name = schema::group_name_key(&group.name);
                let found = txn::get::<GroupId>(self.snapshot, &name).await?;
                if found.is_none_or(|found| found.value != id) {
                    (self.report)("I1", format!("group {id} is not found by its name"));
                }
            }
        }
        Ok(())
    }

    async fn memberships(&mut self) -> Result<()> {
        for (family, index) in [(*b"gm", *b"ug"), (*b"ug", *b"gm")] {
            let mut pages = Pages::of(Bytes::copy_from_slice(&family), PAGE);
            while let Some(page) = pages.next(self.snapshot).await? {
                for (key, _) in &page {
                    let Some((first, second)) = group::pair(key) else {
                        (self.report)("I2", format!("{} is no membership", key.escape_ascii()));
                        continue;
                    };
                    let other = Bytes::from([&index[..], &second, &first].concat());
                    if !self.there(&other).await? {
                        let what = format!("{} has no counterpart", key.escape_ascii());
                        (self.report)("I2", what);
                    }
                    if family == *b"gm" {
                        self.membership(GroupId::from_bytes(first), UserId::from_bytes(second))
                            .await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn membership(&mut self, group: GroupId, user: UserId) -> Result<()> {
        let user_there = self.there(&schema::user_key(user)).await?;
        if !user_there && !self.going.contains(user.as_bytes()) {
            (self.report)("I3", format!("group {group} has a member {user} who is no more"));
        }
        let group_there = self.there(&schema::group_key(group)).await?;
        if !group_there && !self.going.contains(group.as_bytes()) {
            (self.report)("I3", format!("user {user} belongs to group {group}, which is no more"));
        }
        Ok(())
    }

    async fn credentials(&mut self) -> Result<()> {
        let mut pages = Pages::of(Bytes::from_static(b"ak"), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (stored, record) in &page {
                let id = KeyId::from_bytes(schema::trailing_id(stored)?);
                let credential = schema::decode_credential(stored, &record.value)?;
                let user = credential.user;
                if !self.there(&schema::user_api_key_key(user, id)).await? {
                    (self.report)("I2", format!("key {id} is not listed by its user"));
                }
                if key::secrets(self.snapshot, id, &credential).await?.is_none() {
                    (self.report)("I2", format!("key {id} has no secret"));
                }
                if let Some(access_key) = &credential.access_key_id {
                    let index = schema::access_key_key(access_key);
                    let found = txn::get::<KeyId>(self.snapshot, &index).await?;
                    if found.is_none_or(|found| found.value != id) {
                        (self.report)("I2", format!("key {id} is not found by its access key id"));
                    }
                }
                let there = self.there(&schema::user_key(user)).await?;
                if !there && !self.going.contains(user.as_bytes()) {
                    (self.report)("I3", format!("key {id} is of user {user}, who is no more"));
                }
            }
        }
        let mut pages = Pages::of(Bytes::from_static(b"uk"), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (stored, _) in &page {
                let id = KeyId::from_bytes(schema::trailing_id(stored)?);
                if !self.there(&schema::api_key_key(id)).await? {
                    (self.report)("I2", format!("key {id} is listed and not there"));
                }
            }
        }
        Ok(())
    }
}
