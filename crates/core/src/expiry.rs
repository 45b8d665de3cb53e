//! Files with an end: a revision that was uploaded with `Larder-Expires` goes to the trash then.
//!
//! Promises: an end belongs to the revision that it was given with; whatever makes another
//! revision current takes it away, unless it brings its own. It is shown with the file. Moving
//! the file keeps it; a copy has none.
//!
//! Not here: putting into the trash what is due (`job::expiry`).

use larder_base::{
    Timestamp,
    id::{NodeId, SpaceId},
};
use larder_meta::Snapshot;

use crate::{
    error::{Error, Result},
    schema::{self, Expiry},
    txn::{self, Txn},
};

/// Refuses an end that has come already: nobody means that.
pub(crate) fn check(expires: Option<Timestamp>, now: Timestamp) -> Result<()> {
    match expires {
        Some(at) if at <= now => Err(Error::invalid("the time at which the file ends has passed")),
        _ => Ok(()),
    }
}

/// Gives a revision its end in the transaction that makes it.
pub(crate) async fn set(
    txn: &mut Txn,
    space: SpaceId,
    node: NodeId,
    revision: u64,
    at: Timestamp,
) -> Result<()> {
    let key = schema::expiry_key(node);
    if let Some(before) = txn.get::<Expiry>(&key).await?
        && before.value.at != at
    {
        txn.delete(schema::expires_key(before.value.at, node));
    }
    txn.put(key, &Expiry { at, space, revision });
    txn.put(schema::expires_key(at, node), &());
    Ok(())
}

/// When this revision of a file ends.
pub(crate) async fn of(
    snapshot: &dyn Snapshot,
    node: NodeId,
    revision: u64,
) -> Result<Option<Timestamp>> {
    let expiry = txn::get::<Expiry>(snapshot, &schema::expiry_key(node)).await?;
    Ok(expiry.filter(|expiry| expiry.value.revision == revision).map(|expiry| expiry.value.at))
}
