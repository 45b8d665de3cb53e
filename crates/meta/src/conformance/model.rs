//! Random specs against a plain ordered map: outcomes, versions, reads and snapshots must agree.
//!
//! The model says the contract a second time, in the most naive way, and shares no evaluation
//! with any engine. [`run`] applies specs one by one; [`run_concurrent`] applies them from many
//! tasks and then replays what was accepted in the order of the commits' numbers, which must fit
//! the model at every step: a serializability check of whole histories.
//!
//! Promises: a seed determines the specs, and is named in each failure, in the name of the area.
//!
//! Not here: aimed cases (`basic`, `conflict`, `limits`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use larder_base::id::{Incarnation, OpId};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::Area;
use crate::{
    Append, Bound, CommitError, Committed, Compare, Expect, FieldOp, Limits, Merge, MetaStore,
    Operation, Record, Snapshot, TxnSpec, Version,
    spec::{SpecError, incarnation_key, operation_key},
    store::prefix_end,
};

/// How many stores the sequential cases are spread over.
pub(super) const PARTS: u64 = 4;
const CASES_PER_PART: u64 = 8;
const SPECS_PER_CASE: usize = 300;

/// What must be in the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    records: BTreeMap<Bytes, Record>,
    last: u64,
}

/// What a commit may be answered.
#[derive(Debug)]
enum Verdict {
    Spec(SpecError),
    /// The recorded outcome, and whether being fenced may come before it.
    Before(Bytes, bool),
    Refused(Reasons),
    Apply(Vec<(Bytes, Bytes)>),
}

/// Everything that stands against a commit; any of it may be answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reasons {
    conflicts: Vec<Bytes>,
    bounds: Vec<Bytes>,
    fenced: bool,
    corrupt: bool,
}

impl Model {
    fn judge(&self, spec: &TxnSpec, limits: &Limits) -> Verdict {
        if let Err(why) = spec.check(limits) {
            return Verdict::Spec(why);
        }
        let mut reasons = Reasons::default();
        if let Some(incarnation) = spec.fence {
            reasons.fenced = !self.records.contains_key(&incarnation_key(incarnation));
        }
        if let Some(operation) = &spec.operation
            && let Some(record) = self.records.get(&operation_key(operation.id))
        {
            return Verdict::Before(record.value.clone(), reasons.fenced);
        }
        for compare in &spec.compare {
            let found = self.records.get(&compare.key).map(|record| record.version);
            let expected = match compare.expect {
                Expect::Absent => None,
                Expect::Version(version) => Some(version),
            };
            if found != expected {
                reasons.conflicts.push(compare.key.clone());
            }
        }
        for prefix in &spec.empty {
            if self.records.keys().any(|key| key.starts_with(prefix)) {
                reasons.conflicts.push(prefix.clone());
            }
        }
        let mut merged = Vec::new();
        for merge in &spec.merge {
            self.judge_merge(merge, &mut reasons, &mut merged);
        }
        if reasons == Reasons::default() {
            Verdict::Apply(merged)
        } else {
            Verdict::Refused(reasons)
        }
    }

    fn judge_merge(&self, merge: &Merge, reasons: &mut Reasons, to: &mut Vec<(Bytes, Bytes)>) {
        let before: Vec<i128> = match self.records.get(&merge.key) {
            None => vec![0; 4],
            Some(record) if record.value.len() == 32 => record
                .value
                .chunks(8)
                .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("8 bytes")).into())
                .collect(),
            Some(_) => return reasons.corrupt = true,
        };
        let after: Vec<i128> = before
            .iter()
            .zip(&merge.fields)
            .map(|(before, op)| match *op {
                FieldOp::Keep => *before,
                FieldOp::Add(amount) => *before + i128::from(amount),
                FieldOp::Max(least) => i128::from(least).max(*before),
            })
            .collect();
        let mut stored = Vec::new();
        for counter in &after {
            match i64::try_from(*counter) {
                Ok(counter) => stored.extend(counter.to_le_bytes()),
                Err(_) => return reasons.corrupt = true,
            }
        }
        for bound in &merge.bounds {
            let sum = |counters: &[i128]| -> i128 {
                (0..4).filter(|i| bound.fields >> i & 1 == 1).map(|i| counters[i]).sum()
            };
            if sum(&after) > bound.limit.into() && sum(&after) > sum(&before) {
                reasons.bounds.push(merge.key.clone());
                return;
            }
        }
        to.push((merge.key.clone(), stored.into()));
    }

    fn apply(&mut self, spec: &TxnSpec, merged: Vec<(Bytes, Bytes)>, version: Version) {
        for key in &spec.delete {
            self.records.remove(key);
        }
        let operation = spec.operation.iter();
        let recorded = operation.map(|it| (operation_key(it.id), it.outcome.clone()));
        for (key, value) in spec.put.iter().cloned().chain(recorded).chain(merged) {
            self.records.insert(key, Record { value, version });
        }
        for (index, append) in spec.append.iter().enumerate() {
            let [.., high, low] = index.to_be_bytes();
            let key = [&append.prefix[..], &version.0.to_be_bytes(), &[high, low]].concat();
            self.records.insert(key.into(), Record { value: append.value.clone(), version });
        }
        self.last = version.0;
    }

    /// Takes what the store answered to `spec`, which must be what the contract allows.
    fn take(&mut self, area: &Area, spec: &TxnSpec, result: &Result<Committed, CommitError>) {
        let limits = area.store.limits();
        match (self.judge(spec, &limits), result) {
            (Verdict::Apply(merged), Ok(Committed::Now(revision))) => {
                let grows =
                    revision.0 > self.last || (writes(spec) == 0 && revision.0 >= self.last);
                assert!(grows, "{:?}: {revision:?} after {}", area.prefix, self.last);
                self.apply(spec, merged, Version(revision.0));
            }
            (Verdict::Before(outcome, _), Ok(Committed::Before(told))) if outcome == *told => {}
            (Verdict::Before(_, true), Err(CommitError::Fenced)) => {}
            (Verdict::Spec(why), Err(CommitError::Spec(told))) if why == *told => {}
            (Verdict::Refused(reasons), Err(error)) if reasons.allow(error) => {}
            (verdict, result) => panic!(
                "{:?}: {spec:?} was answered {result:?}, but it must be {verdict:?}",
                area.prefix
            ),
        }
    }

    fn range(&self, start: &Bytes, end: &Bytes) -> Vec<(Bytes, Record)> {
        let within = self.records.iter().filter(|(key, _)| start <= *key && *key < end);
        within.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// Holds every record of the model, and of the area, against the store's.
    pub(super) async fn compare_all(&self, area: &Area, view: &dyn Snapshot) {
        let end = prefix_end(&area.prefix).expect("the area's name is not all 0xff");
        let found = area.all_of(view).await;
        assert_eq!(found, self.range(&area.prefix, &end), "the records of {:?}", area.prefix);
        let keys: Vec<Bytes> = self.records.keys().cloned().collect();
        let found = view.get_many(&keys).await.expect("readable");
        for (key, found) in keys.iter().zip(found) {
            assert_eq!(found.as_ref(), self.records.get(key), "{key:?} in {:?}", area.prefix);
        }
    }
}

fn writes(spec: &TxnSpec) -> usize {
    let named = usize::from(spec.operation.is_some());
    spec.put.len() + spec.delete.len() + spec.merge.len() + spec.append.len() + named
}

impl Reasons {
    fn allow(&self, error: &CommitError) -> bool {
        match error {
            CommitError::Conflict(key) => self.conflicts.contains(key),
            CommitError::Bound(key) => self.bounds.contains(key),
            CommitError::Fenced => self.fenced,
            CommitError::Corrupt(_) => self.corrupt,
            _ => false,
        }
    }
}

/// Makes random specs over a small set of keys, so that they meet.
#[derive(Debug)]
pub(super) struct Maker {
    rng: StdRng,
    keys: Vec<Bytes>,
    counters: Vec<Bytes>,
    prefixes: Vec<Bytes>,
    /// What is appended under.
    logs: Vec<Bytes>,
    operations: Vec<OpId>,
    processes: Vec<Incarnation>,
}

impl Maker {
    pub(super) fn new(area: &Area, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let names: [&[u8]; 16] = [
            b"a",
            b"a/",
            b"a/b",
            b"a/b/c",
            b"a/\xff",
            b"a0",
            b"b",
            b"b\x00",
            b"b\x00\x00",
            b"b\xff",
            b"b\xff\xff",
            b"c",
            b"\x00",
            b"\xfe",
            b"\xff",
            b"\xff\xff",
        ];
        let keys: Vec<Bytes> = names.iter().map(|name| area.key(name)).collect();
        let mut prefixes = keys.clone();
        prefixes.extend([area.key("d"), area.key("a/b/"), area.key("nothing")]);
        let logs = [b"log/", b"log0", b"log\xff"].map(|name| area.key(name)).to_vec();
        prefixes.extend(logs.iter().cloned());
        // A process's number stands in a key of all areas, so it is drawn from them all.
        let processes = (0..3).map(|_| Incarnation(rng.random::<u64>())).collect();
        let operations = (0..12).map(|_| OpId::from_bytes(rng.random())).collect();
        let counters = (0..4).map(|i| area.key(format!("count{i}"))).collect();
        Self { rng, keys, counters, prefixes, logs, operations, processes }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, from: impl Fn(&Self) -> &[T]) -> T {
        let count = from(self).len();
        let chosen = self.rng.random_range(0..count);
        from(self)[chosen].clone()
    }

    fn any_key(&mut self) -> Bytes {
        if self.chance(80) { self.pick(|it| &it.keys) } else { self.pick(|it| &it.counters) }
    }

    fn value(&mut self) -> Bytes {
        let length = match self.rng.random_range(0..20) {
            0 => 0,
            1 => 3000,
            2 => 32,
            _ => self.rng.random_range(1..40),
        };
        vec![self.rng.random(); length].into()
    }

    fn merge(&mut self) -> Merge {
        let key = if self.chance(95) { self.pick(|it| &it.counters) } else { self.any_key() };
        let mut fields = [FieldOp::Keep; 4];
        for field in &mut fields {
            *field = match self.rng.random_range(0..40) {
                0 => FieldOp::Add(*[i64::MAX, i64::MIN].choose(&mut self.rng).expect("not empty")),
                1..=15 => FieldOp::Add(self.rng.random_range(-30..=40)),
                16..=22 => FieldOp::Max(self.rng.random_range(-100..=100)),
                _ => FieldOp::Keep,
            };
        }
        let bounds = (0..self.rng.random_range(0..3))
            .map(|_| Bound { fields: self.rng.random(), limit: self.rng.random_range(-50..=150) })
            .collect();
        Merge { key, fields, bounds }
    }

    /// A spec by someone who mostly, but not always, knows the state.
    pub(super) fn spec(&mut self, known: &BTreeMap<Bytes, Record>) -> TxnSpec {
        let mut spec = TxnSpec::default();
        for _ in 0..self.rng.random_range(0..4) {
            let key = self.any_key();
            let version = known.get(&key).map(|record| record.version);
            let expect = match self.rng.random_range(0..20) {
                0 => Expect::Absent,
                1 => Expect::Version(Version(version.map_or(1, |it| it.0.saturating_sub(1)))),
                _ => version.map_or(Expect::Absent, Expect::Version),
            };
            spec.compare.push(Compare { key, expect });
        }
        if self.chance(25) {
            spec.empty.push(self.pick(|it| &it.prefixes));
        }
        // Mostly distinct keys; now and then one twice, which must be refused.
        let twice = self.chance(2);
        let mut taken: Vec<Bytes> = Vec::new();
        let mut free = |key: &Bytes| {
            let free = twice || !taken.contains(key);
            taken.push(key.clone());
            free
        };
        for _ in 0..self.rng.random_range(0..4) {
            let (key, value) = (self.any_key(), self.value());
            // What is put into a counter is mostly a counter.
            let value = if self.counters.contains(&key) && self.chance(90) {
                Merge::encode(&self.rng.random::<[i16; 4]>().map(i64::from))
            } else {
                value
            };
            if free(&key) {
                spec.put.push((key, value));
            }
        }
        for _ in 0..self.rng.random_range(0..4) {
            let key = self.any_key();
            if free(&key) {
                spec.delete.push(key);
            }
        }
        for _ in 0..self.rng.random_range(0..3) {
            let merge = self.merge();
            if free(&merge.key) {
                spec.merge.push(merge);
            }
        }
        self.add_appends(&mut spec, known);
        self.add_names(&mut spec);
        spec
    }

    /// Adds records to the logs, and changes of some that are there.
    fn add_appends(&mut self, spec: &mut TxnSpec, known: &BTreeMap<Bytes, Record>) {
        if self.chance(70) {
            return;
        }
        for _ in 0..self.rng.random_range(0..4) {
            let append = Append { prefix: self.pick(|it| &it.logs), value: self.value() };
            spec.append.push(append);
        }
        let appended = known.keys().filter(|key| self.logs.iter().any(|log| key.starts_with(log)));
        let appended: Vec<&Bytes> = appended.collect();
        let Some(key) = appended.choose(&mut self.rng) else { return };
        match self.rng.random_range(0..6) {
            0..3 => spec.delete.push((*key).clone()),
            3 => spec.put.push(((*key).clone(), self.value())),
            _ => {}
        }
    }

    /// Adds operation and fence, and changes of their records.
    fn add_names(&mut self, spec: &mut TxnSpec) {
        if self.chance(30) {
            let id = self.pick(|it| &it.operations);
            spec.operation = Some(Operation { id, outcome: self.value() });
        }
        if self.chance(4) {
            let key = operation_key(self.pick(|it| &it.operations));
            if spec.operation.as_ref().is_none_or(|it| operation_key(it.id) != key) {
                spec.delete.push(key);
            }
        }
        if self.chance(30) {
            spec.fence = Some(self.pick(|it| &it.processes));
        }
        if self.chance(10) {
            let key = incarnation_key(self.pick(|it| &it.processes));
            if self.chance(70) { spec.put.push((key, self.value())) } else { spec.delete.push(key) }
        }
    }

    /// Reads at random and holds the answers against the model.
    async fn read(&mut self, area: &Area, model: &Model, view: &dyn Snapshot) {
        let (mut start, mut end) = (self.pick(|it| &it.prefixes), self.pick(|it| &it.prefixes));
        if start > end && self.chance(90) {
            (start, end) = (end, start);
        }
        if self.chance(30) {
            end = prefix_end(&start).expect("the area's name is not all 0xff");
        }
        let limit = *[0, 1, 2, 5, 1000].choose(&mut self.rng).expect("not empty");
        let mut expected = if start < end { model.range(&start, &end) } else { vec![] };
        let found = view.scan(&start, &end, limit).await.expect("readable");
        assert_eq!(found, expected[..limit.min(expected.len())], "scan {start:?} to {end:?}");
        expected.reverse();
        let found = view.scan_back(&start, &end, limit).await.expect("readable");
        assert_eq!(found, expected[..limit.min(expected.len())], "scan {end:?} back to {start:?}");
        let key = self.any_key();
        let found = view.get(&key).await.expect("readable");
        assert_eq!(found.as_ref(), model.records.get(&key), "{key:?}");
        if self.chance(2) {
            area.store.compact().await.expect("a store that works can be compacted");
        }
    }
}

/// Applies `count` random specs one by one; reads, and keeps snapshots, between them.
pub(super) async fn drive(area: &Area, maker: &mut Maker, model: &mut Model, count: usize) {
    let mut kept: Vec<(Arc<dyn Snapshot>, Model)> = Vec::new();
    for _ in 0..count {
        let spec = maker.spec(&model.records);
        let result = area.store.commit(spec.clone()).await;
        model.take(area, &spec, &result);
        let view = area.view().await;
        assert!(view.revision().0 >= model.last, "a snapshot is of no earlier moment");
        maker.read(area, model, &*view).await;
        match maker.rng.random_range(0..10) {
            0 if kept.len() < 3 => kept.push((view, model.clone())),
            1 if !kept.is_empty() => {
                let (view, model) = kept.remove(maker.rng.random_range(0..kept.len()));
                model.compare_all(area, &*view).await;
            }
            _ => {}
        }
    }
    for (view, model) in kept {
        model.compare_all(area, &*view).await;
    }
    model.compare_all(area, &*area.view().await).await;
}

pub(super) async fn run(store: &Arc<dyn MetaStore>, part: u64) {
    for case in 0..CASES_PER_PART {
        let seed = part * CASES_PER_PART + case;
        let area = Area::new(store, &format!("model{seed:04}"));
        let mut maker = Maker::new(&area, seed);
        drive(&area, &mut maker, &mut Model::default(), SPECS_PER_CASE).await;
    }
}

/// What one task sent, and what it was told.
type History = Vec<(TxnSpec, Result<Committed, CommitError>)>;

pub(super) async fn run_concurrent(store: &Arc<dyn MetaStore>) {
    for seed in 1000..1006 {
        let area = Area::new(store, &format!("history{seed}"));
        let history: Arc<Mutex<History>> = Arc::default();
        area.together(6, |area, caller| {
            // The same seed makes the same names; then each goes its own way.
            let mut maker = Maker::new(&area, seed);
            maker.rng = StdRng::seed_from_u64(seed << 8 | caller);
            let history = Arc::clone(&history);
            async move {
                for _ in 0..120 {
                    let known = area.all().await.into_iter().collect();
                    let spec = maker.spec(&known);
                    tokio::task::yield_now().await;
                    let result = area.store.commit(spec.clone()).await;
                    history.lock().unwrap_or_else(PoisonError::into_inner).push((spec, result));
                }
            }
        })
        .await;
        let history = std::mem::take(&mut *history.lock().unwrap_or_else(PoisonError::into_inner));
        replay(&area, history).await;
    }
}

/// Replays the accepted commits in their order; each must fit, and so must the end.
async fn replay(area: &Area, history: History) {
    let limits = area.store.limits();
    let mut accepted = Vec::new();
    let mut told = Vec::new();
    for (spec, result) in history {
        match result {
            // What writes nothing may have the number of the commit that it saw last.
            Ok(Committed::Now(revision)) => accepted.push((revision, writes(&spec) == 0, spec)),
            Ok(Committed::Before(outcome)) => told.push((spec, outcome)),
            Err(CommitError::Conflict(key)) => {
                let named = spec.compare.iter().any(|it| it.key == key);
                assert!(named || spec.empty.contains(&key), "{key:?} was not compared: {spec:?}");
            }
            Err(CommitError::Bound(key)) => {
                let bound = spec.merge.iter().any(|it| it.key == key && !it.bounds.is_empty());
                assert!(bound, "{key:?} has no bound: {spec:?}");
            }
            Err(CommitError::Fenced) => assert!(spec.fence.is_some(), "no fence: {spec:?}"),
            Err(CommitError::Corrupt(_)) => assert!(!spec.merge.is_empty(), "{spec:?}"),
            Err(CommitError::Spec(why)) => assert_eq!(spec.check(&limits), Err(why)),
            Err(other) => panic!("a commit was answered {other:?}"),
        }
    }
    assert!(accepted.len() > 50, "the random specs are mostly acceptable");
    accepted.sort_by_key(|(revision, reads, _)| (*revision, *reads));
    let mut model = Model::default();
    let mut outcomes: Vec<(OpId, Bytes)> = Vec::new();
    for (revision, _, spec) in accepted {
        model.take(area, &spec, &Ok(Committed::Now(revision)));
        outcomes.extend(spec.operation.map(|it| (it.id, it.outcome)));
    }
    for (spec, outcome) in told {
        let id = spec.operation.expect("only an operation is recognised").id;
        assert!(outcomes.contains(&(id, outcome)), "an outcome that was never recorded");
    }
    model.compare_all(area, &*area.view().await).await;
}
