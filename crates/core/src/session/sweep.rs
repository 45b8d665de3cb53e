//! The end of sessions that nobody completes, and what ended ones leave behind.
//!
//! A session ends by one commit that compares its record, gives back its reservation and queues
//! its clean-up. That removes first the chunks, then, when no power cut can bring those back,
//! their records, in bounded commits; it can be done again from the start at any time. The
//! session's own record stays for a while, so that its owner is told what became of it.
//!
//! Promises: I-SES-3; a session is not ended before it was said to; one that is being appended to
//! never is.
//!
//! Not here: completion.

use std::{collections::BTreeMap, time::Duration};

use larder_base::{
    failpoint,
    id::{BlobId, SpaceId, UploadId, UserId},
};

use crate::{
    Larder,
    error::Result,
    quota::{self, delta},
    schema::{
        self, BlobState, ChunkRef, Content, Owner, Session, SessionKind, Space, SpaceState,
        session::{self as records, SessionState as State},
    },
    session::{complete::one_less, live::Tail},
    txn::{self, Pages, Txn, transact},
};

/// Records looked at at once.
const PAGE: usize = 500;

/// Records that one transaction removes or writes.
const BATCH: usize = 40;

/// How much longer a session lives than its owner was told.
const GRACE: Duration = Duration::from_secs(1);

/// How a session ends without becoming a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Aborted,
    Expired,
}

impl Larder {
    /// Sweeps until the store is shut down.
    pub(crate) async fn run_sweeps(self) {
        let env = self.inner.env.clone();
        loop {
            tokio::select! {
                () = env.sleep(self.inner.config.upload_sweep_interval) => {}
                () = self.inner.sweeps_end.notified() => {}
            }
            if self.inner.stopping() {
                return;
            }
            if let Err(error) = self.sweep_sessions().await {
                self.inner.metrics.job_failures.add(1);
                tracing::warn!(%error, "the sweep of uploads stopped for now");
            }
        }
    }

    /// Ends what has expired, and removes what ended sessions left.
    pub(crate) async fn sweep_sessions(&self) -> Result<()> {
        let _turn = self.inner.sweep_turn.lock().await;
        let mut users = BTreeMap::new();
        let mut pages = Pages::of(records::sessions_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                if self.inner.stopping() {
                    return Ok(());
                }
                let id = UploadId::from_bytes(schema::trailing_id(key)?);
                let session: Session = schema::decode(key, &record.value)?;
                self.sweep_one(id, &session, &mut users).await?;
            }
        }
        self.clean_up_all().await?;
        self.sweep_counts().await
    }

    async fn sweep_one(
        &self,
        id: UploadId,
        session: &Session,
        users: &mut BTreeMap<UserId, bool>,
    ) -> Result<()> {
        let ended = match &session.state {
            State::Open => {
                if let SessionKind::Final { ready: false, .. } = session.kind {
                    // Whoever is joining it holds its turn.
                    if self.is_idle(id)
                        && let Ok(_turn) = self.take_turn(id).await
                    {
                        self.unjoin(id).await?;
                    }
                    return Ok(());
                }
                return self.expire(id, session, users).await;
            }
            State::Completed(result) => result.at,
            State::Aborted { at } | State::Expired { at } | State::Consumed { at, .. } => *at,
        };
        let age = self.inner.env.now().since(ended);
        if age >= self.inner.config.upload_result_retention {
            self.forget_session(id).await?;
        }
        Ok(())
    }

    /// Whether nothing of this process uses a session now.
    fn is_idle(&self, id: UploadId) -> bool {
        self.inner.sessions.known(id).is_none_or(|live| live.is_idle())
    }

    async fn expire(
        &self,
        id: UploadId,
        session: &Session,
        users: &mut BTreeMap<UserId, bool>,
    ) -> Result<()> {
        let there = match users.get(&session.owner) {
            Some(there) => *there,
            None => {
                let snapshot = self.inner.meta.snapshot().await?;
                let there = snapshot.get(&schema::user_key(session.owner)).await?.is_some();
                users.insert(session.owner, there);
                there
            }
        };
        let overdue = || {
            let silent = self.inner.env.monotonic().saturating_sub(self.heard(id));
            silent >= self.session_ttl(session) + GRACE
        };
        if there && !(overdue() && self.is_idle(id)) {
            return Ok(());
        }
        let Ok(mut turn) = self.take_turn(id).await else { return Ok(()) };
        // Somebody may have come just before.
        let ending = match there {
            false => Ending::Aborted,
            true if overdue() => Ending::Expired,
            true => return Ok(()),
        };
        turn.forget();
        self.end_session(id, ending).await?;
        Ok(())
    }

    /// Ends the sessions into a space that is going.
    pub(crate) async fn end_sessions_in(&self, space: SpaceId) -> Result<()> {
        let mut pages = Pages::of(records::sessions_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let session: Session = schema::decode(key, &record.value)?;
                if session.space == space && matches!(session.state, State::Open) {
                    let id = UploadId::from_bytes(schema::trailing_id(key)?);
                    // Without its turn, if need be: the clean-up waits for that.
                    let turn = self.take_turn(id).await.ok();
                    self.end_session(id, Ending::Aborted).await?;
                    drop(turn);
                    self.clean_up_soon(id);
                }
            }
        }
        Ok(())
    }

    /// Ends a session, whatever it waits for.
    pub(crate) async fn give_up_session(&self, id: UploadId) -> Result<()> {
        // Without its turn, if need be: the clean-up waits for that.
        let turn = self.take_turn(id).await.ok();
        self.end_session(id, Ending::Aborted).await?;
        drop(turn);
        self.clean_up_soon(id);
        Ok(())
    }

    /// Ends the sessions of a user who was deleted.
    pub(crate) async fn end_sessions_of(&self, user: UserId) -> Result<()> {
        let mut pages = Pages::of(records::user_sessions_prefix(user), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, _) in &page {
                let id = UploadId::from_bytes(schema::trailing_id(key)?);
                let mut turn = self.take_turn(id).await?;
                turn.forget();
                self.end_session(id, Ending::Aborted).await?;
                drop(turn);
                self.clean_up_soon(id);
            }
        }
        Ok(())
    }

    /// Ends an open session; `false` if it has ended already.
    pub(super) async fn end_session(&self, id: UploadId, how: Ending) -> Result<bool> {
        let key = records::session_key(id);
        transact!(self, None, |txn| {
            txn.frees();
            let Some(stored) = txn.get::<Session>(&key).await? else { return Ok(false) };
            if !matches!(stored.value.state, State::Open) {
                return Ok(false);
            }
            txn.hold(key.clone(), stored.version);
            for key in stored.value.index_keys(id) {
                txn.delete(key);
            }
            txn.add(records::sessions_count_key(stored.value.owner), one_less());
            self.put_ended(&mut txn, id, stored.value, how).await?;
        });
        let metrics = &self.inner.metrics;
        match how {
            Ending::Aborted => metrics.sessions_aborted.add(1),
            Ending::Expired => {
                metrics.sessions_expired.add(1);
                failpoint::reach("session.expired");
            }
        }
        Ok(true)
    }

    /// Cleans up after a session in a task of its own.
    pub(super) fn clean_up_soon(&self, id: UploadId) {
        let larder = self.clone();
        let _task = self.inner.env.spawn("clean up upload", async move {
            if let Err(error) = Box::pin(larder.clean_up(id)).await {
                tracing::debug!(%id, %error, "leave the rest of an upload to the sweep");
            }
        });
    }

    async fn clean_up_all(&self) -> Result<()> {
        let mut pages = Pages::of(records::cleanups_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, _) in &page {
                if self.inner.stopping() {
                    return Ok(());
                }
                let id = UploadId::from_bytes(schema::trailing_id(key)?);
                Box::pin(self.clean_up(id)).await?;
            }
        }
        Ok(())
    }

    /// Removes what an ended session has left. Any number of these may run at once.
    async fn clean_up(&self, id: UploadId) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let queued = snapshot.get(&records::cleanup_key(id)).await?.is_some();
        let stored = self.read_session(&*snapshot, id).await?;
        drop(snapshot);
        let Some(stored) = stored.filter(|_| queued) else { return Ok(()) };
        let session = stored.value;
        let file = match &session.state {
            State::Open => return Ok(()),
            State::Completed(_) => self.manifest(session.blob).await?,
            _ => Vec::new(),
        };
        if let SessionKind::Final { parts, .. } = &session.kind {
            for part in parts {
                self.settle_part(id, &session, *part).await?;
            }
        }
        let completed = matches!(session.state, State::Completed(_));
        if !completed {
            // Nothing writes to it any more once its turn was had.
            drop(self.take_turn(id).await?);
            self.remove_pieces(id, &session).await?;
        }
        self.remove_parts(id, &session, &file).await?;
        if !completed {
            let foreign = foreign_blobs(session.blob, &session.layout);
            self.remove_owners(foreign).await?;
        }
        let key = records::session_key(id);
        transact!(self, None, |txn| {
            txn.frees();
            txn.delete(records::cleanup_key(id));
            txn.delete(records::parts_count_key(id));
            if let Some(stored) = txn.get::<Session>(&key).await?
                && !completed
            {
                txn.delete(records::owner_key(session.blob));
                txn.hold(key.clone(), stored.version);
                txn.put(key.clone(), &Session { layout: Vec::new(), ..stored.value });
            }
        });
        self.inner.sessions.end(id);
        Ok(())
    }

    /// The chunks of a blob, if it is there and stays for now.
    async fn manifest(&self, blob: BlobId) -> Result<Vec<ChunkRef>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let key = schema::blob_key(blob);
        let Some(record) = snapshot.get(&key).await? else { return Ok(Vec::new()) };
        match schema::decode_blob(&key, &record.value)?.content {
            Content::Chunks(chunks) => Ok(chunks),
            Content::Inline(_) => Ok(Vec::new()),
        }
    }

    /// Removes the chunks and records of a session's own pieces: the last first, so that what is
    /// left can still be found when this is broken off.
    async fn remove_pieces(&self, id: UploadId, session: &Session) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let version = larder_meta::Version(0);
        let known = match session.kind {
            SessionKind::Whole | SessionKind::Partial => {
                self.probe(&*snapshot, id, session, version).await?.tail
            }
            SessionKind::Numbered | SessionKind::Multipart(_) | SessionKind::Final { .. } => {
                Vec::new()
            }
        };
        drop(snapshot);
        let mut bytes = 0;
        let pieces = known.iter().rev().filter_map(|tail| match tail {
            Tail::Chunk(chunk) => Some(chunk),
            Tail::Inline(..) => None,
        });
        for chunk in pieces.chain(&session.layout) {
            self.inner.stores.holding(chunk)?.delete(chunk.id).await?;
            bytes += chunk.length;
        }
        self.sync_deletes().await?;
        failpoint::reach("session.chunks-deleted");
        self.inner.metrics.sessions_dropped_bytes.add(bytes);
        Ok(())
    }

    async fn sync_deletes(&self) -> Result<()> {
        for store in self.inner.stores.all() {
            store.sync_deletes().await?;
        }
        Ok(())
    }

    /// Removes the records of pieces and parts, and the chunks of those that the file has not.
    async fn remove_parts(&self, id: UploadId, session: &Session, file: &[ChunkRef]) -> Result<()> {
        let prefix = records::parts_prefix(id);
        loop {
            let snapshot = self.inner.meta.snapshot().await?;
            let page = txn::page(&*snapshot, &prefix, None, BATCH).await?;
            drop(snapshot);
            if page.is_empty() {
                return Ok(());
            }
            let mut unowned = Vec::new();
            for (key, record) in &page {
                let part = records::decode_part(key, &record.value)?;
                let Content::Chunks(chunks) = part.content else { continue };
                let kept = chunks.iter().any(|own| file.iter().any(|chunk| chunk.id == own.id));
                if kept {
                    continue;
                }
                for chunk in &chunks {
                    self.inner.stores.holding(chunk)?.delete(chunk.id).await?;
                }
                if part.blob != session.blob {
                    unowned.push(part.blob);
                }
            }
            if !unowned.is_empty() {
                self.sync_deletes().await?;
                failpoint::reach("session.chunks-deleted");
            }
            transact!(self, None, |txn| {
                txn.frees();
                for (key, _) in &page {
                    txn.delete(key.clone());
                }
                for blob in &unowned {
                    txn.delete(records::owner_key(*blob));
                }
            });
        }
    }

    /// Removes owner records whose chunks are gone.
    pub(crate) async fn remove_owners(&self, blobs: Vec<BlobId>) -> Result<()> {
        for batch in blobs.chunks(BATCH) {
            transact!(self, None, |txn| {
                txn.frees();
                for blob in batch {
                    txn.delete(records::owner_key(*blob));
                }
            });
        }
        Ok(())
    }

    /// A part shares the fate of the whole: its chunks belong to the file, or go with it.
    async fn settle_part(&self, whole: UploadId, session: &Session, part: UploadId) -> Result<()> {
        let key = records::session_key(part);
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, part).await?;
        drop(snapshot);
        let mine = stored
            .map(|stored| stored.value)
            .filter(|part| matches!(&part.state, State::Consumed { by, .. } if *by == whole));
        let Some(claimed) = mine else { return Ok(()) };
        if let State::Completed(_) = session.state {
            let mut blobs = foreign_blobs(claimed.blob, &claimed.layout);
            blobs.push(claimed.blob);
            for batch in blobs.chunks(BATCH) {
                self.hand_over(whole, session.blob, batch).await?;
            }
            transact!(self, None, |txn| {
                txn.frees();
                if let Some(stored) = txn.get::<Session>(&key).await? {
                    txn.hold(key.clone(), stored.version);
                    let layout = Vec::new();
                    txn.put(key.clone(), &Session { layout, reserved: 0, ..stored.value });
                }
            });
            self.inner.sessions.end(part);
            return Ok(());
        }
        let how = match session.state {
            State::Expired { .. } => Ending::Expired,
            _ => Ending::Aborted,
        };
        transact!(self, None, |txn| {
            txn.frees();
            if let Some(stored) = txn.get::<Session>(&key).await?
                && matches!(&stored.value.state, State::Consumed { by, .. } if *by == whole)
            {
                txn.hold(key.clone(), stored.version);
                self.put_ended(&mut txn, part, stored.value, how).await?;
            }
        });
        Box::pin(self.clean_up(part)).await
    }

    /// Makes a blob the owner of chunks that were staged for another; if it is gone, they are.
    async fn hand_over(&self, upload: UploadId, blob: BlobId, staged: &[BlobId]) -> Result<()> {
        let key = schema::blob_key(blob);
        transact!(self, None, |txn| {
            txn.frees();
            let found = txn.get_blob(&key).await?;
            let there =
                found.as_ref().is_some_and(|found| found.value.state != BlobState::Deleting);
            match &found {
                Some(found) => txn.hold(key.clone(), found.version),
                None => txn.hold_absent(key.clone()),
            }
            for id in staged {
                if there {
                    txn.put(records::owner_key(*id), &Owner { upload, blob, part: None });
                } else {
                    txn.delete(records::owner_key(*id));
                }
            }
        });
        Ok(())
    }

    /// Removes the record of a session that ended long ago, once nothing else is left of it.
    async fn forget_session(&self, id: UploadId) -> Result<()> {
        let key = records::session_key(id);
        transact!(self, None, |txn| {
            txn.frees();
            let cleanup = records::cleanup_key(id);
            let Some(stored) = txn.get::<Session>(&key).await? else { return Ok(()) };
            if txn.snapshot.get(&cleanup).await?.is_some() {
                return Ok(());
            }
            if let State::Consumed { by, .. } = stored.value.state {
                // It is part of a whole that may still end either way.
                let whole = self.read_session(&*txn.snapshot, by).await?;
                let open = whole.is_some_and(|whole| matches!(whole.value.state, State::Open));
                if open || txn.snapshot.get(&records::cleanup_key(by)).await?.is_some() {
                    return Ok(());
                }
            }
            txn.hold(key.clone(), stored.version);
            txn.delete(key.clone());
        });
        self.inner.sessions.end(id);
        Ok(())
    }

    /// Removes the counts of users who are gone.
    async fn sweep_counts(&self) -> Result<()> {
        let mut pages = Pages::of(records::sessions_counts_prefix(), PAGE);
        loop {
            let snapshot = self.inner.meta.snapshot().await?;
            let Some(page) = pages.next(&*snapshot).await? else { return Ok(()) };
            for (key, record) in &page {
                let (counters, _) = txn::decode_counters(key, Some(record.clone()))?;
                let user = UserId::from_bytes(schema::trailing_id(key)?);
                if counters[records::SESSIONS_OPEN] != 0
                    || snapshot.get(&schema::user_key(user)).await?.is_some()
                {
                    continue;
                }
                transact!(self, None, |txn| {
                    txn.frees();
                    txn.hold(key.clone(), record.version);
                    let now = txn.snapshot.get(key).await?.map(|record| record.version);
                    if now != Some(record.version) {
                        return Ok(());
                    }
                    txn.delete(key.clone());
                });
            }
        }
    }

    /// Writes the end of a session and gives back what it has reserved.
    async fn put_ended(
        &self,
        txn: &mut Txn,
        id: UploadId,
        session: Session,
        how: Ending,
    ) -> Result<()> {
        let key = schema::space_key(session.space);
        match txn.get::<Space>(&key).await? {
            Some(space) => {
                txn.hold(key, space.version);
                // The meters of a space that is being purged go with it.
                if space.value.state == SpaceState::Enabled {
                    let back = -delta(session.reserved);
                    quota::reserve_durably(txn, session.space, None, back);
                }
            }
            None => txn.hold_absent(key),
        }
        // What a power cut brings back of its chunks is found by the next process.
        if session.blob.incarnation != self.inner.incarnation {
            self.inner.sessions.note_disowned();
            txn.delete(schema::reconciled_key(session.blob.incarnation));
        }
        let at = txn.now;
        let state = match how {
            Ending::Aborted => State::Aborted { at },
            Ending::Expired => State::Expired { at },
        };
        txn.put(records::cleanup_key(id), &());
        let next = Session { reserved: 0, touched: at, state, ..session };
        txn.put(records::session_key(id), &next);
        Ok(())
    }
}

/// The blobs other than `own` that chunks were staged as.
pub(crate) fn foreign_blobs(own: BlobId, chunks: &[ChunkRef]) -> Vec<BlobId> {
    let mut blobs: Vec<BlobId> = chunks.iter().map(|chunk| chunk.id.blob).collect();
    blobs.sort_unstable();
    blobs.dedup();
    blobs.retain(|blob| *blob != own);
    blobs
}
