//! What the checker proves of sessions: S1 every open session is counted for its user and its
//! reservation in its space (Q4), S2 the chunks that it has settled are there, S3 every staged
//! chunk has an owner that leads to a session or a file.
//!
//! Memory: a number for each space with reservations and each user with sessions.
//!
//! Not here: blobs and their chunks (`check`).

use std::collections::BTreeMap;

use larder_base::id::{ChunkId, SpaceId, UploadId, UserId};
use larder_meta::Snapshot;

use crate::{
    Larder,
    error::Result,
    quota::delta,
    schema::{
        self, Owner, Session,
        session::{self as records, SessionState as State},
    },
    session::is_needed,
    txn::{self, Pages},
};

/// Records read at once.
const PAGE: usize = 500;

/// What all sessions add up to, and what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct SessionSums {
    /// Bytes reserved, by space.
    pub(crate) reserved: BTreeMap<SpaceId, i64>,
    open: BTreeMap<UserId, i64>,
    /// Invariant and detail.
    pub(crate) findings: Vec<(&'static str, String)>,
}

impl Larder {
    /// Proves what is said of sessions, as one snapshot has them.
    pub(crate) async fn check_sessions(&self, snapshot: &dyn Snapshot) -> Result<SessionSums> {
        let mut sums = SessionSums::default();
        let mut pages = Pages::of(records::sessions_prefix(), PAGE);
        while let Some(page) = pages.next(snapshot).await? {
            for (key, record) in page {
                let id = UploadId::from_bytes(schema::trailing_id(&key)?);
                let session: Session = schema::decode(&key, &record.value)?;
                self.check_session(snapshot, id, &session, &mut sums).await?;
            }
        }
        let mut pages = Pages::of(records::sessions_counts_prefix(), PAGE);
        while let Some(page) = pages.next(snapshot).await? {
            for (key, record) in page {
                let user = UserId::from_bytes(schema::trailing_id(&key)?);
                let (counters, _) = txn::decode_counters(&key, Some(record))?;
                let says = counters[records::SESSIONS_OPEN];
                let are = sums.open.remove(&user).unwrap_or(0);
                if says != are {
                    let detail = format!("user {user} counts {says} uploads, there are {are}");
                    sums.findings.push(("S1", detail));
                }
            }
        }
        for (user, are) in std::mem::take(&mut sums.open) {
            let detail = format!("user {user} counts no uploads, there are {are}");
            sums.findings.push(("S1", detail));
        }
        let mut pages = Pages::of(records::owners_prefix(), PAGE);
        while let Some(page) = pages.next(snapshot).await? {
            for (key, record) in page {
                let owner: Owner = schema::decode(&key, &record.value)?;
                let session = records::session_key(owner.upload);
                if snapshot.get(&session).await?.is_none()
                    && snapshot.get(&schema::blob_key(owner.blob)).await?.is_none()
                {
                    let key = key.escape_ascii();
                    sums.findings.push(("S3", format!("owner {key} leads to nothing")));
                }
            }
        }
        Ok(sums)
    }

    async fn check_session(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        session: &Session,
        sums: &mut SessionSums,
    ) -> Result<()> {
        let mut reserves = false;
        match &session.state {
            State::Open => {
                reserves = true;
                *sums.open.entry(session.owner).or_default() += 1;
                for index in session.index_keys(id) {
                    if snapshot.get(&index).await?.is_none() {
                        sums.findings.push(("S1", format!("upload {id} is not listed")));
                    }
                }
                self.check_layout(id, session, sums).await?;
            }
            State::Consumed { by, .. } => {
                let whole = self.read_session(snapshot, *by).await?;
                let state = whole.map(|whole| whole.value.state);
                reserves = state.is_some_and(|state| !matches!(state, State::Completed(_)));
            }
            State::Completed(_) | State::Aborted { .. } | State::Expired { .. } => {}
        }
        if reserves {
            *sums.reserved.entry(session.space).or_default() += delta(session.reserved);
        }
        Ok(())
    }

    async fn check_layout(
        &self,
        id: UploadId,
        session: &Session,
        sums: &mut SessionSums,
    ) -> Result<()> {
        for chunk in &session.layout {
            let found = self.find_chunk(chunk.id).await?;
            let same = found.is_some_and(|found| {
                (found.length, found.checksum) == (chunk.length, chunk.checksum)
            });
            if same {
                continue;
            }
            // It may have been merged since.
            let now = self.inner.meta.snapshot().await?;
            let still = self.read_session(&*now, id).await?.is_some_and(|now| {
                let open = matches!(now.value.state, State::Open);
                open && now.value.layout.iter().any(|known| known.id == chunk.id)
            });
            if still {
                sums.findings.push(("S2", format!("upload {id} has lost chunk {}", chunk.id)));
            }
        }
        Ok(())
    }

    /// Whether a chunk whose blob has no record belongs to a session, or to one that is being
    /// cleaned up.
    pub(crate) async fn is_owned(&self, snapshot: &dyn Snapshot, chunk: ChunkId) -> Result<bool> {
        if is_needed(snapshot, chunk).await? {
            return Ok(true);
        }
        let key = records::owner_key(chunk.blob);
        let Some(owner) = txn::get::<Owner>(snapshot, &key).await? else { return Ok(false) };
        let session = self.read_session(snapshot, owner.value.upload).await?;
        // Whoever ended it removes its chunks before this record.
        Ok(session.is_some_and(|session| !matches!(session.value.state, State::Open)))
    }
}
