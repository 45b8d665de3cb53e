//! Small pieces become larger chunks, so that a file of many appends has few chunks.
//!
//! Runs of small pieces are copied into one chunk each, under a blob id of this process; one
//! commit makes them part of the session's layout and moves its first number behind all pieces.
//! Pieces of the layout that are no longer than the run before them join it, so each byte is
//! copied a logarithmic number of times.
//!
//! Promises: the offset stays as it is at every step. Crash: before the commit the new chunks
//! belong to nobody; after it the old ones do. Both are collected.
//!
//! Not here: when a session is complete.

use bytes::Bytes;
use larder_base::{
    ErrorKind, failpoint,
    id::{BlobId, Incarnation, UploadId},
};
use larder_chunk::placement::Placement;
use larder_meta::{Snapshot, Version};

use crate::{
    Larder,
    blob::{Staged, write::ChunkSink},
    error::{Error, Result},
    schema::{self, ChunkRef, Owner, Session, session as records},
    session::{
        CHUNKS_MAX,
        append::require_open,
        live::{Known, Tail, Turn},
    },
    txn::{Txn, transact},
    work::{Class, Client},
};

/// Small pieces behind the layout that make a merge due.
const PIECES_DUE: usize = 32;

/// Small pieces that must be merged before more come: the merge is one transaction.
const PIECES_OVERDUE: usize = 40;

/// What the pieces of a session are after a merge.
struct Merged {
    layout: Vec<ChunkRef>,
    /// Chunks that were copied elsewhere.
    replaced: Vec<ChunkRef>,
    /// Inline pieces that were.
    inline: Vec<u32>,
    /// The blobs that the new chunks were staged as.
    staged: Vec<Staged>,
}

/// Pieces below this many bytes are small, in a session of so many chunks.
fn small_below(chunks: usize) -> u64 {
    match chunks {
        ..1024 => 4 << 20,
        1024..8192 => 64 << 20,
        _ => 1 << 30,
    }
}

impl Larder {
    fn small_pieces(session: &Session, known: &Known) -> (usize, u64) {
        let below = small_below(session.layout.len() + known.tail.len());
        let small = known.tail.iter().map(Tail::length).filter(|length| *length < below);
        small.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length))
    }

    /// Whether small pieces should be merged now.
    pub(super) fn merge_due(&self, session: &Session, known: &Known) -> bool {
        let (count, bytes) = Self::small_pieces(session, known);
        let below = small_below(session.layout.len() + known.tail.len());
        count >= PIECES_DUE || (count > 1 && bytes >= 2 * below)
    }

    /// Whether they must.
    pub(super) fn merge_overdue(&self, session: &Session, known: &Known) -> bool {
        Self::small_pieces(session, known).0 >= PIECES_OVERDUE
    }

    /// Merges the small pieces; afterwards all pieces are chunks of the layout.
    pub(super) async fn merge(&self, id: UploadId, turn: &mut Turn, client: Client) -> Result<()> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        let (session, version) = (stored.value, stored.version);
        require_open(&session)?;
        self.look_at(&*snapshot, id, &session, version, turn).await?;
        let known = turn.known()?.clone();
        // Until the commit is through and what it replaced is gone, nobody else judges these.
        let _own = self.inner.staging.adopt(session.blob);
        let mut merged = self.merged(&*snapshot, id, &session, &known, &client).await?;
        drop(snapshot);
        failpoint::reach("session.merging");
        let result = self.commit_merge(id, &session, version, &known, &merged).await;
        match &result {
            Ok(_) => merged.staged.iter_mut().for_each(|staged| staged.leaks = false),
            // The record will say; until then nothing is destroyed.
            Err(_) => turn.forget(),
        }
        let version = result?;
        failpoint::reach("session.merged");
        let offset = known.offset;
        let next = known.next;
        turn.known = Some(Known { version, offset, tail: Vec::new(), next });
        self.inner.metrics.session_merges.add(1);
        self.drop_chunks(&merged.replaced).await;
        Ok(())
    }

    async fn commit_merge(
        &self,
        id: UploadId,
        session: &Session,
        version: Version,
        known: &Known,
        merged: &Merged,
    ) -> Result<Version> {
        let key = records::session_key(id);
        let ((), revision) = transact!(self, session.space, |txn| {
            let stored = txn.get::<Session>(&key).await?;
            let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
            require_open(&stored.value)?;
            if stored.version != version {
                return Err(Error::new(ErrorKind::Conflict, "the upload has changed meanwhile"));
            }
            txn.hold(key.clone(), version);
            let next = Session {
                layout: merged.layout.clone(),
                next_index: known.next,
                touched: txn.now,
                ..stored.value
            };
            txn.put(key.clone(), &next);
            for index in &merged.inline {
                txn.delete(records::part_key(id, *index));
            }
            for staged in &merged.staged {
                let owner = Owner { upload: id, blob: session.blob, part: None };
                txn.put(records::owner_key(staged.blob), &owner);
            }
            self.disown(&mut txn, session.blob, &merged.replaced, &merged.layout);
        });
        Ok(Version(revision.0))
    }

    /// Notes in a transaction that these chunks are needed no more: their owner records go where
    /// no chunk that is needed is left, and the collector looks again at processes whose chunks
    /// it had been through.
    pub(super) fn disown(
        &self,
        txn: &mut Txn,
        own: BlobId,
        dropped: &[ChunkRef],
        needed: &[ChunkRef],
    ) {
        let mut blobs: Vec<BlobId> = dropped.iter().map(|chunk| chunk.id.blob).collect();
        blobs.sort_unstable();
        blobs.dedup();
        let mut processes: Vec<Incarnation> = blobs.iter().map(|blob| blob.incarnation).collect();
        processes.dedup();
        processes.retain(|process| *process != self.inner.incarnation);
        for process in processes {
            self.inner.sessions.note_disowned();
            txn.delete(schema::reconciled_key(process));
        }
        for blob in blobs {
            if blob != own && !needed.iter().any(|chunk| chunk.id.blob == blob) {
                txn.delete(records::owner_key(blob));
            }
        }
    }

    /// Deletes chunks that no record needs any more; what fails is left to the collector.
    pub(super) async fn drop_chunks(&self, chunks: &[ChunkRef]) {
        for chunk in chunks {
            let deleted = match self.inner.stores.holding(chunk) {
                Ok(store) => store.delete(chunk.id).await.is_ok(),
                Err(_) => false,
            };
            if !deleted {
                self.inner.staging.note_leak();
            }
        }
    }

    /// Copies the small pieces.
    async fn merged(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        session: &Session,
        known: &Known,
        client: &Client,
    ) -> Result<Merged> {
        let below = small_below(session.layout.len() + known.tail.len());
        let mut merged = Merged {
            layout: session.layout.clone(),
            replaced: Vec::new(),
            inline: Vec::new(),
            staged: Vec::new(),
        };
        let mut pieces = known.tail.as_slice();
        while let Some(first) = pieces.first() {
            let run = pieces.iter().take_while(|piece| piece.length() < below).count();
            let (run, rest) = pieces.split_at(run);
            pieces = rest;
            match run {
                [] => {
                    if let Tail::Chunk(chunk) = first {
                        merged.layout.push(chunk.clone());
                    }
                    pieces = pieces.split_first().map_or(&[], |(_, rest)| rest);
                }
                [Tail::Chunk(only)] => merged.layout.push(only.clone()),
                run => self.merge_run(snapshot, id, &mut merged, run, (below, client)).await?,
            }
        }
        if merged.layout.len() > CHUNKS_MAX {
            let detail = "the upload has too many pieces: send larger ones";
            return Err(Error::new(ErrorKind::TooLarge, detail));
        }
        Ok(merged)
    }

    async fn merge_run(
        &self,
        snapshot: &dyn Snapshot,
        id: UploadId,
        merged: &mut Merged,
        run: &[Tail],
        (below, client): (u64, &Client),
    ) -> Result<()> {
        let mut length: u64 = run.iter().map(Tail::length).sum();
        let mut before = Vec::new();
        // What this very merge has made is long enough, or stands alone.
        let fresh = |blob| merged.staged.iter().any(|staged: &Staged| staged.blob == blob);
        while let Some(last) = merged.layout.last()
            && last.length < below
            && last.length <= length
            && !fresh(last.id.blob)
        {
            length += last.length;
            before.extend(merged.layout.pop());
        }
        before.reverse();
        let task = self.inner.work.enter(client, Class::Upload)?;
        let mut sink = Box::new(ChunkSink::new(self, Placement::SINGLE, Some(length), task)?);
        for chunk in &before {
            self.copy_chunk(&mut sink, chunk).await?;
        }
        for piece in run {
            match piece {
                Tail::Inline(index, _) => {
                    let bytes: Bytes = self.inline_piece(snapshot, id, *index).await?;
                    sink.write(&bytes).await?;
                    merged.inline.push(*index);
                }
                Tail::Chunk(chunk) => {
                    self.copy_chunk(&mut sink, chunk).await?;
                    merged.replaced.push(chunk.clone());
                }
            }
        }
        merged.replaced.append(&mut before);
        let (staged, _, mut chunks) = sink.finish().await?;
        merged.staged.push(staged);
        merged.layout.append(&mut chunks);
        self.inner.metrics.session_merged_bytes.add(length);
        Ok(())
    }

    /// Copies the bytes of a chunk.
    pub(super) async fn copy_chunk(&self, sink: &mut ChunkSink, chunk: &ChunkRef) -> Result<()> {
        let store = self.inner.stores.holding(chunk)?;
        let mut reader = store.open(chunk.id, 0..chunk.length).await?;
        while let Some(bytes) = reader.next().await? {
            sink.write(&bytes).await?;
        }
        Ok(())
    }
}
