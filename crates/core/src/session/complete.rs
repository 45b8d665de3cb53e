//! From a full session to a revision: one commit that lists the chunks which are there.
//!
//! The commit is the one of every upload ([`upload::Commit`]) with the end of the session in it:
//! its conditions, quota and revision are judged on what it replaces; the reservation ends in the
//! same change of the meters. Refused, the session stays open with all its bytes.
//!
//! Promises: I-SES-3, I-SES-4. Crash: before the commit the session is as it was; after it, it is
//! complete, and whoever asks is given the same answer.
//! Cancel: goes on in a task.
//!
//! [`upload::Commit`]: crate::upload::Commit
//!
//! Not here: what happens to what it did not need (`sweep`).

use std::{ops::Range, sync::Arc};

use futures_util::future::BoxFuture;
use larder_base::{
    ErrorKind, Outcome,
    digest::{Sha256, Sha256Stream},
    failpoint,
    id::{SpaceId, UploadId},
    name::TreePath,
};
use larder_meta::{FieldOp, Snapshot, Version};

use crate::{
    Larder,
    blob::{read::Body, write::Finished},
    caller::Caller,
    entry::{Entry, EntryKind, SpaceRef, UploadOptions, Written},
    error::{Error, Result},
    object::ObjectInfo,
    quota::{self, delta},
    schema::{
        self, Blob, BlobState, ChunkRef, Content, Session, SessionKind, SessionResult,
        session::{self as records, SessionState},
    },
    session::{
        CHUNKS_MAX, SessionInfo, gone,
        live::{Tail, Turn},
    },
    txn::Txn,
    upload::{Carrier, Commit},
};

/// What a commit does to the session whose bytes it makes a revision.
#[derive(Debug)]
pub(super) struct SessionEnd {
    pub(super) upload: UploadId,
    pub(super) version: Version,
    /// What it has reserved, and where.
    pub(super) reserved: Vec<(SpaceId, u64)>,
    /// Records of pieces.
    pub(super) inline: Vec<u32>,
    /// Chunks that the file does not need.
    pub(super) dropped: Vec<ChunkRef>,
    /// The records of its numbered parts, as they were when they were listed.
    pub(super) parts: Option<Version>,
    /// Blobs that chunks were staged as for this commit.
    pub(super) staged: Vec<larder_base::id::BlobId>,
    /// Whether there is more to clean up than one commit can.
    pub(super) leftovers: bool,
}

/// What a session is as a file.
pub(super) struct Assembled {
    pub(super) content: Content,
    pub(super) size: u64,
    pub(super) sha256: Option<Sha256>,
    pub(super) end: SessionEnd,
    /// What S3 knows of it.
    pub(super) info: Option<Arc<ObjectInfo>>,
}

impl Carrier for SessionEnd {
    fn reserved_in(&self, space: SpaceId) -> u64 {
        self.reserved.iter().filter(|(id, _)| *id == space).map(|(_, bytes)| bytes).sum()
    }

    fn end<'a>(
        &'a self,
        larder: &'a Larder,
        txn: &'a mut Txn,
        written: &'a Written,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.put(larder, txn, written))
    }
}

impl SessionEnd {
    async fn put(&self, larder: &Larder, txn: &mut Txn, written: &Written) -> Result<()> {
        let key = records::session_key(self.upload);
        let stored = txn.get::<Session>(&key).await?;
        let session = match stored {
            Some(stored) if stored.version == self.version => stored.value,
            Some(stored) => return Err(not_open(&stored.value)),
            None => return Err(gone()),
        };
        txn.hold(key.clone(), self.version);
        if let Some(version) = self.parts {
            txn.hold(records::parts_count_key(self.upload), version);
        }
        for (space, bytes) in &self.reserved {
            quota::reserve_durably(txn, *space, None, -delta(*bytes));
        }
        txn.add(records::sessions_count_key(session.owner), one_less());
        for key in session.index_keys(self.upload) {
            txn.delete(key);
        }
        for index in &self.inline {
            txn.delete(records::part_key(self.upload, *index));
        }
        txn.delete(records::owner_key(session.blob));
        for blob in &self.staged {
            let owner = schema::Owner { upload: self.upload, blob: session.blob, part: None };
            txn.put(records::owner_key(*blob), &owner);
        }
        larder.disown(txn, session.blob, &self.dropped, &[]);
        if self.leftovers {
            txn.put(records::cleanup_key(self.upload), &());
        }
        let entry = &written.entry;
        let result = SessionResult {
            space: entry.space,
            path: entry.path.to_string(),
            node: entry.id,
            size: entry.size,
            etag: entry.etag,
            revision: entry.revision,
            content_type: entry.content_type.clone(),
            sha256: entry.sha256,
            modified: entry.modified,
            created: written.created,
            at: txn.now,
        };
        let next = Session {
            layout: Vec::new(),
            reserved: 0,
            touched: txn.now,
            state: SessionState::Completed(Box::new(result)),
            ..session
        };
        txn.put(key, &next);
        Ok(())
    }
}

/// One session less.
pub(super) fn one_less() -> [FieldOp; 4] {
    [FieldOp::Add(-1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep]
}

/// Why a session that is not open cannot be completed.
pub(super) fn not_open(session: &Session) -> Error {
    match &session.state {
        SessionState::Aborted { .. } | SessionState::Expired { .. } => gone(),
        SessionState::Open | SessionState::Completed(_) => {
            Error::new(ErrorKind::Conflict, "the upload has changed meanwhile: look at it again")
        }
        SessionState::Consumed { .. } => {
            Error::new(ErrorKind::Conflict, "the upload is a part of another one")
        }
    }
}

/// The answer that a completed session gives.
pub(super) fn written_of(result: &SessionResult) -> Result<Written> {
    let path = TreePath::parse(&result.path)
        .map_err(|error| Error::new(ErrorKind::Corrupt, "damaged path").with_source(error))?;
    let entry = Entry {
        space: result.space,
        path,
        id: result.node,
        kind: EntryKind::File,
        size: result.size,
        etag: result.etag,
        revision: result.revision,
        content_type: result.content_type.clone(),
        sha256: result.sha256,
        modified: result.modified,
        expires: None,
        target: None,
    };
    Ok(Written { entry, created: result.created, durability: (1, 1), version: None })
}

impl Larder {
    /// Completes a session if all of it is here; what the commit says is in the answer.
    pub(super) async fn finish_if_full(
        &self,
        caller: &Caller,
        id: UploadId,
        turn: &mut Turn,
    ) -> Result<SessionInfo> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        let mut session = stored.value;
        if matches!(session.state, SessionState::Open) {
            self.look_at(&*snapshot, id, &session, stored.version, turn).await?;
            drop(snapshot);
            let offset = turn.known()?.offset;
            let full = match &session.kind {
                SessionKind::Whole => session.length == Some(offset),
                SessionKind::Final { ready, .. } => *ready,
                SessionKind::Partial | SessionKind::Numbered | SessionKind::Multipart(_) => false,
            };
            if full {
                let result = Box::pin(self.complete_turn(caller, id, turn, None)).await;
                turn.refused = match result {
                    Ok(_) => None,
                    // Nobody knows: neither must anybody be told that it was refused.
                    Err(error) if error.outcome() == Outcome::Unknown => {
                        return Err(error);
                    }
                    Err(error) => Some((error.kind(), error.detail().to_owned())),
                };
                let snapshot = self.inner.meta.snapshot().await?;
                let stored = self.read_session(&*snapshot, id).await?;
                session = stored.ok_or_else(|| Error::not_found("upload"))?.value;
            }
        }
        let offset = turn.known.as_ref().map(|known| known.offset);
        let mut info = self.session_info(id, &session, offset)?;
        info.refused = turn.refused.clone();
        Ok(info)
    }

    /// Completes a session whose turn it is.
    pub(super) async fn complete_turn(
        &self,
        caller: &Caller,
        id: UploadId,
        turn: &mut Turn,
        target: Option<(SpaceRef, TreePath)>,
    ) -> Result<Written> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        let (session, version) = (stored.value, stored.version);
        match &session.state {
            SessionState::Open => {}
            SessionState::Completed(result) => return written_of(result),
            _ => return Err(not_open(&session)),
        }
        let assembled = match &session.kind {
            SessionKind::Whole => {
                self.look_at(&*snapshot, id, &session, version, turn).await?;
                drop(snapshot);
                self.assemble_whole(caller, id, turn).await?
            }
            SessionKind::Final { parts, ready: true } => {
                self.assemble_final(&*snapshot, id, &session, version, parts).await?
            }
            SessionKind::Final { .. } | SessionKind::Partial => {
                let detail = "the upload is a part, or its parts are not together";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            SessionKind::Numbered | SessionKind::Multipart(_) => {
                let detail = "the upload has numbered parts: say which ones it is made of";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
        };
        let written = self.commit_session(caller, id, &session, assembled, target).await?;
        turn.forget();
        turn.hash = None;
        turn.refused = None;
        Ok(written)
    }

    /// Commits what a session is as a file.
    pub(super) async fn commit_session(
        &self,
        caller: &Caller,
        id: UploadId,
        session: &Session,
        assembled: Assembled,
        target: Option<(SpaceRef, TreePath)>,
    ) -> Result<Written> {
        let Assembled { content, size, sha256, end, info } = assembled;
        if session.length.is_some_and(|length| length != size) {
            let length = session.length.unwrap_or(0);
            let detail = format!("the upload has {size} of {length} bytes");
            return Err(Error::new(ErrorKind::Conflict, detail));
        }
        let sha256 = match (sha256, session.sha256) {
            (None, Some(_)) => Some(self.digest(session, size, &content).await?),
            (known, _) => known,
        };
        let place = match target {
            Some((space, path)) => self.aim(caller, &space, &path).await?,
            None => self.aim_again(caller, session)?,
        };
        // Until what it does not need is gone, nobody else judges that.
        let _own = self.inner.staging.adopt(session.blob);
        let (dropped, leftovers) = (end.dropped.clone(), end.leftovers);
        let commit = Commit {
            place,
            options: UploadOptions {
                length: Some(size),
                content_type: None,
                conditions: session.conditions.clone(),
                parents: session.parents,
                sha256: session.sha256,
                expires: None,
            },
            content_type: Arc::clone(&session.content_type),
            info,
            finished: Finished {
                id: session.blob,
                size,
                sha256,
                content,
                staged: None,
                _memory: None,
            },
            retention: session.multipart().map_or((None, false), |multipart| multipart.retention),
            source: None,
            reservation: None,
            carrier: Some(Box::new(end)),
        };
        let result = Box::pin(commit.run(self)).await;
        match &result {
            Ok(_) => {
                failpoint::reach("session.completed");
                self.inner.metrics.uploads.add(1);
                self.inner.metrics.uploaded_bytes.add(size);
                self.inner.metrics.sessions_completed.add(1);
                self.inner.sessions.end(id);
                self.drop_chunks(&dropped).await;
                if leftovers {
                    self.clean_up_soon(id);
                }
            }
            Err(error) => {
                self.inner.metrics.uploads_refused.add(1);
                if error.outcome() == Outcome::Unknown {
                    // The record will say what it does not need.
                    self.inner.staging.note_leak();
                }
            }
        }
        result
    }

    /// A session of bytes at an offset as a file: small ones inline, others as their chunks.
    async fn assemble_whole(
        &self,
        caller: &Caller,
        id: UploadId,
        turn: &mut Turn,
    ) -> Result<Assembled> {
        let inline_max = self.inner.inline_bytes_max as u64;
        let small = turn.known()?.offset <= inline_max;
        let inline = |tail: &Tail| matches!(tail, Tail::Inline(..));
        if !small && turn.known()?.tail.iter().any(inline) {
            self.merge(id, turn, caller.client()).await?;
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        self.look_at(&*snapshot, id, &stored.value, stored.version, turn).await?;
        let session = stored.value;
        let sha256 = turn.hash.as_ref().map(|(_, hash)| hash.clone().finish());
        let held = turn.held.clone();
        let known = turn.known()?;
        let size = known.offset;
        let mut end = SessionEnd {
            upload: id,
            version: stored.version,
            reserved: vec![(session.space, session.reserved)],
            inline: Vec::new(),
            dropped: Vec::new(),
            parts: None,
            staged: Vec::new(),
            leftovers: false,
        };
        let mut chunks = session.layout.clone();
        let mut bytes = Vec::new();
        if small {
            self.read_chunks(&mut bytes, &chunks).await?;
        }
        for tail in &known.tail {
            match tail {
                Tail::Chunk(chunk) => {
                    if small {
                        self.read_chunks(&mut bytes, std::slice::from_ref(chunk)).await?;
                    }
                    chunks.push(chunk.clone());
                }
                Tail::Inline(index, _) => {
                    end.inline.push(*index);
                    match &held {
                        Some((number, last)) if number == index => bytes.extend_from_slice(last),
                        _ => {
                            let piece = self.inline_piece(&*snapshot, id, *index).await?;
                            bytes.extend_from_slice(&piece);
                        }
                    }
                }
            }
        }
        if small {
            end.dropped = chunks;
            return Ok(Assembled {
                content: Content::Inline(bytes.into()),
                size,
                sha256,
                end,
                info: None,
            });
        }
        check_chunks(&chunks)?;
        Ok(Assembled { content: Content::Chunks(chunks), size, sha256, end, info: None })
    }

    async fn read_chunks(&self, bytes: &mut Vec<u8>, chunks: &[ChunkRef]) -> Result<()> {
        for chunk in chunks {
            let store = self.inner.stores.holding(chunk)?;
            let mut reader = store.open(chunk.id, 0..chunk.length).await?;
            while let Some(piece) = reader.next().await? {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(())
    }

    /// A session made of parts as a file.
    async fn assemble_final(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        session: &Session,
        version: Version,
        parts: &[UploadId],
    ) -> Result<Assembled> {
        let mut reserved = vec![(session.space, session.reserved)];
        let mut chunks = Vec::new();
        for part in parts {
            let stored = self.read_session(snapshot, *part).await?.map(|stored| stored.value);
            let stored = stored.filter(
                |part| matches!(&part.state, SessionState::Consumed { by, .. } if *by == id),
            );
            let part = stored.ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("upload {id} has lost part {part}"))
            })?;
            match reserved.iter_mut().find(|(space, _)| *space == part.space) {
                Some((_, bytes)) => *bytes += part.reserved,
                None => reserved.push((part.space, part.reserved)),
            }
            chunks.extend(part.layout);
        }
        check_chunks(&chunks)?;
        let size = chunks.iter().map(|chunk| chunk.length).sum();
        let end = SessionEnd {
            upload: id,
            version,
            reserved,
            inline: Vec::new(),
            dropped: Vec::new(),
            parts: None,
            staged: Vec::new(),
            leftovers: true,
        };
        Ok(Assembled { content: Content::Chunks(chunks), size, sha256: None, end, info: None })
    }

    /// Reads what will be a file, for its digest.
    async fn digest(&self, session: &Session, size: u64, content: &Content) -> Result<Sha256> {
        if let Content::Inline(bytes) = content {
            return Ok(Sha256::of(bytes));
        }
        let _ = session;
        let content = content.clone();
        let blob = Blob { state: BlobState::Committed, size, refs: 0, content };
        let range: Range<u64> = 0..size;
        let note = Arc::new(self.inner.epochs.note());
        let mut body = Body::new(self, &blob, range, note)?;
        let mut hash = Sha256Stream::default();
        while let Some(bytes) = body.next().await? {
            hash = tokio::task::spawn_blocking(move || {
                hash.update(&bytes);
                hash
            })
            .await
            .map_err(|error| Error::internal("hashing stopped").with_source(error))?;
        }
        Ok(hash.finish())
    }
}

pub(super) fn check_chunks(chunks: &[ChunkRef]) -> Result<()> {
    if chunks.len() > CHUNKS_MAX {
        let detail = format!("the file would have more than {CHUNKS_MAX} chunks");
        return Err(Error::new(ErrorKind::TooLarge, detail));
    }
    Ok(())
}
