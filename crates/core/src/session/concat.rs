//! One file of several partial sessions, without copying them.
//!
//! Each part is claimed by a commit of its own, which ends it as a session and gives it to the
//! whole; when all are claimed the whole is ready, and its completion is one commit that lists
//! their chunks. A part that cannot be claimed undoes the claims before it, so that a refusal
//! leaves everything as it was. What a part has reserved stays its own until the whole is
//! complete.
//!
//! Crash: a whole that was not ready is undone by the next sweep; a ready one can be completed.
//!
//! Not here: the completion (`complete`).

use larder_base::{ErrorKind, failpoint, id::UploadId};
use larder_meta::FieldOp;

use crate::{
    Larder,
    caller::Caller,
    error::{Error, Result},
    schema::{
        Session, SessionKind,
        session::{self as records, SessionState as State},
    },
    session::{
        NewSession, SessionInfo,
        complete::{check_chunks, one_less},
        gone,
        live::{Tail, Turn},
        sweep::Ending,
    },
    txn::transact,
};

/// Most parts of one file.
const PARTS_MAX: usize = 1000;

impl Larder {
    /// Makes a file of partial sessions, in this order, and ends them.
    ///
    /// Errors: those of [`Larder::create_session`] and its completion; `Conflict` for a part
    /// that is not full or belongs to another file, `NotFound` for one of somebody else.
    pub async fn create_final_session(
        &self,
        caller: &Caller,
        new: NewSession,
        parts: &[UploadId],
    ) -> Result<SessionInfo> {
        if new.path.is_none() || new.numbered || parts.is_empty() || parts.len() > PARTS_MAX {
            let detail = format!("a file is made of 1 to {PARTS_MAX} parts, at a path");
            return Err(Error::invalid(detail));
        }
        let mut length: u64 = 0;
        for part in parts {
            let session = self.own_session(caller, *part).await?;
            claimable(&session)?;
            length += session.length.unwrap_or(0);
        }
        let kind = SessionKind::Final { parts: parts.to_vec(), ready: false };
        let new = NewSession { length: Some(length), ..new };
        let (id, _) = self.put_session(caller, new, kind).await?;
        let turn = self.take_turn(id).await?;
        let (larder, caller, parts) = (self.clone(), caller.clone(), parts.to_vec());
        let task = self.inner.env.spawn("join uploads", async move {
            Box::pin(larder.join_parts(&caller, id, turn, &parts)).await
        });
        task.await.map_err(|error| {
            Error::internal("the joining stopped").with_source(error).of_unknown_outcome()
        })?
    }

    async fn join_parts(
        &self,
        caller: &Caller,
        id: UploadId,
        mut turn: Turn,
        parts: &[UploadId],
    ) -> Result<SessionInfo> {
        let mut chunks = 0;
        for part in parts {
            let claimed = Box::pin(self.claim(caller, id, *part)).await;
            chunks += *claimed.as_ref().unwrap_or(&0);
            failpoint::reach("session.part-claimed");
            let refused = match claimed {
                Err(error) => Some(error),
                Ok(_) if chunks > crate::session::CHUNKS_MAX => {
                    Some(Error::new(ErrorKind::TooLarge, "the file would have too many chunks"))
                }
                Ok(_) => None,
            };
            if let Some(error) = refused {
                self.unjoin(id).await?;
                return Err(error);
            }
        }
        let key = records::session_key(id);
        transact!(self, None, |txn| {
            let stored = txn.get::<Session>(&key).await?.ok_or_else(gone)?;
            let kind = SessionKind::Final { parts: parts.to_vec(), ready: true };
            txn.hold(key.clone(), stored.version);
            txn.put(key.clone(), &Session { kind, touched: txn.now, ..stored.value });
        });
        turn.forget();
        self.hear(id);
        Box::pin(self.finish_if_full(caller, id, &mut turn)).await
    }

    /// Gives a part to the whole; answers how many chunks it has.
    async fn claim(&self, caller: &Caller, whole: UploadId, part: UploadId) -> Result<usize> {
        let mut turn = self.take_turn(part).await?;
        self.look_now(part, &mut turn).await?;
        if turn.known()?.tail.iter().any(|tail| matches!(tail, Tail::Inline(..))) {
            self.merge(part, &mut turn, caller.client()).await?;
        }
        let session = self.look_now(part, &mut turn).await?;
        let known = turn.known()?.clone();
        let mut layout = session.layout.clone();
        layout.extend(known.tail.iter().filter_map(|tail| match tail {
            Tail::Chunk(chunk) => Some(chunk.clone()),
            Tail::Inline(..) => None,
        }));
        check_chunks(&layout)?;
        let key = records::session_key(part);
        transact!(self, None, |txn| {
            let stored = txn.get::<Session>(&key).await?.ok_or_else(gone)?;
            let session = stored.value;
            claimable(&session)?;
            if stored.version != known.version || session.length != Some(known.offset) {
                let detail = format!("part {part} is not complete");
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            txn.hold(key.clone(), stored.version);
            txn.delete(records::user_session_key(session.owner, part));
            txn.add(records::sessions_count_key(session.owner), one_less());
            let state = State::Consumed { by: whole, at: txn.now };
            let (layout, next_index, touched) = (layout.clone(), known.next, txn.now);
            txn.put(key.clone(), &Session { layout, next_index, touched, state, ..session });
        });
        turn.forget();
        Ok(layout.len())
    }

    /// Undoes the claims of a whole that is not ready, and ends it.
    pub(super) async fn unjoin(&self, id: UploadId) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        drop(snapshot);
        let Some(session) = stored.map(|stored| stored.value) else { return Ok(()) };
        let SessionKind::Final { parts, ready: false } = &session.kind else { return Ok(()) };
        for part in parts {
            let key = records::session_key(*part);
            transact!(self, None, |txn| {
                txn.frees();
                if let Some(stored) = txn.get::<Session>(&key).await?
                    && let State::Consumed { by, .. } = stored.value.state
                    && by == id
                {
                    let session = stored.value;
                    txn.hold(key.clone(), stored.version);
                    txn.put(records::user_session_key(session.owner, *part), &());
                    let one = [FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
                    txn.add(records::sessions_count_key(session.owner), one);
                    let (touched, state) = (txn.now, State::Open);
                    txn.put(key.clone(), &Session { touched, state, ..session });
                }
            });
            self.hear(*part);
        }
        self.end_session(id, Ending::Aborted).await?;
        self.clean_up_soon(id);
        Ok(())
    }
}

/// Demands that a session may become a part of a file.
fn claimable(session: &Session) -> Result<()> {
    match &session.state {
        State::Open if session.is_partial() && session.length.is_some() => Ok(()),
        State::Open | State::Completed(_) | State::Consumed { .. } => {
            let detail = "the upload is no part, is not complete, or belongs to another file";
            Err(Error::new(ErrorKind::Conflict, detail))
        }
        State::Aborted { .. } | State::Expired { .. } => Err(gone()),
    }
}
