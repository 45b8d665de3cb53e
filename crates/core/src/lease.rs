//! Leases: which process runs a background job.
//!
//! A lease is a preference, not a guard: every commit of a job carries its process's fence and
//! compares what it changes, so two holders would waste work and break nothing (hazard E04).
//!
//! Not here: user-visible locks.

use std::time::Duration;

use crate::{
    Larder,
    error::Result,
    schema::{self, Lease},
    txn::transact,
};

impl Larder {
    /// Takes or renews the lease `name` for `ttl`; answers whether this process has it.
    pub(crate) async fn acquire_lease(&self, name: &str, ttl: Duration) -> Result<bool> {
        let key = schema::lease_key(name);
        let own = self.inner.incarnation;
        transact!(self, None, |txn| {
            match txn.get::<Lease>(&key).await? {
                Some(lease) if lease.value.holder != own && lease.value.until > txn.now => {
                    return Ok(false);
                }
                Some(lease) => {
                    let left = lease.value.until.since(txn.now);
                    if lease.value.holder == own && left > ttl / 2 {
                        return Ok(true);
                    }
                    txn.hold(key.clone(), lease.version);
                }
                None => txn.hold_absent(key.clone()),
            }
            // Without it no job could free anything.
            txn.frees();
            txn.put(key.clone(), &Lease { holder: own, until: txn.now.after(ttl) });
        });
        Ok(true)
    }
}
