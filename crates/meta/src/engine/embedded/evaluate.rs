//! What a spec demands of the current state, and what it makes of it.
//!
//! The current state is the tables, overlay included, and on top of them the writes that the
//! group has accepted so far. Recently seen keys are remembered, so that the ancestors of a busy
//! directory are looked up once; that is exact, because all change passes through here.
//!
//! Promises: the semantics of the memory engine, case by case.
//!
//! Not here: durability ([`super::committer`]).

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use larder_base::digest::crc32c;
use larder_disk::log::{BATCH_HEADER, BatchBuffer};
use lsm_tree::Slice;

use super::{
    committer::MovedValue,
    record::{POINTER_BYTES, Pointer, Raw, RecordWriter, decode_raw},
    shared::Shared,
    tables,
};
use crate::{
    spec::{Expect, Merge, MergeError, TxnSpec, incarnation_key, operation_key},
    store::{CommitError, MetaError, Revision, Version, prefix_end},
};

/// Keys and bytes of them and their values that are remembered at most.
const REMEMBERED_KEYS: usize = 16 << 10;
const REMEMBERED_BYTES: usize = 4 << 20;

/// The writes of a group that are not published yet.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) writes: Vec<Write>,
    pub(super) live: Live,
}

/// One write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: Bytes,
    pub(super) raw: Option<Slice>,
    pub(super) commit: u64,
}

/// How the group changes what is live in the log.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Bytes of values written to the current segment that are pointed to.
    pub(super) written: u64,
    /// Values that are needed no more: their segment and length.
    pub(super) dead: Vec<(u64, u32)>,
}

impl Staged {
    pub(super) fn clear(&mut self) {
        self.writes.clear();
        self.live.written = 0;
        self.live.dead.clear();
    }
}

/// What the group has accepted so far.
pub(super) struct Group<'a> {
    pub(super) batch: &'a BatchBuffer,
    /// The segment, and the offset in it, where the batch will stand.
    pub(super) place: (u64, u64),
    pub(super) staged: &'a Staged,
}

/// Where the group's next commit is framed and staged.
pub(super) struct Frame<'a> {
    pub(super) batch: &'a mut BatchBuffer,
    /// The segment, and the offset in it, where the batch will stand.
    pub(super) place: (u64, u64),
    pub(super) staged: &'a mut Staged,
    /// The commit's number.
    pub(super) commit: u64,
}

/// The current state.
#[derive(Debug)]
pub(super) struct State {
    shared: Arc<Shared>,
    remembered: HashMap<Bytes, Option<Slice>>,
    bytes: usize,
    /// Merged counter records of the spec that was evaluated last.
    merged: Vec<(Bytes, Bytes)>,
}

impl State {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, remembered: HashMap::new(), bytes: 0, merged: Vec::new() }
    }

    /// Forgets everything: some of it may never have happened.
    pub(super) fn forget(&mut self) {
        self.remembered.clear();
        self.bytes = 0;
    }

    /// The raw value of `key` now. The group's writes are remembered, so they are seen.
    fn get(&mut self, key: &Bytes, staged: &Staged) -> Result<Option<Slice>, CommitError> {
        if let Some(raw) = self.remembered.get(key) {
            return Ok(raw.clone());
        }
        let raw = self.shared.tables.get_latest(key).map_err(|error| self.failed(error))?;
        // While the group has writes, nothing may be forgotten.
        if staged.writes.is_empty() {
            self.bound();
        }
        self.remember(key.clone(), raw.clone());
        Ok(raw)
    }

    fn remember(&mut self, key: Bytes, raw: Option<Slice>) {
        self.bytes += key.len() + raw.as_ref().map_or(0, |raw| raw.len()) + 96;
        self.remembered.insert(key, raw);
    }

    fn bound(&mut self) {
        if self.remembered.len() > REMEMBERED_KEYS || self.bytes > REMEMBERED_BYTES {
            self.forget();
        }
    }

    /// A table that cannot be read stops the engine only if the disk failed; a damaged one
    /// still lets commits that do not touch it pass.
    fn failed(&self, error: lsm_tree::Error) -> CommitError {
        match tables::read_failed(error) {
            MetaError::Corrupt(what) => CommitError::Corrupt(what),
            MetaError::Unavailable(source) => {
                self.shared.status.fail(&format!("read tables: {source}"));
                CommitError::Unavailable(source)
            }
        }
    }

    /// Checks everything that `spec` demands. `Some` if its operation has been committed before.
    pub(super) fn evaluate(
        &mut self,
        spec: &TxnSpec,
        group: &Group<'_>,
    ) -> Result<Option<Bytes>, CommitError> {
        self.merged.clear();
        if let Some(operation) = &spec.operation
            && let Some(raw) = self.get(&operation_key(operation.id), group.staged)?
        {
            return self.value(&raw, group).map(Some);
        }
        if let Some(incarnation) = spec.fence
            && self.get(&incarnation_key(incarnation), group.staged)?.is_none()
        {
            return Err(CommitError::Fenced);
        }
        for compare in &spec.compare {
            let found = match self.get(&compare.key, group.staged)? {
                Some(raw) => Some(decode_raw(&raw).map_err(|_| malformed())?.0),
                None => None,
            };
            let holds = match compare.expect {
                Expect::Absent => found.is_none(),
                Expect::Version(version) => found == Some(version),
            };
            if !holds {
                return Err(CommitError::Conflict(compare.key.clone()));
            }
        }
        for prefix in &spec.empty {
            if self.any_under(prefix, group.staged)? {
                return Err(CommitError::Conflict(prefix.clone()));
            }
        }
        for merge in &spec.merge {
            let before = match self.get(&merge.key, group.staged)? {
                None => [0; 4],
                Some(raw) => Merge::decode(&self.value(&raw, group)?)
                    .ok_or_else(|| CommitError::Corrupt("not a counter record".into()))?,
            };
            match merge.apply(&before) {
                Ok(after) => self.merged.push((merge.key.clone(), Merge::encode(&after))),
                Err(MergeError::Bound) => return Err(CommitError::Bound(merge.key.clone())),
                Err(MergeError::Overflow) => {
                    return Err(CommitError::Corrupt("counter left its range".into()));
                }
            }
        }
        Ok(None)
    }

    /// The value that `raw` stands for.
    fn value(&self, raw: &Slice, group: &Group<'_>) -> Result<Bytes, CommitError> {
        let pointer = match decode_raw(raw).map_err(|_| malformed())?.1 {
            Raw::Inline(value) => return Ok(Bytes::copy_from_slice(value)),
            Raw::Pointer(pointer) => pointer,
        };
        let (segment, start) = group.place;
        if pointer.segment == segment && u64::from(pointer.offset) >= start {
            // This group has accepted it, but not written it yet.
            let at = pointer.offset as usize - start as usize - BATCH_HEADER;
            let value = group.batch.payload().get(at..at + pointer.length as usize);
            return value.map(Bytes::copy_from_slice).ok_or_else(malformed);
        }
        self.shared.segments.read(&pointer).map_err(|error| match error {
            MetaError::Corrupt(what) => CommitError::Corrupt(what),
            MetaError::Unavailable(source) => CommitError::Unavailable(source),
        })
    }

    /// Whether any record's key starts with `prefix`.
    fn any_under(&mut self, prefix: &Bytes, staged: &Staged) -> Result<bool, CommitError> {
        let mut last: HashMap<&[u8], bool> = HashMap::new();
        for write in staged.writes.iter().filter(|write| write.key.starts_with(prefix)) {
            last.insert(&write.key, write.raw.is_some());
        }
        if last.values().any(|present| *present) {
            return Ok(true);
        }
        let end = prefix_end(prefix);
        for pair in self.shared.tables.range(prefix, end.as_deref(), u64::MAX >> 1) {
            let (key, _raw) = pair.map_err(|error| self.failed(error))?;
            if !last.contains_key(&key[..]) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Frames the evaluated `spec` and stages its writes.
    pub(super) fn apply(
        &mut self,
        spec: TxnSpec,
        checksums: &[u32],
        frame: Frame<'_>,
    ) -> Result<(), CommitError> {
        let Frame { batch, place, staged, commit } = frame;
        // Everything that can fail comes first: a record must not be half framed.
        let mut changes: Vec<(Bytes, Option<Bytes>, u32, Option<Slice>)> = Vec::with_capacity(
            spec.delete.len() + spec.put.len() + spec.append.len() + self.merged.len() + 1,
        );
        let operation = spec.operation.as_ref().map(|operation| *operation.id.as_bytes());
        for key in spec.delete {
            let old = self.get(&key, staged)?;
            if old.is_some() {
                changes.push((key, None, 0, old));
            }
        }
        if let Some(operation) = spec.operation {
            let crc = crc32c(&operation.outcome);
            changes.push((operation_key(operation.id), Some(operation.outcome), crc, None));
        }
        let mut checksums = checksums.iter();
        for ((key, value), crc) in spec.put.into_iter().zip(&mut checksums) {
            let old = self.get(&key, staged)?;
            changes.push((key, Some(value), *crc, old));
        }
        for (key, value) in std::mem::take(&mut self.merged) {
            let old = self.get(&key, staged)?;
            changes.push((key, Some(value), 0, old));
        }
        for ((key, value), crc) in
            TxnSpec::appended(spec.append, Revision(commit)).zip(&mut checksums)
        {
            // The key names this commit: there is no old value to look for.
            changes.push((key, Some(value), *crc, None));
        }
        let fence = spec.fence.map(|incarnation| incarnation.0);
        let mut record = RecordWriter::new(batch, commit, operation.as_ref(), fence);
        let version = Version(commit);
        for (key, value, crc, old) in changes {
            let raw = match &value {
                None => {
                    record.delete(&key);
                    None
                }
                Some(value) => {
                    let at = record.put(&key, value);
                    Some(raw_value(version, value, crc, place, at, &mut staged.live))
                }
            };
            if let Some(pointer) = old.as_deref().and_then(pointer_of) {
                record.dead(pointer.segment, pointer.length);
                staged.live.dead.push((pointer.segment, pointer.length));
            }
            self.remember(key.clone(), raw.clone());
            staged.writes.push(Write { key, raw, commit });
        }
        record.finish();
        Ok(())
    }

    /// As `apply`, for values that move to the end of the log and keep their versions. Those
    /// that have changed since they were found stay out.
    pub(super) fn relocate(
        &mut self,
        values: Vec<MovedValue>,
        frame: Frame<'_>,
    ) -> Result<(), CommitError> {
        let Frame { batch, place, staged, commit } = frame;
        let mut moving = Vec::with_capacity(values.len());
        for moved in values {
            let key = Bytes::copy_from_slice(&moved.pair.0);
            if self.get(&key, staged)?.as_ref() == Some(&moved.pair.1) {
                moving.push((key, moved));
            }
        }
        let mut record = RecordWriter::new(batch, commit, None, None);
        for (key, moved) in moving {
            let at = record.moved(&key, moved.version, &moved.value);
            record.dead(moved.from.segment, moved.from.length);
            staged.live.dead.push((moved.from.segment, moved.from.length));
            let live = &mut staged.live;
            let raw = raw_value(moved.version, &moved.value, moved.from.crc, place, at, live);
            self.remember(key.clone(), Some(raw.clone()));
            staged.writes.push(Write { key, raw: Some(raw), commit });
        }
        record.finish();
        Ok(())
    }
}

/// The raw form of a value that stands at `at` in a batch that will stand at `place`.
fn raw_value(
    version: Version,
    value: &[u8],
    crc: u32,
    place: (u64, u64),
    at: usize,
    live: &mut Live,
) -> Slice {
    if value.len() < POINTER_BYTES {
        return Raw::encode_inline(version, value);
    }
    live.written += value.len() as u64;
    let (segment, start) = place;
    let pointer = Pointer {
        segment,
        // Segments are smaller than 4 GiB (`EmbeddedOptions`).
        offset: (start + at as u64) as u32,
        length: value.len() as u32,
        crc,
    };
    Raw::encode_pointer(version, &pointer)
}

/// Where the value stands, if it is in the log.
pub(super) fn pointer_of(raw: &[u8]) -> Option<Pointer> {
    match decode_raw(raw) {
        Ok((_, Raw::Pointer(pointer))) => Some(pointer),
        _ => None,
    }
}

fn malformed() -> CommitError {
    CommitError::Corrupt("tables: malformed record".into())
}
