//! One attempt at an operation: reads of one snapshot, and the transaction built from them.
//!
//! Every operation is `transact!`: take a snapshot, read, decide, commit; on a conflict do it
//! all again (docs/transactions.md section 1). The macro is the only retry loop of core. Closures
//! passed to it have no side effect but the transaction.
//!
//! Promises: what was read for a decision is compared at the commit where the operation says so
//! ([`Txn::hold`]); a conflict is retried with full jitter, and after the second one alone:
//! the space's gate keeps other commits of this process out, so that an operation on a busy
//! directory is not starved. The gate is an optimisation; the comparison is what is exact.
//! After [`ATTEMPTS_MAX`] attempts the caller is told `Busy`.
//!
//! Not here: what operations read and write (their modules).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{ErrorKind, Timestamp, failpoint, id::SpaceId};
use larder_meta::{CommitError, Committed, FieldOp, Merge, Revision, Snapshot, TxnSpec, Version};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use crate::{
    Larder,
    error::{Error, Result},
    feed::Feeds,
    idempotency,
    quota::Reservation,
    schema,
};

/// Most attempts at one operation.
const ATTEMPTS_MAX: u32 = 24;

/// Attempts before an operation asks to be alone.
const ATTEMPTS_TOGETHER: u32 = 2;

/// Longest pause between two attempts, before jitter.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Runs an operation until it commits or fails: `transact!(larder, space, |txn| { ... value })`.
/// Gives the value of the body, as of the attempt that committed, and the commit's revision.
macro_rules! transact {
    ($larder:expr, $space:expr, |$txn:ident| $body:block) => {{
        let mut attempts = $crate::txn::Attempts::new($space);
        loop {
            let mut $txn = $larder.begin(&mut attempts).await?;
            let value = $body;
            if let Some(revision) = $larder.commit($txn, &mut attempts).await? {
                break (value, revision);
            }
        }
    }};
}
pub(crate) use transact;

/// What a read gave: the value and the commit that wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub(crate) value: T,
    pub(crate) version: Version,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Txn {
    pub(crate) snapshot: Arc<dyn Snapshot>,
    pub(crate) spec: TxnSpec,
    /// One time for everything that this commit writes.
    pub(crate) now: Timestamp,
    /// The records that say who asks: if one of them changes, the request must log in again.
    pub(crate) login: Vec<Bytes>,
    /// Name of who asks, for what is reported of it.
    pub(crate) author: Option<Arc<str>>,
    /// Bytes promised to this operation; the promise ends with the commit.
    pub(crate) reservation: Option<Reservation>,
    /// What a repetition of the request is to be told; see [`Txn::outcome`].
    pub(crate) outcome: Option<Bytes>,
    /// Whether this commit is not what the request is about.
    pub(crate) incidental: bool,
    /// Whether it belongs to a body that is moved in steps: then it waits its turn among those.
    pub(crate) large: bool,
    /// Whether content that stands in the metadata is condemned rather than removed, because a
    /// dump may still read it.
    pub(crate) keep_inline: bool,
}

impl Txn {
    pub(crate) fn new(snapshot: Arc<dyn Snapshot>, now: Timestamp) -> Self {
        Self {
            snapshot,
            spec: TxnSpec::default(),
            now,
            login: Vec::new(),
            author: None,
            reservation: None,
            outcome: None,
            incidental: false,
            large: false,
            keep_inline: false,
        }
    }

    /// Reads a record.
    pub(crate) async fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<Stored<T>>> {
        get(&*self.snapshot, key).await
    }

    /// Reads a blob.
    pub(crate) async fn get_blob(&self, key: &[u8]) -> Result<Option<Stored<schema::Blob>>> {
        match self.snapshot.get(key).await? {
            None => Ok(None),
            Some(record) => Ok(Some(Stored {
                value: schema::decode_blob(key, &record.value)?,
                version: record.version,
            })),
        }
    }

    /// Demands that a record that was read is still the same at the commit.
    pub(crate) fn hold(&mut self, key: Bytes, version: Version) {
        if !self.spec.compare.iter().any(|compare| compare.key == key) {
            self.spec.expect_version(key, version);
        }
    }

    /// Demands that there is still no record at the commit.
    pub(crate) fn hold_absent(&mut self, key: Bytes) {
        self.spec.expect_absent(key);
    }

    pub(crate) fn put<T: Serialize>(&mut self, key: Bytes, value: &T) {
        self.spec.put.push((key, schema::encode(value)));
    }

    pub(crate) fn put_blob(&mut self, key: Bytes, blob: &schema::Blob) {
        self.large |= matches!(blob.content, schema::Content::Chunks(_));
        self.spec.put.push((key, schema::encode_blob(blob)));
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.spec.delete.push(key);
    }

    /// Whether a request makes it, and not a job.
    fn is_asked_for(&self) -> bool {
        !self.login.is_empty()
    }

    /// Says that this gives room back, or leads to it: it is accepted on a full disk (B18).
    pub(crate) fn frees(&mut self) {
        self.spec.frees = true;
    }

    /// Marks that an authority record of the space changes, once however many do.
    pub(crate) fn touch_topology(&mut self, space: SpaceId) {
        let key = schema::topology_key(space);
        if !self.spec.put.iter().any(|(written, _)| *written == key) {
            self.put(key, &());
        }
    }

    /// Adds to counters; a second addition to the same record joins the first.
    pub(crate) fn add(&mut self, key: Bytes, fields: [FieldOp; 4]) {
        match self.spec.merge.iter_mut().find(|merge| merge.key == key) {
            None => self.spec.merge.push(Merge { key, fields, bounds: Vec::new() }),
            Some(merge) => {
                for (old, new) in merge.fields.iter_mut().zip(fields) {
                    *old = match (*old, new) {
                        (op, FieldOp::Keep) | (FieldOp::Keep, op) => op,
                        (FieldOp::Add(a), FieldOp::Add(b)) => FieldOp::Add(a.saturating_add(b)),
                        (FieldOp::Max(a), FieldOp::Max(b)) => FieldOp::Max(a.max(b)),
                        // No counter is both summed and held at its maximum.
                        (_, op) => op,
                    };
                }
            }
        }
    }
}

/// Reads a record of a snapshot.
pub(crate) async fn get<T: DeserializeOwned>(
    snapshot: &dyn Snapshot,
    key: &[u8],
) -> Result<Option<Stored<T>>> {
    match snapshot.get(key).await? {
        None => Ok(None),
        Some(record) => {
            Ok(Some(Stored { value: schema::decode(key, &record.value)?, version: record.version }))
        }
    }
}

/// Reads counters of a snapshot; absent ones are zeros.
pub(crate) async fn counters(
    snapshot: &dyn Snapshot,
    key: &[u8],
) -> Result<([i64; 4], Option<Version>)> {
    decode_counters(key, snapshot.get(key).await?)
}

/// The counters of a record that has been read; a record that holds none is damage, never zeros.
pub(crate) fn decode_counters(
    key: &[u8],
    record: Option<larder_meta::Record>,
) -> Result<([i64; 4], Option<Version>)> {
    match record {
        None => Ok(([0; 4], None)),
        Some(record) => {
            let counters = Merge::decode(&record.value).ok_or_else(|| {
                let key = Bytes::copy_from_slice(key);
                let detail = format!("record {} holds no counters", key.escape_ascii());
                Error::new(ErrorKind::Corrupt, detail)
            })?;
            Ok((counters, Some(record.version)))
        }
    }
}

/// A page of records under `prefix`, after the key `after`.
pub(crate) async fn page(
    snapshot: &dyn Snapshot,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, larder_meta::Record)>> {
    let end = larder_meta::store::prefix_end(prefix)
        .ok_or_else(|| Error::internal("prefix without an end"))?;
    let start = match after {
        None => prefix.to_vec(),
        Some(key) => [key, &[0]].concat(),
    };
    Ok(snapshot.scan(&start, &end, limit).await?)
}

/// A walk over all records under a prefix, a page at a time.
#[derive(Debug)]
pub(crate) struct Pages {
    prefix: Bytes,
    after: Option<Bytes>,
    limit: usize,
}

impl Pages {
    /// At most `limit` records at once.
    pub(crate) fn of(prefix: impl Into<Bytes>, limit: usize) -> Self {
        Self { prefix: prefix.into(), after: None, limit }
    }

    /// The next page; never an empty one.
    pub(crate) async fn next(
        &mut self,
        snapshot: &dyn Snapshot,
    ) -> Result<Option<Vec<(Bytes, larder_meta::Record)>>> {
        let page = page(snapshot, &self.prefix, self.after.as_deref(), self.limit).await?;
        let Some((last, _)) = page.last() else { return Ok(None) };
        self.after = Some(last.clone());
        Ok(Some(page))
    }

    /// The next page as of now, for a walk that holds no snapshot while it works on a page.
    pub(crate) async fn next_now(
        &mut self,
        larder: &Larder,
    ) -> Result<Option<Vec<(Bytes, larder_meta::Record)>>> {
        let snapshot = larder.inner.meta.snapshot().await?;
        self.next(&*snapshot).await
    }
}

/// Gates of spaces, striped: commits hold one shared, an operation that must be alone holds it
/// exclusively over its whole attempt.
#[derive(Debug)]
pub(crate) struct Gates([Arc<RwLock<()>>; 64]);

impl Default for Gates {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }
}

impl Gates {
    fn of(&self, space: SpaceId) -> &Arc<RwLock<()>> {
        let [.., last] = *space.as_bytes();
        &self.0[usize::from(last) % self.0.len()]
    }
}

/// The attempts at one operation so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    space: Option<SpaceId>,
    made: u32,
    alone: Option<OwnedRwLockWriteGuard<()>>,
    /// What the attempt before was promised.
    reservation: Option<Reservation>,
}

impl Attempts {
    pub(crate) fn new(space: impl Into<Option<SpaceId>>) -> Self {
        Self { space: space.into(), made: 0, alone: None, reservation: None }
    }
}

impl Larder {
    /// Starts an attempt.
    pub(crate) async fn begin(&self, attempts: &mut Attempts) -> Result<Txn> {
        idempotency::refuse_repeated()?;
        if attempts.made > 0 {
            let wait = PAUSE_MAX.min(Duration::from_micros(200 << attempts.made.min(16)));
            let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            match attempts.space {
                // Waiting in the gate's queue is the pause.
                Some(space) if attempts.made >= ATTEMPTS_TOGETHER => {
                    if attempts.alone.is_none() {
                        let gate = Arc::clone(self.inner.gates.of(space));
                        attempts.alone = Some(gate.write_owned().await);
                    }
                }
                _ => {
                    let jitter = self.inner.env.random_below(micros);
                    self.inner.env.sleep(Duration::from_micros(jitter)).await;
                }
            }
        }
        attempts.made += 1;
        let mut txn = Txn::new(self.inner.meta.snapshot().await?, self.inner.env.now());
        txn.reservation = attempts.reservation.take();
        txn.keep_inline = self.inner.inline_pins.pinned();
        Ok(txn)
    }

    /// Commits an attempt. `None` means that it must be made again.
    pub(crate) async fn commit(
        &self,
        mut txn: Txn,
        attempts: &mut Attempts,
    ) -> Result<Option<Revision>> {
        // Here and not in the operations: none can forget it.
        let recording = self.name_commit(&mut txn)?;
        let small = (txn.is_asked_for() && !txn.large).then(|| self.inner.work.small_change());
        let Txn { mut spec, snapshot, login, reservation, keep_inline, .. } = txn;
        drop(snapshot);
        spec.fence = Some(self.inner.incarnation);
        failpoint::reach("commit.before");
        let together = match attempts.space {
            Some(space) if attempts.alone.is_none() => {
                Some(self.inner.gates.of(space).read().await)
            }
            _ => None,
        };
        let window = match &reservation {
            Some(reservation) => reservation.commit_window().await,
            None => None,
        };
        let feeds = Feeds::touched(&spec.append);
        let dumps = self.inner.inline_pins.commit_window().await;
        if !keep_inline
            && self.inner.inline_pins.pinned()
            && spec.delete.iter().any(|key| key.starts_with(b"bl"))
        {
            // A dump has begun since: it may need what this removes.
            attempts.reservation = reservation;
            return Ok(None);
        }
        let result = self.inner.meta.commit(spec).await;
        if matches!(result, Err(CommitError::Conflict(_))) {
            attempts.reservation = reservation;
        } else {
            // Inside the window: nobody is refused because these bytes are counted twice.
            drop(reservation);
        }
        drop(small);
        drop(dumps);
        drop(window);
        drop(together);
        match result {
            Ok(Committed::Now(revision)) => {
                self.inner.feeds.wake(feeds);
                if let Some(recording) = recording {
                    recording.recorded();
                }
                failpoint::reach("commit.after");
                Ok(Some(revision))
            }
            Ok(Committed::Before(_)) => {
                let detail = "the same request was done meanwhile: send it again for its answer";
                Err(Error::new(ErrorKind::Conflict, detail))
            }
            Err(CommitError::Bound(key)) if idempotency::counts(&key) => {
                Err(idempotency::too_many())
            }
            Err(CommitError::Conflict(key)) if login.contains(&key) => {
                let detail = "the account, key or link changed while the request ran: log in again";
                Err(Error::new(ErrorKind::Unauthenticated, detail))
            }
            Err(CommitError::Conflict(_)) if attempts.made < ATTEMPTS_MAX => {
                self.inner.metrics.conflicts.add(1);
                Ok(None)
            }
            Err(error @ CommitError::Conflict(_)) => Err(Error::new(
                ErrorKind::Busy,
                "others changed the same things at once, too often: try again",
            )
            .with_source(error)),
            Err(error) => Err(error.into()),
        }
    }
}
