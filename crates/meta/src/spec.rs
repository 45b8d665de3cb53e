//! The mini-transaction: everything one commit checks and changes.
//!
//! Promises: a spec that passes [`TxnSpec::check`] fits every engine with those limits, so an
//! engine never has to split one (hazard E01).
//!
//! Not here: how it is carried out ([`crate::engine`]).

use std::collections::BTreeSet;

use bytes::Bytes;
use larder_base::id::{Incarnation, OpId};

use crate::store::{Limits, Revision, Version};

/// Number of counters in a record that [`Merge`] changes.
pub const COUNTERS: usize = 4;

/// One atomic change: if every comparison, guard and bound holds, all of it happens.
///
/// No key may stand twice among `put`, `delete` and `merge`, nor be that of an item of `append`.
/// A key that is compared may also be
/// written.
#[derive(Clone, Debug, Default)]
pub struct TxnSpec {
    /// Makes the commit recognisable when it is sent again; see [`Operation`].
    pub operation: Option<Operation>,
    /// The gateway process on whose behalf this commits. Its record
    /// ([`incarnation_key`]) must exist, else the commit is [`CommitError::Fenced`].
    ///
    /// [`CommitError::Fenced`]: crate::CommitError::Fenced
    pub fence: Option<Incarnation>,
    /// Records that must be as the caller saw them.
    pub compare: Vec<Compare>,
    /// Prefixes under which no record may exist.
    pub empty: Vec<Bytes>,
    /// Records to write, whole.
    pub put: Vec<(Bytes, Bytes)>,
    /// Records to remove; removing one that is not there is fine.
    pub delete: Vec<Bytes>,
    /// Commutative changes of counters. They never conflict with each other.
    pub merge: Vec<Merge>,
    /// Records to write under keys that name this commit; see [`Append`].
    pub append: Vec<Append>,
    /// Whether this is a step towards giving room back (a delete, a mark for a purge, a step of a
    /// job), or must be possible for one. An engine whose disk is full still accepts it, from a
    /// reserve that no other spec can touch; what it writes itself should be small. It changes
    /// nothing else, and an engine that knows no full disk ignores it.
    pub frees: bool,
}

/// A name for a commit, and what its repetition shall be told.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Unique per operation. The engine records it in the same commit under
    /// [`operation_key`]; a spec whose id is already recorded is not applied, and its sender is
    /// given the recorded outcome.
    pub id: OpId,
    /// What to tell whoever sends the operation again; opaque to the engine.
    pub outcome: Bytes,
}

/// A record that must be as the caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The record's key.
    pub key: Bytes,
    /// How it must be.
    pub expect: Expect,
}

/// How a compared record must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There must be no record.
    Absent,
    /// There must be one, last written by this commit.
    Version(Version),
}

/// A change of a counter record: [`COUNTERS`] signed 64-bit numbers, little-endian, 32 bytes.
/// An absent record counts as zeros and is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The record's key.
    pub key: Bytes,
    /// What happens to each counter.
    pub fields: [FieldOp; COUNTERS],
    /// What must hold afterwards.
    pub bounds: Vec<Bound>,
}

/// A record whose key is known only when it is committed: the i-th item of a spec that commits at
/// revision r becomes the record under [`append_key`]`(prefix, r, i)`. Under one prefix such
/// records stand in the order of commits, then of items; commits that append never conflict for
/// that. Afterwards it is a record like any other.
///
/// Nothing may be put under the prefix, or merged, at a key that a later commit could append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// What the key starts with; not empty.
    pub prefix: Bytes,
    /// The value.
    pub value: Bytes,
}

/// Bytes of an appended record's key behind its prefix.
pub const APPEND_KEY_BYTES: usize = 8 + 2;

/// What happens to one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldOp {
    /// It stays.
    #[default]
    Keep,
    /// This is added. Overflow is [`MetaError::Corrupt`](crate::MetaError::Corrupt): no sum of
    /// bytes on Earth reaches 2^63.
    Add(i64),
    /// It becomes this if it is less.
    Max(i64),
}

/// After the merge, the sum of the counters in `fields` (bit i is counter i) must be at most
/// `limit`, unless the merge does not increase that sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which counters are summed.
    pub fields: u8,
    /// The largest allowed sum.
    pub limit: i64,
}

/// The key of a gateway process's record: present while the process may commit.
pub fn incarnation_key(incarnation: Incarnation) -> Bytes {
    let mut key = b"gw".to_vec();
    key.extend_from_slice(&incarnation.0.to_be_bytes());
    key.into()
}

/// The key under which an operation's outcome is recorded.
pub fn operation_key(id: OpId) -> Bytes {
    let mut key = b"op".to_vec();
    key.extend_from_slice(id.as_bytes());
    key.into()
}

/// The key of the record that item `index` of the commit at `revision` appends under `prefix`:
/// the prefix, the revision and the index, both big-endian.
pub fn append_key(prefix: &[u8], revision: Revision, index: u16) -> Bytes {
    let mut key = Vec::with_capacity(prefix.len() + APPEND_KEY_BYTES);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&revision.0.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    key.into()
}

/// The revision and the index at the end of an appended record's key; `None` if it is too short
/// to be one.
pub fn append_position(key: &[u8]) -> Option<(Revision, u16)> {
    let (rest, index) = key.split_last_chunk()?;
    let revision = rest.last_chunk()?;
    Some((Revision(u64::from_be_bytes(*revision)), u16::from_be_bytes(*index)))
}

/// Why a spec cannot be committed by any engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// More items than the engine takes.
    #[error("a list of the transaction has {0} items")]
    TooManyItems(usize),
    /// More bytes than the engine takes.
    #[error("the transaction has {0} bytes")]
    TooManyBytes(usize),
    /// A key is empty or too long.
    #[error("a key has {0} bytes")]
    KeyLength(usize),
    /// A key is written twice.
    #[error("a key is written twice")]
    WrittenTwice,
}

impl TxnSpec {
    /// Adds the comparison that there is no record under `key`.
    pub fn expect_absent(&mut self, key: Bytes) {
        self.compare.push(Compare { key, expect: Expect::Absent });
    }

    /// Adds the comparison that the record under `key` still has `version`.
    pub fn expect_version(&mut self, key: Bytes, version: Version) {
        self.compare.push(Compare { key, expect: Expect::Version(version) });
    }

    /// Bytes of the keys and values that it puts and appends.
    pub fn written_bytes(&self) -> usize {
        let put = self.put.iter().map(|(key, value)| key.len() + value.len());
        let appended = self
            .append
            .iter()
            .map(|append| append.prefix.len() + APPEND_KEY_BYTES + append.value.len());
        put.chain(appended).sum()
    }

    /// The items of `append` as records, were it committed at `revision`.
    pub fn appended(
        append: Vec<Append>,
        revision: Revision,
    ) -> impl Iterator<Item = (Bytes, Bytes)> {
        // No engine takes so many items that the numbers run out.
        (0..=u16::MAX)
            .zip(append)
            .map(move |(index, append)| (append_key(&append.prefix, revision, index), append.value))
    }

    /// Checks the spec against `limits`. Engines call it first; a failure is a defect of ours,
    /// because large work must be an O(1) switch and a resumable job.
    pub fn check(&self, limits: &Limits) -> Result<(), SpecError> {
        let writes = self.put.len() + self.delete.len() + self.merge.len();
        // Engines that fold in the commit take merges outside the item limit: a chain of
        // directories is longer than that.
        let counted = self.put.len() + self.delete.len() + self.append.len();
        for items in [self.compare.len(), self.empty.len(), counted] {
            if items > limits.items_max {
                return Err(SpecError::TooManyItems(items));
            }
        }
        let bytes = self.written_bytes();
        if bytes > limits.bytes_max {
            return Err(SpecError::TooManyBytes(bytes));
        }
        let written = self
            .put
            .iter()
            .map(|(key, _)| key)
            .chain(&self.delete)
            .chain(self.merge.iter().map(|merge| &merge.key));
        for append in &self.append {
            let key_bytes = append.prefix.len() + APPEND_KEY_BYTES;
            if append.prefix.is_empty() {
                return Err(SpecError::KeyLength(0));
            }
            if key_bytes > limits.key_bytes_max {
                return Err(SpecError::KeyLength(key_bytes));
            }
        }
        let mut seen = BTreeSet::new();
        for key in written {
            if key.is_empty() || key.len() > limits.key_bytes_max {
                return Err(SpecError::KeyLength(key.len()));
            }
            seen.insert(key);
        }
        if seen.len() < writes { Err(SpecError::WrittenTwice) } else { Ok(()) }
    }
}

impl Merge {
    /// The counters in a stored value; `None` if it is no counter record.
    pub fn decode(value: &[u8]) -> Option<[i64; COUNTERS]> {
        let mut counters = [0; COUNTERS];
        if value.len() != COUNTERS * 8 {
            return None;
        }
        for (counter, bytes) in counters.iter_mut().zip(value.chunks_exact(8)) {
            *counter = i64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(counters)
    }

    /// The stored form of `counters`.
    pub fn encode(counters: &[i64; COUNTERS]) -> Bytes {
        counters.iter().flat_map(|counter| counter.to_le_bytes()).collect::<Vec<_>>().into()
    }

    /// The counters after this merge of `before`.
    pub fn apply(&self, before: &[i64; COUNTERS]) -> Result<[i64; COUNTERS], MergeError> {
        let mut after = *before;
        for (counter, op) in after.iter_mut().zip(&self.fields) {
            *counter = match *op {
                FieldOp::Keep => *counter,
                FieldOp::Add(delta) => counter.checked_add(delta).ok_or(MergeError::Overflow)?,
                FieldOp::Max(least) => (*counter).max(least),
            };
        }
        for bound in &self.bounds {
            let (was, is) = (bound.sum(before), bound.sum(&after));
            if is > i128::from(bound.limit) && is > was {
                return Err(MergeError::Bound);
            }
        }
        Ok(after)
    }
}

/// Why a merge cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeError {
    /// A counter left the range of 64 bits.
    Overflow,
    /// A bound does not hold.
    Bound,
}

impl Bound {
    fn sum(&self, counters: &[i64; COUNTERS]) -> i128 {
        counters
            .iter()
            .enumerate()
            .filter(|(i, _)| self.fields & (1 << i) != 0)
            .map(|(_, counter)| i128::from(*counter))
            .sum()
    }
}
