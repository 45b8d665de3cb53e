//! What of a bucket everybody may use or know: limits on what lists and policies open, which
//! policies are public, and the names of users that lists show.
//!
//! Not here: what lists and policies open (`access`).

use std::net::IpAddr;

use larder_base::id::{SpaceId, UserId};
use larder_meta::{Snapshot, Version};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    error::Result,
    object::{
        Acl, Bucket, BucketSetting, Compare, Effect, Grantee, Ownership, Policy, PolicyCondition,
        Principals, PublicAccess, Statement,
    },
    schema::{self, Space, SpaceState, User},
    txn::{self, Stored},
};

/// Keys of conditions that tell clients apart whom a bucket's owner knows.
const TELLING: &[&str] = &["aws:userid", "aws:username"];

/// Shortest prefixes of networks that are not everybody: of IPv4 and IPv6.
const PREFIX_MIN: (u32, u32) = (8, 32);

impl Larder {
    /// What lists and policies of a bucket may not open, and whether its lists count.
    pub async fn bucket_limits(
        &self,
        caller: &Caller,
        bucket: &Bucket,
    ) -> Result<(Option<PublicAccess>, Option<Ownership>)> {
        let snapshot = self.inner.meta.snapshot().await?;
        self.open_room(&*snapshot, caller, bucket.id, Right::Read).await?;
        let ownership = schema::bucket_setting_key(bucket.id, BucketSetting::Ownership);
        let ownership = txn::get::<Ownership>(&*snapshot, &ownership).await?;
        let public = schema::bucket_setting_key(bucket.id, BucketSetting::PublicAccess);
        let public = txn::get::<PublicAccess>(&*snapshot, &public).await?;
        Ok((public.map(|stored| stored.value), ownership.map(|stored| stored.value)))
    }

    /// Sets or removes what lists and policies of a bucket may not open.
    pub async fn set_public_access(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        limits: Option<PublicAccess>,
    ) -> Result<()> {
        self.put_setting(caller, bucket, BucketSetting::PublicAccess, limits.as_ref()).await
    }

    /// Sets or removes whether the lists of a bucket count.
    pub async fn set_ownership(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        ownership: Option<Ownership>,
    ) -> Result<()> {
        self.put_setting(caller, bucket, BucketSetting::Ownership, ownership.as_ref()).await
    }

    /// What pages of other origins may do with the bucket of this name. That is no secret:
    /// browsers ask for it without credentials.
    pub async fn bucket_cors(&self, name: &str) -> Result<Option<String>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let id = txn::get::<SpaceId>(&*snapshot, &schema::space_name_key(name)).await?;
        let Some(id) = id.map(|stored| stored.value) else { return Ok(None) };
        let space = txn::get::<Space>(&*snapshot, &schema::space_key(id)).await?;
        if space.is_none_or(|space| space.value.state != SpaceState::Enabled) {
            return Ok(None);
        }
        let key = schema::bucket_setting_key(id, BucketSetting::Cors);
        Ok(txn::get::<String>(&*snapshot, &key).await?.map(|stored| stored.value))
    }

    /// The name of a user, if there is one of this id.
    pub async fn user_name(&self, user: UserId) -> Result<Option<String>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let user = txn::get::<User>(&*snapshot, &schema::user_key(user)).await?;
        Ok(user.map(|user| user.value.name))
    }

    /// The id of a user, if there is one of this name.
    pub async fn user_named(&self, name: &str) -> Result<Option<UserId>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let id = txn::get::<UserId>(&*snapshot, &schema::user_name_key(name)).await?;
        Ok(id.map(|id| id.value))
    }
}

/// What the lists and policies of a bucket may not open, and the version of the record that says
/// so; nothing that was never set.
pub(super) async fn limits_of(
    snapshot: &dyn Snapshot,
    id: SpaceId,
) -> Result<(PublicAccess, Option<Version>)> {
    let key = schema::bucket_setting_key(id, BucketSetting::PublicAccess);
    let stored = txn::get::<PublicAccess>(snapshot, &key).await?;
    Ok(stored.map(|stored| (stored.value, Some(stored.version))).unwrap_or_default())
}

/// Whether the lists of a bucket count, and the version of the record that says so.
pub(super) async fn lists_count(
    snapshot: &dyn Snapshot,
    id: SpaceId,
) -> Result<(bool, Option<Version>)> {
    let key = schema::bucket_setting_key(id, BucketSetting::Ownership);
    let stored = txn::get::<Ownership>(snapshot, &key).await?;
    let counted =
        |stored: Stored<Ownership>| (stored.value != Ownership::Enforced, Some(stored.version));
    Ok(stored.map_or((true, None), counted))
}

impl Acl {
    /// Whether it opens something to people whom nobody here named.
    pub fn is_public(&self) -> bool {
        self.grants.iter().any(|grant| matches!(grant.to, Grantee::Everybody | Grantee::Users))
    }
}

impl Policy {
    /// Whether it opens something to people whom nobody here named.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(Statement::is_public)
    }
}

impl Statement {
    fn is_public(&self) -> bool {
        let all = match &self.principals {
            Principals::Are(names) => names.iter().any(|name| name == "*"),
            Principals::AreNot(_) => true,
        };
        let known = self.conditions.iter().any(PolicyCondition::tells_apart);
        self.effect == Effect::Allow && all && !known
    }
}

impl PolicyCondition {
    /// Whether it holds only for clients that the owner has named.
    fn tells_apart(&self) -> bool {
        if self.negated || self.if_exists || self.values.is_empty() {
            return false;
        }
        match self.compare {
            Compare::Network => self.values.iter().all(|value| {
                network(value).is_some_and(|(address, bits)| {
                    let (v4, v6) = PREFIX_MIN;
                    bits >= if address.is_ipv4() { v4 } else { v6 }
                })
            }),
            Compare::Equal | Compare::EqualIgnoreCase => TELLING.contains(&self.key.as_str()),
            Compare::Like => {
                let fixed = self.values.iter().all(|value| !value.contains(['*', '?']));
                fixed && TELLING.contains(&self.key.as_str())
            }
            Compare::Null => false,
        }
    }
}

/// A network, `ADDRESS/BITS`, or one address.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some((address, bits))
}

/// Whether a text is a network that a condition can name.
pub fn is_network(text: &str) -> bool {
    network(text).is_some()
}

/// Whether an address is in a network.
pub(super) fn within(range: &str, address: &str) -> bool {
    let (Some((base, bits)), Ok(address)) = (network(range), address.parse::<IpAddr>()) else {
        return false;
    };
    match (base, address.to_canonical()) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        for (range, address) in [
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.1.2.3", "10.1.2.3"),
            ("0.0.0.0/0", "1.1.1.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1"),
            ("2001:db8::/32", "2001:db8::1"),
            ("::/0", "::1"),
        ] {
            assert!(within(range, address), "{range} {address}");
        }
        for (range, address) in
            [("10.0.0.0/8", "11.0.0.1"), ("10.0.0.0/33", "10.0.0.0"), ("::/0", "1.1.1.1"), ("", "")]
        {
            assert!(!within(range, address), "{range} {address}");
        }
    }

    #[test]
    fn policies_for_all_are_public_unless_they_name_who() {
        let mut statement = Statement {
            effect: Effect::Allow,
            principals: Principals::Are(vec!["*".to_owned()]),
            actions: crate::object::Patterns { patterns: Vec::new(), negated: false },
            resources: crate::object::Patterns { patterns: Vec::new(), negated: false },
            conditions: Vec::new(),
        };
        let public = |statement: &Statement| {
            Policy { text: String::new(), statements: vec![statement.clone()] }.is_public()
        };
        assert!(public(&statement));
        for (range, expected) in [("10.0.0.0/32", false), ("0.0.0.0/0", true), ("10.0.0.0/7", true)]
        {
            statement.conditions = vec![PolicyCondition {
                key: "aws:sourceip".to_owned(),
                values: vec![range.to_owned()],
                compare: Compare::Network,
                negated: false,
                if_exists: false,
            }];
            assert_eq!(public(&statement), expected, "{range}");
        }
        statement.conditions.clear();
        statement.principals = Principals::Are(vec!["other".to_owned()]);
        assert!(!public(&statement));
        statement.principals = Principals::AreNot(vec!["other".to_owned()]);
        assert!(public(&statement));
        statement.effect = Effect::Deny;
        assert!(!public(&statement));
    }
}
