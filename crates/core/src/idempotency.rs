//! Requests with a name: sent again, they are told what they came to and done no second time
//! (docs/semantics.md A5; draft-ietf-httpapi-idempotency-key-header).
//!
//! A door opens an [`Operation`] for the user, the `Idempotency-Key` and a digest of the request's
//! head, and runs the request in it. While it runs, the first commit of the request that is not
//! marked as incidental carries the operation's record: [`Larder::commit`](crate::Larder) adds it
//! by itself, so that no operation can forget it. The record is in the *same* commit as the
//! effect, so a crash between commit and answer loses nothing: the repetition finds it.
//!
//! Promises: I-ONCE-1 of any number of requests with one key of one user one takes effect; I-ONCE-2
//! a repetition is told the outcome of the first for as long as the instance remembers
//! (`idempotency.retention`, 24 h at least by default), also after a crash; I-ONCE-3 another
//! request under the same key is refused and has no effect; I-ONCE-4 while the first one runs, a
//! repetition is refused and changes nothing. A request that was refused is not remembered: it had
//! no effect, so it may be tried again. Memory: an id for each such request that runs. Records:
//! `Config::idempotency_keys_max` for each user at most.
//!
//! Operations whose answer holds a secret store no answer; their repetition is told that it was
//! done. Not here: the header itself and which of the request's headers count (the door).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use larder_base::{
    ErrorKind, Timestamp,
    digest::Sha256,
    id::{NodeId, OpId, SpaceId, UserId},
    name::TreePath,
};
use larder_meta::{Bound, FieldOp, Operation as Named, Version, spec::operation_key};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Larder,
    caller::Caller,
    entry::{Entry, EntryKind, Etag},
    error::{Error, Result},
    schema::{self, Done},
    txn::{self, Txn, transact},
};

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Operations forgotten by one transaction: each is two records and a counter.
const FORGET_BATCH: usize = 40;

/// Operations forgotten in one round of jobs.
const FORGET_MAX: usize = 20_000;

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// Ids of the operations that run in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeSet<OpId>>>);

/// One request with a name.
#[derive(Clone, Debug)]
pub struct Operation(Arc<Context>);

#[derive(Debug)]
struct Context {
    id: OpId,
    user: UserId,
    head: Sha256,
    body: Mutex<Option<Sha256>>,
    /// What it came to when it was done before, and the commit that did it.
    before: Option<(Done, Version)>,
    /// Whether a commit of this request has carried the record.
    recorded: AtomicBool,
    /// Whether it turned out to be another request than the one recorded.
    differs: AtomicBool,
    running: Running,
}

impl Drop for Context {
    fn drop(&mut self) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Operation {
    /// Runs a request as this operation.
    pub async fn run<F: Future>(&self, request: F) -> F::Output {
        CURRENT.scope(Arc::clone(&self.0), request).await
    }

    /// Whether it has been done before, with an answer that says nothing more than that.
    pub fn done_before_in_silence(&self) -> bool {
        self.0.before.as_ref().is_some_and(|(done, _)| done.outcome.is_none())
    }

    /// Whether it has been done before: what is answered now was answered then.
    pub fn is_repetition(&self) -> bool {
        self.0.before.is_some()
    }

    /// Whether another request has been done under this key: this one is refused.
    pub fn differs(&self) -> bool {
        self.0.differs.load(Ordering::Acquire)
    }
}

/// Says which body the request has; nothing if it has no name. To be called before the operation.
///
/// Errors: `Invalid` if it is not the body of the request that was done under this key.
pub fn note_body(bytes: &[u8]) -> Result<()> {
    if CURRENT.try_with(|_| ()).is_err() {
        return Ok(());
    }
    note_digest(Sha256::of(bytes))
}

/// The same for a body whose digest is known.
pub(crate) fn note_digest(digest: Sha256) -> Result<()> {
    let Some(context) = current() else { return Ok(()) };
    if let Some((done, _)) = &context.before
        && done.body.is_some_and(|body| body != digest)
    {
        return Err(context.differs());
    }
    *context.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    Ok(())
}

fn current() -> Option<Arc<Context>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Whether this request has a name, so that its outcome is wanted.
pub(crate) fn wanted() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

/// Whether this request has been done before: nothing of it may be done again.
pub(crate) fn is_repeated() -> bool {
    CURRENT.try_with(|context| context.before.is_some()).unwrap_or(false)
}

/// What this request came to when it was done before, and the commit that did it.
///
/// Errors: `Conflict` if its answer was not kept.
pub(crate) fn before<T: DeserializeOwned>() -> Result<Option<(T, Version)>> {
    let Some(context) = current() else { return Ok(None) };
    let Some((done, version)) = &context.before else { return Ok(None) };
    let outcome = done.outcome.as_deref().ok_or_else(not_kept)?;
    // Another version of this program may have written it.
    let value = schema::decode(b"op", outcome).map_err(|error| not_kept().with_source(error))?;
    Ok(Some((value, *version)))
}

/// Keeps a task that a request starts in the request's operation.
pub(crate) fn carried<F: Future>(task: F) -> impl Future<Output = F::Output> {
    let context = current();
    async move {
        match context {
            Some(context) => CURRENT.scope(context, task).await,
            None => task.await,
        }
    }
}

/// Fails if this request has been done before: an operation that does not know its answer of then
/// must not even begin.
pub(crate) fn refuse_repeated() -> Result<()> {
    if is_repeated() { Err(not_kept()) } else { Ok(()) }
}

fn not_kept() -> Error {
    let detail = "this was done before under the same Idempotency-Key; its answer was not kept";
    Error::new(ErrorKind::Conflict, detail)
}

impl Context {
    fn differs(&self) -> Error {
        self.differs.store(true, Ordering::Release);
        Error::invalid("another request has been done under this Idempotency-Key")
    }
}

impl Txn {
    /// Says what the operation comes to if this commits, for a repetition of the request.
    pub(crate) fn outcome<T: Serialize>(&mut self, value: &T) {
        if wanted() {
            self.outcome = Some(schema::encode(value));
        }
    }

    /// Says that this commit is not what the request is about: a step before it, or one of many.
    pub(crate) fn incidental(&mut self) {
        self.incidental = true;
    }
}

/// What a commit has to tell its operation.
#[derive(Debug)]
pub(crate) struct Recording(Arc<Context>);

impl Recording {
    /// The commit with the record has happened.
    pub(crate) fn recorded(&self) {
        self.0.recorded.store(true, Ordering::Release);
    }
}

impl Larder {
    /// Opens the operation that `key` names for this caller; `head` is a digest of everything in
    /// the request's head that makes it this request.
    ///
    /// Errors: `Invalid` for a key that is none; `Conflict` while the same one runs.
    pub async fn operation(&self, caller: &Caller, key: &str, head: Sha256) -> Result<Operation> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic())
        {
            let detail = "an Idempotency-Key has 1 to 255 visible ASCII characters";
            return Err(Error::invalid(detail));
        }
        let id = operation_id(caller, key);
        let running = self.inner.operations.clone();
        if !running.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            let detail = "a request with this Idempotency-Key is running: wait for its end";
            return Err(Error::new(ErrorKind::Conflict, detail));
        }
        // From here on its end gives the id free.
        let mut context = Context {
            id,
            user: caller.user,
            head,
            body: Mutex::default(),
            before: None,
            recorded: AtomicBool::new(false),
            differs: AtomicBool::new(false),
            running,
        };
        let snapshot = self.inner.meta.snapshot().await?;
        let done = txn::get::<Done>(&*snapshot, &operation_key(id)).await?;
        if let Some(done) = done {
            if done.value.head != head {
                context.differs();
            }
            context.before = Some((done.value, done.version));
        }
        Ok(Operation(Arc::new(context)))
    }

    /// Adds the record of the running request's operation to its commit.
    pub(crate) fn name_commit(&self, txn: &mut Txn) -> Result<Option<Recording>> {
        if txn.incidental {
            return Ok(None);
        }
        let Some(context) = current() else { return Ok(None) };
        if context.recorded.load(Ordering::Acquire) {
            return Ok(None);
        }
        let at = self.steady_now();
        let body = *context.body.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = txn.outcome.take().map(Vec::from);
        let done = Done { head: context.head, body, at, outcome };
        let outcome: Bytes = schema::encode(&done);
        txn.spec.operation = Some(Named { id: context.id, outcome });
        txn.put(schema::remembered_key(at, context.id), &context.user);
        let key = schema::remembered_count_key(context.user);
        txn.add(key.clone(), [FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep]);
        let limit = i64::try_from(self.inner.config.idempotency_keys_max).unwrap_or(i64::MAX);
        if let Some(merge) = txn.spec.merge.iter_mut().find(|merge| merge.key == key) {
            merge.bounds = vec![Bound { fields: 1, limit }];
        }
        Ok(Some(Recording(context)))
    }

    /// Records the running request's operation by itself, if nothing else has: for what changes
    /// nothing, or is many commits none of which is all of it.
    pub(crate) async fn record_operation<T: Serialize>(&self, outcome: &T) -> Result<()> {
        if wanted() && !is_repeated() {
            transact!(self, None, |txn| {
                txn.frees();
                txn.outcome(outcome);
            });
        }
        Ok(())
    }

    /// The same for what has nothing to tell.
    pub(crate) async fn record_silent_operation(&self) -> Result<()> {
        if wanted() && !is_repeated() {
            transact!(self, None, |txn| {
                txn.frees();
            });
        }
        Ok(())
    }

    /// Forgets operations that have been remembered long enough.
    pub(crate) async fn forget_operations(&self, now: Timestamp) -> Result<()> {
        let keep = self.inner.config.idempotency_retention;
        let mut forgotten = 0;
        while forgotten < FORGET_MAX && !self.inner.stopping() {
            let (count, _) = transact!(self, None, |txn| {
                let prefix = schema::remembered_prefix();
                let page = txn::page(&*txn.snapshot, &prefix, None, FORGET_BATCH).await?;
                let mut count = 0;
                for (key, record) in &page {
                    let at = schema::time_of(key).unwrap_or_default();
                    if now.since(at) < keep {
                        break;
                    }
                    let user: UserId = schema::decode(key, &record.value)?;
                    let id = OpId::from_bytes(schema::trailing_id(key)?);
                    txn.hold(key.clone(), record.version);
                    txn.delete(key.clone());
                    txn.delete(operation_key(id));
                    let less = [FieldOp::Add(-1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
                    txn.add(schema::remembered_count_key(user), less);
                    count += 1;
                }
                if count == 0 {
                    return Ok(());
                }
                txn.frees();
                count
            });
            forgotten += count;
            if count < FORGET_BATCH {
                break;
            }
        }
        Ok(())
    }
}

/// Whether `key` counts somebody's remembered operations.
pub(crate) fn counts(key: &[u8]) -> bool {
    key.starts_with(b"oc")
}

/// No more of them can be remembered.
pub(crate) fn too_many() -> Error {
    let detail = "too many requests with an Idempotency-Key: some must be forgotten first";
    Error::new(ErrorKind::RateLimited, detail)
}

/// The id of what `caller` calls `key`: nobody can name what another has done.
fn operation_id(caller: &Caller, key: &str) -> OpId {
    // Who comes with a link is not its maker.
    let link = caller.link.map_or([0; 16], |link| *link.share.as_bytes());
    let named = [caller.user.as_bytes(), &link[..], key.as_bytes()].concat();
    let Sha256(digest) = Sha256::of(&named);
    let mut id = [0; 16];
    id.copy_from_slice(digest.split_at(16).0);
    OpId::from_bytes(id)
}

/// An entry, and whether its name was free, as an answer is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptEntry {
    space: SpaceId,
    path: String,
    node: NodeId,
    kind: EntryKind,
    size: u64,
    etag: Etag,
    revision: u64,
    content_type: Option<Arc<str>>,
    sha256: Option<Sha256>,
    modified: Timestamp,
    expires: Option<Timestamp>,
    created: bool,
}

impl KeptEntry {
    /// What is kept of `entry`.
    pub(crate) fn of(entry: &Entry, created: bool) -> Self {
        Self {
            space: entry.space,
            path: entry.path.to_string(),
            node: entry.id,
            kind: entry.kind,
            size: entry.size,
            etag: entry.etag,
            revision: entry.revision,
            content_type: entry.content_type.clone(),
            sha256: entry.sha256,
            modified: entry.modified,
            expires: entry.expires,
            created,
        }
    }

    /// The entry again, and whether its name was free; `version` is that of the commit.
    fn entry(self, version: Version) -> Result<(Entry, bool)> {
        let etag = match self.etag {
            // A directory that the commit itself has made.
            Etag(head, 0) if self.kind == EntryKind::Dir => Etag(head, version.0),
            etag => etag,
        };
        let entry = Entry {
            space: self.space,
            path: TreePath::parse(&self.path)?,
            id: self.node,
            kind: self.kind,
            size: self.size,
            etag,
            revision: self.revision,
            content_type: self.content_type,
            sha256: self.sha256,
            modified: self.modified,
            expires: self.expires,
            target: None,
        };
        Ok((entry, self.created))
    }
}

/// The entry that this request came to when it was done before, and whether its name was free.
pub(crate) fn entry_before() -> Result<Option<(Entry, bool)>> {
    before::<KeptEntry>()?.map(|(kept, version)| kept.entry(version)).transpose()
}
