//! Who may do what with a bucket and its objects, as access lists and policies of S3 say it.
//!
//! Whoever owns a bucket, or has a grant on it, uses it as any space (`room`). To others, and to
//! clients without credentials, its owner can open it by a list on the bucket or on an object, or
//! by a policy; a policy can also forbid, to everybody. What it opens is done in the name of the
//! owner: with no more rights than the list or the policy gives, and only as long as it stands
//! (P1: its records are compared where the content is read, and at the commit).
//!
//! Promises: I-ACL-1 nobody does what no list, policy or grant allows, nor what a policy forbids;
//! I-ACL-2 one that was taken back allows no further commit.
//!
//! Not here: documents and headers of S3 (the door).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{ErrorKind, id::SpaceId};
use larder_meta::{Snapshot, Version};

use super::{
    bucket,
    lifecycle::bucket_rules_of,
    path_of,
    public::{limits_of, lists_count, within},
    versions::version_in,
};
use crate::{
    Larder,
    access::{Right, check_scope},
    caller::{Access, Caller, Grounds, Scope},
    entry::{SpaceKind, SpaceRef},
    error::{Error, Result},
    object::{
        Acl, Ask, Bucket, BucketSetting, Compare, Effect, Grantee, Permission, Policy,
        PolicyCondition, Principals, Statement,
    },
    room::Room,
    schema::{self, DirentBody, FileState, Space, SpaceState, User},
    tree::lookup,
    txn::{self, Stored, transact},
    work::Priority,
};

/// Longest text of a setting, in bytes; S3 allows policies of 20 KiB.
const SETTING_BYTES_MAX: usize = 64 << 10;

/// What keys of conditions begin with that ask for a tag of the object.
const TAG: &str = "s3:existingobjecttag/";

impl Larder {
    /// The bucket, and as whom the request is to be done.
    ///
    /// Errors: `NotFound` if there is no such bucket; `Denied`.
    pub async fn enter_bucket(
        &self,
        caller: Option<&Caller>,
        name: &str,
        ask: &Ask<'_>,
    ) -> Result<(Bucket, Caller)> {
        let space = SpaceRef::Name(name.to_owned());
        let snapshot = self.inner.meta.snapshot().await?;
        let id = txn::get::<SpaceId>(&*snapshot, &schema::space_name_key(name)).await?;
        let missing = || Error::not_found("bucket");
        let id = id.ok_or_else(missing)?.value;
        let stored = txn::get::<Space>(&*snapshot, &schema::space_key(id)).await?;
        let stored = stored.filter(|stored| stored.value.state == SpaceState::Enabled);
        let found = stored.ok_or_else(missing)?.value;
        let policy = policy_of(&*snapshot, id).await?;
        let owns = caller.is_some_and(|caller| caller.user == found.owner && caller.link.is_none());
        let mut grounds = Vec::new();
        let told = match &policy {
            Some(policy) if policy.value.asks_for_tags() => {
                Some(with_tags(&*snapshot, id, &found, ask, &mut grounds).await?)
            }
            _ => None,
        };
        let ask = told.as_ref().unwrap_or(ask);
        let said = policy.as_ref().and_then(|policy| policy.value.says(caller, ask));
        if said == Some(Effect::Deny) && !(owns && ask.about_policy()) {
            return Err(denied());
        }
        if let Some(caller) = caller
            && self.locate(caller, &space).await.is_ok()
            && self.open_room(&*snapshot, caller, id, ask.right()).await.is_ok()
        {
            // A policy that comes later counts from the next request on.
            let grounds = Grounds::new(grounds);
            return Ok((bucket(id, &found), Caller { grounds, ..caller.clone() }));
        }
        // A key that opens less than its user may do opens no more than everybody may do.
        let caller = caller.filter(|caller| check_scope(caller, id, ask.right()).is_ok());
        let setting = |setting| schema::bucket_setting_key(id, setting);
        let (limits, limited) = limits_of(&*snapshot, id).await?;
        let version = policy.as_ref().map(|policy| policy.version);
        grounds.push((setting(BucketSetting::Policy), version));
        grounds.push((setting(BucketSetting::PublicAccess), limited));
        let allows = policy.is_some_and(|Stored { value: policy, .. }| {
            policy.says(caller, ask) == Some(Effect::Allow)
                && !(limits.restrict && policy.is_public())
        });
        if !allows {
            let (count, version) = lists_count(&*snapshot, id).await?;
            grounds.push((setting(BucketSetting::Ownership), version));
            let who = Who { caller, public: !limits.ignore_acls };
            let by_list = match count {
                true => by_list(&*snapshot, &who, id, &found, ask).await?,
                false => None,
            };
            let (record, version) = by_list.ok_or_else(denied)?;
            grounds.push((record, Some(version)));
        }
        let caller = self.on_behalf(&*snapshot, caller, (id, &found), ask, grounds).await?;
        Ok((bucket(id, &found), caller))
    }

    /// Who does in the name of the owner what these records allow.
    async fn on_behalf(
        &self,
        snapshot: &dyn Snapshot,
        caller: Option<&Caller>,
        (id, space): (SpaceId, &Space),
        ask: &Ask<'_>,
        mut grounds: Vec<(Bytes, Option<Version>)>,
    ) -> Result<Caller> {
        let owner = txn::get::<User>(snapshot, &schema::user_key(space.owner)).await?;
        let owner = owner.filter(|owner| !owner.value.disabled).ok_or_else(denied)?;
        let reads = ask.right() == Right::Read;
        let access = if reads { Access::Read } else { Access::Write };
        // Nor does it work any longer than what they came with themselves.
        if let Some(caller) = caller {
            grounds.push((schema::user_key(caller.user), Some(caller.record)));
            let credential = caller.credential.clone();
            grounds.extend(credential.map(|(key, version)| (key, Some(version))));
        }
        let name =
            caller.map_or_else(|| Arc::from("(anonymous)"), |caller| Arc::clone(&caller.name));
        Ok(Caller {
            user: space.owner,
            name,
            admin: false,
            record: owner.version,
            scope: Scope { access, spaces: Some([id].into()) },
            credential: None,
            grounds: Grounds::new(grounds),
            link: None,
            priority: caller.map_or(Priority::DEFAULT, |caller| caller.priority),
        })
    }

    /// The text of a setting of a bucket.
    ///
    /// Errors: `Denied` for those who do not manage it.
    pub async fn bucket_setting(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        setting: BucketSetting,
    ) -> Result<Option<String>> {
        let snapshot = self.inner.meta.snapshot().await?;
        self.open_room(&*snapshot, caller, bucket.id, Right::Read).await?;
        let key = schema::bucket_setting_key(bucket.id, setting);
        Ok(match setting {
            BucketSetting::Policy => {
                txn::get::<Policy>(&*snapshot, &key).await?.map(|stored| stored.value.text)
            }
            BucketSetting::Lifecycle => {
                bucket_rules_of(&*snapshot, bucket.id).await?.map(|stored| stored.value.text)
            }
            _ => txn::get::<String>(&*snapshot, &key).await?.map(|stored| stored.value),
        })
    }

    /// Sets or removes the text of a setting that only the door understands.
    ///
    /// Errors: `Denied`; `TooLarge`.
    pub async fn set_bucket_setting(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        setting: BucketSetting,
        text: Option<String>,
    ) -> Result<()> {
        if text.as_ref().is_some_and(|text| text.len() > SETTING_BYTES_MAX) {
            let detail = format!("a setting has at most {SETTING_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, detail));
        }
        self.put_setting(caller, bucket, setting, text.as_ref()).await
    }

    /// Sets or removes the policy of a bucket.
    pub async fn set_bucket_policy(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        policy: Option<Policy>,
    ) -> Result<()> {
        self.put_setting(caller, bucket, BucketSetting::Policy, policy.as_ref()).await
    }

    /// The access list of a bucket; empty unless one was set.
    pub async fn bucket_acl(&self, caller: &Caller, bucket: &Bucket) -> Result<Acl> {
        let snapshot = self.inner.meta.snapshot().await?;
        self.open_room(&*snapshot, caller, bucket.id, Right::Read).await?;
        let key = schema::bucket_setting_key(bucket.id, BucketSetting::Acl);
        Ok(txn::get::<Acl>(&*snapshot, &key).await?.map(|stored| stored.value).unwrap_or_default())
    }

    /// Sets the access list of a bucket.
    pub async fn set_bucket_acl(&self, caller: &Caller, bucket: &Bucket, acl: &Acl) -> Result<()> {
        self.put_setting(caller, bucket, BucketSetting::Acl, Some(acl)).await
    }

    pub(super) async fn put_setting<T: serde::Serialize + Sync>(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        setting: BucketSetting,
        value: Option<&T>,
    ) -> Result<()> {
        let key = schema::bucket_setting_key(bucket.id, setting);
        transact!(self, bucket.id, |txn| {
            // The owner, with any key that may change things.
            let space = self.enter_space(&mut txn, caller, bucket.id, Right::Write).await?;
            if space.owner != caller.user {
                self.enter_space(&mut txn, caller, bucket.id, Right::Manage).await?;
            }
            match value {
                Some(value) => txn.put(key.clone(), value),
                None => txn.delete(key.clone()),
            }
        });
        Ok(())
    }
}

/// Whom a list is asked about, and whether what it gives to everybody counts.
struct Who<'a> {
    caller: Option<&'a Caller>,
    public: bool,
}

/// The record of an access list that allows it.
async fn by_list(
    snapshot: &dyn Snapshot,
    who: &Who<'_>,
    id: SpaceId,
    space: &Space,
    ask: &Ask<'_>,
) -> Result<Option<(Bytes, Version)>> {
    if let Some(permission) = ask.on_bucket() {
        let key = schema::bucket_setting_key(id, BucketSetting::Acl);
        if let Some(stored) = txn::get::<Acl>(snapshot, &key).await?
            && stored.value.allows(who, permission)
        {
            return Ok(Some((key, stored.version)));
        }
    }
    let Some(permission) = ask.on_object() else { return Ok(None) };
    let found = object_of(snapshot, id, space, ask).await?;
    let allowed = found.filter(|(state, _)| {
        state.object.as_ref().is_some_and(|info| info.acl.allows(who, permission))
    });
    Ok(allowed.map(|(_, record)| record))
}

/// The object that a request is about, if there is one, and the record that it stands in.
async fn object_of(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
    ask: &Ask<'_>,
) -> Result<Option<(FileState, (Bytes, Version))>> {
    let Some(key) = ask.key else { return Ok(None) };
    let Ok(path) = path_of(&bucket(id, space), key) else { return Ok(None) };
    let room = Room::of_system(id, space.clone());
    let found = if space.kind == SpaceKind::Bucket {
        let found = version_in(snapshot, &room, &path, ask.version).await;
        found.map(|found| Some((found.state, found.record)))
    } else {
        lookup::resolve(snapshot, &room, &path).await.map(|found| {
            let key = schema::dirent_key(id, found.parent.dir(), &found.name);
            match found.dirent.value.body {
                DirentBody::File(state) => Some((state, (key, found.dirent.version))),
                DirentBody::Dir | DirentBody::Ref(_) => None,
            }
        })
    };
    match found {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WrongType) => {
            Ok(None)
        }
        found => found,
    }
}

/// A request with the tags of the object that it is about, whose record goes to the grounds.
async fn with_tags<'a>(
    snapshot: &dyn Snapshot,
    id: SpaceId,
    space: &Space,
    ask: &Ask<'a>,
    grounds: &mut Vec<(Bytes, Option<Version>)>,
) -> Result<Ask<'a>> {
    let mut told = ask.clone();
    let Some((state, (key, version))) = object_of(snapshot, id, space, ask).await? else {
        return Ok(told);
    };
    grounds.push((key, Some(version)));
    if let Some(info) = state.object {
        let tags = info.tags.iter();
        told.context.extend(tags.map(|(key, value)| (format!("{TAG}{key}"), value.clone())));
    }
    Ok(told)
}

async fn policy_of(snapshot: &dyn Snapshot, id: SpaceId) -> Result<Option<Stored<Policy>>> {
    txn::get(snapshot, &schema::bucket_setting_key(id, BucketSetting::Policy)).await
}

fn denied() -> Error {
    Error::new(ErrorKind::Denied, "no list, policy or grant allows this")
}

impl Ask<'_> {
    /// The right that it takes of who owns the bucket.
    fn right(&self) -> Right {
        match self.action.strip_prefix("s3:").unwrap_or_default() {
            action if action.starts_with("Get") || action.starts_with("List") => Right::Read,
            _ => Right::Write,
        }
    }

    /// Whether it is about the policy itself, from which the owner cannot lock themselves out.
    fn about_policy(&self) -> bool {
        self.action.ends_with("BucketPolicy")
    }

    /// What an access list of the bucket must give for it.
    fn on_bucket(&self) -> Option<Permission> {
        match self.action {
            "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => {
                Some(Permission::Read)
            }
            "s3:PutObject" | "s3:DeleteObject" | "s3:AbortMultipartUpload" => {
                Some(Permission::Write)
            }
            "s3:GetBucketAcl" => Some(Permission::ReadAcp),
            "s3:PutBucketAcl" => Some(Permission::WriteAcp),
            _ => None,
        }
    }

    /// What an access list of the object must give for it.
    fn on_object(&self) -> Option<Permission> {
        match self.action {
            "s3:GetObject"
            | "s3:GetObjectVersion"
            | "s3:GetObjectAttributes"
            | "s3:GetObjectVersionAttributes" => Some(Permission::Read),
            "s3:GetObjectAcl" | "s3:GetObjectVersionAcl" => Some(Permission::ReadAcp),
            "s3:PutObjectAcl" | "s3:PutObjectVersionAcl" => Some(Permission::WriteAcp),
            _ => None,
        }
    }
}

impl Acl {
    fn allows(&self, who: &Who<'_>, permission: Permission) -> bool {
        let caller = who.caller;
        self.grants.iter().any(|grant| {
            let gives = grant.gives == permission || grant.gives == Permission::Full;
            gives
                && match grant.to {
                    Grantee::Everybody => who.public,
                    Grantee::Users => who.public && caller.is_some(),
                    Grantee::User(user) => caller.is_some_and(|caller| caller.user == user),
                }
        })
    }
}

impl Policy {
    fn asks_for_tags(&self) -> bool {
        let mut conditions = self.statements.iter().flat_map(|statement| &statement.conditions);
        conditions.any(|condition| condition.key.starts_with(TAG))
    }

    /// What it says of this; nothing if no statement is about it.
    fn says(&self, caller: Option<&Caller>, ask: &Ask<'_>) -> Option<Effect> {
        let about = |effect| {
            let mut statements = self.statements.iter().filter(|one| one.effect == effect);
            statements.any(|statement| statement.is_about(caller, ask)).then_some(effect)
        };
        about(Effect::Deny).or_else(|| about(Effect::Allow))
    }
}

impl Statement {
    fn is_about(&self, caller: Option<&Caller>, ask: &Ask<'_>) -> bool {
        let any = |patterns: &[String], text: &str| patterns.iter().any(|one| matches(one, text));
        let id = caller.map(|caller| caller.user.to_string());
        let named = |names: &[String]| {
            names.iter().any(|name| {
                name == "*"
                    || caller.is_some_and(|caller| **name == *caller.name)
                    || id.as_ref() == Some(name)
            })
        };
        let who = match &self.principals {
            Principals::Are(names) => named(names),
            Principals::AreNot(names) => !named(names),
        };
        let action = any(&self.actions.patterns, ask.action) != self.actions.negated;
        let resource = ask.resource();
        let what = any(&self.resources.patterns, &resource) != self.resources.negated;
        who && action
            && what
            && self.conditions.iter().all(|condition| {
                let values = ask.context.iter().filter(|(key, _)| *key == condition.key);
                condition.holds(&values.map(|(_, value)| value.as_str()).collect::<Vec<_>>())
            })
    }
}

impl PolicyCondition {
    /// Whether it holds for these values of its key.
    fn holds(&self, values: &[&str]) -> bool {
        let wants = |text: &str| self.values.iter().any(|value| value.eq_ignore_ascii_case(text));
        if self.compare == Compare::Null {
            return wants(if values.is_empty() { "true" } else { "false" });
        }
        if values.is_empty() {
            return self.if_exists || self.negated;
        }
        let fits = |value: &&str| match self.compare {
            Compare::Equal => self.values.iter().any(|one| one == value),
            Compare::Like => self.values.iter().any(|one| matches(one, value)),
            Compare::Network => self.values.iter().any(|one| within(one, value)),
            Compare::EqualIgnoreCase | Compare::Null => wants(value),
        };
        values.iter().any(fits) != self.negated
    }
}

/// Whether a text fits a pattern with `*` (any characters) and `?` (one). Linear in time but for
/// the last star, which is tried again at each place.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(byte) if text.get(t) == Some(byte) => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}
