//! The rest of loads: removing what a broken one has left, and writing what one put off.
//!
//! Promises: nothing is removed that another load, or anything else, has written; all of it can
//! be repeated after a crash at any point.
//!
//! Not here: loading ([`super::load`]).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::{Incarnation, JobId, SpaceId},
};

use super::family::{FAMILIES, Form, OfSpace};
use crate::{
    Larder,
    error::{Error, Result},
    locked,
    schema::{self, LoadOf, LoadState, Location, WHOLE_LOAD},
    txn::{self, Stored, transact},
};

/// Records removed or written by one transaction.
const BATCH: usize = 50;

impl Larder {
    /// Whether a whole instance is being loaded, or what such a load has left is not removed yet.
    pub(crate) async fn note_whole_load(&self) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let found = snapshot.get(&schema::load_key(WHOLE_LOAD)).await?.is_some();
        self.inner.loading.store(found, Ordering::Release);
        Ok(())
    }

    /// Waits for its turn and clears loads.
    pub(super) async fn clear_loads_now(&self) -> Result<()> {
        let _turn = self.inner.jobs_turn.lock().await;
        self.clear_loads().await
    }

    /// Ends what loads have begun that go on no more: finishes those that have won, removes the
    /// others. To be called by whoever has the turn of jobs.
    pub(crate) async fn clear_loads(&self) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let loads = txn::page(&*snapshot, &schema::loads_prefix(), None, 1000).await?;
        drop(snapshot);
        for (key, _) in loads {
            let load = JobId::from_bytes(schema::trailing_id(&key)?);
            if locked(&self.inner.loads).contains_key(&load) {
                continue;
            }
            // Its last commit may be on its way still: after this one it cannot happen.
            let (state, _) = transact!(self, None, |txn| {
                txn.frees();
                let found = txn.get::<LoadState>(&key).await?;
                if let Some(Stored { value, version }) = &found {
                    txn.hold(key.clone(), *version);
                    txn.put(key.clone(), value);
                }
                found.map(|found| found.value)
            });
            let Some(state) = state else { continue };
            if state.won {
                self.settle_load(load).await?;
            } else {
                tracing::info!(?state, "remove what a load that broke off has left");
                self.remove_load(load, &state).await?;
            }
        }
        if !locked(&self.inner.loads).contains_key(&WHOLE_LOAD) {
            self.note_whole_load().await?;
        }
        Ok(())
    }

    /// Writes what a load that has won has put off, and ends it.
    pub(super) async fn settle_load(&self, load: JobId) -> Result<()> {
        let prefix = schema::put_off_prefix(load);
        loop {
            let (more, _) = transact!(self, None, |txn| {
                let page = txn::page(&*txn.snapshot, &prefix, None, BATCH).await?;
                for (key, record) in &page {
                    let later = key.slice(prefix.len()..);
                    txn.hold(key.clone(), record.version);
                    txn.delete(key.clone());
                    // What is there already came later than the dump.
                    if txn.snapshot.get(&later).await?.is_none() {
                        txn.hold_absent(later.clone());
                        txn.spec.put.push((later, record.value.clone()));
                    }
                }
                !page.is_empty()
            });
            if !more {
                break;
            }
        }
        self.end_load(load).await?;
        self.wake_jobs();
        Ok(())
    }

    /// Forgets a load; its process numbers are those of dead processes from now on.
    async fn end_load(&self, load: JobId) -> Result<()> {
        let key = schema::load_key(load);
        let snapshot = self.inner.meta.snapshot().await?;
        let Some(state) = txn::get::<LoadState>(&*snapshot, &key).await? else { return Ok(()) };
        drop(snapshot);
        let claimed: Vec<u64> =
            state.value.claimed.iter().flat_map(|(first, end)| *first..*end).collect();
        for numbers in claimed.chunks(BATCH) {
            for number in numbers {
                self.reconcile_all(Incarnation(*number)).await?;
            }
            transact!(self, None, |txn| {
                txn.frees();
                for number in numbers {
                    txn.put(schema::reconciled_key(Incarnation(*number)), &());
                }
            });
        }
        transact!(self, None, |txn| {
            txn.frees();
            let Some(Stored { version, .. }) = txn.get::<LoadState>(&key).await? else {
                return Ok(());
            };
            txn.hold(key.clone(), version);
            txn.delete(key.clone());
        });
        Ok(())
    }

    async fn remove_load(&self, load: JobId, state: &LoadState) -> Result<()> {
        if !state.began {
            return self.end_load(load).await;
        }
        self.remove_prefix(&schema::put_off_prefix(load), &[]).await?;
        match &state.of {
            LoadOf::Space(space) => self.remove_loaded_space(*space).await?,
            LoadOf::Instance { user, name } => {
                let kept = [schema::user_key(*user), schema::user_name_key(name)];
                for family in FAMILIES.iter().filter(|family| family.form != Form::Never) {
                    self.remove_prefix(&family.name, &kept).await?;
                }
                self.remove_prefix(b"cb", &[]).await?;
            }
        }
        for (first, end) in &state.claimed {
            for number in *first..*end {
                let prefix = [&b"bl"[..], &number.to_be_bytes()].concat();
                self.remove_prefix(&prefix, &[]).await?;
            }
        }
        self.end_load(load).await
    }

    /// Removes the records of a space that has none of its own yet.
    async fn remove_loaded_space(&self, space: SpaceId) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        if snapshot.get(&schema::space_key(space)).await?.is_some() {
            let detail = format!("a load of space {space} broke off, and the space is there");
            return Err(Error::new(ErrorKind::Corrupt, detail));
        }
        drop(snapshot);
        for family in FAMILIES.iter().filter(|family| family.of_space == OfSpace::Prefix) {
            let prefix = [&family.name[..], space.as_bytes()].concat();
            self.remove_with_nodes(&prefix, space).await?;
        }
        Ok(())
    }

    /// Removes records of a space with the locations that they lead to.
    async fn remove_with_nodes(&self, prefix: &[u8], space: SpaceId) -> Result<()> {
        loop {
            let (more, _) = transact!(self, None, |txn| {
                txn.frees();
                let page = txn::page(&*txn.snapshot, prefix, None, BATCH).await?;
                for (key, record) in &page {
                    txn.delete(key.clone());
                    let Some(node) = super::node_of(key, &record.value)? else { continue };
                    let location = schema::location_key(node);
                    let found = txn.get::<Location>(&location).await?;
                    // Another space's, if the load broke off because of that.
                    if found.is_some_and(|found| found.value.space == space)
                        && !txn.spec.delete.contains(&location)
                    {
                        txn.delete(location);
                    }
                }
                !page.is_empty()
            });
            if !more {
                return Ok(());
            }
            self.keep_going()?;
        }
    }

    /// Removes all records under a prefix but `kept`.
    async fn remove_prefix(&self, prefix: &[u8], kept: &[Bytes]) -> Result<()> {
        let limit = BATCH + kept.len();
        loop {
            let (more, _) = transact!(self, None, |txn| {
                txn.frees();
                let page = txn::page(&*txn.snapshot, prefix, None, limit).await?;
                let gone = page.into_iter().map(|(key, _)| key).filter(|key| !kept.contains(key));
                txn.spec.delete.extend(gone);
                !txn.spec.delete.is_empty()
            });
            if !more {
                return Ok(());
            }
            self.keep_going()?;
        }
    }

    fn keep_going(&self) -> Result<()> {
        if self.inner.stopping() {
            return Err(Error::new(ErrorKind::Unavailable, "shutting down"));
        }
        Ok(())
    }
}
