//! Making a dump: one snapshot's records first, then the contents that they refer to.
//!
//! The records are copied at once, into a blob of their own on the chunk store (the *spool*), so
//! that the engine need not keep the snapshot for as long as the client takes to read; contents
//! are then read blob by blob. Until the dump ends it is a reader (`blob::epoch`): what its
//! snapshot refers to is not destroyed, however much is deleted meanwhile.
//!
//! Promises: everything that was acknowledged before [`Larder::dump`] was called is in it, and
//! it is the state of one moment; nothing waits for it.
//! Memory: a page of records, a page of small contents, the references to
//! [`REFERENCES_MAX`] blobs. Disk: the records, once more, until they have been sent.
//! Crash or cancel: the spool is removed like any upload that was broken off.
//!
//! Not here: the form ([`super::format`]).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use larder_base::{
    ErrorKind,
    id::{BlobId, JobId, NodeId, SpaceId},
};
use larder_chunk::placement::Placement;
use larder_meta::{Record, Snapshot};

use super::{
    Subject,
    family::{FAMILIES, Family, Form, OfSpace},
    format::{
        BlobHead, ChunkHead, Counts, DumpedSpace, FrameWriter, Header, Parsed, Tally,
        append_record, records_frame,
    },
    share,
};
use crate::{
    Larder,
    access::require_admin,
    blob::{
        Staged,
        epoch::{InlinePin, Note},
        read::Body,
        write::BlobWriter,
    },
    caller::Caller,
    entry::SpaceRef,
    error::{Error, Result},
    schema::{self, Blob, BlobState, Content, Job, MasterRecord, Space, SpaceState},
    txn::{self, Pages},
};

/// Records read at once.
const PAGE: usize = 1000;

/// Records are framed when they are this many bytes.
const RECORDS_BYTES: usize = 64 << 10;

/// Blobs read at once: they bring their inline bytes.
const BLOBS_PAGE: usize = 64;

/// Bytes that are collected before they are given away.
const PIECE_BYTES: usize = 128 << 10;

/// Blobs whose references are counted in one pass over all references.
const REFERENCES_MAX: usize = 400_000;

/// How often the records are read again because the engine could not keep their snapshot.
const ATTEMPTS_MAX: u32 = 5;

/// A dump that is ready to be read.
#[derive(Debug)]
pub struct Dump {
    larder: Larder,
    header: Header,
    note: Arc<Note>,
    _pin: InlinePin,
    frames: Option<FrameWriter>,
    counts: Counts,
    begun: bool,
    records: Option<Spool>,
    references: Spool,
    /// The last blob whose references have been counted.
    counted: Option<BlobId>,
    /// Blobs to come and how often each is referred to.
    waiting: VecDeque<(BlobId, u32)>,
    /// Those of them that have been read.
    read: VecDeque<(BlobId, u32, Blob)>,
    /// The content that is being given.
    body: Option<Body>,
}

impl Larder {
    /// Takes a dump of everything, or of one space, as it is now. Administrators only.
    ///
    /// Errors: `NotFound` for the space; `Busy` if the engine could not keep a snapshot for as
    /// long as reading all records took; `DiskFull` if there is no room to copy them.
    pub async fn dump(&self, caller: &Caller, space: Option<&SpaceRef>) -> Result<Dump> {
        require_admin(caller)?;
        let space = match space {
            Some(space) => Some(self.locate_space(caller, space).await?),
            None => None,
        };
        // Both before the snapshot: see `blob::epoch`.
        let note = Arc::new(self.inner.epochs.note());
        let pin = self.inner.inline_pins.pin().await;
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.inner.meta.snapshot().await?;
            let loads = txn::page(&*snapshot, &schema::loads_prefix(), None, 1).await?;
            if space.is_none() && !loads.is_empty() {
                let detail = "a load is under way: what it has brought so far is nothing whole";
                return Err(Error::new(ErrorKind::Busy, detail));
            }
            let header = self.dump_header(&*snapshot, space).await?;
            let mut scan = Scan::new(self, &*snapshot, space);
            match scan.everything().await {
                // The engine gave the snapshot up; what is read from a newer one is as good.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(%error, "a dump reads all records again");
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    let (records, references, counts) = scan.finish().await?;
                    return Ok(Dump {
                        larder: self.clone(),
                        header,
                        note,
                        _pin: pin,
                        frames: Some(FrameWriter::default()),
                        counts,
                        begun: false,
                        records: Some(records),
                        references,
                        counted: None,
                        waiting: VecDeque::new(),
                        read: VecDeque::new(),
                        body: None,
                    });
                }
            }
        }
        let detail = "too much changes while the records are read: try again when less is written";
        Err(Error::new(ErrorKind::Busy, detail))
    }

    async fn dump_header(&self, snapshot: &dyn Snapshot, id: Option<SpaceId>) -> Result<Header> {
        let space = match id {
            None => None,
            Some(id) => {
                let stored = txn::get::<Space>(snapshot, &schema::space_key(id)).await?;
                let enabled = |space: &Space| space.state == SpaceState::Enabled;
                let space = stored.map(|stored| stored.value).filter(enabled);
                let name = space.ok_or_else(|| Error::not_found("space"))?.name;
                Some(DumpedSpace { id, name })
            }
        };
        let revision = snapshot.revision().0;
        let created = self.inner.env.now();
        let master = txn::get::<MasterRecord>(snapshot, &schema::master_key()).await?;
        let sealed_under = master.map(|master| master.value.id);
        Ok(Header { instance: self.inner.instance, created, revision, sealed_under, space })
    }
}

/// Reads all records of a snapshot into spools.
struct Scan<'a> {
    larder: &'a Larder,
    snapshot: &'a dyn Snapshot,
    space: Option<SpaceId>,
    tally: Tally,
    /// Records that have not been framed.
    pending: Vec<u8>,
    records: BlobWriter,
    references: BlobWriter,
    pending_references: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(larder: &'a Larder, snapshot: &'a dyn Snapshot, space: Option<SpaceId>) -> Self {
        let spool = || BlobWriter::new(larder, Placement::SINGLE, None);
        Self {
            larder,
            snapshot,
            space,
            tally: Tally::default(),
            pending: Vec::new(),
            records: spool(),
            references: spool(),
            pending_references: Vec::new(),
        }
    }

    async fn everything(&mut self) -> Result<()> {
        let kept = FAMILIES.iter().filter(|family| family.form != Form::Never);
        match self.space {
            None => {
                for family in kept {
                    match family.of_space {
                        OfSpace::Job if family.name != *b"jb" => {}
                        OfSpace::Job => self.jobs(None).await?,
                        _ => self.all(family, &family.name).await?,
                    }
                }
            }
            Some(space) => {
                for family in kept {
                    self.of_space(family, space).await?;
                }
            }
        }
        Ok(())
    }

    /// Everything under a prefix.
    async fn all(&mut self, family: &Family, prefix: &[u8]) -> Result<()> {
        let mut pages = Pages::of(Bytes::copy_from_slice(prefix), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in &page {
                self.record(family, key, record).await?;
            }
        }
        Ok(())
    }

    async fn of_space(&mut self, family: &Family, space: SpaceId) -> Result<()> {
        let prefix = [&family.name[..], space.as_bytes()].concat();
        match family.of_space {
            // Shares are found together, at the first of their families.
            OfSpace::No => Ok(()),
            OfSpace::Share if family.name != *b"sh" => Ok(()),
            OfSpace::Share => {
                let mut after = None;
                while let Some(page) = share::page(self.snapshot, space, &mut after, PAGE).await? {
                    for (key, record) in &page {
                        self.any_record(key, record).await?;
                    }
                }
                Ok(())
            }
            OfSpace::Prefix | OfSpace::Space => self.all(family, &prefix).await,
            OfSpace::Node if family.name == *b"no" => self.nodes(space, schema::location_key).await,
            OfSpace::Node => self.nodes(space, schema::expiry_key).await,
            OfSpace::Job if family.name == *b"jb" => self.jobs(Some(space)).await,
            OfSpace::Job => Ok(()),
        }
    }

    /// A record of every node of the space that has it: of directories, then of what is in them
    /// and in the trash.
    async fn nodes(&mut self, space: SpaceId, key_of: fn(NodeId) -> Bytes) -> Result<()> {
        for name in [b"au", b"de", b"tr"] {
            let mut pages = Pages::of([&name[..], space.as_bytes()].concat(), PAGE);
            while let Some(page) = pages.next(self.snapshot).await? {
                let mut keys = Vec::with_capacity(page.len());
                for (key, record) in &page {
                    keys.extend(super::node_of(key, &record.value)?.map(key_of));
                }
                let found = self.snapshot.get_many(&keys).await?;
                for (key, record) in keys.iter().zip(found) {
                    if let Some(record) = record {
                        self.any_record(key, &record).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The jobs that must be finished, of the space or all, with what is known of them.
    async fn jobs(&mut self, space: Option<SpaceId>) -> Result<()> {
        let mut pages = Pages::of(schema::jobs_prefix(), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in &page {
                let job: Job = schema::decode(key, &record.value)?;
                let of = super::subject_of_job(&job.work);
                if of == Subject::Nothing || space.is_some_and(|id| of != Subject::Space(id)) {
                    continue;
                }
                self.any_record(key, record).await?;
                let job = JobId::from_bytes(schema::trailing_id(key)?);
                for key in [schema::job_note_key(job), schema::job_cancel_key(job)] {
                    if let Some(record) = self.snapshot.get(&key).await? {
                        self.any_record(&key, &record).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn any_record(&mut self, key: &Bytes, record: &Record) -> Result<()> {
        let family = super::family::of(key).ok_or_else(|| Error::internal("no such family"))?;
        self.record(family, key, record).await
    }

    async fn record(&mut self, family: &Family, key: &Bytes, record: &Record) -> Result<()> {
        let corrupt = |error: Error| match error.kind() {
            ErrorKind::Invalid => {
                let detail = format!("record {}: {}", key.escape_ascii(), error.detail());
                Error::new(ErrorKind::Corrupt, detail)
            }
            _ => error,
        };
        let value = match family.form {
            Form::Meters => super::without_reserved(&record.value),
            _ => record.value.clone(),
        };
        let parsed: Parsed = self.tally.record(key, &value).map_err(corrupt)?;
        if let Some(file) = parsed.file() {
            self.pending_references.extend_from_slice(&file.blob.to_bytes());
        }
        append_record(&mut self.pending, key, &value)?;
        if self.pending.len() >= RECORDS_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            let frame = records_frame(&self.pending);
            self.pending.clear();
            self.records.write(frame).await?;
        }
        if !self.pending_references.is_empty() {
            let references = Bytes::copy_from_slice(&self.pending_references);
            self.pending_references.clear();
            self.references.write(references).await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(Spool, Spool, Counts)> {
        self.flush().await?;
        let Self { larder, records, references, tally, .. } = self;
        let records = Spool::of(larder, records).await?;
        Ok((records, Spool::of(larder, references).await?, tally.0))
    }
}

/// Bytes that were put aside on the chunk store; they go when this is dropped.
#[derive(Debug)]
struct Spool {
    blob: Blob,
    staged: Option<Staged>,
    body: Option<Body>,
}

impl Spool {
    async fn of(larder: &Larder, writer: BlobWriter) -> Result<Self> {
        let finished = writer.finish().await?;
        if finished.staged.is_some() {
            larder.wake_jobs();
        }
        let (state, refs) = (BlobState::Committed, 1);
        let blob = Blob { state, size: finished.size, refs, content: finished.content };
        Ok(Self { blob, staged: finished.staged, body: None })
    }

    /// The next bytes, from the beginning on.
    async fn next(&mut self, larder: &Larder, note: &Arc<Note>) -> Result<Option<Bytes>> {
        if self.body.is_none() {
            self.body = Some(Body::new(larder, &self.blob, 0..self.blob.size, Arc::clone(note))?);
        }
        match &mut self.body {
            Some(body) => body.next().await,
            None => Ok(None),
        }
    }

    /// Reads from the beginning again.
    fn rewind(&mut self) {
        self.body = None;
    }

    /// Removes the bytes now rather than with the next collection.
    async fn remove(mut self, larder: &Larder) {
        self.body = None;
        let (Some(mut staged), Content::Chunks(chunks)) = (self.staged.take(), &self.blob.content)
        else {
            return;
        };
        let mut gone = true;
        for chunk in chunks {
            let deleted = match larder.inner.stores.holding(chunk) {
                Ok(store) => store.delete(chunk.id).await.is_ok(),
                Err(_) => false,
            };
            gone &= deleted;
        }
        staged.leaks = !gone;
    }
}

impl Dump {
    /// What it is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next bytes; `None` at the end. After an error there is nothing more, and what has been
    /// given is no dump.
    ///
    /// # Errors
    /// `Corrupt` names content that cannot be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(frames) = &mut self.frames else { return Ok(None) };
        if !self.begun {
            self.begun = true;
            return Ok(Some(frames.begin(&self.header).into()));
        }
        if let Some(records) = &mut self.records {
            if let Some(bytes) = records.next(&self.larder, &self.note).await? {
                frames.pass(&bytes);
                return Ok(Some(bytes));
            }
            if let Some(records) = self.records.take() {
                records.remove(&self.larder).await;
            }
        }
        let mut out = Vec::new();
        while out.len() < PIECE_BYTES {
            if !self.contents(&mut out).await? {
                if out.is_empty()
                    && let Some(frames) = self.frames.take()
                {
                    return Ok(Some(frames.end(self.counts).into()));
                }
                break;
            }
        }
        Ok(Some(out.into()))
    }

    /// Adds some content; `false` if there is no more.
    async fn contents(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        let frames = self.frames.as_mut().ok_or_else(|| Error::internal("the dump has ended"))?;
        if let Some(body) = &mut self.body {
            match body.next().await? {
                Some(bytes) => frames.data(out, &bytes),
                None => self.body = None,
            }
            return Ok(true);
        }
        let Some((id, refs, blob)) = self.read.pop_front() else { return self.read_blobs().await };
        let tally = &mut self.counts;
        tally.blobs += 1;
        tally.bytes += blob.size;
        match &blob.content {
            Content::Inline(bytes) => {
                let head = BlobHead { id, size: blob.size, refs, chunks: None };
                frames.blob(out, &head, bytes);
            }
            Content::Chunks(chunks) => {
                let heads = chunks.iter().map(|chunk| {
                    let (length, checksum) = (chunk.length, chunk.checksum);
                    ChunkHead { id: chunk.id, length, checksum }
                });
                let chunks = Some(heads.collect());
                let head = BlobHead { id, size: blob.size, refs, chunks };
                frames.blob(out, &head, &[]);
                let note = Arc::clone(&self.note);
                self.body = Some(Body::new(&self.larder, &blob, 0..blob.size, note)?);
            }
        }
        Ok(true)
    }

    /// Reads the next blobs; `false` if there are no more.
    async fn read_blobs(&mut self) -> Result<bool> {
        if self.waiting.is_empty() {
            self.count_references().await?;
        }
        let count = self.waiting.len().min(BLOBS_PAGE);
        if count == 0 {
            return Ok(false);
        }
        let ids: Vec<(BlobId, u32)> = self.waiting.drain(..count).collect();
        let keys: Vec<Bytes> = ids.iter().map(|(id, _)| schema::blob_key(*id)).collect();
        let found = self.larder.inner.meta.snapshot().await?.get_many(&keys).await?;
        for (((id, refs), key), record) in ids.into_iter().zip(&keys).zip(found) {
            let blob = record.map(|record| schema::decode_blob(key, &record.value)).transpose()?;
            // Condemned since then is as good: this dump is a reader of it.
            let blob = blob.filter(|blob| blob.state != BlobState::Deleting).ok_or_else(|| {
                let detail = format!("blob {id} is referred to and not there");
                Error::new(ErrorKind::Corrupt, detail)
            })?;
            self.read.push_back((id, refs, blob));
        }
        Ok(true)
    }

    /// Counts the references to the next blobs, in order of their ids.
    async fn count_references(&mut self) -> Result<()> {
        let mut next: BTreeMap<BlobId, u32> = BTreeMap::new();
        let mut rest = BytesMut::new();
        self.references.rewind();
        while let Some(bytes) = self.references.next(&self.larder, &self.note).await? {
            rest.extend_from_slice(&bytes);
            while let Some(id) = rest.first_chunk::<16>() {
                let id = BlobId::from_bytes(*id);
                rest.advance(16);
                if self.counted.is_none_or(|counted| id > counted) {
                    *next.entry(id).or_default() += 1;
                    if next.len() > REFERENCES_MAX {
                        next.pop_last();
                    }
                }
            }
        }
        if let Some((last, _)) = next.last_key_value() {
            self.counted = Some(*last);
        }
        self.waiting.extend(next);
        Ok(())
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        // The spools that are left are removed by the collector.
        self.larder.wake_jobs();
    }
}
