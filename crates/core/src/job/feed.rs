//! Removing old changes from feeds: those past their age, and the oldest of too many.
//!
//! Promises: what is removed, and up to where, is one commit, so that a reader who would miss
//! something is told so (I-FEED-3). Small steps that free room; a crash between them costs
//! nothing.
//!
//! Not here: reading feeds (`feed`).

use std::time::Duration;

use larder_base::{Timestamp, id::SpaceId};

use crate::{
    Larder,
    error::Result,
    feed::Position,
    schema::{self, ChangeRecord, FeedBase, Space, SpaceState},
    txn::{self, Pages, transact},
};

/// Changes removed by one transaction.
const BATCH: usize = 100;

/// Changes, or spaces, read at once.
const PAGE: usize = 1000;

/// Longest pause between two looks at all feeds.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Shortest pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Most spaces whose counts are remembered.
const COUNTED_MAX: usize = 10_000;

impl Larder {
    /// Trims all feeds, if it is time to.
    pub(crate) async fn trim_feeds(&self, now: Timestamp, at_once: bool) -> Result<()> {
        let uptime = self.inner.env.monotonic();
        if !at_once && uptime < self.inner.feeds.trimming().due {
            return Ok(());
        }
        let mut pages = Pages::of(schema::spaces_prefix(), PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, _) in &page {
                if self.inner.stopping() {
                    return Ok(());
                }
                self.trim_feed(SpaceId::from_bytes(schema::trailing_id(key)?), now).await?;
            }
        }
        let age = self.inner.config.feed_retention.unwrap_or(PAUSE_MAX);
        self.inner.feeds.trimming().due = uptime + (age / 10).clamp(PAUSE_MIN, PAUSE_MAX);
        Ok(())
    }

    async fn trim_feed(&self, id: SpaceId, now: Timestamp) -> Result<()> {
        let max = self.inner.config.feed_entries_max;
        let mut over = self.count_changes(id).await?.saturating_sub(max);
        loop {
            let (removed, _) = transact!(self, id, |txn| {
                let space_key = schema::space_key(id);
                let space = match txn.get::<Space>(&space_key).await? {
                    Some(space) if space.value.state == SpaceState::Enabled => space,
                    // What is left goes with the space.
                    _ => return Ok(()),
                };
                let prefix = schema::changes_prefix(id);
                let records = txn::page(&*txn.snapshot, &prefix, None, BATCH).await?;
                let mut removed = None;
                for (i, (key, record)) in (0u64..).zip(&records) {
                    let old = || -> Result<bool> {
                        let change: ChangeRecord = schema::decode(key, &record.value)?;
                        let age = self.inner.config.feed_retention;
                        Ok(age.is_some_and(|age| now.since(change.at) >= age))
                    };
                    if i >= over && !old()? {
                        break;
                    }
                    txn.delete(key.clone());
                    removed = Some((i + 1, Position::of_key(key)?));
                }
                let Some((count, last)) = removed else { return Ok(()) };
                txn.frees();
                txn.hold(space_key, space.version);
                let base_key = schema::feed_base_key(id);
                let removed = match txn.get::<FeedBase>(&base_key).await? {
                    Some(base) => {
                        txn.hold(base_key.clone(), base.version);
                        base.value.removed.max(last)
                    }
                    None => {
                        txn.hold_absent(base_key.clone());
                        last
                    }
                };
                txn.put(base_key, &FeedBase { removed });
                count
            });
            over = over.saturating_sub(removed);
            self.inner.metrics.feed_trimmed.add(removed);
            if let Some((_, count)) = self.inner.feeds.trimming().counted.get_mut(&id) {
                *count = count.saturating_sub(removed);
            }
            if removed < BATCH as u64 || self.inner.stopping() {
                return Ok(());
            }
        }
    }

    /// How many changes a feed has. Each is counted once, with the look after it came.
    async fn count_changes(&self, id: SpaceId) -> Result<u64> {
        let prefix = schema::changes_prefix(id);
        let counted = self.inner.feeds.trimming().counted.get(&id).copied();
        let mut after = counted.map(|(position, _)| schema::change_key(id, position));
        let mut count = counted.map_or(0, |(_, count)| count);
        loop {
            let snapshot = self.inner.meta.snapshot().await?;
            let page = txn::page(&*snapshot, &prefix, after.as_deref(), PAGE).await?;
            drop(snapshot);
            count += page.len() as u64;
            let last = match page.last() {
                Some((key, _)) => Position::of_key(key)?,
                None => return Ok(count),
            };
            after = Some(schema::change_key(id, last));
            let mut trimming = self.inner.feeds.trimming();
            if trimming.counted.len() >= COUNTED_MAX {
                trimming.counted.clear();
            }
            trimming.counted.insert(id, (last, count));
            drop(trimming);
            if page.len() < PAGE {
                return Ok(count);
            }
        }
    }

    /// Removes all that is left of the feed of a space that is going.
    pub(crate) async fn purge_feed(&self, id: SpaceId) -> Result<()> {
        let prefix = schema::changes_prefix(id);
        loop {
            let (removed, _) = transact!(self, id, |txn| {
                let records = txn::page(&*txn.snapshot, &prefix, None, BATCH).await?;
                if records.is_empty() {
                    return Ok(());
                }
                txn.frees();
                for (key, _) in &records {
                    txn.delete(key.clone());
                }
                records.len()
            });
            self.inner.feeds.trimming().counted.remove(&id);
            if removed < BATCH {
                return Ok(());
            }
        }
    }
}
