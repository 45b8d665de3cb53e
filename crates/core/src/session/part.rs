//! Numbered parts: they come in any order and at the same time, and may be sent again.
//!
//! Each is a small upload of its own, with a blob id of its own; the commit that makes it part of
//! the session replaces the one of the same number. Completing lists which parts the file is made
//! of, and is refused if one of them was replaced meanwhile.
//!
//! Cost: a part one data sync and one commit; the completion one commit. Crash: before its commit
//! a part is nobody's and is collected.
//!
//! Not here: how they are named by a protocol (the doors).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    checksum::{Checksum, ChecksumStream},
    failpoint,
    id::UploadId,
    name::TreePath,
};
use larder_chunk::placement::{Placement, Split};
use larder_meta::{Bound, CommitError, FieldOp, Snapshot, Version};

use crate::{
    Larder,
    blob::{
        Staged,
        write::{BlobWriter, ChunkSink, Finished},
    },
    caller::Caller,
    entry::{ListOptions, Page, SpaceRef, Written},
    error::{Error, Result},
    object::{ObjectChecksum, ObjectInfo},
    schema::{
        ChunkRef, Content, ObjectPart, Owner, Part, Session,
        session::{self as records, PARTS_BYTES, PARTS_COUNT, SessionState as State},
    },
    session::{
        NewAppend, PartInfo, SessionEnd,
        append::require_open,
        complete::{Assembled, check_chunks, written_of},
    },
    txn::{self, transact},
    work::Class,
};

/// Largest number of a part; what S3 allows.
const NUMBER_MAX: u32 = 10_000;

/// Bytes that are reserved ahead while the length of the whole is not known.
const RESERVE_STEP: u64 = 64 << 20;

/// How often a running part looks whether it still may.
const RIGHTS_INTERVAL: Duration = Duration::from_secs(1);

/// One numbered part on its way in. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct PartUpload {
    larder: Larder,
    caller: Caller,
    id: UploadId,
    number: u32,
    declared: Option<u64>,
    checksum: Option<(Checksum, ChecksumStream)>,
    writer: BlobWriter,
    object: Option<ObjectPart>,
    checked: Duration,
}

impl Larder {
    /// Begins numbered part `number` (1 to 10,000) of a numbered session; it replaces an earlier
    /// one of that number when it is finished. Parts may come at the same time.
    pub async fn append_part(
        &self,
        caller: &Caller,
        id: UploadId,
        number: u32,
        new: NewAppend,
    ) -> Result<PartUpload> {
        let session = self.own_session(caller, id).await?;
        require_numbered(&session)?;
        if number == 0 || number > NUMBER_MAX {
            let detail = format!("parts are numbered from 1 to {NUMBER_MAX}");
            return Err(Error::invalid(detail));
        }
        let placement = self.may_append(caller, &session).await?;
        let placement = Placement { split: Split::Whole, ..placement };
        let mut writer = BlobWriter::new(self, placement, new.length);
        writer.on_behalf_of(caller.client())?;
        self.hear(id);
        self.inner.metrics.session_appends.add(1);
        Ok(PartUpload {
            larder: self.clone(),
            caller: caller.clone(),
            id,
            number,
            declared: new.length,
            checksum: new.checksum.map(|checksum| (checksum, checksum.stream())),
            writer,
            object: None,
            checked: self.inner.env.monotonic(),
        })
    }

    /// The parts of a numbered session, by number; the cursor is the last number given.
    pub async fn session_parts(
        &self,
        caller: &Caller,
        id: UploadId,
        options: &ListOptions,
    ) -> Result<Page<PartInfo>> {
        let session = self.own_session(caller, id).await?;
        require_numbered(&session)?;
        let wrong = || Error::invalid("the cursor is not one that a page gave");
        let after = match &options.cursor {
            None => None,
            Some(cursor) => Some(records::part_key(id, cursor.parse().map_err(|_| wrong())?)),
        };
        let limit = options.page_limit();
        let snapshot = self.inner.meta.snapshot().await?;
        let prefix = records::parts_prefix(id);
        let page = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
        let mut entries = Vec::with_capacity(page.len());
        for (key, record) in &page {
            let number = records::part_number(key);
            entries.push(info(number, &records::decode_part(key, &record.value)?)?);
        }
        let last = entries.last().filter(|_| entries.len() == limit);
        let cursor = last.map(|part| part.number.to_string());
        Ok(Page { entries, cursor })
    }

    /// Makes these parts of a numbered session, in ascending order of number, a revision.
    pub async fn complete_session_parts(
        &self,
        caller: &Caller,
        id: UploadId,
        parts: &[u32],
        target: Option<(SpaceRef, TreePath)>,
    ) -> Result<Written> {
        let session = self.own_session(caller, id).await?;
        if let State::Completed(result) = &session.state {
            return written_of(result);
        }
        require_numbered(&session)?;
        if parts.is_empty() || !parts.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid("name the parts in ascending order, each once"));
        }
        let turn = self.take_turn(id).await?;
        let (larder, caller, parts) = (self.clone(), caller.clone(), parts.to_vec());
        let task = self.inner.env.spawn("complete upload", async move {
            let written = Box::pin(larder.complete_parts(&caller, id, &parts, target)).await;
            drop(turn);
            written
        });
        task.await.map_err(|error| {
            Error::internal("the commit stopped").with_source(error).of_unknown_outcome()
        })?
    }

    async fn complete_parts(
        &self,
        caller: &Caller,
        id: UploadId,
        parts: &[u32],
        target: Option<(SpaceRef, TreePath)>,
    ) -> Result<Written> {
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?;
        let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
        let session = stored.value;
        if let State::Completed(result) = &session.state {
            return written_of(result);
        }
        require_numbered(&session)?;
        drop(snapshot);
        self.commit_parts(caller, id, stored.version, &session, parts, target, None).await
    }

    /// Makes these parts of an open session, as of this version of its record, a revision.
    #[expect(clippy::too_many_arguments, reason = "one call each from two protocols")]
    pub(crate) async fn commit_parts(
        &self,
        caller: &Caller,
        id: UploadId,
        version: Version,
        session: &Session,
        parts: &[u32],
        target: Option<(SpaceRef, TreePath)>,
        info: Option<Arc<ObjectInfo>>,
    ) -> Result<Written> {
        let snapshot = self.inner.meta.snapshot().await?;
        let (_, counted) = txn::counters(&*snapshot, &records::parts_count_key(id)).await?;
        let mut end = SessionEnd {
            upload: id,
            version,
            reserved: vec![(session.space, session.reserved)],
            inline: Vec::new(),
            dropped: Vec::new(),
            parts: counted,
            staged: Vec::new(),
            leftovers: true,
        };
        let (chunks, size, mut staged) = self.assemble_parts(&*snapshot, caller, id, parts).await?;
        drop(snapshot);
        check_chunks(&chunks)?;
        end.staged.extend(staged.iter().map(|staged| staged.blob));
        let content = Content::Chunks(chunks);
        let assembled = Assembled { content, size, sha256: None, end, info };
        let written = self.commit_session(caller, id, session, assembled, target).await?;
        if let Some(staged) = &mut staged {
            staged.leaks = false;
        }
        Ok(written)
    }

    /// The chunks of these parts; those that are records become chunks, all under one blob id.
    pub(super) async fn assemble_parts(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        id: UploadId,
        parts: &[u32],
    ) -> Result<(Vec<ChunkRef>, u64, Option<Staged>)> {
        let mut chunks = Vec::new();
        // Where the chunk of small parts goes that stand together.
        let mut gaps = Vec::new();
        let mut small: Option<Box<ChunkSink>> = None;
        let mut size = 0;
        for number in parts {
            let key = records::part_key(id, *number);
            let record = snapshot.get(&key).await?.ok_or_else(|| {
                Error::new(ErrorKind::Conflict, format!("part {number} is not here"))
            })?;
            let part = records::decode_part(&key, &record.value)?;
            size += part.size;
            match part.content {
                Content::Chunks(of_part) => {
                    if let Some(sink) = &mut small {
                        sink.end_chunk().await?;
                    }
                    chunks.extend(of_part);
                }
                Content::Inline(bytes) if bytes.is_empty() => {}
                Content::Inline(bytes) => {
                    let sink = match &mut small {
                        Some(sink) => sink,
                        None => {
                            let task = self.inner.work.enter(&caller.client(), Class::Upload)?;
                            let sink = ChunkSink::new(self, Placement::SINGLE, None, task)?;
                            small.insert(Box::new(sink))
                        }
                    };
                    if !sink.is_open() {
                        gaps.push(chunks.len());
                    }
                    sink.write(&bytes).await?;
                }
            }
        }
        let Some(sink) = small else { return Ok((chunks, size, None)) };
        let (staged, _, made) = sink.finish().await?;
        for (at, chunk) in gaps.iter().zip(made).rev() {
            chunks.insert(*at, chunk);
        }
        Ok((chunks, size, Some(staged)))
    }

    async fn put_part(&self, part: &PartUpload, finished: &mut Finished) -> Result<PartInfo> {
        let (id, number) = (part.id, part.number);
        let key = records::session_key(id);
        let part_key = records::part_key(id, number);
        let mut tight = false;
        loop {
            let committed = self.commit_part(part, finished, &key, &part_key, tight).await;
            match committed {
                // Others have used what was reserved: reserve anew.
                Err(error) if !tight && bound_by(&error, &records::parts_count_key(id)) => {
                    tight = true;
                }
                Err(error) => return Err(error),
                Ok((info, old)) => {
                    if let Some(staged) = &mut finished.staged {
                        staged.leaks = false;
                    }
                    failpoint::reach("session.part-durable");
                    self.drop_chunks(&old).await;
                    self.hear(id);
                    return Ok(info);
                }
            }
        }
    }

    /// Makes a part durable; answers the chunks of the one that it replaced.
    async fn commit_part(
        &self,
        part: &PartUpload,
        finished: &Finished,
        key: &Bytes,
        part_key: &Bytes,
        tight: bool,
    ) -> Result<(PartInfo, Vec<ChunkRef>)> {
        let (id, number) = (part.id, part.number);
        let count_key = records::parts_count_key(id);
        let (answer, _) = transact!(self, None, |txn| {
            part.caller.hold(&mut txn);
            txn.large = true;
            let stored = txn.get::<Session>(key).await?;
            let stored = stored.ok_or_else(|| Error::not_found("upload"))?;
            let mut session = stored.value;
            require_numbered(&session)?;
            txn.hold(key.clone(), stored.version);
            let (before, old) = match txn.snapshot.get(part_key).await? {
                None => {
                    txn.hold_absent(part_key.clone());
                    (None, Vec::new())
                }
                Some(record) => {
                    txn.hold(part_key.clone(), record.version);
                    let old = records::decode_part(part_key, &record.value)?;
                    let chunks = match old.content {
                        Content::Chunks(chunks) => chunks,
                        Content::Inline(_) => Vec::new(),
                    };
                    (Some(old.size), chunks)
                }
            };
            let (counters, _) = txn::counters(&*txn.snapshot, &count_key).await?;
            let all = u64::try_from(counters[PARTS_BYTES]).unwrap_or(0);
            let all = all.saturating_sub(before.unwrap_or(0)) + finished.size;
            if let Some(length) = session.length
                && all > length
            {
                let detail = format!("the parts have more than the {length} bytes declared");
                return Err(Error::invalid(detail));
            }
            let needed = all.saturating_sub(session.replaces_bytes);
            if session.length.is_none() && (needed > session.reserved || tight) {
                let ahead = needed.saturating_add(RESERVE_STEP);
                session = self.reserve_in(&mut txn, session, needed, ahead).await?;
                txn.put(key.clone(), &session);
            }
            let bytes = crate::quota::delta(finished.size) - before.map_or(0, crate::quota::delta);
            let count = i64::from(before.is_none());
            let mut fields = [FieldOp::Keep; 4];
            fields[PARTS_BYTES] = FieldOp::Add(bytes);
            fields[PARTS_COUNT] = FieldOp::Add(count);
            txn.add(count_key.clone(), fields);
            if session.length.is_none()
                && let Some(merge) = txn.spec.merge.iter_mut().find(|item| item.key == count_key)
            {
                let limit = session.reserved.saturating_add(session.replaces_bytes);
                let limit = crate::quota::delta(limit);
                merge.bounds = vec![Bound { fields: 1 << PARTS_BYTES, limit }];
            }
            self.disown(&mut txn, session.blob, &old, &[]);
            let record = Part {
                size: finished.size,
                sha256: finished.sha256,
                blob: finished.id,
                created: txn.now,
                object: part.object.clone(),
                content: finished.content.clone(),
            };
            if let Content::Chunks(_) = &record.content {
                let owner = Owner { upload: id, blob: session.blob, part: Some(number) };
                txn.put(records::owner_key(finished.id), &owner);
            }
            txn.spec.put.push((part_key.clone(), records::encode_part(&record)));
            (info(number, &record)?, old)
        });
        Ok(answer)
    }
}

fn bound_by(error: &Error, key: &Bytes) -> bool {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<CommitError>()) {
        Some(CommitError::Bound(bound)) => bound == key,
        _ => false,
    }
}

/// Demands that a session takes numbered parts.
fn require_numbered(session: &Session) -> Result<()> {
    require_open(session)?;
    if !session.is_numbered() {
        let detail = "the upload takes bytes at its offset, not numbered parts";
        return Err(Error::new(ErrorKind::Conflict, detail));
    }
    Ok(())
}

fn info(number: u32, part: &Part) -> Result<PartInfo> {
    let missing = || Error::new(ErrorKind::Corrupt, "a part has no digest");
    let sha256 = part.sha256.ok_or_else(missing)?;
    Ok(PartInfo { number, size: part.size, sha256, created: part.created })
}

impl PartUpload {
    /// Says what S3 knows of its bytes; at any time before it is finished.
    pub fn describe(&mut self, md5: [u8; 16], checksum: Option<ObjectChecksum>) {
        self.object = Some(ObjectPart { md5, checksum });
    }

    /// Takes the next bytes. Errors: as [`Append::write`](crate::Append::write).
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let end = self.writer.size() + bytes.len() as u64;
        if self.declared.is_some_and(|declared| end > declared) {
            return Err(Error::invalid("the body is longer than declared"));
        }
        self.look_again().await?;
        if let Some((_, stream)) = &mut self.checksum {
            stream.update(&bytes);
        }
        self.larder.hear(self.id);
        self.writer.write(bytes).await
    }

    /// The client has sent nothing for `still`; see [`Append::pause`](crate::Append::pause).
    pub async fn pause(&mut self, still: Duration) -> Result<()> {
        self.look_again().await?;
        self.writer.pause(still).await
    }

    async fn look_again(&mut self) -> Result<()> {
        let now = self.larder.inner.env.monotonic();
        if now.saturating_sub(self.checked) < RIGHTS_INTERVAL {
            return Ok(());
        }
        self.checked = now;
        let session = self.larder.own_session(&self.caller, self.id).await?;
        require_numbered(&session)?;
        self.larder.may_append(&self.caller, &session).await?;
        Ok(())
    }

    /// Makes the part durable.
    ///
    /// Errors: `BadDigest` if the checksum does not match, `Invalid` if the body was shorter than
    /// declared, `QuotaExceeded`.
    pub async fn finish(mut self) -> Result<PartInfo> {
        let size = self.writer.size();
        if self.declared.is_some_and(|declared| declared != size) {
            return Err(Error::invalid("the body is shorter than declared"));
        }
        if let Some((declared, stream)) = self.checksum.take()
            && stream.finish() != declared
        {
            let detail = "the body does not have the checksum declared";
            return Err(Error::new(ErrorKind::BadDigest, detail));
        }
        let larder = self.larder.clone();
        let env = larder.inner.env.clone();
        let task = env.spawn("finish part", async move {
            let writer = std::mem::replace(
                &mut self.writer,
                BlobWriter::new(&larder, Placement::SINGLE, Some(0)),
            );
            let mut finished = writer.finish().await?;
            Box::pin(larder.put_part(&self, &mut finished)).await
        });
        task.await.map_err(|error| {
            Error::internal("the commit stopped").with_source(error).of_unknown_outcome()
        })?
    }
}
