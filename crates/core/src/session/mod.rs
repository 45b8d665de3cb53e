//! Upload sessions: uploads that outlive a request, a connection and the process.
//!
//! Promises (docs/semantics.md, Resumable session): I-SES-1 an offset that was told never
//! decreases while the session is open, and all bytes below it are durable; I-SES-2 of appends at
//! one offset at most one counts, and a newer request cuts off the one that is running; I-SES-3 a
//! session ends once: completed, aborted or expired, by a comparison of its record, and a
//! completion that won stays; I-SES-4 completing is one commit that lists the stored chunks, is
//! remembered, and is the same for whoever asks again; I-SES-5 what a session has reserved is
//! counted in its space from its first commit to its last.
//!
//! Cost: creating is one commit; an append one data sync, or one commit if it is small; a
//! completion one commit, and one more if the end of the file came in small pieces.
//!
//! Not here: the protocol of the doors (tus), other uploads (`upload`).

use std::time::Duration;

use larder_base::{
    ErrorKind, Timestamp,
    digest::Sha256,
    failpoint,
    id::{SpaceId, UploadId},
    name::{EntryName, TreePath},
};
use larder_chunk::placement::Placement;
use larder_meta::{Bound, CommitError, FieldOp, Version};

use crate::{
    Larder,
    access::{Right, check_scope},
    caller::Caller,
    entry::{Conditions, ListOptions, Page, SpaceRef, UploadOptions, Written},
    error::{Error, Result},
    quota,
    schema::{
        self, Multipart, Session, SessionKind, SessionTarget,
        session::{self as records, SessionState as State},
    },
    txn::{self, Txn, transact},
    upload::{self, Destination},
};

mod append;
mod check;
mod complete;
mod concat;
mod live;
mod merge;
mod owner;
mod part;
mod piece;
mod sweep;

pub use append::Append;
pub(crate) use check::SessionSums;
use complete::SessionEnd;
pub use larder_base::checksum::Checksum;
pub(crate) use live::Sessions;
use live::Turn;
pub(crate) use owner::is_needed;
pub use part::PartUpload;
pub(crate) use sweep::foreign_blobs;

/// Most chunks of one file: its manifest is one record of one transaction.
const CHUNKS_MAX: usize = 16_000;

/// Longest opaque text of a client, in bytes.
const METADATA_BYTES_MAX: usize = 4096;

/// What a session is for.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The space that the file goes to, or that a part is counted in.
    pub space: SpaceRef,
    /// The file; `None` makes a part for [`Larder::create_final_session`], which is no file.
    pub path: Option<TreePath>,
    /// Length of the whole, if it is known yet.
    pub length: Option<u64>,
    /// MIME type.
    pub content_type: Option<String>,
    /// What must hold when it is completed.
    pub conditions: Conditions,
    /// Make missing directories of the path when it is completed.
    pub parents: bool,
    /// Opaque text that the client gets back; at most 4 KiB.
    pub metadata: Option<String>,
    /// Digest that the whole must have when it is completed.
    pub sha256: Option<Sha256>,
    /// Takes numbered parts in any order ([`Larder::append_part`]) instead of bytes at an offset.
    pub numbered: bool,
}

impl NewSession {
    /// A session for a file at `path`.
    pub fn new(space: SpaceRef, path: Option<TreePath>, length: Option<u64>) -> Self {
        Self {
            space,
            path,
            length,
            content_type: None,
            conditions: Conditions::default(),
            parents: false,
            metadata: None,
            sha256: None,
            numbered: false,
        }
    }
}

/// How far a session is.
#[derive(Clone, Debug)]
pub enum SessionState {
    /// It takes bytes, or waits for its completion.
    Open,
    /// It became this revision.
    Completed(Box<Written>),
    /// Its owner ended it, or its space went.
    Aborted,
    /// Nothing came for too long.
    Expired,
    /// It became a part of the file of this session.
    Consumed(UploadId),
}

/// A session, as its owner may see it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its id, which only its owner can use.
    pub id: UploadId,
    /// The space.
    pub space: SpaceId,
    /// Where the file goes, as named when the session was made; `None` for a part.
    pub path: Option<String>,
    /// Bytes that are durable; for a numbered session the sum of its parts.
    pub offset: u64,
    /// Length of the whole, if it is known yet.
    pub length: Option<u64>,
    /// When it expires if nothing comes until then; `None` unless it is open.
    pub expires: Option<Timestamp>,
    /// How far it is.
    pub state: SessionState,
    /// Why all bytes are here and there is no file: what the last try to complete it was told.
    pub refused: Option<(ErrorKind, String)>,
    /// Whether it is a part for a later [`Larder::create_final_session`].
    pub partial: bool,
    /// Whether it takes numbered parts.
    pub numbered: bool,
    /// The parts that it was made of.
    pub final_of: Vec<UploadId>,
    /// What the client said at the start.
    pub metadata: Option<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// What is known of the body of an append before it comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewAppend {
    /// Its length, where it is declared.
    pub length: Option<u64>,
    /// The digest that it must have: else none of it counts.
    pub checksum: Option<Checksum>,
}

/// An append that was not begun.
#[derive(Debug)]
pub struct AppendRefused {
    /// Why.
    pub error: Error,
    /// The right offset, where the session is there and the wrong one was given.
    pub offset: Option<u64>,
}

impl From<Error> for AppendRefused {
    fn from(error: Error) -> Self {
        Self { error, offset: None }
    }
}

/// A numbered part that is durable.
#[derive(Clone, Debug)]
pub struct PartInfo {
    /// Its number.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Digest of its content.
    pub sha256: Sha256,
    /// When it came.
    pub created: Timestamp,
}

impl Larder {
    /// Begins a session. One of length zero is completed at once.
    ///
    /// Errors: those of [`Larder::open_upload`], and `RateLimited` when the user has too many.
    pub async fn create_session(&self, caller: &Caller, new: NewSession) -> Result<SessionInfo> {
        let kind = match (&new.path, new.numbered) {
            (None, true) => {
                return Err(Error::invalid("a part of a file has no numbered parts"));
            }
            (None, false) => SessionKind::Partial,
            (Some(_), true) => SessionKind::Numbered,
            (Some(_), false) => SessionKind::Whole,
        };
        let empty = kind == SessionKind::Whole && new.length == Some(0);
        let (id, session) = self.put_session(caller, new, kind).await?;
        if empty {
            let mut turn = self.take_turn(id).await?;
            return self.finish_if_full(caller, id, &mut turn).await;
        }
        self.session_info(id, &session, Some(0))
    }

    /// Writes the record of a new session and reserves what it needs: one commit.
    pub(crate) async fn put_session(
        &self,
        caller: &Caller,
        new: NewSession,
        kind: SessionKind,
    ) -> Result<(UploadId, Session)> {
        if new.metadata.as_ref().is_some_and(|text| text.len() > METADATA_BYTES_MAX) {
            let detail = format!("the metadata have more than {METADATA_BYTES_MAX} bytes");
            return Err(Error::invalid(detail));
        }
        let content_type = upload::content_type(new.content_type.as_deref())?;
        let path = new.path.clone().unwrap_or_default();
        let mut place = self.aim(caller, &new.space, &path).await?;
        let mut replaces_bytes = 0;
        if new.path.is_some() {
            let options = UploadOptions {
                length: new.length,
                conditions: new.conditions.clone(),
                parents: new.parents,
                ..UploadOptions::default()
            };
            replaces_bytes = self.bind(&mut place, &options).await?;
        }
        let id = UploadId::new(&self.inner.env);
        let target = new.path.is_some().then(|| SessionTarget {
            base: place.at.base,
            shown: place.at.shown.to_string(),
            path: place.path.to_string(),
            parent: place.parent,
        });
        let made_of_parts = matches!(kind, SessionKind::Final { .. });
        let needed = if made_of_parts { 0 } else { new.length.unwrap_or(0) };
        let now = self.inner.env.now();
        let session = Session {
            owner: caller.user,
            link: caller.link.map(|link| link.share),
            space: place.at.space,
            target,
            kind,
            content_type,
            conditions: new.conditions,
            parents: new.parents,
            metadata: new.metadata,
            sha256: new.sha256,
            length: new.length,
            replaces_bytes,
            reserved: needed.saturating_sub(replaces_bytes),
            blob: self.inner.staging.inline_id(self.inner.incarnation),
            layout: Vec::new(),
            next_index: 0,
            created: now,
            touched: now,
            state: State::Open,
        };
        let created = self.commit_new(caller, id, &session, &place).await;
        created.map_err(|error| too_many(error, self.inner.config.upload_sessions_per_user_max))?;
        self.hear(id);
        failpoint::reach("session.created");
        self.inner.metrics.sessions_created.add(1);
        Ok((id, session))
    }

    async fn commit_new(
        &self,
        caller: &Caller,
        id: UploadId,
        session: &Session,
        place: &Destination,
    ) -> Result<()> {
        let max = i64::from(self.inner.config.upload_sessions_per_user_max);
        transact!(self, session.space, |txn| {
            txn.large = true;
            let at = place.at.clone();
            let room = self.enter_room(&mut txn, caller, at, Right::Create).await?;
            self.promise(&mut txn, session.space, &room, session.reserved).await?;
            let more = quota::delta(session.reserved);
            quota::reserve_durably(&mut txn, session.space, room.limits.live, more);
            let key = records::sessions_count_key(caller.user);
            let fields = [FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
            txn.add(key.clone(), fields);
            if let Some(merge) = txn.spec.merge.iter_mut().find(|merge| merge.key == key) {
                merge.bounds = vec![Bound { fields: 1 << records::SESSIONS_OPEN, limit: max }];
            }
            let key = records::session_key(id);
            txn.hold_absent(key.clone());
            txn.put(key, session);
            for key in session.index_keys(id) {
                txn.put(key, &());
            }
            let owner = schema::Owner { upload: id, blob: session.blob, part: None };
            txn.put(records::owner_key(session.blob), &owner);
        });
        Ok(())
    }

    /// The state of a session; what is appending to it now is cut off first, so that the offset
    /// holds. One whose bytes are all here and that is no file yet is completed.
    ///
    /// Errors: `NotFound` for all but its owner, `Gone` if it was aborted or has expired,
    /// `Locked` if the running append could not be cut off.
    pub async fn session(&self, caller: &Caller, id: UploadId) -> Result<SessionInfo> {
        let session = self.own_session(caller, id).await?;
        match &session.state {
            State::Open => {}
            State::Aborted { .. } | State::Expired { .. } => return Err(gone()),
            State::Completed(_) | State::Consumed { .. } => {
                return self.session_info(id, &session, None);
            }
        }
        let mut turn = self.take_turn(id).await?;
        let (larder, caller) = (self.clone(), caller.clone());
        // A completion goes on although nobody waits for it any more.
        let task = self.inner.env.spawn("look at upload", async move {
            larder.finish_if_full(&caller, id, &mut turn).await
        });
        let info = task.await.map_err(|error| {
            Error::internal("the look at an upload stopped").with_source(error).of_unknown_outcome()
        })??;
        match info.state {
            SessionState::Aborted | SessionState::Expired => Err(gone()),
            _ => Ok(info),
        }
    }

    /// The state of a session that became a file, `None` for any other. Nobody is cut off: whoever
    /// was cut off may ask, too.
    ///
    /// Errors: `NotFound` for all but its owner.
    pub async fn completed_session(
        &self,
        caller: &Caller,
        id: UploadId,
    ) -> Result<Option<SessionInfo>> {
        let session = self.own_session(caller, id).await?;
        match &session.state {
            State::Completed(_) => self.session_info(id, &session, None).map(Some),
            _ => Ok(None),
        }
    }

    /// One page of the caller's open sessions; nothing is cut off, so offsets may be older.
    pub async fn sessions(
        &self,
        caller: &Caller,
        options: &ListOptions,
    ) -> Result<Page<SessionInfo>> {
        if caller.link.is_some() {
            return Ok(Page { entries: Vec::new(), cursor: None });
        }
        let wrong = || Error::invalid("the cursor is not one that a page gave");
        let after = match &options.cursor {
            None => None,
            Some(cursor) => {
                let id: UploadId = cursor.parse().map_err(|_| wrong())?;
                Some(records::user_session_key(caller.user, id))
            }
        };
        let limit = options.page_limit();
        let prefix = records::user_sessions_prefix(caller.user);
        let snapshot = self.inner.meta.snapshot().await?;
        let page = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
        let mut entries = Vec::with_capacity(page.len());
        for (key, _) in &page {
            let id = UploadId::from_bytes(schema::trailing_id(key)?);
            let Some(stored) = self.read_session(&*snapshot, id).await? else { continue };
            if check_scope(caller, stored.value.space, Right::Create).is_err() {
                continue;
            }
            let offset = match self.inner.sessions.known(id) {
                Some(live) => live.offset(),
                None => {
                    let known = self.probe(&*snapshot, id, &stored.value, stored.version).await?;
                    known.offset
                }
            };
            entries.push(self.session_info(id, &stored.value, Some(offset))?);
        }
        let last = page.last().filter(|_| page.len() == limit);
        let cursor = last.map(|(key, _)| schema::trailing_id(key)).transpose()?;
        let cursor = cursor.map(|id| UploadId::from_bytes(id).to_string());
        Ok(Page { entries, cursor })
    }

    /// Says how long the whole is, once.
    ///
    /// Errors: `Conflict` if another length is known, `Invalid` if more bytes are here.
    pub async fn set_session_length(
        &self,
        caller: &Caller,
        id: UploadId,
        length: u64,
    ) -> Result<SessionInfo> {
        append::require_open(&self.own_session(caller, id).await?)?;
        let mut turn = self.take_turn(id).await?;
        self.look_now(id, &mut turn).await?;
        let offset = turn.known()?.offset;
        let key = records::session_key(id);
        let (session, revision) = transact!(self, None, |txn| {
            let stored = txn.get::<Session>(&key).await?;
            let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
            let session = stored.value;
            append::require_open(&session)?;
            match session.length {
                Some(known) if known != length => {
                    let detail = format!("the length of the upload is {known} bytes");
                    return Err(Error::new(ErrorKind::Conflict, detail));
                }
                Some(_) => return self.session_info(id, &session, Some(offset)),
                None if length < offset => {
                    let detail = format!("the upload has {offset} bytes already");
                    return Err(Error::invalid(detail));
                }
                None => {}
            }
            let at = session.space;
            let room = self.enter_room(&mut txn, caller, at, Right::Create).await?;
            let reserved = length.saturating_sub(session.replaces_bytes);
            let more = reserved.saturating_sub(session.reserved);
            self.promise(&mut txn, session.space, &room, more).await?;
            let change = quota::delta(reserved) - quota::delta(session.reserved);
            quota::reserve_durably(&mut txn, session.space, room.limits.live, change);
            let touched = txn.now;
            let next = Session { length: Some(length), reserved, touched, ..session };
            txn.hold(key.clone(), stored.version);
            txn.put(key.clone(), &next);
            next
        });
        turn.known()?.version = Version(revision.0);
        self.hear(id);
        self.session_info(id, &session, Some(offset))
    }

    /// Begins to append at `offset`; what is appending now is cut off.
    ///
    /// Errors: those of [`Larder::session`]; `Conflict` with the right offset if `offset` is not
    /// it; `Invalid` if more would come than the session's length.
    pub async fn append(
        &self,
        caller: &Caller,
        id: UploadId,
        offset: u64,
        new: NewAppend,
    ) -> Result<Append, AppendRefused> {
        Box::pin(self.begin_append(caller, id, offset, new)).await
    }

    /// Makes the session a revision; the same answer again if it is one already. A session whose
    /// length is not known yet ends at its offset. `target` puts it elsewhere than it was made
    /// for, after a refusal. Refused, it stays as it is.
    pub async fn complete_session(
        &self,
        caller: &Caller,
        id: UploadId,
        target: Option<(SpaceRef, TreePath)>,
    ) -> Result<Written> {
        let session = self.own_session(caller, id).await?;
        if let State::Completed(result) = &session.state {
            return complete::written_of(result);
        }
        let mut turn = self.take_turn(id).await?;
        let (larder, caller) = (self.clone(), caller.clone());
        let task = self.inner.env.spawn("complete upload", async move {
            Box::pin(larder.complete_turn(&caller, id, &mut turn, target)).await
        });
        task.await.map_err(|error| {
            Error::internal("the commit stopped").with_source(error).of_unknown_outcome()
        })?
    }

    /// Ends a session and gives its bytes back. The file of a completed one stays.
    ///
    /// Errors: `Gone` if it has ended already, as a file or otherwise.
    pub async fn abort_session(&self, caller: &Caller, id: UploadId) -> Result<()> {
        let session = self.own_session(caller, id).await?;
        if !matches!(session.state, State::Open) {
            return Err(gone());
        }
        let mut turn = self.take_turn(id).await?;
        turn.forget();
        if !self.end_session(id, sweep::Ending::Aborted).await? {
            return Err(gone());
        }
        drop(turn);
        self.clean_up_soon(id);
        Ok(())
    }

    /// The record of a session of the caller.
    pub(crate) async fn own_session(&self, caller: &Caller, id: UploadId) -> Result<Session> {
        self.own_session_for(caller, id, Right::Create).await
    }

    /// The same for something that needs another right.
    pub(crate) async fn own_session_for(
        &self,
        caller: &Caller,
        id: UploadId,
        right: Right,
    ) -> Result<Session> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let own = stored.map(|stored| stored.value).filter(|session| {
            session.owner == caller.user && session.link == caller.link.map(|link| link.share)
        });
        let session = own.ok_or_else(|| Error::not_found("upload"))?;
        check_scope(caller, session.space, right)?;
        Ok(session)
    }

    /// Looks at a session whose turn it is, as it is now.
    async fn look_now(&self, id: UploadId, turn: &mut Turn) -> Result<Session> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        append::require_open(&stored.value)?;
        self.look_at(&*snapshot, id, &stored.value, stored.version, turn).await?;
        Ok(stored.value)
    }

    /// Where the bytes of a session go, again.
    fn aim_again(&self, caller: &Caller, session: &Session) -> Result<Destination> {
        let damaged = |error| Error::new(ErrorKind::Corrupt, "damaged path").with_source(error);
        let target = session.target.as_ref();
        let target = target.ok_or_else(|| Error::new(ErrorKind::Conflict, "a part is no file"))?;
        let shown = TreePath::parse(&target.shown).map_err(damaged)?;
        let at = crate::room::Located { space: session.space, base: target.base, shown };
        let path = match session.multipart() {
            Some(Multipart { flat: true, key, .. }) => {
                TreePath::of_entry(vec![EntryName::stored(key).map_err(damaged)?])
            }
            _ => TreePath::parse(&target.path).map_err(damaged)?,
        };
        Ok(Destination { caller: caller.clone(), at, path, parent: target.parent })
    }

    /// Whether bytes may be added to a session now: whatever stands in the way of its file but
    /// rights is for the completion to judge. Answers how they are to be placed.
    async fn may_append(&self, caller: &Caller, session: &Session) -> Result<Placement> {
        self.check_login(caller).await?;
        if session.target.is_none() {
            let snapshot = self.inner.meta.snapshot().await?;
            let room = self.open_room(&*snapshot, caller, session.space, Right::Create).await?;
            return Ok(room.policy.placement);
        }
        let place = self.aim_again(caller, session)?;
        let parents = session.parents;
        let options = UploadOptions { parents, ..UploadOptions::default() };
        match self.placement_of(&place, &options).await {
            Ok(placement) => Ok(placement),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                Err(error)
            }
            Err(_) => Ok(Placement::SINGLE),
        }
    }

    /// Reserves more for an open session of unknown length: `ahead` bytes if there is room, else
    /// `needed`. Answers how many are reserved, and the version of its record.
    async fn reserve_more(
        &self,
        id: UploadId,
        space: SpaceId,
        needed: u64,
        ahead: u64,
    ) -> Result<(u64, Version)> {
        let key = records::session_key(id);
        let (reserved, revision) = transact!(self, space, |txn| {
            let stored = txn.get::<Session>(&key).await?;
            let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
            append::require_open(&stored.value)?;
            txn.hold(key.clone(), stored.version);
            let next = self.reserve_in(&mut txn, stored.value, needed, ahead).await?;
            txn.put(key.clone(), &next);
            next.reserved
        });
        Ok((reserved, Version(revision.0)))
    }

    /// The same, in a transaction that writes the session's record.
    async fn reserve_in(
        &self,
        txn: &mut Txn,
        session: Session,
        needed: u64,
        ahead: u64,
    ) -> Result<Session> {
        let key = schema::space_key(session.space);
        let stored = txn.get::<schema::Space>(&key).await?;
        let stored = stored.ok_or_else(|| Error::not_found("space"))?;
        txn.hold(key, stored.version);
        let (id, space) = (session.space, stored.value);
        let more = |upto: u64| upto.saturating_sub(session.reserved);
        let mut reserved = ahead.max(session.reserved);
        if let Err(error) = self.promise(txn, id, &space, more(ahead)).await {
            if error.kind() != ErrorKind::QuotaExceeded || needed >= ahead {
                return Err(error);
            }
            self.promise(txn, id, &space, more(needed)).await?;
            reserved = needed.max(session.reserved);
        }
        let change = quota::delta(reserved - session.reserved);
        quota::reserve_durably(txn, id, space.limits.live, change);
        let touched = txn.now;
        Ok(Session { reserved, touched, ..session })
    }

    /// What the owner may see of a session.
    fn session_info(
        &self,
        id: UploadId,
        session: &Session,
        offset: Option<u64>,
    ) -> Result<SessionInfo> {
        let state = match &session.state {
            State::Open => SessionState::Open,
            State::Completed(result) => {
                SessionState::Completed(Box::new(complete::written_of(result)?))
            }
            State::Aborted { .. } => SessionState::Aborted,
            State::Expired { .. } => SessionState::Expired,
            State::Consumed { by, .. } => SessionState::Consumed(*by),
        };
        let whole = match &session.state {
            State::Completed(result) => Some(result.size),
            State::Consumed { .. } => session.length,
            _ => None,
        };
        let open = matches!(session.state, State::Open);
        let final_of = match &session.kind {
            SessionKind::Final { parts, .. } => parts.clone(),
            _ => Vec::new(),
        };
        let made_of_parts = matches!(session.kind, SessionKind::Final { .. });
        Ok(SessionInfo {
            id,
            space: session.space,
            path: session.target.as_ref().map(|target| target.path.clone()),
            offset: match whole {
                Some(size) => size,
                None if made_of_parts => session.length.unwrap_or(0),
                None => offset.unwrap_or(0),
            },
            length: session.length.or(whole),
            expires: open.then(|| self.expires(id, session)),
            state,
            refused: None,
            partial: session.is_partial(),
            numbered: session.is_numbered(),
            final_of,
            metadata: session.metadata.clone(),
            created: session.created,
        })
    }

    /// After how long without a word from its client a session expires. S3 clients come back to
    /// an upload whenever they like.
    fn session_ttl(&self, session: &Session) -> Duration {
        match session.kind {
            SessionKind::Multipart(_) => self.inner.config.multipart_ttl,
            _ => self.inner.config.upload_session_ttl,
        }
    }

    /// When a session expires if nothing comes.
    fn expires(&self, id: UploadId, session: &Session) -> Timestamp {
        let now = self.inner.env.monotonic();
        let end = self.heard(id) + self.session_ttl(session);
        self.inner.env.now().after(end.saturating_sub(now))
    }
}

/// A session that has ended for good.
fn gone() -> Error {
    Error::new(ErrorKind::Gone, "the upload has ended: begin anew")
}

/// What a user with too many sessions is told.
fn too_many(error: Error, max: u32) -> Error {
    let source = std::error::Error::source(&error);
    match source.and_then(|source| source.downcast_ref::<CommitError>()) {
        Some(CommitError::Bound(key)) if key.starts_with(b"sc") => {
            let detail =
                format!("a user has at most {max} unfinished uploads: finish or delete some first");
            Error::new(ErrorKind::RateLimited, detail).with_retry_after(Duration::from_secs(60))
        }
        _ => error,
    }
}
