//! The form of a dump: frames with checksums, and who reads and writes them.
//!
//! Promises: a dump that was cut off, or in which any byte is not the one that was written, is
//! refused ([`Frames`]); nothing in it is larger than [`FRAME_BYTES_MAX`], so that whoever reads
//! it needs little memory. The form is described in docs/formats/dump.md.
//!
//! Not here: what goes into a dump ([`super::write`]) and what becomes of it ([`super::load`]).

use bytes::{Buf as _, Bytes, BytesMut};
use larder_base::{
    ErrorKind, Timestamp,
    digest::{Sha256, Sha256Stream, crc32c},
    id::{BlobId, ChunkId, InstanceId, SpaceId},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::family::{self, Form};
use crate::{
    error::{Error, Result},
    schema::{self, Dirent, DirentBody, FileState, Trashed, TrashedBody},
};

/// What a dump begins with; the last byte is the version of the form.
pub const MAGIC: [u8; 12] = *b"larder-dump\x01";

/// Most bytes in one frame, its head and checksum excepted.
pub(crate) const FRAME_BYTES_MAX: usize = 2 << 20;

/// Bytes in front of the payload: kind and length.
const HEAD_BYTES: usize = 5;

/// Bytes behind it.
const CHECKSUM_BYTES: usize = 4;

/// Most chunks of one blob: what fits into one frame.
const CHUNKS_MAX: usize = 40_000;

const HEADER: u8 = 1;
const RECORDS: u8 = 2;
const BLOB: u8 = 3;
const DATA: u8 = 4;
const TRAILER: u8 = 5;

/// What a dump is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The installation that was dumped.
    pub instance: InstanceId,
    /// When, by its clock.
    pub created: Timestamp,
    /// The last commit that is in it, in the numbers of that installation.
    pub revision: u64,
    /// What the key is known by under which secrets are sealed; the key itself is in no dump.
    pub sealed_under: Option<Sha256>,
    /// The one space that it has; `None` is everything.
    pub space: Option<DumpedSpace>,
}

/// The space of a dump of one space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedSpace {
    /// Id.
    pub id: SpaceId,
    /// Name.
    pub name: String,
}

/// How much is in a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records of metadata, blobs excepted.
    pub records: u64,
    /// Spaces.
    pub spaces: u64,
    /// Users.
    pub users: u64,
    /// Files, directories and references, those in the trash included.
    pub nodes: u64,
    /// Revisions of files.
    pub revisions: u64,
    /// Contents.
    pub blobs: u64,
    /// Bytes of contents.
    pub bytes: u64,
}

/// The last frame.
#[derive(Serialize, Deserialize)]
struct Trailer {
    counts: Counts,
    /// Of every byte before this frame.
    sha256: Sha256,
}

/// A blob, as it stands in a dump.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BlobHead {
    pub(crate) id: BlobId,
    pub(crate) size: u64,
    /// Revisions in the dump that refer to it.
    pub(crate) refs: u32,
    /// `None`: the content stands behind this, in the same frame.
    pub(crate) chunks: Option<Vec<ChunkHead>>,
}

/// A chunk of a blob, as it stands in a dump: its bytes follow in frames of their own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChunkHead {
    pub(crate) id: ChunkId,
    pub(crate) length: u64,
    pub(crate) checksum: u32,
}

/// What a frame holds.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Header(Header),
    /// To be taken apart with [`records_of`].
    Records(Bytes),
    /// A blob, and its content if that is in the frame.
    Blob(BlobHead, Bytes),
    /// More content of the blob before.
    Data(Bytes),
    /// The end; everything before has been verified.
    End(Counts),
}

/// Writes frames and keeps the digest of what it wrote.
#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    hash: Sha256Stream,
}

impl FrameWriter {
    /// What a dump begins with.
    pub(crate) fn begin(&mut self, header: &Header) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        append_frame(&mut out, HEADER, &[&serialized(header)]);
        self.hash.update(&out);
        out
    }

    /// Takes note of frames that were made before ([`records_frame`]).
    pub(crate) fn pass(&mut self, frames: &[u8]) {
        self.hash.update(frames);
    }

    pub(crate) fn blob(&mut self, out: &mut Vec<u8>, head: &BlobHead, content: &[u8]) {
        let head = serialized(head);
        self.append(out, BLOB, &[&head, content]);
    }

    /// Content; it may be longer than a frame.
    pub(crate) fn data(&mut self, out: &mut Vec<u8>, content: &[u8]) {
        for piece in content.chunks(FRAME_BYTES_MAX) {
            self.append(out, DATA, &[piece]);
        }
    }

    /// The end.
    pub(crate) fn end(self, counts: Counts) -> Vec<u8> {
        let mut out = Vec::new();
        let trailer = Trailer { counts, sha256: self.hash.finish() };
        append_frame(&mut out, TRAILER, &[&serialized(&trailer)]);
        out
    }

    fn append(&mut self, out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
        let start = out.len();
        append_frame(out, kind, parts);
        self.hash.update(out.get(start..).unwrap_or_default());
    }
}

fn serialized<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data always serialises")
}

fn append_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let start = out.len();
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(HEAD_BYTES + length + CHECKSUM_BYTES);
    out.push(kind);
    let length = u32::try_from(length).expect("frames are at most 2 MiB");
    out.extend_from_slice(&length.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    let checksum = crc32c(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// A frame of records from what [`append_record`] has put together.
pub(crate) fn records_frame(records: &[u8]) -> Bytes {
    let mut out = Vec::new();
    append_frame(&mut out, RECORDS, &[records]);
    out.into()
}

/// Adds a record to those of a frame.
pub(crate) fn append_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) -> Result<()> {
    let too_long = |_| Error::internal("a record is too long for a dump");
    let key_length = u16::try_from(key.len()).map_err(too_long)?;
    let value_length = u32::try_from(value.len()).map_err(too_long)?;
    records.extend_from_slice(&key_length.to_le_bytes());
    records.extend_from_slice(&value_length.to_le_bytes());
    records.extend_from_slice(key);
    records.extend_from_slice(value);
    Ok(())
}

/// The records of a frame, keys and values.
pub(crate) fn records_of(mut records: Bytes) -> impl Iterator<Item = Result<(Bytes, Bytes)>> {
    std::iter::from_fn(move || {
        if records.is_empty() {
            return None;
        }
        if records.len() < 6 {
            records.clear();
            return Some(Err(malformed("records")));
        }
        let key_length = usize::from(records.get_u16_le());
        let value_length = usize::try_from(records.get_u32_le()).unwrap_or(usize::MAX);
        if records.len() < key_length.saturating_add(value_length) {
            records.clear();
            return Some(Err(malformed("records")));
        }
        let key = records.split_to(key_length);
        Some(Ok((key, records.split_to(value_length))))
    })
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("the dump is damaged: malformed {what}"))
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::BadDigest, format!("the dump is damaged: {what}"))
}

/// Takes a dump apart, however it is cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
    hash: Sha256Stream,
    begun: bool,
    header: bool,
    ended: bool,
    /// Bytes of the current blob that have not come yet.
    data_left: u64,
    blobs: u64,
    bytes: u64,
}

impl Frames {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` until more bytes come. After an error there is nothing more.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        if !self.begun {
            if self.buffer.len() < MAGIC.len() {
                return self.check_magic(self.buffer.len()).map(|()| None);
            }
            self.check_magic(MAGIC.len())?;
            self.hash.update(&self.buffer.split_to(MAGIC.len()));
            self.begun = true;
        }
        if self.ended && !self.buffer.is_empty() {
            return Err(malformed("end: bytes follow it"));
        }
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX + 1024 {
            return Err(damaged("a frame is longer than one can be"));
        }
        let whole = HEAD_BYTES + length + CHECKSUM_BYTES;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(whole).freeze();
        let checksum = frame.split_off(HEAD_BYTES + length);
        if checksum.as_ref() != crc32c(&frame).to_le_bytes() {
            return Err(damaged("the checksum of a frame does not match"));
        }
        if kind != TRAILER {
            self.hash.update(&frame);
            self.hash.update(&checksum);
        }
        frame.advance(HEAD_BYTES);
        self.frame(kind, frame).map(Some)
    }

    /// Whether the end has come, with nothing behind it.
    pub(crate) fn is_whole(&self) -> bool {
        self.ended && self.buffer.is_empty()
    }

    fn check_magic(&self, length: usize) -> Result<()> {
        let (found, expected) = (self.buffer.get(..length), MAGIC.get(..length));
        if found == expected {
            return Ok(());
        }
        if length == MAGIC.len() && found.and_then(|found| found.get(..11)) == MAGIC.get(..11) {
            return Err(Error::invalid("the dump has a form that this version does not know"));
        }
        Err(Error::invalid("this is no dump"))
    }

    fn frame(&mut self, kind: u8, payload: Bytes) -> Result<Frame> {
        if (kind == HEADER) == self.header {
            return Err(malformed("order of frames"));
        }
        if (kind == DATA) != (self.data_left > 0) {
            return Err(malformed("order of contents"));
        }
        match kind {
            HEADER => {
                self.header = true;
                Ok(Frame::Header(parsed(&payload, "header")?))
            }
            RECORDS => Ok(Frame::Records(payload)),
            BLOB => self.blob(&payload),
            DATA => {
                let left = self.data_left.checked_sub(payload.len() as u64);
                self.data_left = left.ok_or_else(|| malformed("content: it is too long"))?;
                self.bytes += payload.len() as u64;
                Ok(Frame::Data(payload))
            }
            TRAILER => {
                let trailer: Trailer = parsed(&payload, "end")?;
                if std::mem::take(&mut self.hash).finish() != trailer.sha256 {
                    return Err(damaged("its digest does not match"));
                }
                if (trailer.counts.blobs, trailer.counts.bytes) != (self.blobs, self.bytes) {
                    return Err(malformed("end: contents are missing"));
                }
                self.ended = true;
                Ok(Frame::End(trailer.counts))
            }
            _ => Err(Error::invalid("the dump has frames that this version does not know")),
        }
    }

    fn blob(&mut self, payload: &Bytes) -> Result<Frame> {
        let (head, content) = postcard::take_from_bytes::<BlobHead>(payload)
            .map_err(|error| malformed("blob").with_source(error))?;
        let content = payload.slice_ref(content);
        let length = match &head.chunks {
            None => content.len() as u64,
            Some(chunks) if !content.is_empty() || chunks.len() > CHUNKS_MAX => {
                return Err(malformed("blob"));
            }
            Some(chunks) => chunks
                .iter()
                .try_fold(0u64, |sum, chunk| sum.checked_add(chunk.length))
                .ok_or_else(|| malformed("blob"))?,
        };
        if length != head.size || head.refs == 0 {
            return Err(malformed("blob"));
        }
        self.data_left = if head.chunks.is_some() { length } else { 0 };
        self.blobs += 1;
        self.bytes += content.len() as u64;
        Ok(Frame::Blob(head, content))
    }
}

fn parsed<T: DeserializeOwned>(payload: &[u8], what: &str) -> Result<T> {
    match postcard::take_from_bytes::<T>(payload) {
        Ok((value, [])) => Ok(value),
        _ => Err(malformed(what)),
    }
}

/// Counts what is in a dump, and looks at each record as far as its family says.
#[derive(Debug, Default)]
pub(crate) struct Tally(pub(crate) Counts);

impl Tally {
    /// Counts a record and says what it is. What no family knows, or has another form than it
    /// should have, is refused.
    pub(crate) fn record(&mut self, key: &Bytes, value: &Bytes) -> Result<Parsed> {
        let known = family::of(key).filter(|family| family.form != Form::Never);
        let family = known.ok_or_else(|| {
            let key = key.get(..2).unwrap_or_default().escape_ascii();
            Error::invalid(format!("the dump has records `{key}` that this version does not know"))
        })?;
        self.0.records += 1;
        match &family.name {
            b"sp" => self.0.spaces += 1,
            b"us" => self.0.users += 1,
            b"no" => self.0.nodes += 1,
            _ => {}
        }
        let parsed = Parsed::of(family.form, key, value)?;
        self.0.revisions += u64::from(parsed.file().is_some());
        Ok(parsed)
    }

    /// Counts a blob.
    pub(crate) fn blob(&mut self, size: u64) {
        self.0.blobs += 1;
        self.0.bytes += size;
    }
}

/// A record, understood as far as dumps must.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// As it is.
    Plain,
    Dirent(Dirent),
    Revision(FileState),
    Trashed(Trashed),
}

impl Parsed {
    fn of(form: Form, key: &Bytes, value: &Bytes) -> Result<Self> {
        let refused = |error: Error| Error::invalid(format!("the dump: {}", error.detail()));
        Ok(match form {
            Form::Dirent => Self::Dirent(schema::decode(key, value).map_err(refused)?),
            Form::Revision => Self::Revision(schema::decode(key, value).map_err(refused)?),
            Form::Trashed => Self::Trashed(schema::decode(key, value).map_err(refused)?),
            Form::Counters | Form::Meters => match larder_meta::Merge::decode(value) {
                Some(_) => Self::Plain,
                None => return Err(malformed("counters")),
            },
            Form::Plain | Form::Never if value.is_empty() => return Err(malformed("record")),
            Form::Plain | Form::Never => Self::Plain,
        })
    }

    /// The revision of a file that it is, if that has content.
    pub(crate) fn file(&self) -> Option<&FileState> {
        match self {
            Self::Dirent(Dirent { body: DirentBody::File(state), .. })
            | Self::Trashed(Trashed { body: TrashedBody::File(state), .. })
            | Self::Revision(state) => Some(state).filter(|state| !state.is_marker()),
            _ => None,
        }
    }

    /// The same.
    pub(crate) fn file_mut(&mut self) -> Option<&mut FileState> {
        match self {
            Self::Dirent(Dirent { body: DirentBody::File(state), .. })
            | Self::Trashed(Trashed { body: TrashedBody::File(state), .. })
            | Self::Revision(state) => Some(state).filter(|state| !state.is_marker()),
            _ => None,
        }
    }

    /// The stored form, if it is not the one that was parsed.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        match self {
            Self::Plain => None,
            Self::Dirent(dirent) => Some(schema::encode(dirent)),
            Self::Revision(state) => Some(schema::encode(state)),
            Self::Trashed(trashed) => Some(schema::encode(trashed)),
        }
    }
}

/// Verifies a dump without a server.
#[derive(Debug, Default)]
pub struct Verifier {
    frames: Frames,
    tally: Tally,
    header: Option<Header>,
    said: Option<Counts>,
}

impl Verifier {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// `BadDigest` or `Invalid` as soon as something is wrong; what comes after is not looked at.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.frames.push(bytes);
        while let Some(frame) = self.frames.next()? {
            match frame {
                Frame::Header(header) => self.header = Some(header),
                Frame::Records(records) => {
                    for record in records_of(records) {
                        let (key, value) = record?;
                        self.tally.record(&key, &value)?;
                    }
                }
                Frame::Blob(head, _) => self.tally.blob(head.size),
                Frame::Data(_) => {}
                Frame::End(counts) => self.said = Some(counts),
            }
        }
        Ok(())
    }

    /// Says that nothing more comes; answers what the dump is of, and how much is in it.
    ///
    /// # Errors
    /// `Invalid` if it was cut off.
    pub fn finish(self) -> Result<(Header, Counts)> {
        let (Some(header), Some(said), true) = (self.header, self.said, self.frames.is_whole())
        else {
            return Err(cut_off());
        };
        if said != self.tally.0 {
            return Err(malformed("end: its counts are others"));
        }
        Ok((header, said))
    }
}

/// The dump ended before its end.
pub(crate) fn cut_off() -> Error {
    Error::invalid("the dump is cut off")
}
