//! The end of shares: revoked, or gone with what they were of or whom they were for.
//!
//! Not here: who may revoke one ([`super`]).

use larder_base::id::{NodeId, ShareId, SpaceId, UserId};

use super::{Found, find};
use crate::{
    Larder,
    access::Principal,
    error::Result,
    schema::{self, Grant, Shared},
    txn::{self, Txn, transact},
};

/// Shares that one transaction removes: each is up to six records.
const BATCH: usize = 12;

/// Removes all records of a share.
pub(super) fn remove(txn: &mut Txn, id: ShareId, shared: &Shared, found: &Found) {
    match (found, shared.to) {
        (Found::Grant(_, version), Some(to)) => {
            let key = schema::grant_key(to, shared.space, shared.node);
            txn.hold(key.clone(), *version);
            txn.delete(key);
        }
        (Found::Link(link, version), _) => {
            txn.hold(schema::link_key(id), *version);
            txn.delete(schema::link_key(id));
            txn.delete(schema::link_token_key(&link.token));
            txn.delete(schema::link_downloads_key(id));
        }
        (Found::Grant(..), None) => {}
    }
    remove_index(txn, id, shared);
}

fn remove_index(txn: &mut Txn, id: ShareId, shared: &Shared) {
    txn.delete(schema::shared_key(id));
    txn.delete(schema::shared_at_key(shared.space, shared.node, id));
    txn.delete(schema::shared_by_key(shared.by, id));
}

/// Removes the shares with these ids.
async fn remove_some(txn: &mut Txn, ids: &[ShareId]) -> Result<()> {
    for id in ids {
        let key = schema::shared_key(*id);
        let Some(shared) = txn.get::<Shared>(&key).await? else { continue };
        txn.hold(key, shared.version);
        match find(&*txn.snapshot, *id, &shared.value).await? {
            Some(found) => remove(txn, *id, &shared.value, &found),
            None => remove_index(txn, *id, &shared.value),
        }
    }
    Ok(())
}

impl Larder {
    /// Removes grants and links of nodes that are being destroyed; answers whether there were any.
    pub(crate) async fn forget_shares_of(
        &self,
        txn: &mut Txn,
        space: SpaceId,
        nodes: &[NodeId],
    ) -> Result<bool> {
        let all = schema::shared_in_prefix(space);
        if txn::page(&*txn.snapshot, &all, None, 1).await?.is_empty() {
            return Ok(false);
        }
        let mut ids = Vec::new();
        for node in nodes {
            let prefix = schema::shared_at_prefix(space, *node);
            let room = BATCH.saturating_sub(ids.len());
            for (key, _) in txn::page(&*txn.snapshot, &prefix, None, room).await? {
                ids.push(ShareId::from_bytes(schema::trailing_id(&key)?));
            }
        }
        remove_some(txn, &ids).await?;
        Ok(!ids.is_empty())
    }

    /// Removes everything shared in a space that is being destroyed.
    pub(crate) async fn forget_shares_in(&self, space: SpaceId) -> Result<()> {
        self.forget_listed(&schema::shared_in_prefix(space)).await
    }

    /// Removes the grants for a principal that is gone.
    pub(crate) async fn forget_shares_with(&self, to: Principal) -> Result<()> {
        let prefix = schema::principal_grants_prefix(to);
        loop {
            let (ended, _) = transact!(self, None, |txn| {
                let page = txn::page(&*txn.snapshot, &prefix, None, BATCH).await?;
                let mut ids = Vec::with_capacity(page.len());
                for (key, record) in &page {
                    ids.push(schema::decode::<Grant>(key, &record.value)?.share);
                }
                txn.frees();
                remove_some(&mut txn, &ids).await?;
                page.len() < BATCH
            });
            if ended {
                return Ok(());
            }
        }
    }

    /// Removes the links that a user who is gone has made. Grants stay: they are those of the
    /// space, and whoever manages it sees them.
    pub(crate) async fn forget_links_by(&self, by: UserId) -> Result<()> {
        let prefix = schema::shared_by_prefix(by);
        loop {
            let (ended, _) = transact!(self, None, |txn| {
                let page = txn::page(&*txn.snapshot, &prefix, None, BATCH).await?;
                let mut links = Vec::new();
                for (key, _) in &page {
                    let id = ShareId::from_bytes(schema::trailing_id(key)?);
                    match txn.get::<Shared>(&schema::shared_key(id)).await? {
                        Some(shared) if shared.value.to.is_none() => links.push(id),
                        _ => txn.delete(key.clone()),
                    }
                }
                txn.frees();
                remove_some(&mut txn, &links).await?;
                page.len() < BATCH
            });
            if ended {
                return Ok(());
            }
        }
    }

    async fn forget_listed(&self, prefix: &[u8]) -> Result<()> {
        loop {
            let (ended, _) = transact!(self, None, |txn| {
                let page = txn::page(&*txn.snapshot, prefix, None, BATCH).await?;
                let ids = page.iter().map(|(key, _)| schema::trailing_id(key));
                let ids = ids.map(|id| Ok(ShareId::from_bytes(id?))).collect::<Result<Vec<_>>>()?;
                txn.frees();
                remove_some(&mut txn, &ids).await?;
                page.len() < BATCH
            });
            if ended {
                return Ok(());
            }
        }
    }
}
