//! What this process remembers of sessions: whose turn it is, how far they are, when they were
//! last heard of.
//!
//! Nothing of it is needed to be right: the offset of a session that is not remembered is found
//! by looking for its pieces, in the order in which they became durable. What is lost with the
//! memory is the running digest, and then a file has none.
//!
//! A session is used under its own lock ([`Turn`]). A newer request takes the lock between two
//! writes of the one that runs, and settles that one's bytes itself, so that it does not depend
//! on the older client doing anything (hazards R01, R02).
//!
//! Memory: sessions that nobody uses are forgotten beyond [`LIVE_MAX`]; of those only the time
//! of their last sign of life is kept, until they expire.
//!
//! Not here: who ends them (`sweep`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_base::{
    ErrorKind,
    digest::Sha256Stream,
    id::{ChunkId, UploadId},
};
use larder_chunk::ChunkError;
use larder_meta::{Snapshot, Version};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Larder,
    error::{Error, Result},
    schema::{self, ChunkRef, Content, Session, session as records},
    session::append::Active,
    txn,
};

/// Sessions that are remembered although nobody uses them.
const LIVE_MAX: usize = 4096;

/// How long a newer request waits for the older one's bytes to settle.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sessions that this process has to do with.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: Mutex<BTreeMap<UploadId, Arc<Live>>>,
    /// How often chunks of other processes became nobody's.
    disowned: AtomicU64,
    /// When they were last heard of, by the monotonic clock.
    heard: Mutex<BTreeMap<UploadId, Duration>>,
}

/// One session.
#[derive(Debug)]
pub(super) struct Live {
    state: Arc<tokio::sync::Mutex<LiveState>>,
    /// The offset that was last durable, for who only looks.
    offset: AtomicU64,
}

/// What is known of a session while its lock is held.
#[derive(Debug, Default)]
pub(crate) struct LiveState {
    pub(super) known: Option<Known>,
    /// The running digest, and of how many bytes it is.
    pub(super) hash: Option<(u64, Sha256Stream)>,
    pub(super) active: Option<Active>,
    /// Number of the last append.
    pub(super) generation: u64,
    /// The last piece, if it is no record yet because the completion that is tried next brings it
    /// along.
    pub(super) held: Option<(u32, bytes::Bytes)>,
    /// What the last try to complete it was told.
    pub(super) refused: Option<(ErrorKind, String)>,
}

/// The pieces of a session behind its settled chunks, as of one state of its record.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) version: Version,
    pub(super) offset: u64,
    pub(super) tail: Vec<Tail>,
    /// The number of the next piece.
    pub(super) next: u32,
}

/// A piece that is not settled.
#[derive(Clone, Debug)]
pub(super) enum Tail {
    /// A record with this number, of so many bytes.
    Inline(u32, u64),
    /// A chunk.
    Chunk(ChunkRef),
}

impl Tail {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Inline(_, length) => *length,
            Self::Chunk(chunk) => chunk.length,
        }
    }
}

/// The right to use a session, and what is known of it.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) live: Arc<Live>,
    pub(super) state: OwnedMutexGuard<LiveState>,
}

impl std::ops::Deref for Turn {
    type Target = LiveState;

    fn deref(&self) -> &LiveState {
        &self.state
    }
}

impl std::ops::DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut LiveState {
        &mut self.state
    }
}

impl Turn {
    /// What is known of the pieces.
    pub(super) fn known(&mut self) -> Result<&mut Known> {
        self.state.known.as_mut().ok_or_else(|| Error::internal("the session was not looked at"))
    }

    /// Tells the offset to who only looks.
    pub(super) fn show(&self) {
        if let Some(known) = &self.state.known {
            self.live.offset.store(known.offset, Ordering::Relaxed);
        }
    }

    /// Forgets the pieces: they are looked for again.
    pub(super) fn forget(&mut self) {
        self.state.known = None;
    }
}

impl Live {
    /// Waits for the session's lock; it is busy for one write of an append at a time.
    pub(super) async fn lock(self: &Arc<Self>) -> OwnedMutexGuard<LiveState> {
        Arc::clone(&self.state).lock_owned().await
    }

    /// Whether nobody uses it now.
    pub(super) fn is_idle(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| state.active.is_none())
    }

    /// The offset that was last durable.
    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    fn live(&self, id: UploadId) -> Arc<Live> {
        let mut all = locked(&self.live);
        if let Some(live) = all.get(&id) {
            return Arc::clone(live);
        }
        if all.len() >= LIVE_MAX {
            // In use is what somebody else has a handle of, or what an append is running in.
            all.retain(|_, live| {
                let idle = Arc::strong_count(live) == 1 && live.is_idle();
                !idle
            });
        }
        let live = Arc::new(Live { state: Arc::default(), offset: AtomicU64::new(0) });
        all.insert(id, Arc::clone(&live));
        live
    }

    /// How often chunks of other processes became nobody's.
    pub(crate) fn disowned(&self) -> u64 {
        self.disowned.load(Ordering::SeqCst)
    }

    /// Notes that chunks of another process are about to be nobody's.
    pub(super) fn note_disowned(&self) {
        self.disowned.fetch_add(1, Ordering::SeqCst);
    }

    /// The session, if this process remembers it.
    pub(super) fn known(&self, id: UploadId) -> Option<Arc<Live>> {
        locked(&self.live).get(&id).cloned()
    }

    /// A sign of life.
    pub(super) fn hear(&self, id: UploadId, now: Duration) {
        locked(&self.heard).insert(id, now);
    }

    /// When a session was last heard of, if it was by this process.
    pub(super) fn heard(&self, id: UploadId) -> Option<Duration> {
        locked(&self.heard).get(&id).copied()
    }

    /// The session has ended.
    pub(super) fn end(&self, id: UploadId) {
        locked(&self.heard).remove(&id);
        locked(&self.live).remove(&id);
    }
}

impl Larder {
    /// Takes a session's turn; an append that runs is cut off and settled first.
    ///
    /// Errors: `Locked` if that takes too long.
    pub(crate) async fn take_turn(&self, id: UploadId) -> Result<Turn> {
        let live = self.inner.sessions.live(id);
        let patience = self.inner.env.sleep(PATIENCE);
        let state = tokio::select! {
            biased;
            state = live.lock() => state,
            () = patience => return Err(locked_error()),
        };
        let mut turn = Turn { live, state };
        match &turn.active {
            None => return Ok(turn),
            Some(active) => active.cut.notify_one(),
        }
        self.inner.metrics.session_cut_offs.add(1);
        let (larder, env) = (self.clone(), &self.inner.env);
        // In a task: whoever waits here may go away, the bytes stay.
        let settled = env.spawn("settle append", async move {
            larder.settle_active(id, &mut turn).await;
            turn
        });
        tokio::select! {
            biased;
            turn = settled => {
                turn.map_err(|error| Error::internal("settling stopped").with_source(error))
            }
            () = env.sleep(PATIENCE) => Err(locked_error()),
        }
    }

    /// Looks at the pieces of a session unless that was done since its record was written.
    pub(super) async fn look_at(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        session: &Session,
        version: Version,
        turn: &mut Turn,
    ) -> Result<()> {
        if turn.known.as_ref().is_none_or(|known| known.version != version) {
            let known = self.probe(snapshot, id, session, version).await?;
            turn.known = Some(known);
        }
        let offset = turn.known()?.offset;
        if offset == 0 && turn.hash.is_none() {
            turn.hash = Some((0, Sha256Stream::default()));
        }
        if turn.hash.as_ref().is_some_and(|(of, _)| *of != offset) {
            turn.hash = None;
        }
        turn.show();
        Ok(())
    }

    /// Finds the pieces of a session: they became durable one after the other, so the first that
    /// is missing is the end.
    pub(super) async fn probe(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        session: &Session,
        version: Version,
    ) -> Result<Known> {
        let mut known =
            Known { version, offset: session.base(), tail: Vec::new(), next: session.next_index };
        loop {
            let key = schema::session::part_key(id, known.next);
            let tail = match snapshot.get(&key).await? {
                Some(record) => {
                    let part = records::decode_part(&key, &record.value)?;
                    Some(Tail::Inline(known.next, part.size))
                }
                None => {
                    let id = ChunkId { blob: session.blob, index: known.next };
                    self.find_chunk(id).await?.map(Tail::Chunk)
                }
            };
            let Some(tail) = tail else { return Ok(known) };
            known.offset += tail.length();
            known.tail.push(tail);
            known.next += 1;
        }
    }

    /// A chunk that no record names, if it is there.
    pub(super) async fn find_chunk(&self, id: ChunkId) -> Result<Option<ChunkRef>> {
        for store in self.inner.stores.all() {
            match store.head(id).await {
                Ok(stat) => {
                    let (length, checksum) = (stat.length, stat.checksum);
                    let servers = vec![store.server()];
                    return Ok(Some(ChunkRef { id, length, checksum, servers }));
                }
                Err(ChunkError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The bytes of an inline piece.
    pub(super) async fn inline_piece(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        index: u32,
    ) -> Result<bytes::Bytes> {
        let key = records::part_key(id, index);
        let record = snapshot.get(&key).await?;
        let missing = || Error::new(ErrorKind::Corrupt, format!("a piece of upload {id} is gone"));
        match records::decode_part(&key, &record.ok_or_else(missing)?.value)?.content {
            Content::Inline(bytes) => Ok(bytes),
            Content::Chunks(_) => Err(missing()),
        }
    }

    /// Reads the record of a session.
    pub(crate) async fn read_session(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
    ) -> Result<Option<txn::Stored<Session>>> {
        txn::get(snapshot, &records::session_key(id)).await
    }

    /// A sign of life of a session.
    pub(super) fn hear(&self, id: UploadId) {
        self.inner.sessions.hear(id, self.inner.env.monotonic());
    }

    /// When a session was last heard of, by the monotonic clock: a session of an earlier process
    /// at the start of this one, so that no session ends before it was said to.
    pub(super) fn heard(&self, id: UploadId) -> Duration {
        self.inner.sessions.heard(id).unwrap_or(self.inner.started_monotonic)
    }
}

fn locked_error() -> Error {
    Error::new(ErrorKind::Locked, "an append to this upload is still being written: try again")
        .with_retry_after(Duration::from_secs(1))
}
