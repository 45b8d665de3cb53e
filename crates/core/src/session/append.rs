//! Bytes at the offset of a session.
//!
//! A body is cut into pieces. Each becomes a chunk under the next number of the session's blob;
//! the finish of one goes on while the next one fills, and begins after the finish of the one
//! before it has ended, so that a piece is durable only after all before it. A body of at most
//! [`SMALL_MAX`] bytes becomes a record instead, whose commit makes it durable.
//!
//! A body that comes with a checksum is one chunk, which gets its name only when the checksum has
//! matched: until then nothing of it counts, whatever happens to the process.
//!
//! Promises: I-SES-1, I-SES-2 (see [`super`]). Whatever has come of a body when its connection
//! breaks is made durable and counts.
//! Cancel: an [`Append`] may be dropped at any await; it is settled in a task.
//!
//! Not here: what becomes of a session that is full (`complete`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    checksum::Checksum,
    digest::Sha256Stream,
    failpoint,
    id::{BlobId, ChunkId, SpaceId, UploadId},
    memory::Share,
};
use larder_chunk::placement::{Placement, Split};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    Larder,
    blob::write::{STILL_MAX, grow},
    caller::Caller,
    error::{Error, Result},
    schema::{self, ChunkRef, Content, Part, Session, SessionKind, session as records},
    session::{
        AppendRefused, CHUNKS_MAX, NewAppend, SessionInfo, SessionState, gone,
        live::{Live, LiveState, Tail, Turn},
        piece::{Bench, Digests, Hashing, Piece},
    },
    txn::transact,
    work::Class,
};

/// Largest append that is a record.
const SMALL_MAX: usize = 64 << 10;

/// Smallest chunk that a long body is cut into; so much is lost at most when the process dies.
const PIECE_BYTES: u64 = 16 << 20;

/// Most chunks that one body is cut into.
const PIECES_MAX: u64 = 4096;

/// Bytes that are reserved ahead while the length of the whole is not known.
const RESERVE_STEP: u64 = 64 << 20;

/// How often a running append looks whether it still may.
const RIGHTS_INTERVAL: Duration = Duration::from_secs(1);

/// An append that is running. Dropped, it is settled in a task of its own: what has come is made
/// durable and counts, unless it came with a checksum.
#[derive(Debug)]
pub struct Append {
    larder: Larder,
    id: UploadId,
    live: Arc<Live>,
    generation: u64,
    cut: Arc<Notify>,
    ended: bool,
}

/// What an append that is running has taken so far.
#[derive(Debug)]
pub(super) struct Active {
    generation: u64,
    /// Told when it is cut off.
    pub(super) cut: Arc<Notify>,
    caller: Caller,
    /// When its rights were last looked at.
    checked: Duration,
    space: SpaceId,
    blob: BlobId,
    placement: Placement,
    start: u64,
    declared: Option<u64>,
    /// Length of the session.
    length: Option<u64>,
    replaces_bytes: u64,
    reserved: u64,
    checksum: Option<Checksum>,
    /// The running digest of the session before it.
    before: Option<Sha256Stream>,
    bench: Bench,
    /// The first bytes, until they are too many for a record.
    small: Vec<u8>,
    /// Whether they were hashed, because nothing else came.
    small_hashed: bool,
    memory: Option<Share>,
    small_max: usize,
    piece: Option<Piece>,
    piece_max: u64,
    finishing: Option<(u64, JoinHandle<Result<ChunkRef>>)>,
    /// Pieces that are durable.
    done: Vec<Tail>,
    /// The number of the next piece.
    next: u32,
    /// Chunks that the session had before.
    chunks: usize,
    /// Whether the session becomes a file with its last byte.
    completes: bool,
}

impl Active {
    /// Bytes taken.
    fn taken(&self) -> u64 {
        let done: u64 = self.done.iter().map(Tail::length).sum();
        let finishing = self.finishing.as_ref().map_or(0, |(length, _)| *length);
        let small = self.small.len() as u64;
        // What is in `small` goes into the piece first.
        let open = self.piece.as_ref().map_or(small, |piece| piece.taken.max(small));
        done + finishing + open
    }

    /// Whether all of it is small and the end of a small file: the completion commits it.
    fn rides_in_completion(&self, inline_max: u64) -> bool {
        let end = self.start + self.taken();
        let small = !self.small.is_empty() && self.piece.is_none() && self.done.is_empty();
        let last = self.length == Some(end) && end <= inline_max;
        self.completes && small && last && self.finishing.is_none()
    }

    async fn take(&mut self, larder: &Larder, bytes: &[u8]) -> Result<()> {
        let first = self.piece.is_none() && self.finishing.is_none() && self.done.is_empty();
        if first && self.small.len() + bytes.len() <= self.small_max {
            let needed = self.small.len() + bytes.len();
            grow(larder, &mut self.memory, needed, 0).await?;
            self.small.extend_from_slice(bytes);
            return Ok(());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.piece.is_none() {
                self.open_piece(larder).await?;
            }
            self.feed_small(larder).await?;
            let piece = self.piece.as_mut().ok_or_else(|| Error::internal("no open piece"))?;
            piece.write(larder, &mut rest, &mut self.bench).await?;
            // What has a checksum is finished when that has matched.
            if piece.left == 0 && self.checksum.is_none() {
                self.close_piece(larder).await?;
            } else if piece.left == 0 && !rest.is_empty() {
                return Err(Error::internal("a body is longer than its chunk"));
            }
        }
        Ok(())
    }

    async fn open_piece(&mut self, larder: &Larder) -> Result<()> {
        if self.chunks + self.done.len() + 1 >= CHUNKS_MAX {
            let detail = "the upload has too many pieces: send larger ones";
            return Err(Error::new(ErrorKind::TooLarge, detail));
        }
        let id = ChunkId { blob: self.blob, index: self.next };
        let exact = self.checksum.and(self.declared);
        let piece = Piece::create(larder, &self.placement, id, exact, self.piece_max).await?;
        self.next += 1;
        self.piece = Some(piece);
        Ok(())
    }

    /// Moves the first bytes to the piece. It has taken nothing else before them.
    async fn feed_small(&mut self, larder: &Larder) -> Result<()> {
        let Some(piece) = self.piece.as_mut().filter(|_| !self.small.is_empty()) else {
            return Ok(());
        };
        let fed = usize::try_from(piece.taken).unwrap_or(usize::MAX).min(self.small.len());
        let mut rest = self.small.get(fed..).unwrap_or_default();
        piece.write(larder, &mut rest, &mut self.bench).await?;
        self.small = Vec::new();
        self.memory = None;
        Ok(())
    }

    /// Lets the piece become durable while the next one fills, after the one before.
    async fn close_piece(&mut self, larder: &Larder) -> Result<()> {
        self.settle_finishing().await?;
        let Some(piece) = self.piece.as_mut() else { return Ok(()) };
        piece.flush(&mut self.bench).await?;
        if let Some(piece) = self.piece.take() {
            let taken = piece.taken;
            let task = larder.inner.env.spawn("finish piece", piece.finish());
            self.finishing = Some((taken, task));
        }
        Ok(())
    }

    async fn settle_finishing(&mut self) -> Result<()> {
        let Some((_, task)) = &mut self.finishing else { return Ok(()) };
        let finished = task.await;
        self.finishing = None;
        let chunk =
            finished.map_err(|error| Error::internal("a finish stopped").with_source(error))??;
        self.done.push(Tail::Chunk(chunk));
        failpoint::reach("session.piece-durable");
        Ok(())
    }

    /// Hands everything over, so that the digests are of all of it.
    async fn flush(&mut self, larder: &Larder) -> Result<()> {
        if self.piece.is_some() {
            self.feed_small(larder).await?;
        }
        let Self { piece, bench, small, .. } = self;
        match piece {
            Some(piece) => piece.flush(bench).await?,
            None if !self.small_hashed => {
                bench.hashing.settle().await?.update(small);
                self.small_hashed = true;
            }
            None => {}
        }
        self.bench.hashing.settle().await?;
        Ok(())
    }
}

impl Larder {
    pub(super) async fn begin_append(
        &self,
        caller: &Caller,
        id: UploadId,
        offset: u64,
        new: NewAppend,
    ) -> Result<Append, AppendRefused> {
        let session = self.own_session(caller, id).await?;
        require_open(&session)?;
        if !matches!(session.kind, SessionKind::Whole | SessionKind::Partial) {
            let detail = "this upload takes no bytes at an offset";
            return Err(Error::new(ErrorKind::Conflict, detail).into());
        }
        let mut turn = self.take_turn(id).await?;
        // Only now nobody else changes it.
        let snapshot = self.inner.meta.snapshot().await.map_err(Error::from)?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        let session = stored.value;
        require_open(&session)?;
        let placement = self.may_append(caller, &session).await?;
        self.look_at(&*snapshot, id, &session, stored.version, &mut turn).await?;
        drop(snapshot);
        self.hear(id);
        let known = turn.known()?;
        if offset != known.offset {
            let detail = format!("the upload is at offset {}, not at {offset}", known.offset);
            let error = Error::new(ErrorKind::Conflict, detail);
            return Err(AppendRefused { error, offset: Some(known.offset) });
        }
        let left = session.length.map(|length| length.saturating_sub(offset));
        if let (Some(left), Some(declared)) = (left, new.length)
            && declared > left
        {
            return Err(too_long(session.length).into());
        }
        if self.merge_overdue(&session, known) {
            self.merge(id, &mut turn, caller.client()).await?;
        }
        let active = self.new_active(caller, &session, placement, new, &mut turn)?;
        let (generation, cut) = (active.generation, Arc::clone(&active.cut));
        turn.active = Some(active);
        self.inner.metrics.session_appends.add(1);
        let live = Arc::clone(&turn.live);
        Ok(Append { larder: self.clone(), id, live, generation, cut, ended: false })
    }

    fn new_active(
        &self,
        caller: &Caller,
        session: &Session,
        placement: Placement,
        new: NewAppend,
        turn: &mut Turn,
    ) -> Result<Active> {
        let known = turn.known()?;
        let (start, next) = (known.offset, known.next);
        let chunks = session.layout.len() + known.tail.len();
        turn.generation += 1;
        let generation = turn.generation;
        let before = turn.hash.take().map(|(_, hash)| hash);
        let whole = before.clone();
        let check = new.checksum.map(Checksum::stream);
        // A small body is a record; unless it is the end of a file in chunks, which it would have
        // to be merged with at once.
        let inline_max = self.inner.inline_bytes_max as u64;
        let last = session.length.is_some_and(|length| {
            length > inline_max && new.length.is_some_and(|declared| start + declared == length)
        });
        let small = SMALL_MAX.min(self.inner.inline_bytes_max) as u64;
        let small_max = if last || new.length.is_some_and(|declared| declared > small) {
            0
        } else {
            usize::try_from(small).unwrap_or(SMALL_MAX)
        };
        let expected = new.length.or(session.length).unwrap_or(start);
        let piece_max = match new.checksum {
            Some(_) => u64::MAX,
            None => PIECE_BYTES.max((expected / PIECES_MAX).next_multiple_of(1 << 20)),
        };
        Ok(Active {
            generation,
            cut: Arc::default(),
            caller: caller.clone(),
            checked: self.inner.env.monotonic(),
            space: session.space,
            blob: session.blob,
            placement: Placement { split: Split::Whole, ..placement },
            start,
            declared: new.length,
            length: session.length,
            replaces_bytes: session.replaces_bytes,
            reserved: session.reserved,
            checksum: new.checksum,
            before,
            bench: Bench {
                hashing: Hashing::Idle(Digests { whole, check }),
                task: self.inner.work.enter(&caller.client(), Class::Upload)?,
            },
            small: Vec::new(),
            small_hashed: false,
            memory: None,
            small_max,
            piece: None,
            piece_max,
            finishing: None,
            done: Vec::new(),
            next,
            chunks,
            completes: session.kind == SessionKind::Whole,
        })
    }

    async fn append_bytes(
        &self,
        id: UploadId,
        state: &mut LiveState,
        generation: u64,
        bytes: &Bytes,
    ) -> Result<()> {
        let now = self.inner.env.monotonic();
        let active = active_of(state, generation)?;
        let end = active.start + active.taken() + bytes.len() as u64;
        if active.length.is_some_and(|length| end > length) {
            return Err(too_long(active.length));
        }
        if active.declared.is_some_and(|declared| end > active.start + declared) {
            return Err(Error::invalid("the body is longer than declared"));
        }
        if now.saturating_sub(active.checked) >= RIGHTS_INTERVAL {
            active.checked = now;
            self.look_again(id, &active.caller).await?;
        }
        if active.length.is_none() && end - active.replaces_bytes.min(end) > active.reserved {
            let needed = end.saturating_sub(active.replaces_bytes);
            let (space, replaces) = (active.space, active.replaces_bytes);
            // The rest of the body, if its length is known, is what it will take.
            let rest = active.declared.map_or(end, |declared| active.start + declared);
            let ahead = rest.saturating_sub(replaces).max(needed.saturating_add(RESERVE_STEP));
            let (reserved, version) = self.reserve_more(id, space, needed, ahead).await?;
            if let Some(known) = &mut state.known {
                known.version = version;
            }
            active_of(state, generation)?.reserved = reserved;
        }
        self.hear(id);
        active_of(state, generation)?.take(self, bytes).await
    }

    /// Whether an append may go on: its session is open and its caller still has the right to it.
    async fn look_again(&self, id: UploadId, caller: &Caller) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        drop(snapshot);
        let session = stored.ok_or_else(|| Error::not_found("upload"))?.value;
        require_open(&session)?;
        self.may_append(caller, &session).await?;
        Ok(())
    }

    async fn pause_append(
        &self,
        id: UploadId,
        state: &mut LiveState,
        generation: u64,
        still: Duration,
    ) -> Result<()> {
        let active = active_of(state, generation)?;
        active.checked = self.inner.env.monotonic();
        let caller = active.caller.clone();
        self.look_again(id, &caller).await?;
        let Active { piece, bench, .. } = active_of(state, generation)?;
        if let Some(piece) = piece {
            piece.pause(bench).await?;
        }
        if still >= STILL_MAX && self.inner.config.memory.room() == 0 {
            let detail = "the body stands still while memory is short; try again";
            return Err(Error::new(ErrorKind::Busy, detail));
        }
        Ok(())
    }

    /// Makes durable what an append has taken, as far as it can, and ends it. What came with a
    /// checksum does not count.
    pub(super) async fn settle_active(&self, id: UploadId, turn: &mut Turn) {
        if turn.active.as_ref().is_some_and(|active| active.checksum.is_some()) {
            discard(turn);
            return;
        }
        let Some(mut active) = turn.active.take() else { return };
        if let Err(error) = self.settle(id, turn, &mut active, false).await {
            tracing::debug!(%id, %error, "some bytes of a broken append were lost");
        }
    }

    /// Makes durable what an append has taken, and knows it.
    ///
    /// With `ride` small bytes are only held: the completion, which must be tried next, makes
    /// them durable.
    async fn settle(
        &self,
        id: UploadId,
        turn: &mut Turn,
        active: &mut Active,
        ride: bool,
    ) -> Result<()> {
        let result = match self.settle_pieces(id, active, ride).await {
            Ok(held) => {
                turn.held = held;
                Ok(())
            }
            Err(error) => Err(error),
        };
        match &result {
            Ok(()) => {
                let end = active.start + active.taken();
                let whole = match active.bench.hashing.settle().await {
                    Ok(digests) => digests.whole.take(),
                    Err(_) => None,
                };
                turn.hash = whole.map(|hash| (end, hash));
                let known = turn.known()?;
                known.offset = end;
                known.next = active.next;
                known.tail.append(&mut active.done);
            }
            // What became durable is found by looking for it.
            Err(_) => {
                turn.forget();
                turn.hash = None;
            }
        }
        self.hear(id);
        turn.show();
        result
    }

    async fn settle_pieces(
        &self,
        id: UploadId,
        active: &mut Active,
        ride: bool,
    ) -> Result<Option<(u32, Bytes)>> {
        active.settle_finishing().await?;
        active.flush(self).await?;
        if active.piece.as_ref().is_some_and(|piece| piece.taken == 0) {
            active.piece = None;
            active.next -= 1;
        }
        if let Some(piece) = active.piece.take() {
            let chunk = piece.finish().await?;
            active.done.push(Tail::Chunk(chunk));
            failpoint::reach("session.piece-durable");
        }
        if !active.small.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut active.small));
            let (index, length) = (active.next, bytes.len() as u64);
            active.done.push(Tail::Inline(index, length));
            active.next += 1;
            if ride {
                return Ok(Some((index, bytes)));
            }
            self.put_inline_piece(id, active.space, index, bytes).await?;
        }
        Ok(None)
    }

    /// Makes a small piece durable: a record, as long as the session is open.
    async fn put_inline_piece(
        &self,
        id: UploadId,
        space: SpaceId,
        index: u32,
        bytes: Bytes,
    ) -> Result<()> {
        let key = records::session_key(id);
        transact!(self, space, |txn| {
            let stored = txn.get::<Session>(&key).await?;
            let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
            require_open(&stored.value)?;
            txn.hold(key.clone(), stored.version);
            let part = Part {
                object: None,
                size: bytes.len() as u64,
                sha256: None,
                blob: stored.value.blob,
                created: txn.now,
                content: Content::Inline(bytes.clone()),
            };
            let part_key = schema::session::part_key(id, index);
            txn.hold_absent(part_key.clone());
            txn.spec.put.push((part_key, records::encode_part(&part)));
        });
        failpoint::reach("session.piece-durable");
        Ok(())
    }

    /// The body is over (`whole`) or broke off: settles it, merges and completes what is due.
    async fn end_append(&self, id: UploadId, mut turn: Turn, whole: bool) -> Result<SessionInfo> {
        let caller = turn.active.as_ref().map(|active| active.caller.clone());
        let caller = caller.ok_or_else(cut_off)?;
        let result = self.close_append(id, &mut turn, whole).await;
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        require_open(&stored.value)?;
        let looked = self.look_at(&*snapshot, id, &stored.value, stored.version, &mut turn).await;
        drop(snapshot);
        result?;
        looked?;
        if turn.held.is_none()
            && self.merge_due(&stored.value, turn.known()?)
            && let Err(error) = self.merge(id, &mut turn, caller.client()).await
        {
            // Nothing is lost: it is tried again with the next append.
            tracing::warn!(%id, %error, "the small pieces of an upload were not merged");
        }
        let info = self.finish_if_full(&caller, id, &mut turn).await;
        let Some((index, bytes)) = turn.held.take() else { return info };
        match info {
            Ok(info) if matches!(info.state, SessionState::Open) => {
                // Refused: what was held must be durable before its offset is told.
                let space = stored.value.space;
                if let Err(error) = self.put_inline_piece(id, space, index, bytes).await {
                    turn.forget();
                    turn.hash = None;
                    return Err(error);
                }
                Ok(info)
            }
            Ok(info) => Ok(info),
            Err(error) => {
                turn.forget();
                turn.hash = None;
                Err(error)
            }
        }
    }

    async fn close_append(&self, id: UploadId, turn: &mut Turn, whole: bool) -> Result<()> {
        let Some(mut active) = turn.active.take() else { return Err(cut_off()) };
        let short = active.declared.is_some_and(|declared| declared != active.taken());
        if let Some(checksum) = active.checksum {
            let matches = whole && !short && {
                active.flush(self).await?;
                let check = active.bench.hashing.settle().await?.check.take();
                check.is_some_and(|check| check.finish() == checksum)
            };
            if !matches {
                turn.active = Some(active);
                discard(turn);
                let detail = "the body does not have the checksum declared";
                return match whole && !short {
                    true => Err(Error::new(ErrorKind::BadDigest, detail)),
                    false => Err(short_body()),
                };
            }
        }
        let ride =
            whole && !short && active.rides_in_completion(self.inner.inline_bytes_max as u64);
        self.settle(id, turn, &mut active, ride).await?;
        if whole && short { Err(short_body()) } else { Ok(()) }
    }
}

/// Ends an append of which nothing counts.
fn discard(turn: &mut Turn) {
    let Some(active) = turn.active.take() else { return };
    turn.hash = active.before.map(|hash| (active.start, hash));
}

fn active_of(state: &mut LiveState, generation: u64) -> Result<&mut Active> {
    let active = state.active.as_mut();
    active.filter(|active| active.generation == generation).ok_or_else(cut_off)
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Conflict, "a newer request has gone on with this upload")
}

fn short_body() -> Error {
    Error::invalid("the body is shorter than declared")
}

fn too_long(length: Option<u64>) -> Error {
    let length = length.unwrap_or(0);
    Error::invalid(format!("this is more than the {length} bytes that the upload has"))
}

/// Demands that a session takes bytes.
pub(super) fn require_open(session: &Session) -> Result<()> {
    use crate::schema::session::SessionState as State;
    match &session.state {
        State::Open => Ok(()),
        State::Aborted { .. } | State::Expired { .. } => Err(gone()),
        State::Completed(_) | State::Consumed { .. } => {
            Err(Error::new(ErrorKind::Conflict, "the upload is complete: it takes no more bytes"))
        }
    }
}

impl Append {
    /// Takes the next bytes. After an error the append can only be settled or dropped.
    ///
    /// Errors: `Conflict` once a newer request has cut it off, `Invalid` beyond the length,
    /// `QuotaExceeded`, `DiskFull`, `Denied` and `Unauthenticated` when rights were taken
    /// meanwhile.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut state = self.live.lock().await;
        self.larder.append_bytes(self.id, &mut state, self.generation, &bytes).await
    }

    /// The client has sent nothing for `still`: gives back the memory that can be given back. To
    /// be called each second or so. Errors: as [`Self::write`]; `Busy` if memory is short.
    pub async fn pause(&mut self, still: Duration) -> Result<()> {
        let mut state = self.live.lock().await;
        self.larder.pause_append(self.id, &mut state, self.generation, still).await
    }

    /// Waits until a newer request cuts this one off: the rest of its body is of no use.
    pub fn cut_off(&self) -> impl Future<Output = ()> + Send + 'static {
        let cut = Arc::clone(&self.cut);
        async move { cut.notified().await }
    }

    /// The body is over: makes it durable, and completes the session if that was all of it (what
    /// its commit answered is in `refused`).
    ///
    /// Errors: `BadDigest` if the checksum does not match, `Invalid` if the body was shorter than
    /// declared, `Conflict` once cut off.
    pub async fn finish(self) -> Result<SessionInfo> {
        self.end(true).await
    }

    /// The body broke off: makes durable what has come of it.
    pub async fn settle(self) -> Result<SessionInfo> {
        self.end(false).await
    }

    async fn end(mut self, whole: bool) -> Result<SessionInfo> {
        let mut state = self.live.lock().await;
        active_of(&mut state, self.generation)?;
        self.ended = true;
        let turn = Turn { live: Arc::clone(&self.live), state };
        let (larder, id) = (self.larder.clone(), self.id);
        let task =
            self.larder.inner.env.spawn("end append", async move {
                Box::pin(larder.end_append(id, turn, whole)).await
            });
        task.await.map_err(|error| {
            Error::internal("the end of the append stopped").with_source(error).of_unknown_outcome()
        })?
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        if self.ended || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (larder, id, generation) = (self.larder.clone(), self.id, self.generation);
        let live = Arc::clone(&self.live);
        let _task = self.larder.inner.env.spawn("settle append", async move {
            let mut state = live.lock().await;
            if active_of(&mut state, generation).is_err() {
                return;
            }
            let turn = Turn { live: Arc::clone(&live), state };
            if let Err(error) = Box::pin(larder.end_append(id, turn, false)).await {
                tracing::debug!(%id, %error, "an append that was dropped did not settle");
            }
        });
    }
}
