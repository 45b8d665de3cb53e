//! Multipart uploads: numbered sessions that end as an object.
//!
//! Promises: those of sessions (I-SES-3 to I-SES-5): completing is one commit that lists the
//! stored parts, one of complete and abort wins, and completing again answers the same.
//!
//! Not here: sessions and their parts (`session`), how parts are named in XML (the door).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::{NodeId, UploadId},
    limits::PAGE_ENTRIES_MAX,
};
use larder_meta::Snapshot;
use md5::Digest as _;

use super::{
    content::object_entry,
    list::{PAGE_WITH_DELIMITER, group},
    path_of,
};
use crate::{
    Larder, PartUpload,
    access::Right,
    caller::Caller,
    entry::{SpaceKind, SpaceRef, Target},
    error::{Error, Result},
    object::{
        Bucket, ChecksumAlgorithm, Completion, MultipartEntry, MultipartInfo, MultipartListing,
        MultipartPage, MultipartPart, MultipartRef, NamedPart, NewMultipart, ObjectChecksum,
        ObjectDigest, ObjectEntry, ObjectInfo, VersionId,
    },
    schema::{
        Multipart, Part, Session, SessionKind, SessionResult,
        session::{self as records, SessionState as State},
    },
    session::{NewAppend, NewSession},
    txn,
};

/// Least bytes of all parts but the last.
const PART_BYTES_MIN: u64 = 5 << 20;

impl Larder {
    /// Begins a multipart upload.
    ///
    /// Errors: those of [`Larder::create_session`].
    pub async fn create_multipart(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        new: NewMultipart,
    ) -> Result<UploadId> {
        let path = path_of(bucket, key)?;
        let NewMultipart { content_type, info, retention, checksum } = new;
        let flat = bucket.kind == SpaceKind::Bucket;
        let multipart = Multipart { key: key.to_owned(), flat, info, retention, checksum };
        let session = NewSession {
            content_type,
            parents: true,
            ..NewSession::new(SpaceRef::Id(bucket.id), Some(path), None)
        };
        let kind = SessionKind::Multipart(Box::new(multipart));
        Ok(self.put_session(caller, session, kind).await?.0)
    }

    /// Begins a part; it replaces an earlier one of its number when it is finished.
    ///
    /// Errors: `NotFound` if there is no such open upload to this key; those of
    /// [`Larder::append_part`].
    pub async fn multipart_part(
        &self,
        caller: &Caller,
        upload: MultipartRef<'_>,
        number: u32,
        length: Option<u64>,
    ) -> Result<PartUpload> {
        self.open_multipart(caller, upload, Right::Create).await?;
        self.append_part(caller, upload.id, number, NewAppend { length, checksum: None }).await
    }

    /// The upload, and up to `limit` of its parts behind number `after`; and whether more follow.
    pub async fn multipart_parts(
        &self,
        caller: &Caller,
        upload: MultipartRef<'_>,
        after: u32,
        limit: usize,
    ) -> Result<(MultipartInfo, Vec<MultipartPart>, bool)> {
        let session = self.open_multipart(caller, upload, Right::Read).await?;
        let id = upload.id;
        let snapshot = self.inner.meta.snapshot().await?;
        let prefix = records::parts_prefix(id);
        let last = records::part_key(id, after);
        let page = txn::page(&*snapshot, &prefix, Some(&last), limit.saturating_add(1)).await?;
        let mut parts = Vec::with_capacity(page.len());
        for (key, record) in page.iter().take(limit) {
            let part = records::decode_part(key, &record.value)?;
            let object = part.object.ok_or_else(no_digest)?;
            let (size, created) = (part.size, part.created);
            let (md5, checksum) = (object.md5, object.checksum);
            let number = records::part_number(key);
            parts.push(MultipartPart { number, size, md5, checksum, created });
        }
        Ok((info(id, &session)?, parts, page.len() > limit))
    }

    /// One page of the unfinished uploads to the keys of a bucket, in order of keys. What a common
    /// prefix stands for is stepped over.
    pub async fn multiparts(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        listing: &MultipartListing,
    ) -> Result<MultipartPage> {
        let MultipartListing { keys, after_upload } = listing;
        let snapshot = self.inner.meta.snapshot().await?;
        self.read_space(&*snapshot, caller, bucket.id, Right::Read).await?;
        let limit = keys.limit.min(PAGE_ENTRIES_MAX);
        let mut page = MultipartPage::default();
        if limit == 0 {
            return Ok(page);
        }
        let range = records::multiparts_prefix(bucket.id, &keys.prefix);
        // Where keys or ids go on, no record has this byte.
        let behind = |key: &str, what: &[u8]| -> Bytes {
            [&records::multiparts_prefix(bucket.id, key)[..], what].concat().into()
        };
        let mut after = keys.after.as_deref().map(|key| match (group(keys, key), after_upload) {
            (Some(prefix), _) => behind(prefix, &[0xff]),
            (None, Some(id)) => records::multipart_key(bucket.id, key, *id),
            (None, None) => behind(key, &[0, 0xff]),
        });
        after = after.filter(|after| *after >= range);
        let most = keys.delimiter.as_ref().map_or(limit + 1, |_| PAGE_WITH_DELIMITER);
        loop {
            let found = txn::page(&*snapshot, &range, after.as_deref(), most).await?;
            for (record, _) in &found {
                if after.as_ref().is_some_and(|after| record <= after) {
                    continue;
                }
                if page.entries.len() == limit {
                    page.truncated = true;
                    return Ok(page);
                }
                let (key, id) = records::multipart_of(record)?;
                if let Some(prefix) = group(keys, key) {
                    page.entries.push(MultipartEntry::Prefix(prefix.to_owned()));
                    after = Some(behind(prefix, &[0xff]));
                    continue;
                }
                if let Some(stored) = self.read_session(&*snapshot, id).await? {
                    page.entries.push(MultipartEntry::Upload(info(id, &stored.value)?));
                }
                after = Some(record.clone());
            }
            if found.len() < most {
                return Ok(page);
            }
        }
    }

    /// Ends an upload and gives its bytes back.
    ///
    /// Errors: `NotFound` if it has ended already.
    pub async fn abort_multipart(&self, caller: &Caller, upload: MultipartRef<'_>) -> Result<()> {
        self.open_multipart(caller, upload, Right::Create).await?;
        let aborted = self.abort_session(caller, upload.id).await;
        aborted.map_err(|error| match error.kind() {
            ErrorKind::Gone => no_upload(),
            _ => error,
        })
    }

    /// Makes these parts the object. Done again with the same parts it answers the same again.
    ///
    /// Errors: `NotFound` if there is no such upload; `Invalid`, its detail beginning with
    /// `InvalidPartOrder`, `InvalidPart` or `EntityTooSmall`; `BadDigest` if the whole has
    /// another checksum than declared; `Precondition`.
    pub async fn complete_multipart(
        &self,
        caller: &Caller,
        upload: MultipartRef<'_>,
        completion: Completion,
    ) -> Result<ObjectEntry> {
        let session = self.any_multipart(caller, upload, Right::Create).await?;
        let parts = &completion.parts;
        if !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(Error::invalid("InvalidPartOrder: parts come in ascending order"));
        }
        if parts.is_empty() {
            return Err(Error::invalid("InvalidPart: an object has at least one part"));
        }
        if let State::Completed(result) = &session.state {
            return self.completed_object(caller, upload.key, result, parts).await;
        }
        let id = upload.id;
        let turn = self.take_turn(id).await?;
        let (larder, caller) = (self.clone(), caller.clone());
        let task = self.inner.env.spawn("complete multipart upload", async move {
            let done = Box::pin(larder.complete_object(&caller, id, completion)).await;
            drop(turn);
            done
        });
        task.await.map_err(|error| {
            Error::internal("the commit stopped").with_source(error).of_unknown_outcome()
        })?
    }

    async fn complete_object(
        &self,
        caller: &Caller,
        id: UploadId,
        completion: Completion,
    ) -> Result<ObjectEntry> {
        let Completion { parts, conditions, checksum } = completion;
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = self.read_session(&*snapshot, id).await?.ok_or_else(no_upload)?;
        let multipart = stored.value.multipart().ok_or_else(no_upload)?;
        let key = multipart.key.clone();
        match &stored.value.state {
            State::Completed(result) => {
                return self.completed_object(caller, &key, result, &parts).await;
            }
            State::Open => {}
            _ => return Err(no_upload()),
        }
        let info = whole(&*snapshot, id, multipart, &parts, checksum).await?;
        let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
        drop(snapshot);
        let session = Session { conditions, ..stored.value };
        let info = Some(Arc::new(info));
        let written =
            self.commit_parts(caller, id, stored.version, &session, &numbers, None, info).await?;
        let entry = self.object_of(caller, &key, written.entry.id, written.entry.revision).await;
        // Committed: what fails now must not be told as if nothing had happened.
        entry.map_err(Error::of_unknown_outcome)
    }

    async fn object_of(
        &self,
        caller: &Caller,
        key: &str,
        node: NodeId,
        revision: u64,
    ) -> Result<ObjectEntry> {
        let found = self.download(caller, &Target::Node(node), Some(revision)).await?;
        Ok(object_entry(key.to_owned(), node, found.state(), true))
    }

    /// What completing an upload again answers; the object itself may be gone meanwhile.
    async fn completed_object(
        &self,
        caller: &Caller,
        key: &str,
        result: &SessionResult,
        parts: &[NamedPart],
    ) -> Result<ObjectEntry> {
        let md5s: Option<Vec<[u8; 16]>> = parts.iter().map(|part| parse_md5(&part.etag)).collect();
        let digest = digest_of(&md5s.ok_or_else(no_upload)?);
        match self.object_of(caller, key, result.node, result.revision).await {
            Ok(object) if object.etag == digest.to_string() => Ok(object),
            Ok(_) => Err(no_upload()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(ObjectEntry {
                key: key.to_owned(),
                node: result.node,
                revision: result.revision,
                size: result.size,
                modified: result.modified,
                etag: digest.to_string(),
                content_type: result.content_type.clone().unwrap_or_default(),
                info: None,
                version: VersionId::Null,
                marker: false,
                latest: false,
                retention: None,
                hold: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// A multipart upload to this key, whatever became of it.
    async fn any_multipart(
        &self,
        caller: &Caller,
        upload: MultipartRef<'_>,
        right: Right,
    ) -> Result<Session> {
        let session = self.own_session_for(caller, upload.id, right).await;
        let session = session.map_err(|error| match error.kind() {
            ErrorKind::NotFound => no_upload(),
            _ => error,
        })?;
        let this = |multipart: &Multipart| multipart.key == upload.key;
        if session.space != upload.bucket.id || !session.multipart().is_some_and(this) {
            return Err(no_upload());
        }
        Ok(session)
    }

    async fn open_multipart(
        &self,
        caller: &Caller,
        upload: MultipartRef<'_>,
        right: Right,
    ) -> Result<Session> {
        let session = self.any_multipart(caller, upload, right).await?;
        match session.state {
            State::Open => Ok(session),
            _ => Err(no_upload()),
        }
    }
}

/// What the parts named are together, if they are those that are here.
async fn whole(
    snapshot: &dyn Snapshot,
    id: UploadId,
    multipart: &Multipart,
    parts: &[NamedPart],
    declared: Option<ObjectChecksum>,
) -> Result<ObjectInfo> {
    let mut info = multipart.info.clone();
    let mut md5s = Vec::with_capacity(parts.len());
    let mut sums = Sums::new(multipart.checksum);
    let invalid = |number: u32| {
        Error::invalid(format!("InvalidPart: part {number} is not here, or is another one"))
    };
    for (at, named) in parts.iter().enumerate() {
        let key = records::part_key(id, named.number);
        let record = snapshot.get(&key).await?.ok_or_else(|| invalid(named.number))?;
        let Part { size, object, .. } = records::decode_part(&key, &record.value)?;
        let object = object.ok_or_else(no_digest)?;
        let same_sum = match (&named.checksum, &object.checksum) {
            (Some(named), Some(stored)) if named.algorithm == stored.algorithm => {
                named.value == stored.value
            }
            _ => true,
        };
        if parse_md5(&named.etag) != Some(object.md5) || !same_sum {
            return Err(invalid(named.number));
        }
        if size < PART_BYTES_MIN && at + 1 < parts.len() {
            let number = named.number;
            let detail = format!("EntityTooSmall: part {number} has {size} bytes");
            return Err(Error::invalid(detail));
        }
        md5s.push(object.md5);
        sums.add(object.checksum.as_ref(), size);
        info.add_part(size);
    }
    info.digest = Some(digest_of(&md5s));
    info.checksum = sums.finish();
    if let (Some(declared), Some(computed)) = (&declared, &info.checksum)
        && declared.algorithm == computed.algorithm
        && declared.value != computed.value
    {
        let detail = "the object does not have the checksum declared";
        return Err(Error::new(ErrorKind::BadDigest, detail));
    }
    Ok(info)
}

/// The checksum of the whole from those of its parts.
struct Sums {
    algorithm: Option<ChecksumAlgorithm>,
    of_content: bool,
    parts: BTreeMap<u32, Vec<u8>>,
    whole: Option<u64>,
    missing: bool,
    count: u32,
}

impl Sums {
    fn new(wanted: Option<(ChecksumAlgorithm, bool)>) -> Self {
        Self {
            algorithm: wanted.map(|(algorithm, _)| algorithm),
            of_content: wanted.is_some_and(|(_, of_content)| of_content),
            parts: BTreeMap::new(),
            whole: None,
            missing: false,
            count: 0,
        }
    }

    fn add(&mut self, part: Option<&ObjectChecksum>, size: u64) {
        self.count += 1;
        let Some(part) = part.filter(|part| Some(part.algorithm) == self.algorithm) else {
            self.missing = true;
            return;
        };
        if self.of_content {
            let value = part.value.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            self.whole = match (self.whole, crc(part.algorithm)) {
                (None, _) => Some(value),
                (Some(before), Some(crc)) => {
                    Some(crc_fast::checksum_combine(crc, before, value, size))
                }
                (Some(_), None) => {
                    self.missing = true;
                    None
                }
            };
        } else {
            self.parts.insert(self.count, part.value.clone());
        }
    }

    fn finish(self) -> Option<ObjectChecksum> {
        let algorithm = self.algorithm.filter(|_| !self.missing)?;
        if self.of_content {
            let bytes = self.whole?.to_be_bytes();
            let start = bytes.len().saturating_sub(algorithm.length());
            let value = bytes.get(start..)?.to_vec();
            return Some(ObjectChecksum { algorithm, value, parts: None });
        }
        let all: Vec<u8> = self.parts.into_values().flatten().collect();
        let value = algorithm.of(&all);
        Some(ObjectChecksum { algorithm, value, parts: Some(self.count) })
    }
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<crc_fast::CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(crc_fast::CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(crc_fast::CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

impl ChecksumAlgorithm {
    /// Bytes of its checksums.
    pub fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The checksum of these bytes.
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        match (self, crc(self)) {
            (Self::Sha256, _) => sha2::Sha256::digest(bytes).to_vec(),
            (_, Some(algorithm)) => {
                let whole = crc_fast::checksum(algorithm, bytes).to_be_bytes();
                let start = whole.len().saturating_sub(self.length());
                whole.get(start..).unwrap_or_default().to_vec()
            }
            (_, None) => sha1::Sha1::digest(bytes).to_vec(),
        }
    }
}

/// The digest of an object from those of its parts.
fn digest_of(parts: &[[u8; 16]]) -> ObjectDigest {
    let bytes = md5::Md5::digest(parts.concat()).into();
    ObjectDigest::Parts(bytes, u32::try_from(parts.len()).unwrap_or(u32::MAX))
}

/// The digest in the ETag of a part.
fn parse_md5(etag: &str) -> Option<[u8; 16]> {
    let text = etag.trim_matches('"');
    let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u128::from_str_radix(text, 16).ok().filter(|_| hex)?;
    Some(value.to_be_bytes())
}

fn info(id: UploadId, session: &Session) -> Result<MultipartInfo> {
    let multipart = session.multipart().ok_or_else(no_upload)?;
    let Multipart { key, checksum, .. } = multipart.clone();
    Ok(MultipartInfo { id, key, owner: session.owner, created: session.created, checksum })
}

fn no_upload() -> Error {
    Error::not_found("multipart upload")
}

fn no_digest() -> Error {
    Error::new(ErrorKind::Corrupt, "a part of an object has no digest")
}
