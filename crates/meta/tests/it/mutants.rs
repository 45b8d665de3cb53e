//! The suite is tried itself: every store here has one defect, of a kind that engines have had
//! in the field, and the suite must not pass it.
//!
//! Not here: losses over a restart (`kept`).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use larder_meta::{
    CommitError, Committed, Compare, Expect, Health, Limits, Merge, MetaError, MetaStore, Record,
    Revision, Snapshot, TxnSpec, Version, conformance,
    engine::memory::MemoryStore,
    spec::{incarnation_key, operation_key},
    store::prefix_end,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    // Checks.
    BoundsIgnored,
    BoundsOffByOne,
    BoundsRefuseLess,
    OnlyFirstBound,
    GuardIgnored,
    GuardIgnoresPrefixItself,
    CompareIgnored,
    AbsentIgnored,
    ComparesByOrder,
    FenceIgnored,
    WrongKeyNamed,
    AppliedOnConflict,
    AppliedOnBound,
    // Operations.
    RepetitionApplied,
    RepetitionAnsweredNow,
    RefusedOperationRecorded,
    // Versions.
    SameValueSkipped,
    VersionOfNeighbour,
    // Reads.
    SnapshotFollows,
    SnapshotStale,
    EndIncluded,
    EmptyRangeHoldsStart,
    LimitIgnored,
    BackScanFromTheFront,
    BackScanCutAtTheWrongEnd,
    AbsentSkippedInMany,
    EmptyValueIsAbsence,
    // Appends.
    AppendsReversed,
    AppendedApart,
    AppendedOnRefusal,
    AppendedAgain,
    AppendsUncounted,
    // Limits.
    LongTransactionSplit,
    ClosedStillReads,
    // Races: right alone, wrong with others.
    CompareThenAct,
    GuardThenAct,
    FenceThenAct,
    MergeReadsThenWrites,
    TwoCommitsForOne,
    RepetitionAskedFirst,
    AppendNumberGuessed,
}

const DEFECTS: [Defect; 41] = [
    Defect::BoundsIgnored,
    Defect::BoundsOffByOne,
    Defect::BoundsRefuseLess,
    Defect::OnlyFirstBound,
    Defect::GuardIgnored,
    Defect::GuardIgnoresPrefixItself,
    Defect::CompareIgnored,
    Defect::AbsentIgnored,
    Defect::ComparesByOrder,
    Defect::FenceIgnored,
    Defect::WrongKeyNamed,
    Defect::AppliedOnConflict,
    Defect::AppliedOnBound,
    Defect::RepetitionApplied,
    Defect::RepetitionAnsweredNow,
    Defect::RefusedOperationRecorded,
    Defect::SameValueSkipped,
    Defect::VersionOfNeighbour,
    Defect::SnapshotFollows,
    Defect::SnapshotStale,
    Defect::EndIncluded,
    Defect::EmptyRangeHoldsStart,
    Defect::LimitIgnored,
    Defect::BackScanFromTheFront,
    Defect::BackScanCutAtTheWrongEnd,
    Defect::AbsentSkippedInMany,
    Defect::EmptyValueIsAbsence,
    Defect::AppendsReversed,
    Defect::AppendedApart,
    Defect::AppendedOnRefusal,
    Defect::AppendedAgain,
    Defect::AppendsUncounted,
    Defect::LongTransactionSplit,
    Defect::ClosedStillReads,
    Defect::CompareThenAct,
    Defect::GuardThenAct,
    Defect::FenceThenAct,
    Defect::MergeReadsThenWrites,
    Defect::TwoCommitsForOne,
    Defect::RepetitionAskedFirst,
    Defect::AppendNumberGuessed,
];

/// Whether `suite` panics, on a thread and a runtime of its own.
pub(crate) fn finds<F>(suite: F) -> bool
where
    F: AsyncFnOnce() + Send + 'static,
{
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build();
        runtime.unwrap().block_on(suite());
    };
    std::thread::Builder::new().name("mutant".into()).spawn(run).unwrap().join().is_err()
}

fn finds_defect(defect: Defect) -> bool {
    finds(async move || {
        conformance::run(async || {
            let inner = Arc::new(MemoryStore::new());
            Arc::new(Broken { inner, defect, kept: Mutex::default() }) as Arc<dyn MetaStore>
        })
        .await;
    })
}

#[test]
fn the_suite_passes_the_wrapper_without_a_defect() {
    assert!(!finds_defect(Defect::None));
}

#[test]
fn the_suite_finds_every_defect() {
    let missed: Vec<Defect> = DEFECTS.into_iter().filter(|defect| !finds_defect(*defect)).collect();
    assert_eq!(missed, [], "the suite passed stores with these defects");
}

#[derive(Debug)]
struct Broken {
    inner: Arc<MemoryStore>,
    defect: Defect,
    /// A snapshot that is given out again, and how often it was.
    kept: Mutex<Option<(Arc<dyn Snapshot>, u32)>>,
}

impl Broken {
    async fn view(&self) -> Arc<dyn Snapshot> {
        self.inner.snapshot().await.unwrap()
    }

    async fn has(&self, key: &[u8]) -> bool {
        self.view().await.get(key).await.unwrap().is_some()
    }

    /// Commits `spec` after a change that is the defect.
    async fn commit_changed(&self, mut spec: TxnSpec) -> Result<Committed, CommitError> {
        match self.defect {
            Defect::BoundsIgnored => spec.merge.iter_mut().for_each(|it| it.bounds.clear()),
            Defect::BoundsOffByOne => {
                let bounds = spec.merge.iter_mut().flat_map(|it| &mut it.bounds);
                bounds.for_each(|bound| bound.limit = bound.limit.saturating_add(1));
            }
            Defect::OnlyFirstBound => spec.merge.iter_mut().for_each(|it| it.bounds.truncate(1)),
            Defect::GuardIgnored => spec.empty.clear(),
            Defect::GuardIgnoresPrefixItself => {
                for prefix in &mut spec.empty {
                    *prefix = [&prefix[..], b"\x00"].concat().into();
                }
            }
            Defect::CompareIgnored => spec.compare.clear(),
            Defect::AbsentIgnored => spec.compare.retain(|it| it.expect != Expect::Absent),
            Defect::FenceIgnored => spec.fence = None,
            Defect::RepetitionApplied => {
                if let Some(operation) = spec.operation.take() {
                    spec.put.push((operation_key(operation.id), operation.outcome));
                }
            }
            Defect::SameValueSkipped => {
                let view = self.view().await;
                let mut put = Vec::new();
                for (key, value) in spec.put {
                    let stored = view.get(&key).await.unwrap();
                    if stored.is_none_or(|record| record.value != value) {
                        put.push((key, value));
                    }
                }
                spec.put = put;
            }
            Defect::ComparesByOrder => {
                // As if a version only said "not newer than".
                let view = self.view().await;
                for compare in &mut spec.compare {
                    let Expect::Version(expected) = compare.expect else { continue };
                    if let Some(record) = view.get(&compare.key).await.unwrap()
                        && record.version < expected
                    {
                        compare.expect = Expect::Version(record.version);
                    }
                }
            }
            Defect::AppendsReversed => spec.append.reverse(),
            Defect::AppendsUncounted => {
                // As if the limit were of what is put and deleted.
                let max = self.limits().items_max;
                let least = max.saturating_sub(spec.put.len() + spec.delete.len());
                spec.append.truncate(least);
            }
            Defect::AppendNumberGuessed => {
                spec.check(&self.limits())?;
                let next = Revision(self.view().await.revision().0 + 1);
                tokio::task::yield_now().await;
                let append = std::mem::take(&mut spec.append);
                spec.put.extend(TxnSpec::appended(append, next));
            }
            _ => {}
        }
        self.inner.commit(spec).await
    }

    async fn refuse_less(&self, spec: &TxnSpec) -> Result<(), CommitError> {
        let view = self.view().await;
        for merge in &spec.merge {
            let record = view.get(&merge.key).await.unwrap();
            let before = record.and_then(|it| Merge::decode(&it.value)).unwrap_or_default();
            let Ok(after) = merge.apply(&before) else { continue };
            for bound in &merge.bounds {
                let sum: i128 = (0..4)
                    .filter(|i| bound.fields >> i & 1 == 1)
                    .map(|i: usize| i128::from(after[i]))
                    .sum();
                if sum > bound.limit.into() {
                    return Err(CommitError::Bound(merge.key.clone()));
                }
            }
        }
        Ok(())
    }

    /// Checks a part of `spec` first and commits the rest later.
    async fn check_then_act(&self, mut spec: TxnSpec) -> Result<Committed, CommitError> {
        spec.check(&self.limits())?;
        let view = self.view().await;
        if let Some(operation) = &spec.operation
            && let Some(record) = view.get(&operation_key(operation.id)).await.unwrap()
        {
            return Ok(Committed::Before(record.value));
        }
        match self.defect {
            Defect::CompareThenAct => {
                for Compare { key, expect } in std::mem::take(&mut spec.compare) {
                    let found = view.get(&key).await.unwrap().map(|record| record.version);
                    let expected = match expect {
                        Expect::Absent => None,
                        Expect::Version(version) => Some(version),
                    };
                    if found != expected {
                        return Err(CommitError::Conflict(key));
                    }
                }
            }
            Defect::GuardThenAct => {
                for prefix in std::mem::take(&mut spec.empty) {
                    let end = prefix_end(&prefix).unwrap_or(vec![0xff; 2000].into());
                    if !view.scan(&prefix, &end, 1).await.unwrap().is_empty() {
                        return Err(CommitError::Conflict(prefix));
                    }
                }
            }
            Defect::FenceThenAct => {
                if let Some(incarnation) = spec.fence.take()
                    && view.get(&incarnation_key(incarnation)).await.unwrap().is_none()
                {
                    return Err(CommitError::Fenced);
                }
            }
            Defect::MergeReadsThenWrites => {
                for merge in std::mem::take(&mut spec.merge) {
                    let record = view.get(&merge.key).await.unwrap();
                    let before = record.map_or(Some([0; 4]), |it| Merge::decode(&it.value));
                    let before = before.ok_or(CommitError::Corrupt("no counters".into()))?;
                    let after = merge.apply(&before).map_err(|why| match why {
                        larder_meta::spec::MergeError::Bound => {
                            CommitError::Bound(merge.key.clone())
                        }
                        larder_meta::spec::MergeError::Overflow => {
                            CommitError::Corrupt("overflow".into())
                        }
                    })?;
                    spec.put.push((merge.key, Merge::encode(&after)));
                }
            }
            Defect::RepetitionAskedFirst => {
                if let Some(operation) = spec.operation.take() {
                    spec.put.push((operation_key(operation.id), operation.outcome));
                }
            }
            _ => {}
        }
        tokio::task::yield_now().await;
        self.inner.commit(spec).await
    }

    /// Commits what stands behind the first `items` puts or deletes in a second step.
    async fn split(&self, mut spec: TxnSpec, items: usize) -> Result<Committed, CommitError> {
        let rest = TxnSpec {
            put: spec.put.split_off(items.min(spec.put.len())),
            delete: spec.delete.split_off(items.min(spec.delete.len())),
            ..TxnSpec::default()
        };
        let first = self.inner.commit(spec).await?;
        if rest.put.is_empty() && rest.delete.is_empty() {
            return Ok(first);
        }
        tokio::task::yield_now().await;
        self.inner.commit(rest).await
    }
}

#[async_trait]
impl MetaStore for Broken {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        if self.defect == Defect::SnapshotStale {
            let kept = self.kept.lock().unwrap().clone();
            if let Some((view, given)) = kept.filter(|(_, given)| given % 50 != 49) {
                *self.kept.lock().unwrap() = Some((Arc::clone(&view), given + 1));
                return Ok(view);
            }
            let view = self.inner.snapshot().await?;
            *self.kept.lock().unwrap() = Some((Arc::clone(&view), 0));
            return Ok(view);
        }
        let inner = match self.inner.snapshot().await {
            Err(_) if self.defect == Defect::ClosedStillReads => {
                return MemoryStore::new().snapshot().await;
            }
            other => other?,
        };
        Ok(Arc::new(BrokenView { inner, store: Arc::clone(&self.inner), defect: self.defect }))
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        let puts_only = TxnSpec { put: spec.put.clone(), ..TxnSpec::default() };
        let appends_only = TxnSpec { append: spec.append.clone(), ..TxnSpec::default() };
        match self.defect {
            Defect::BoundsRefuseLess => self.refuse_less(&spec).await?,
            Defect::CompareThenAct
            | Defect::GuardThenAct
            | Defect::FenceThenAct
            | Defect::MergeReadsThenWrites
            | Defect::RepetitionAskedFirst => return self.check_then_act(spec).await,
            Defect::TwoCommitsForOne => {
                // Only where nothing else of the spec would show it to a caller who is alone.
                let plain = spec.operation.is_none() && spec.compare.is_empty();
                if plain && spec.put.len() == 2 && spec.check(&self.limits()).is_ok() {
                    return self.split(spec, 1).await;
                }
            }
            Defect::LongTransactionSplit => return self.split(spec, 64).await,
            Defect::AppendedApart if spec.check(&self.limits()).is_ok() => {
                let rest = TxnSpec { append: Vec::new(), ..spec };
                let committed = self.inner.commit(rest).await?;
                if let Committed::Now(revision) = committed
                    && !appends_only.append.is_empty()
                {
                    let put = TxnSpec::appended(appends_only.append, revision).collect();
                    self.inner.commit(TxnSpec { put, ..TxnSpec::default() }).await?;
                }
                return Ok(committed);
            }
            Defect::RepetitionAnsweredNow => {
                if let Some(operation) = &spec.operation
                    && self.has(&operation_key(operation.id)).await
                {
                    return Ok(Committed::Now(self.view().await.revision()));
                }
            }
            _ => {}
        }
        let operation = spec.operation.clone();
        let result = self.commit_changed(spec).await;
        match (&result, self.defect) {
            (Err(CommitError::Conflict(_)), Defect::AppliedOnConflict)
            | (Err(CommitError::Bound(_)), Defect::AppliedOnBound) => {
                drop(self.inner.commit(puts_only).await);
            }
            (Err(CommitError::Conflict(_)), Defect::RefusedOperationRecorded) => {
                drop(self.inner.commit(TxnSpec { operation, ..TxnSpec::default() }).await);
            }
            (Err(CommitError::Fenced), Defect::AppendedOnRefusal)
            | (Ok(Committed::Before(_)), Defect::AppendedAgain) => {
                drop(self.inner.commit(appends_only).await);
            }
            (Err(CommitError::Conflict(key)), Defect::WrongKeyNamed) => {
                return Err(CommitError::Conflict(key.slice(..key.len() / 2)));
            }
            _ => {}
        }
        result
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn compact(&self) -> Result<(), MetaError> {
        self.inner.compact().await
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.inner.close().await
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.inner.statistics()
    }
}

#[derive(Debug)]
struct BrokenView {
    inner: Arc<dyn Snapshot>,
    store: Arc<MemoryStore>,
    defect: Defect,
}

impl BrokenView {
    async fn view(&self) -> Arc<dyn Snapshot> {
        match self.defect {
            Defect::SnapshotFollows => self.store.snapshot().await.unwrap(),
            _ => Arc::clone(&self.inner),
        }
    }

    fn record(&self, record: Record) -> Option<Record> {
        match self.defect {
            Defect::EmptyValueIsAbsence if record.value.is_empty() => None,
            Defect::VersionOfNeighbour => {
                Some(Record { version: Version(record.version.0 / 2 * 2), ..record })
            }
            _ => Some(record),
        }
    }

    /// The end of a range, and how many of it, as the defect has them.
    fn range(&self, start: &[u8], end: &[u8], limit: usize) -> (Bytes, usize) {
        let further = match self.defect {
            Defect::EndIncluded => true,
            Defect::EmptyRangeHoldsStart => start == end,
            _ => false,
        };
        let end =
            if further { [end, b"\x00"].concat().into() } else { Bytes::copy_from_slice(end) };
        (end, if self.defect == Defect::LimitIgnored { usize::MAX } else { limit })
    }

    fn records(&self, found: Vec<(Bytes, Record)>) -> Vec<(Bytes, Record)> {
        found.into_iter().filter_map(|(key, record)| Some((key, self.record(record)?))).collect()
    }
}

#[async_trait]
impl Snapshot for BrokenView {
    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError> {
        Ok(self.view().await.get(key).await?.and_then(|record| self.record(record)))
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError> {
        let mut found = self.view().await.get_many(keys).await?;
        if self.defect == Defect::AbsentSkippedInMany {
            found.retain(Option::is_some);
            found.resize(keys.len(), None);
        }
        Ok(found.into_iter().map(|it| it.and_then(|record| self.record(record))).collect())
    }

    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let (end, limit) = self.range(start, end, limit);
        Ok(self.records(self.view().await.scan(start, &end, limit).await?))
    }

    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let (end, limit) = self.range(start, end, limit);
        let view = self.view().await;
        Ok(self.records(match self.defect {
            Defect::BackScanFromTheFront => view.scan(start, &end, limit).await?,
            Defect::BackScanCutAtTheWrongEnd => {
                let mut found = view.scan(start, &end, limit).await?;
                found.reverse();
                found
            }
            _ => view.scan_back(start, &end, limit).await?,
        }))
    }
}
