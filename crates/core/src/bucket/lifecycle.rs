//! Lifecycle rules of buckets: which objects, versions and unfinished uploads end by themselves.
//!
//! They are S3's: a prefix is the beginning of keys, ages are whole days, and what ends on a day
//! ends when that day does. Their document is kept beside them, for whoever asks for it.
//!
//! Promises: rules are replaced together, in one commit; one that has been changed or removed is
//! not applied any more from the answer on.
//!
//! Not here: applying them (`job::bucket_lifecycle`), rules of trees (`crate::lifecycle`), the
//! document (the door).

use std::time::Duration;

use larder_base::{ErrorKind, Timestamp, id::SpaceId};
use larder_meta::Snapshot;
use serde::{Deserialize, Serialize};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::SpaceKind,
    error::{Error, Result},
    object::{Bucket, BucketSetting, ObjectInfo},
    schema::{self, FileState, Lifecycle},
    txn::{self, Stored, transact},
};

/// Most rules of one bucket.
const RULES_MAX: usize = 1000;

/// Longest document, in bytes.
const TEXT_BYTES_MAX: usize = 512 << 10;

/// What a day is to rules, unless `lifecycle.day` says otherwise.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Shortest day.
const DAY_MIN: Duration = Duration::from_millis(1);

/// The lifecycle of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketLifecycle {
    /// Its document.
    pub text: String,
    /// What that says.
    pub rules: Vec<BucketRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRule {
    /// Its name.
    pub id: String,
    /// Whether it is applied.
    pub enabled: bool,
    /// What keys begin with that it is for; empty is all.
    pub prefix: String,
    /// Tags that objects must have.
    pub tags: Vec<(String, String)>,
    /// Only objects of more bytes.
    pub larger_than: Option<u64>,
    /// Only objects of fewer bytes.
    pub smaller_than: Option<u64>,
    /// When objects end.
    pub expire: Option<BucketExpire>,
    /// Whether delete markers end that have no older version below them.
    pub markers: bool,
    /// So many days after a newer version took their place versions end, but for so many of the
    /// newest.
    pub noncurrent: Option<(u32, u32)>,
    /// So many days after they began unfinished multipart uploads end.
    pub abort_after: Option<u32>,
}

/// When objects end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketExpire {
    /// So many days after they were written.
    After(u32),
    /// All that there are from this time on.
    At(Timestamp),
}

/// The end of the day on which something is so many days old.
pub(crate) fn day_after(start: Timestamp, days: u32, day: Duration) -> Timestamp {
    let day = i64::try_from(day.max(DAY_MIN).as_millis()).unwrap_or(i64::MAX);
    let end = start.millis().saturating_add(day.saturating_mul(i64::from(days)));
    let into = end.rem_euclid(day);
    Timestamp::from_millis(if into == 0 { end } else { end.saturating_add(day - into) })
}

impl BucketRule {
    /// Whether it is about keys like this one.
    pub(crate) fn covers(&self, key: &str) -> bool {
        self.enabled && key.starts_with(&self.prefix)
    }

    /// Whether it is about an object of this size and with these tags.
    fn fits(&self, size: u64, info: Option<&ObjectInfo>) -> bool {
        let has = |tag: &(String, String)| info.is_some_and(|info| info.tags.contains(tag));
        self.larger_than.is_none_or(|least| size > least)
            && self.smaller_than.is_none_or(|most| size < most)
            && self.tags.iter().all(has)
    }

    /// Whether it is about this version.
    pub(crate) fn fits_version(&self, state: &FileState) -> bool {
        // A marker has no size and no tags.
        let filtered =
            self.larger_than.is_some() || self.smaller_than.is_some() || !self.tags.is_empty();
        if state.is_marker() {
            return !filtered;
        }
        self.fits(state.size, state.object.as_deref())
    }

    /// When the current version that was written then ends; `None` is never.
    pub(crate) fn end(&self, modified: Timestamp, day: Duration) -> Option<Timestamp> {
        match self.expire? {
            BucketExpire::After(days) => Some(day_after(modified, days, day)),
            BucketExpire::At(time) => Some(time),
        }
    }

    /// Whether the current version of an object has reached its end: it expires, or it is a
    /// delete marker with nothing below it.
    pub(crate) fn is_due(
        &self,
        key: &str,
        state: &FileState,
        now: Timestamp,
        day: Duration,
    ) -> bool {
        if !self.covers(key) || !self.fits_version(state) {
            return false;
        }
        let ended = self.end(state.modified, day).is_some_and(|end| now >= end);
        if state.is_marker() {
            return state.older == 0 && (self.markers || ended);
        }
        ended
    }
}

impl Larder {
    /// Replaces or removes the lifecycle rules of a bucket.
    ///
    /// Errors: `Denied` for those who do not manage it; `Conflict` for a tree; `TooLarge`.
    pub async fn set_bucket_lifecycle(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        lifecycle: Option<BucketLifecycle>,
    ) -> Result<()> {
        let too_large = |lifecycle: &BucketLifecycle| {
            lifecycle.rules.len() > RULES_MAX || lifecycle.text.len() > TEXT_BYTES_MAX
        };
        if lifecycle.as_ref().is_some_and(too_large) {
            let detail = format!("a bucket has at most {RULES_MAX} lifecycle rules");
            return Err(Error::new(ErrorKind::TooLarge, detail));
        }
        let key = schema::bucket_setting_key(bucket.id, BucketSetting::Lifecycle);
        let index = schema::lifecycle_key(bucket.id);
        transact!(self, bucket.id, |txn| {
            let space = self.enter_space(&mut txn, caller, bucket.id, Right::Write).await?;
            if space.owner != caller.user {
                self.enter_space(&mut txn, caller, bucket.id, Right::Manage).await?;
            }
            if space.kind != SpaceKind::Bucket {
                let detail = "the lifecycle rules of a tree are set over REST";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            match &lifecycle {
                Some(lifecycle) => {
                    txn.put(key.clone(), lifecycle);
                    // By it the walk finds that there are rules.
                    txn.put(index.clone(), &Lifecycle::default());
                }
                None => {
                    txn.frees();
                    txn.delete(key.clone());
                    txn.delete(index.clone());
                }
            }
        });
        Ok(())
    }

    /// When an object ends, and by which rule; `None` is never.
    pub async fn object_end(
        &self,
        bucket: &Bucket,
        key: &str,
        (size, modified): (u64, Timestamp),
        info: Option<&ObjectInfo>,
    ) -> Result<Option<(Timestamp, String)>> {
        if bucket.kind != SpaceKind::Bucket {
            return Ok(None);
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let Some(stored) = bucket_rules_of(&*snapshot, bucket.id).await? else { return Ok(None) };
        let day = self.inner.config.lifecycle_day;
        let rules = stored.value.rules.into_iter();
        let ends = rules.filter(|rule| rule.covers(key) && rule.fits(size, info));
        let ends = ends.filter_map(|rule| Some((rule.end(modified, day)?, rule.id)));
        Ok(ends.min_by_key(|(end, _)| *end))
    }
}

/// The stored rules of a bucket.
pub(crate) async fn bucket_rules_of(
    snapshot: &dyn Snapshot,
    id: SpaceId,
) -> Result<Option<Stored<BucketLifecycle>>> {
    txn::get(snapshot, &schema::bucket_setting_key(id, BucketSetting::Lifecycle)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_on_a_day_ends_with_it() {
        let at = |days: i64, hours: i64| Timestamp::from_millis((days * 24 + hours) * 3_600_000);
        assert_eq!(day_after(at(10, 5), 1, DAY), at(12, 0));
        assert_eq!(day_after(at(10, 0), 1, DAY), at(11, 0));
        assert_eq!(day_after(at(10, 5), 0, DAY), at(11, 0));
        let second = Duration::from_secs(1);
        assert_eq!(day_after(at(10, 5), 3, second).since(at(10, 5)), 3 * second);
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!(day_after(last, u32::MAX, DAY), last);
    }

    #[test]
    fn a_rule_is_about_keys_sizes_and_tags() {
        let tag = ("a".to_owned(), "1".to_owned());
        let rule = BucketRule {
            enabled: true,
            prefix: "logs/".to_owned(),
            tags: vec![tag.clone()],
            larger_than: Some(5),
            smaller_than: Some(10),
            ..BucketRule::default()
        };
        let tagged = ObjectInfo { tags: vec![tag], ..ObjectInfo::default() };
        assert!(rule.covers("logs/a") && !rule.covers("log") && !rule.covers("alogs/"));
        assert!(rule.fits(6, Some(&tagged)) && rule.fits(9, Some(&tagged)));
        assert!(!rule.fits(5, Some(&tagged)) && !rule.fits(10, Some(&tagged)));
        assert!(!rule.fits(6, None) && !rule.fits(6, Some(&ObjectInfo::default())));
        assert!(!BucketRule { enabled: false, ..rule }.covers("logs/a"));
    }
}
