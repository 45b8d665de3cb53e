//! Exact quota: two meters per space, changed in the same commit as what they count.
//!
//! Promises (docs/semantics.md Q1 to Q4): I-QUO-1 usage is exact: at every commit `live` is the
//! bytes of current revisions of attached files and `retained` those of older revisions and of the
//! trash; I-QUO-2 a commit that increases `live` leaves it at or below the limit; I-QUO-3 507 is
//! only said when it is true. Whoever is about to add bytes reserves them first, in this process's
//! memory; a refusal is decided while no commit is between its transaction and the release of
//! its reservation, so that nothing is counted twice.
//!
//! `retained` has no hard edge: deleting must always work. What is over its limit is trimmed by
//! the retention job, oldest first.
//!
//! What upload sessions reserve outlives a request: it is counted in the meters themselves.
//!
//! Not here: whose it is (`session`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use larder_base::{ErrorKind, id::SpaceId};
use larder_meta::{Bound, FieldOp, Snapshot};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::{
    Larder,
    entry::Usage,
    error::{Error, Result},
    schema::{self, QUOTA_LIVE, QUOTA_RESERVED, QUOTA_RETAINED, Space},
    txn::{self, Txn},
};

/// Bytes promised to requests of this process.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    promised: Mutex<BTreeMap<SpaceId, u64>>,
    /// Held shared from before a commit until its reservation is released, and exclusively by
    /// whoever is about to refuse.
    settling: [Arc<RwLock<()>>; 16],
}

impl Reservations {
    fn promised(&self, space: SpaceId) -> u64 {
        let promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.get(&space).copied().unwrap_or(0)
    }

    fn change(&self, space: SpaceId, change: impl FnOnce(u64) -> u64) {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = change(promised.get(&space).copied().unwrap_or(0));
        if bytes == 0 {
            promised.remove(&space);
        } else {
            promised.insert(space, bytes);
        }
    }

    fn settling(&self, space: SpaceId) -> &Arc<RwLock<()>> {
        let [.., last] = *space.as_bytes();
        &self.settling[usize::from(last) % self.settling.len()]
    }
}

/// Bytes promised to one request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    all: Arc<Reservations>,
    space: SpaceId,
    limit: Option<u64>,
    bytes: u64,
}

impl Reservation {
    /// Bytes promised.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// To be held from before the commit until this reservation is dropped; taken after the
    /// space's gate, never before.
    pub(crate) async fn commit_window(&self) -> Option<OwnedRwLockReadGuard<()>> {
        match self.limit {
            Some(_) => Some(Arc::clone(self.all.settling(self.space)).read_owned().await),
            None => None,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes = self.bytes;
        if bytes > 0 {
            self.all.change(self.space, |promised| promised.saturating_sub(bytes));
        }
    }
}

/// The space is full.
pub(crate) fn exceeded(limit: u64) -> Error {
    Error::new(ErrorKind::QuotaExceeded, format!("the space is limited to {limit} bytes"))
}

impl Larder {
    /// Promises `bytes` more in `space`, or says that there is no room.
    pub(crate) async fn reserve(
        &self,
        id: SpaceId,
        space: &Space,
        bytes: u64,
    ) -> Result<Reservation> {
        let all = Arc::clone(&self.inner.reservations);
        let mut reservation = Reservation { all, space: id, limit: space.limits.live, bytes: 0 };
        self.extend_reservation(&mut reservation, bytes).await?;
        Ok(reservation)
    }

    /// Promises `bytes` to an attempt, on top of nothing or in place of what an earlier attempt
    /// was promised. The commit ends the promise.
    pub(crate) async fn promise(
        &self,
        txn: &mut Txn,
        id: SpaceId,
        space: &Space,
        bytes: u64,
    ) -> Result<()> {
        match &mut txn.reservation {
            Some(reservation) => {
                // What the file replaced may have grown since: others may have the surplus.
                let surplus = reservation.bytes.saturating_sub(bytes);
                self.inner.reservations.change(id, |promised| promised.saturating_sub(surplus));
                reservation.bytes -= surplus;
                self.extend_reservation(reservation, bytes - reservation.bytes).await
            }
            None => {
                txn.reservation = Some(self.reserve(id, space, bytes).await?);
                Ok(())
            }
        }
    }

    /// Promises `bytes` more to a request that has a reservation.
    pub(crate) async fn extend_reservation(
        &self,
        reservation: &mut Reservation,
        bytes: u64,
    ) -> Result<()> {
        let Some(limit) = reservation.limit else { return Ok(()) };
        if bytes == 0 {
            return Ok(());
        }
        let settling = self.inner.reservations.settling(reservation.space);
        // Together with others first: two that look at once see each other's promise, so neither
        // takes the room of one. What that makes too pessimistic is decided alone, while nobody
        // else has promised what they may not get, nor committed what they still hold.
        let together = settling.read().await;
        let mut room = self.promise_if_room(reservation, limit, bytes).await?;
        drop(together);
        if !room {
            let alone = settling.write().await;
            room = self.promise_if_room(reservation, limit, bytes).await?;
            drop(alone);
        }
        if room { Ok(()) } else { Err(exceeded(limit)) }
    }

    /// Promises `bytes` more and looks whether all promises can be kept; else takes it back.
    async fn promise_if_room(
        &self,
        reservation: &mut Reservation,
        limit: u64,
        bytes: u64,
    ) -> Result<bool> {
        let id = reservation.space;
        let all = &self.inner.reservations;
        all.change(id, |promised| promised.saturating_add(bytes));
        reservation.bytes += bytes;
        let room = self.room_after_promises(id, limit).await;
        if !matches!(room, Ok(true)) {
            all.change(id, |promised| promised.saturating_sub(bytes));
            reservation.bytes -= bytes;
        }
        room
    }

    async fn room_after_promises(&self, id: SpaceId, limit: u64) -> Result<bool> {
        let snapshot = self.inner.meta.snapshot().await?;
        let used = usage(&*snapshot, id).await?;
        let promised = self.inner.reservations.promised(id);
        Ok(used.live.saturating_add(used.reserved).saturating_add(promised) <= limit)
    }
}

/// Adds to the meters of a space in the commit, within its limit of live bytes.
pub(crate) fn charge(txn: &mut Txn, id: SpaceId, limit: Option<u64>, live: i64, retained: i64) {
    let key = schema::quota_key(id);
    let mut fields = [FieldOp::Keep; 4];
    fields[QUOTA_LIVE] = FieldOp::Add(live);
    fields[QUOTA_RETAINED] = FieldOp::Add(retained);
    txn.add(key.clone(), fields);
    if let (true, Some(limit)) = (live > 0, limit) {
        let fields = (1 << QUOTA_LIVE) | (1 << QUOTA_RESERVED);
        let bound = Bound { fields, limit: i64::try_from(limit).unwrap_or(i64::MAX) };
        if let Some(merge) = txn.spec.merge.iter_mut().find(|merge| merge.key == key) {
            merge.bounds = vec![bound];
        }
    }
}

/// Changes what is reserved in a space by records, in the commit that changes those; an increase
/// stays within its limit of live bytes.
pub(crate) fn reserve_durably(txn: &mut Txn, id: SpaceId, limit: Option<u64>, reserved: i64) {
    if reserved == 0 {
        return;
    }
    let key = schema::quota_key(id);
    let mut fields = [FieldOp::Keep; 4];
    fields[QUOTA_RESERVED] = FieldOp::Add(reserved);
    txn.add(key.clone(), fields);
    if let (true, Some(limit)) = (reserved > 0, limit) {
        let fields = (1 << QUOTA_LIVE) | (1 << QUOTA_RESERVED);
        let bound = Bound { fields, limit: i64::try_from(limit).unwrap_or(i64::MAX) };
        if let Some(merge) = txn.spec.merge.iter_mut().find(|merge| merge.key == key) {
            merge.bounds = vec![bound];
        }
    }
}

impl Larder {
    /// What a space holds, and what has been promised to sessions and to requests in flight.
    pub(crate) async fn usage_now(&self, snapshot: &dyn Snapshot, id: SpaceId) -> Result<Usage> {
        let mut usage = usage(snapshot, id).await?;
        usage.reserved = usage.reserved.saturating_add(self.inner.reservations.promised(id));
        Ok(usage)
    }
}

/// What a space holds, durable reservations included.
pub(crate) async fn usage(snapshot: &dyn Snapshot, id: SpaceId) -> Result<Usage> {
    let (counters, _) = txn::counters(snapshot, &schema::quota_key(id)).await?;
    let bytes = |field: usize| {
        u64::try_from(counters[field]).map_err(|error| {
            let detail = format!("a meter of space {id} is negative");
            Error::new(ErrorKind::Corrupt, detail).with_source(error)
        })
    };
    Ok(Usage {
        live: bytes(QUOTA_LIVE)?,
        retained: bytes(QUOTA_RETAINED)?,
        reserved: bytes(QUOTA_RESERVED)?,
    })
}

/// A number of bytes as a change of a meter.
pub(crate) fn delta(bytes: u64) -> i64 {
    // No disk holds 2^63 bytes; a record that says so is damaged and must not wrap.
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
