//! The reference engine: an ordered map with versions, in memory.
//!
//! Promises: the semantics of [`crate::store`], nothing of durability. Tests and simulations run
//! on it, and the other engines are held to what it does.
//!
//! Not here: anything that survives the process.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::limits;

use crate::{
    spec::{Expect, Merge, MergeError, TxnSpec, incarnation_key, operation_key},
    store::{
        CommitError, Committed, Health, Limits, MetaError, MetaStore, Record, Revision, Snapshot,
        Version, prefix_end,
    },
};

type Map = BTreeMap<Bytes, Record>;

/// A metadata store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Copied on write, so that a snapshot is one clone of the `Arc`.
    map: Arc<Map>,
    revision: u64,
    closed: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl MetaStore for MemoryStore {
    fn limits(&self) -> Limits {
        Limits {
            items_max: limits::TXN_ITEMS_MAX,
            bytes_max: limits::TXN_BYTES_MAX,
            key_bytes_max: limits::KEY_BYTES_MAX,
            inline_bytes_max: limits::INLINE_BYTES_MAX,
            folds_in_commit: true,
            may_be_unknown: false,
        }
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        let state = self.state();
        if state.closed {
            return Err(MetaError::Unavailable("closed".into()));
        }
        Ok(Arc::new(View { map: Arc::clone(&state.map), revision: Revision(state.revision) }))
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        spec.check(&self.limits())?;
        let mut state = self.state();
        if state.closed {
            return Err(CommitError::Unavailable("closed".into()));
        }
        if let Some(operation) = &spec.operation
            && let Some(before) = state.map.get(&operation_key(operation.id))
        {
            return Ok(Committed::Before(before.value.clone()));
        }
        let merged = evaluate(&state.map, &spec)?;
        state.revision += 1;
        let revision = state.revision;
        let record = |value| Record { value, version: Version(revision) };
        let map = Arc::make_mut(&mut state.map);
        for key in &spec.delete {
            map.remove(key);
        }
        if let Some(operation) = spec.operation {
            map.insert(operation_key(operation.id), record(operation.outcome));
        }
        let appended = TxnSpec::appended(spec.append, Revision(revision));
        for (key, value) in spec.put.into_iter().chain(merged).chain(appended) {
            map.insert(key, record(value));
        }
        Ok(Committed::Now(Revision(revision)))
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    async fn compact(&self) -> Result<(), MetaError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.state().closed = true;
        Ok(())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("records", self.state().map.len() as u64)]
    }
}

/// Checks everything that `spec` demands of `map`; answers the merged counter records.
fn evaluate(map: &Map, spec: &TxnSpec) -> Result<Vec<(Bytes, Bytes)>, CommitError> {
    if let Some(incarnation) = spec.fence
        && !map.contains_key(&incarnation_key(incarnation))
    {
        return Err(CommitError::Fenced);
    }
    for compare in &spec.compare {
        let found = map.get(&compare.key).map(|record| record.version);
        let holds = match compare.expect {
            Expect::Absent => found.is_none(),
            Expect::Version(version) => found == Some(version),
        };
        if !holds {
            return Err(CommitError::Conflict(compare.key.clone()));
        }
    }
    for prefix in &spec.empty {
        let end = prefix_end(prefix).map_or(Unbounded, Excluded);
        if map.range::<Bytes, _>((Included(prefix.clone()), end)).next().is_some() {
            return Err(CommitError::Conflict(prefix.clone()));
        }
    }
    spec.merge
        .iter()
        .map(|merge| {
            let before = match map.get(&merge.key) {
                None => [0; 4],
                Some(record) => Merge::decode(&record.value)
                    .ok_or_else(|| CommitError::Corrupt("not a counter record".into()))?,
            };
            match merge.apply(&before) {
                Ok(after) => Ok((merge.key.clone(), Merge::encode(&after))),
                Err(MergeError::Bound) => Err(CommitError::Bound(merge.key.clone())),
                Err(MergeError::Overflow) => {
                    Err(CommitError::Corrupt("counter left its range".into()))
                }
            }
        })
        .collect()
}

#[derive(Debug)]
struct View {
    map: Arc<Map>,
    revision: Revision,
}

impl View {
    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Record)> {
        // An empty or inverted range is no records, not a panic: of `x..x` that is what stands
        // before it.
        let end = if start < end { end } else { start };
        self.map.range::<[u8], _>((Included(start), Excluded(end)))
    }
}

#[async_trait]
impl Snapshot for View {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError> {
        Ok(self.map.get(key).cloned())
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError> {
        Ok(keys.iter().map(|key| self.map.get(key).cloned()).collect())
    }

    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        Ok(self.range(start, end).take(limit).map(|(k, r)| (k.clone(), r.clone())).collect())
    }

    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        Ok(self.range(start, end).rev().take(limit).map(|(k, r)| (k.clone(), r.clone())).collect())
    }
}
