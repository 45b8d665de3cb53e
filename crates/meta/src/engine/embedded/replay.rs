//! Finding the state again at open: the tables as of their checkpoint, then the log from there.
//!
//! Promises: a commit that was acknowledged is found, or the open fails and names the place.
//! What is replayed twice has the same effect as once: records carry resulting values and their
//! commit numbers. The last batch is written and synced again, because it may have been written
//! but never synced before the process ended, and what is read from now on must be durable.
//!
//! Not here: what batches look like (`larder_disk::log`), locking and identity ([`super::open`]).

use std::{collections::BTreeMap, sync::Arc};

use larder_base::digest::crc32c;
use larder_disk::log::{
    BATCH_HEADER, BLOCK, LogDirectory, LogError, Reader, Segment, Writer, padded,
};

use super::{
    OpenError,
    record::{Account, Checkpoint, Entry, POINTER_BYTES, Pointer, Raw, read_payload},
    tables::{Tables, is_full},
};

/// What replay found.
pub(super) struct Replayed {
    pub(super) writer: Writer,
    pub(super) accounts: BTreeMap<u64, Account>,
    /// Prepared segments behind the end of the log.
    pub(super) unused: Vec<Segment>,
    /// Where replay would start now.
    pub(super) replay_from: u64,
    /// Bytes of the log that were replayed and not flushed since.
    pub(super) unflushed: u64,
    pub(super) last_commit: u64,
}

struct Replay<'a> {
    directory: &'a LogDirectory,
    tables: &'a Tables,
    overlay_bytes: u64,
    /// Gives up the room that is kept for the tables; whether there was any.
    give_up_reserve: &'a dyn Fn() -> bool,
    accounts: BTreeMap<u64, Account>,
    last_commit: u64,
    unflushed: u64,
    replay_from: u64,
}

/// Replays the log's `segments`, in ascending order, into `tables`.
pub(super) fn replay(
    directory: &LogDirectory,
    segments: &[u64],
    tables: &Tables,
    overlay_bytes: u64,
    give_up_reserve: &dyn Fn() -> bool,
) -> Result<Replayed, OpenError> {
    let checkpoint = match tables.checkpoint()? {
        Some(Ok(checkpoint)) => checkpoint,
        Some(Err(_malformed)) => return Err(OpenError::Damaged("tables: checkpoint".into())),
        // Nothing has ever been flushed.
        None => Checkpoint { segment: 1, offset: BLOCK as u64, number: 1, accounts: Vec::new() },
    };
    let mut replay = Replay {
        directory,
        tables,
        overlay_bytes,
        give_up_reserve,
        accounts: checkpoint.accounts.iter().copied().collect(),
        last_commit: tables.durable(),
        unflushed: 0,
        replay_from: checkpoint.segment,
    };
    tables.number_after(replay.last_commit);
    replay.check_presence(segments, &checkpoint)?;
    let (end, reader, mut rest) = replay.run(segments, &checkpoint)?;
    replay.check_accounts(segments)?;
    let number = reader.number().unwrap_or(checkpoint.number);
    let writer = Writer::new(Arc::clone(&end), reader.offset(), number);
    let account = replay.accounts.entry(end.sequence()).or_default();
    account.capacity = end.header().capacity;
    account.used = account.used.max(writer.position());
    rest.retain(|segment| segment.sequence() > end.sequence());
    Ok(Replayed {
        writer,
        accounts: replay.accounts,
        unused: rest,
        replay_from: replay.replay_from,
        unflushed: replay.unflushed,
        last_commit: replay.last_commit,
    })
}

impl Replay<'_> {
    /// Refuses if a segment is missing that replay or a live pointer needs.
    fn check_presence(&self, segments: &[u64], from: &Checkpoint) -> Result<(), OpenError> {
        let missing = |sequence| {
            let path = self.directory.segment_path(sequence);
            OpenError::Missing(format!("log segment {}", path.display()))
        };
        if !segments.contains(&from.segment) {
            return Err(missing(from.segment));
        }
        let tail = segments.iter().copied().filter(|sequence| *sequence >= from.segment);
        for (expected, found) in (from.segment..).zip(tail) {
            if expected != found {
                return Err(missing(expected));
            }
        }
        Ok(())
    }

    /// Refuses if, after replay, something is alive in a segment that is not there.
    fn check_accounts(&self, segments: &[u64]) -> Result<(), OpenError> {
        for (sequence, account) in &self.accounts {
            if account.live > 0 && !segments.contains(sequence) {
                let path = self.directory.segment_path(*sequence);
                return Err(OpenError::Missing(format!("log segment {}", path.display())));
            }
        }
        Ok(())
    }

    /// Replays all that is intact and contiguous. Answers the segment in which the log ends,
    /// the reader that stands there, and the segments behind it.
    fn run(
        &mut self,
        segments: &[u64],
        from: &Checkpoint,
    ) -> Result<(Arc<Segment>, Reader, Vec<Segment>), OpenError> {
        let mut open = Vec::new();
        for sequence in segments.iter().filter(|sequence| **sequence >= from.segment) {
            open.push(self.directory.open_segment(*sequence)?);
        }
        let mut open = open.into_iter();
        let first = open.next().ok_or_else(|| OpenError::Damaged("the log is empty".into()))?;
        let mut segment = Arc::new(first);
        let mut reader = Reader::new(Arc::clone(&segment), from.offset, Some(from.number));
        self.read(&mut reader, &segment)?;
        let mut rest: Vec<Segment> = open.collect();
        loop {
            self.refuse_damage(&mut reader, &segment)?;
            if rest.is_empty() {
                break;
            }
            // The log goes on in the next segment if that starts with the next batch.
            let next = Arc::new(rest.remove(0));
            let number = reader.number();
            let mut ahead = Reader::new(Arc::clone(&next), BLOCK as u64, number);
            if self.read(&mut ahead, &next)? == 0 {
                // It does not: then nothing behind may have been written after what is missing.
                let end = (segment.sequence(), reader.offset());
                self.refuse_later(end, &next, number)?;
                // `next` is unused, too. Those behind it would have been begun only after it
                // was full, so that their first blocks tell.
                for behind in &rest {
                    let behind = self.directory.open_segment(behind.sequence())?;
                    let mut first = Reader::new(Arc::new(behind), BLOCK as u64, None);
                    let path = next.file().path().to_owned();
                    let found = first.next_batch().map_err(|source| LogError::Io { path, source });
                    if found?.is_some() {
                        return Err(OpenError::damaged_log(next.sequence(), BLOCK as u64));
                    }
                }
                let sequence = next.sequence();
                rest.insert(0, self.directory.open_segment(sequence)?);
                break;
            }
            segment = next;
            reader = ahead;
        }
        Ok((segment, reader, rest))
    }

    /// Replays the batches that `reader` finds; returns how many.
    fn read(&mut self, reader: &mut Reader, segment: &Arc<Segment>) -> Result<u64, OpenError> {
        let mut batches = 0;
        let mut last = None;
        let path = segment.file().path().to_owned();
        let failed = |source| OpenError::Log(LogError::Io { path: path.clone(), source });
        while let Some(batch) = reader.next_batch().map_err(&failed)? {
            let length = padded(BATCH_HEADER + batch.payload.len());
            let offset = batch.offset;
            let account = self.accounts.entry(segment.sequence()).or_default();
            account.capacity = segment.header().capacity;
            account.used = offset + length as u64;
            self.apply(segment.sequence(), batch.payload_offset, batch.payload)?;
            self.unflushed += length as u64;
            batches += 1;
            last = Some((offset, length));
            self.bound_overlay(reader, segment)?;
        }
        if let Some((offset, length)) = last {
            let mut bytes = vec![0; length];
            segment.file().read_exact_at(&mut bytes, offset).map_err(&failed)?;
            segment.file().write_all_at(&bytes, offset).map_err(&failed)?;
            segment.file().sync_data().map_err(&failed)?;
        }
        Ok(batches)
    }

    /// Enters a batch's records into the overlay and the accounts.
    fn apply(&mut self, segment: u64, start: u64, payload: &[u8]) -> Result<(), OpenError> {
        let (tables, accounts) = (self.tables, &mut self.accounts);
        let mut last = self.last_commit;
        let read = read_payload(payload, |commit, entry| {
            last = last.max(commit);
            match entry {
                Entry::Put { key, value, version, at } => {
                    let raw = if value.len() < POINTER_BYTES {
                        Raw::encode_inline(version, value)
                    } else {
                        let account = accounts.entry(segment).or_default();
                        account.live += value.len() as u64;
                        account.pointed += value.len() as u64;
                        let pointer = Pointer {
                            segment,
                            offset: (start + at as u64) as u32,
                            length: value.len() as u32,
                            crc: crc32c(value),
                        };
                        Raw::encode_pointer(version, &pointer)
                    };
                    tables.insert(key, Some(raw), commit);
                }
                Entry::Delete { key } => tables.insert(key, None, commit),
                Entry::Dead { segment, length } => {
                    if let Some(account) = accounts.get_mut(&segment) {
                        account.live = account.live.saturating_sub(u64::from(length));
                    }
                }
            }
        });
        if read.is_err() {
            return Err(OpenError::Damaged(format!("log segment {segment} at {start}: record")));
        }
        self.last_commit = last;
        self.tables.number_after(last);
        Ok(())
    }

    /// Keeps the overlay within its bound while a long log is replayed.
    fn bound_overlay(&mut self, reader: &Reader, segment: &Segment) -> Result<(), OpenError> {
        if self.tables.overlay_bytes() < self.overlay_bytes {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            segment: segment.sequence(),
            offset: reader.offset(),
            number: reader.number().unwrap_or_default(),
            accounts: self.accounts.iter().map(|(s, a)| (*s, *a)).collect(),
        };
        self.tables.seal(&checkpoint);
        loop {
            let floor = self.tables.next_table();
            match self.tables.flush(self.last_commit) {
                Ok(()) => break,
                Err(error) if is_full(&error) => {
                    // On a full disk it stays in memory, as it was in the process before; who
                    // flushes when the store is open tries it again.
                    let _some_stay = self.tables.remove_leftovers(floor, self.last_commit);
                    if !(self.give_up_reserve)() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.replay_from = segment.sequence();
        self.unflushed = 0;
        Ok(())
    }

    /// Refuses if, in the segment where `reader` has stopped, something later was written.
    fn refuse_damage(&self, reader: &mut Reader, segment: &Segment) -> Result<(), OpenError> {
        let path = segment.file().path().to_owned();
        let later = reader.later().map_err(|source| LogError::Io { path, source })?;
        match later {
            None => Ok(()),
            Some(_) => Err(OpenError::damaged_log(segment.sequence(), reader.offset())),
        }
    }

    /// Refuses if `next` holds anything later than the batch `number` that was to follow `end`.
    fn refuse_later(
        &self,
        end: (u64, u64),
        next: &Arc<Segment>,
        number: Option<u64>,
    ) -> Result<(), OpenError> {
        let path = next.file().path().to_owned();
        let mut reader = Reader::new(Arc::clone(next), BLOCK as u64, number);
        let later = reader.later().map_err(|source| LogError::Io { path, source })?;
        match later {
            None => Ok(()),
            // The batch that is missing stood there if that segment had been begun with it.
            Some(offset) if offset > BLOCK as u64 && self.begins(next, number)? => {
                Err(OpenError::damaged_log(next.sequence(), BLOCK as u64))
            }
            Some(_) => Err(OpenError::damaged_log(end.0, end.1)),
        }
    }

    /// Whether the segment may have begun with the batch `number`: what follows is the next.
    fn begins(&self, segment: &Arc<Segment>, number: Option<u64>) -> Result<bool, OpenError> {
        let path = segment.file().path().to_owned();
        let mut reader = Reader::new(Arc::clone(segment), BLOCK as u64, None);
        let found = reader.resume().map_err(|source| LogError::Io { path, source })?;
        Ok(found && reader.number() == number.map(|number| number + 1))
    }
}
