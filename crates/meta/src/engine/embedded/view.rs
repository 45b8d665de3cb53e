//! A view of one moment: reads of the overlay, the tables and the log.
//!
//! Gets and scans of the tables are done on the calling task: what they read is in the block
//! cache or, but for the first read after a start, in the page cache. Values that stand in the
//! log are read there without waiting if they are in memory, else on a blocking thread.
//!
//! Not here: which moments there are ([`super::tracker`]).

use std::sync::{Arc, RwLockReadGuard};

use async_trait::async_trait;
use bytes::Bytes;
use lsm_tree::Slice;

use super::{
    record::{Pointer, Raw, decode_raw},
    shared::Shared,
    tables,
};
use crate::store::{MetaError, Record, Revision, Snapshot, Version};

/// A view; what it sees stays while it lives.
#[derive(Debug)]
pub(super) struct View {
    shared: Arc<Shared>,
    bound: u64,
    revision: Revision,
}

impl View {
    pub(super) fn open(shared: &Arc<Shared>) -> Self {
        let (bound, committed) = shared.tracker.enter();
        Self { shared: Arc::clone(shared), bound, revision: Revision(committed) }
    }

    /// To be held while the tables or the log are read.
    fn reading(&self) -> Result<RwLockReadGuard<'_, u64>, MetaError> {
        if let Some(reason) = self.shared.status.failure() {
            return Err(MetaError::Unavailable(reason.to_owned().into()));
        }
        let reading = self.shared.tracker.reading(self.bound);
        reading.ok_or_else(|| MetaError::Unavailable("the snapshot is too old".into()))
    }

    fn lookup(&self, key: &[u8]) -> Result<Option<Found>, MetaError> {
        let _reading = self.reading()?;
        let raw = self.shared.tables.get(key, self.bound).map_err(tables::read_failed)?;
        raw.map(|raw| self.found(&raw)).transpose()
    }

    /// The value, as far as it can be had without waiting.
    fn found(&self, raw: &Slice) -> Result<Found, MetaError> {
        let (version, raw) =
            decode_raw(raw).map_err(|_| MetaError::Corrupt("tables: malformed record".into()))?;
        Ok(match raw {
            Raw::Inline(value) => {
                Found::Here(Record { value: Bytes::copy_from_slice(value), version })
            }
            Raw::Pointer(pointer) => match self.shared.segments.read_now(&pointer)? {
                Some(value) => Found::Here(Record { value, version }),
                None => Found::InLog(pointer, version),
            },
        })
    }

    /// Reads what could not be had without waiting.
    async fn fetch<T: Send + 'static>(
        &self,
        found: Vec<(T, Option<Found>)>,
    ) -> Result<Vec<(T, Option<Record>)>, MetaError> {
        let waits = |found: &(T, Option<Found>)| matches!(found.1, Some(Found::InLog(..)));
        if !found.iter().any(waits) {
            return Ok(found.into_iter().map(|(key, found)| (key, here(found))).collect());
        }
        // A segment is not recycled while a view is open that may look into it: the blocking
        // thread keeps this view open even if the caller goes away.
        let view = Self::reopen(self);
        let work = move || {
            let _reading = view.reading()?;
            found.into_iter().map(|(key, found)| Ok((key, view.read(found)?))).collect()
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime
                .spawn_blocking(work)
                .await
                .map_err(|error| MetaError::Unavailable(error.into()))?,
            Err(_no_runtime) => work(),
        }
    }

    /// Reads what stands in the log. Waits for the disk.
    fn read(&self, found: Option<Found>) -> Result<Option<Record>, MetaError> {
        match found {
            Some(Found::InLog(pointer, version)) => {
                Ok(Some(Record { value: self.shared.segments.read(&pointer)?, version }))
            }
            other => Ok(here(other)),
        }
    }

    /// A second view of the same moment.
    fn reopen(&self) -> Self {
        self.shared.tracker.enter_again(self.bound);
        Self { shared: Arc::clone(&self.shared), bound: self.bound, revision: self.revision }
    }

    fn page(
        &self,
        (start, end): (&[u8], &[u8]),
        limit: usize,
        backwards: bool,
    ) -> Result<Vec<(Bytes, Option<Found>)>, MetaError> {
        let _reading = self.reading()?;
        let mut range = self.shared.tables.range(start, Some(end), self.bound);
        let mut found = Vec::new();
        while found.len() < limit {
            let pair = if backwards { range.next_back() } else { range.next() };
            let Some(pair) = pair else { break };
            let (key, raw) = pair.map_err(tables::read_failed)?;
            found.push((Bytes::copy_from_slice(&key), Some(self.found(&raw)?)));
        }
        Ok(found)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.shared.tracker.leave(self.bound);
    }
}

enum Found {
    Here(Record),
    InLog(Pointer, Version),
}

/// The record, if it is no more than that.
fn here(found: Option<Found>) -> Option<Record> {
    match found {
        Some(Found::Here(record)) => Some(record),
        Some(Found::InLog(..)) | None => None,
    }
}

fn present(found: Vec<(Bytes, Option<Record>)>) -> Vec<(Bytes, Record)> {
    found.into_iter().filter_map(|(key, record)| Some((key, record?))).collect()
}

#[async_trait]
impl Snapshot for View {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError> {
        match self.lookup(key)? {
            None => Ok(None),
            Some(Found::Here(record)) => Ok(Some(record)),
            found => Ok(self.fetch(vec![((), found)]).await?.pop().and_then(|(_, record)| record)),
        }
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError> {
        let found = keys
            .iter()
            .map(|key| Ok(((), self.lookup(key)?)))
            .collect::<Result<Vec<_>, MetaError>>()?;
        Ok(self.fetch(found).await?.into_iter().map(|(_, record)| record).collect())
    }

    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let found = self.page((start, end), limit, false)?;
        Ok(present(self.fetch(found).await?))
    }

    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let found = self.page((start, end), limit, true)?;
        Ok(present(self.fetch(found).await?))
    }
}
