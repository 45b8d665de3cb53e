//! Stored forms: the raw value of a key in the tables, and the record of a commit in the log.
//!
//! Promises: decoding is total: bytes that were not encoded here are an error, never a panic.
//! The bytes: `docs/formats/log.md`.
//!
//! Not here: batches and segments (`larder_disk::log`).

use larder_disk::log::BatchBuffer;
use lsm_tree::Slice;

use crate::store::Version;

/// Values at least this long stay in the log, and the tables hold a pointer to them.
///
/// Rewriting a value in every merge of the tables costs more than one read of the log from here
/// on; records other than small file bodies are shorter.
pub(super) const POINTER_BYTES: usize = 1024;

const INLINE: u8 = 0;
const POINTER: u8 = 1;

/// Where a value stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) segment: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
}

/// The raw value of a key, as the tables hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// Where it stands.
    Pointer(Pointer),
}

/// Bytes of ours that are not what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Raw<'_> {
    /// The raw form of a value that stands in the tables.
    pub(super) fn encode_inline(version: Version, value: &[u8]) -> Slice {
        let mut bytes = Vec::with_capacity(9 + value.len());
        bytes.push(INLINE);
        bytes.extend_from_slice(&version.0.to_le_bytes());
        bytes.extend_from_slice(value);
        Slice::from(bytes)
    }

    /// The raw form of a value that stands in the log.
    pub(super) fn encode_pointer(version: Version, pointer: &Pointer) -> Slice {
        let mut bytes = [0; 29];
        bytes[0] = POINTER;
        bytes[1..9].copy_from_slice(&version.0.to_le_bytes());
        bytes[9..17].copy_from_slice(&pointer.segment.to_le_bytes());
        bytes[17..21].copy_from_slice(&pointer.offset.to_le_bytes());
        bytes[21..25].copy_from_slice(&pointer.length.to_le_bytes());
        bytes[25..29].copy_from_slice(&pointer.crc.to_le_bytes());
        Slice::from(&bytes[..])
    }
}

/// Reads a raw value.
pub(super) fn decode_raw(raw: &[u8]) -> Result<(Version, Raw<'_>), Malformed> {
    let mut bytes = Input { rest: raw };
    let tag = bytes.u8()?;
    let version = Version(bytes.u64()?);
    match tag {
        INLINE => Ok((version, Raw::Inline(bytes.rest))),
        POINTER => {
            let pointer = Pointer {
                segment: bytes.u64()?,
                offset: bytes.u32()?,
                length: bytes.u32()?,
                crc: bytes.u32()?,
            };
            if bytes.rest.is_empty() {
                Ok((version, Raw::Pointer(pointer)))
            } else {
                Err(Malformed)
            }
        }
        _ => Err(Malformed),
    }
}

const PUT: u8 = 0;
const DELETE: u8 = 1;
const MOVE: u8 = 2;
const DEAD: u8 = 3;

const WITH_OPERATION: u8 = 1;
const WITH_FENCE: u8 = 2;

/// Most bytes that an entry has besides its key and value.
pub(super) const ENTRY_OVERHEAD: usize = 15;
/// Most bytes that a record has besides its entries.
pub(super) const RECORD_OVERHEAD: usize = 41;

/// Writes one commit's record at the end of a batch.
#[derive(Debug)]
pub(super) struct RecordWriter<'a> {
    batch: &'a mut BatchBuffer,
    start: usize,
    entries_at: usize,
    entries: u32,
}

impl<'a> RecordWriter<'a> {
    /// Starts the record of the commit with this number.
    pub(super) fn new(
        batch: &'a mut BatchBuffer,
        commit: u64,
        operation: Option<&[u8; 16]>,
        fence: Option<u64>,
    ) -> Self {
        let start = batch.len();
        batch.extend(&[0; 4]);
        batch.extend(&commit.to_le_bytes());
        let with_operation = if operation.is_some() { WITH_OPERATION } else { 0 };
        let with_fence = if fence.is_some() { WITH_FENCE } else { 0 };
        batch.extend(&[with_operation | with_fence]);
        if let Some(operation) = operation {
            batch.extend(operation);
        }
        if let Some(fence) = fence {
            batch.extend(&fence.to_le_bytes());
        }
        let entries_at = batch.len();
        batch.extend(&[0; 4]);
        Self { batch, start, entries_at, entries: 0 }
    }

    fn key(&mut self, kind: u8, key: &[u8], value: usize) {
        self.entries += 1;
        let mut head = [0; 7];
        head[0] = kind;
        head[1..3].copy_from_slice(&(key.len() as u16).to_le_bytes());
        head[3..7].copy_from_slice(&(value as u32).to_le_bytes());
        self.batch.extend(&head);
    }

    /// The key has this value; returns where the value stands in the batch.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> usize {
        self.key(PUT, key, value.len());
        self.batch.extend(key);
        let at = self.batch.len();
        self.batch.extend(value);
        at
    }

    /// The key has this value, which an earlier commit gave it; returns where it stands.
    pub(super) fn moved(&mut self, key: &[u8], version: Version, value: &[u8]) -> usize {
        self.key(MOVE, key, value.len());
        self.batch.extend(&version.0.to_le_bytes());
        self.batch.extend(key);
        let at = self.batch.len();
        self.batch.extend(value);
        at
    }

    /// The key has no value.
    pub(super) fn delete(&mut self, key: &[u8]) {
        self.key(DELETE, key, 0);
        self.batch.extend(key);
    }

    /// A value of this length in this segment is needed no more.
    pub(super) fn dead(&mut self, segment: u64, length: u32) {
        self.entries += 1;
        let mut entry = [0; 13];
        entry[0] = DEAD;
        entry[1..9].copy_from_slice(&segment.to_le_bytes());
        entry[9..13].copy_from_slice(&length.to_le_bytes());
        self.batch.extend(&entry);
    }

    /// Completes the record.
    pub(super) fn finish(self) {
        let length = (self.batch.len() - self.start - 4) as u32;
        self.batch.patch(self.start, &length.to_le_bytes());
        self.batch.patch(self.entries_at, &self.entries.to_le_bytes());
    }
}

/// One change of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// The key has this value, written by the commit with this number, at this offset of the
    /// payload.
    Put { key: &'a [u8], value: &'a [u8], version: Version, at: usize },
    /// The key has no value.
    Delete { key: &'a [u8] },
    /// A value of this length in this segment is needed no more.
    Dead { segment: u64, length: u32 },
}

/// Calls `each` with the commit number and every entry of every record of a payload, in order.
pub(super) fn read_payload<'a>(
    payload: &'a [u8],
    mut each: impl FnMut(u64, Entry<'a>),
) -> Result<(), Malformed> {
    let mut input = Input { rest: payload };
    while !input.rest.is_empty() {
        let length = input.u32()? as usize;
        let mut record = Input { rest: input.take(length)? };
        let commit = record.u64()?;
        let flags = record.u8()?;
        if flags & WITH_OPERATION != 0 {
            record.take(16)?;
        }
        if flags & WITH_FENCE != 0 {
            record.take(8)?;
        }
        for _ in 0..record.u32()? {
            each(commit, record.entry(commit, payload)?);
        }
        if !record.rest.is_empty() {
            return Err(Malformed);
        }
    }
    Ok(())
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn entry(&mut self, commit: u64, payload: &'a [u8]) -> Result<Entry<'a>, Malformed> {
        let kind = self.u8()?;
        if kind == DEAD {
            return Ok(Entry::Dead { segment: self.u64()?, length: self.u32()? });
        }
        let key_length = usize::from(self.u16()?);
        let value_length = self.u32()? as usize;
        let version = if kind == MOVE { self.u64()? } else { commit };
        let key = self.take(key_length)?;
        if key.is_empty() {
            return Err(Malformed);
        }
        match kind {
            PUT | MOVE => {
                let at = payload.len() - self.after(payload);
                let value = self.take(value_length)?;
                Ok(Entry::Put { key, value, version: Version(version), at })
            }
            DELETE if value_length == 0 => Ok(Entry::Delete { key }),
            _ => Err(Malformed),
        }
    }

    /// Bytes of `payload` from here on; what is left is always a part of it.
    fn after(&self, payload: &[u8]) -> usize {
        payload.as_ptr_range().end.addr() - self.rest.as_ptr().addr()
    }
}

/// Where replay starts, and how much of each segment is live: what the tables say of the log.
/// It is the last record of every set of records that is written to the tables together, so
/// that the two cannot disagree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// The number that the batch there has or will have.
    pub(super) number: u64,
    pub(super) accounts: Vec<(u64, Account)>,
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Bytes of the file.
    pub(super) capacity: u64,
    /// Where its last batch ends.
    pub(super) used: u64,
    /// Bytes of values in it that pointers lead to.
    pub(super) live: u64,
    /// Bytes of values in it that pointers ever led to.
    pub(super) pointed: u64,
}

impl Checkpoint {
    const FORMAT: u8 = 1;

    pub(super) fn encode(&self) -> Slice {
        let mut bytes = Vec::with_capacity(29 + self.accounts.len() * 40);
        bytes.push(Self::FORMAT);
        for number in [self.segment, self.offset, self.number] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.accounts.len() as u32).to_le_bytes());
        for (segment, account) in &self.accounts {
            for number in [*segment, account.capacity, account.used, account.live, account.pointed]
            {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        Slice::from(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input { rest: bytes };
        if input.u8()? != Self::FORMAT {
            return Err(Malformed);
        }
        let (segment, offset, number) = (input.u64()?, input.u64()?, input.u64()?);
        let mut accounts = Vec::new();
        for _ in 0..input.u32()? {
            let segment = input.u64()?;
            let account = Account {
                capacity: input.u64()?,
                used: input.u64()?,
                live: input.u64()?,
                pointed: input.u64()?,
            };
            accounts.push((segment, account));
        }
        Ok(Self { segment, offset, number, accounts })
    }
}

#[cfg(test)]
mod tests {
    use larder_disk::log::BATCH_HEADER;

    use super::*;

    #[test]
    fn a_record_reads_back_and_says_where_its_values_stand() {
        let mut batch = BatchBuffer::default();
        let mut record = RecordWriter::new(&mut batch, 7, Some(&[1; 16]), Some(9));
        let put = record.put(b"key", b"value");
        let moved = record.moved(b"old", Version(3), b"body");
        record.delete(b"gone");
        record.dead(4, 100);
        record.finish();
        RecordWriter::new(&mut batch, 8, None, None).finish();
        let payload = batch.payload().to_vec();
        let mut found = Vec::new();
        read_payload(&payload, |commit, entry| found.push((commit, entry))).unwrap();
        let at = put - BATCH_HEADER;
        let expected = [
            Entry::Put { key: b"key", value: b"value", version: Version(7), at },
            Entry::Put {
                key: b"old",
                value: b"body",
                version: Version(3),
                at: moved - BATCH_HEADER,
            },
            Entry::Delete { key: b"gone" },
            Entry::Dead { segment: 4, length: 100 },
        ]
        .map(|entry| (7, entry));
        assert_eq!(found, expected);
        assert_eq!(&payload[at..at + 5], b"value");
        for cut in 1..payload.len() {
            // A cut is an error, or it lies between the two records.
            let read = read_payload(&payload[..cut], |_, _| {});
            assert!(read.is_err() || payload.len() - cut == 17, "cut at {cut}");
        }
    }

    #[test]
    fn raw_values_and_checkpoints_read_back() {
        let pointer = Pointer { segment: u64::MAX, offset: 1, length: 2, crc: 3 };
        let raw = Raw::encode_pointer(Version(5), &pointer);
        assert_eq!(decode_raw(&raw), Ok((Version(5), Raw::Pointer(pointer))));
        let raw = Raw::encode_inline(Version(6), b"");
        assert_eq!(decode_raw(&raw), Ok((Version(6), Raw::Inline(b""))));
        assert_eq!(decode_raw(&raw[..8]), Err(Malformed));
        let account = Account { capacity: 1, used: 2, live: 3, pointed: 4 };
        let checkpoint =
            Checkpoint { segment: 1, offset: 2, number: 3, accounts: vec![(9, account)] };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }
}
