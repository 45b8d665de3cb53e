//! Grants and links of one space, on their way out and in.
//!
//! Promises: a grant for a user or group that the loading instance does not know is dropped and
//! counted; what was made by somebody unknown is the loading administrator's from then on.
//!
//! Not here: what grants and links mean (`share`).

use bytes::Bytes;
use larder_base::id::{ShareId, SpaceId, UserId};
use larder_meta::{Record, Snapshot};

use crate::{
    access::Principal,
    error::{Error, Result},
    schema::{self, Grant, Link, Shared},
    txn,
};

/// A page of the records of everything shared in a space; `None` at the end.
pub(super) async fn page(
    snapshot: &dyn Snapshot,
    space: SpaceId,
    after: &mut Option<Bytes>,
    limit: usize,
) -> Result<Option<Vec<(Bytes, Record)>>> {
    let prefix = schema::shared_in_prefix(space);
    let index = txn::page(snapshot, &prefix, after.as_deref(), limit).await?;
    let Some((last, _)) = index.last() else { return Ok(None) };
    *after = Some(last.clone());
    let mut records = Vec::new();
    for (key, _) in &index {
        let share = ShareId::from_bytes(schema::trailing_id(key)?);
        let key = schema::shared_key(share);
        let Some(record) = snapshot.get(&key).await? else { continue };
        let shared: Shared = schema::decode(&key, &record.value)?;
        records.push((key, record));
        let own = match shared.to {
            Some(to) => vec![schema::grant_key(to, space, shared.node)],
            None => vec![schema::link_key(share), schema::link_downloads_key(share)],
        };
        for key in own {
            if let Some(record) = snapshot.get(&key).await? {
                records.push((key, record));
            }
        }
    }
    Ok(Some(records))
}

/// The records that a loaded one becomes; `None` if it is for somebody unknown.
pub(super) async fn arrived(
    snapshot: &dyn Snapshot,
    space: SpaceId,
    loader: UserId,
    (key, value): (&Bytes, &Bytes),
) -> Result<Option<Vec<(Bytes, Bytes)>>> {
    let elsewhere = || Error::invalid("the dump shares what is not in its space");
    match key.get(..2) {
        Some(b"sh") => {
            let share = ShareId::from_bytes(schema::trailing_id(key)?);
            let mut shared: Shared = schema::decode(key, value)?;
            if shared.space != space {
                return Err(elsewhere());
            }
            if let Some(to) = shared.to
                && !knows(snapshot, to).await?
            {
                return Ok(None);
            }
            shared.by = maker(snapshot, shared.by, loader).await?;
            let nothing = schema::encode(&());
            Ok(Some(vec![
                (key.clone(), schema::encode(&shared)),
                (schema::shared_at_key(space, shared.node, share), nothing.clone()),
                (schema::shared_by_key(shared.by, share), nothing),
            ]))
        }
        Some(b"sg") => {
            let to = schema::grant_principal(key).ok_or_else(elsewhere)?;
            if schema::grant_place(key).is_none_or(|(of, _)| of != space) {
                return Err(elsewhere());
            }
            // Dropped with its `sh`, which is counted.
            if !knows(snapshot, to).await? {
                return Ok(Some(Vec::new()));
            }
            let mut grant: Grant = schema::decode(key, value)?;
            grant.by = maker(snapshot, grant.by, loader).await?;
            Ok(Some(vec![(key.clone(), schema::encode(&grant))]))
        }
        Some(b"lk") => {
            let share = ShareId::from_bytes(schema::trailing_id(key)?);
            let mut link: Link = schema::decode(key, value)?;
            if link.space != space {
                return Err(elsewhere());
            }
            link.by = maker(snapshot, link.by, loader).await?;
            let token = (schema::link_token_key(&link.token), schema::encode(&share));
            Ok(Some(vec![(key.clone(), schema::encode(&link)), token]))
        }
        _ => Ok(Some(vec![(key.clone(), value.clone())])),
    }
}

async fn knows(snapshot: &dyn Snapshot, principal: Principal) -> Result<bool> {
    let key = match principal {
        Principal::User(user) => schema::user_key(user),
        Principal::Group(group) => schema::group_key(group),
    };
    Ok(snapshot.get(&key).await?.is_some())
}

async fn maker(snapshot: &dyn Snapshot, by: UserId, loader: UserId) -> Result<UserId> {
    let known = snapshot.get(&schema::user_key(by)).await?.is_some();
    Ok(if known { by } else { loader })
}
