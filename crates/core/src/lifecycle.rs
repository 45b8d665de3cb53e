//! Lifecycle rules of spaces: which files end by themselves, and what is kept of earlier contents.
//!
//! Promises: a space has at most [`RULES_MAX`] rules, each checked before it is kept; rules are
//! replaced together, in one commit; a rule that has been changed or removed is not applied any
//! more from the answer on, also by a walk that is under way (`job::lifecycle` compares the rules
//! at each of its commits).
//!
//! Not here: applying them (`job::lifecycle`).

use std::{collections::BTreeSet, time::Duration};

use larder_base::{
    ErrorKind, Timestamp,
    id::{RuleId, SpaceId},
    name::{EntryName, TreePath},
};
use larder_meta::Snapshot;
use serde::{Deserialize, Serialize};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{SpaceKind, SpaceRef},
    error::{Error, Result},
    schema::{self, Lifecycle},
    txn::{self, Stored, transact},
};

/// Most rules of one space.
pub const RULES_MAX: usize = 100;

/// Longest name of a rule, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Longest age of a rule: a hundred years.
const AGE_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// Its id, for ever.
    pub id: RuleId,
    /// Its name, for people.
    pub name: String,
    /// Whether it is applied.
    pub enabled: bool,
    /// The path that it is for, with everything below it by whole names; empty is everything.
    pub prefix: String,
    /// When files go to the trash.
    pub expire: Option<Expire>,
    /// Which older revisions are removed.
    pub noncurrent: Option<Noncurrent>,
    /// Age without a byte after which unfinished uploads are given up.
    pub abort_uploads_after: Option<Duration>,
}

/// When files end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expire {
    /// So long after their content last changed.
    After(Duration),
    /// All that there are from this time on.
    At(Timestamp),
}

/// Which older revisions are removed: those that are both old enough and not among the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noncurrent {
    /// So long after a newer revision took their place; zero is at once.
    pub older_than: Duration,
    /// So many of the newest are kept in any case.
    pub keep_newest: u32,
}

/// A rule to be kept.
#[derive(Clone, Debug)]
pub struct NewRule {
    /// The rule that it takes the place of; `None` makes a new one.
    pub id: Option<RuleId>,
    /// Its name, for people.
    pub name: String,
    /// Whether it is applied.
    pub enabled: bool,
    /// The path that it is for.
    pub prefix: String,
    /// When files go to the trash.
    pub expire: Option<Expire>,
    /// Which older revisions are removed.
    pub noncurrent: Option<Noncurrent>,
    /// Age without a byte after which unfinished uploads are given up.
    pub abort_uploads_after: Option<Duration>,
}

impl LifecycleRule {
    /// The names of its prefix.
    pub(crate) fn names(&self) -> Result<Vec<EntryName>> {
        Ok(TreePath::parse(&self.prefix)?.names().to_vec())
    }
}

impl Larder {
    /// The lifecycle rules of a space.
    ///
    /// Errors: those of every operation on a space; `Denied` without the right to manage it.
    pub async fn lifecycle(&self, caller: &Caller, space: &SpaceRef) -> Result<Vec<LifecycleRule>> {
        let id = self.locate_space(caller, space).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        self.read_space(&*snapshot, caller, id, Right::Manage).await?;
        let stored = lifecycle_of(&*snapshot, id).await?;
        Ok(stored.map(|stored| stored.value.rules).unwrap_or_default())
    }

    /// Replaces the lifecycle rules of a space; answers them. Those that name the id of an
    /// existing rule keep it.
    ///
    /// Errors: `Invalid` for a rule that cannot be kept; `Conflict` for a bucket, whose rules are
    /// others.
    pub async fn set_lifecycle(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        new: Vec<NewRule>,
    ) -> Result<Vec<LifecycleRule>> {
        check(&new)?;
        let id = self.locate_space(caller, space).await?;
        let (rules, _) = transact!(self, id, |txn| {
            let space = self.enter_space(&mut txn, caller, id, Right::Manage).await?;
            if space.kind == SpaceKind::Bucket {
                let detail = "the lifecycle rules of a bucket are set over S3";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            let key = schema::lifecycle_key(id);
            let stored = lifecycle_of(&*txn.snapshot, id).await?;
            let known: BTreeSet<RuleId> =
                stored.iter().flat_map(|stored| &stored.value.rules).map(|rule| rule.id).collect();
            let mut rules = Vec::with_capacity(new.len());
            for rule in &new {
                rules.push(self.keep_rule(rule, &known)?);
            }
            match stored {
                Some(stored) => txn.hold(key.clone(), stored.version),
                None => txn.hold_absent(key.clone()),
            }
            if rules.is_empty() {
                txn.delete(key);
            } else {
                txn.put(key, &Lifecycle { rules: rules.clone() });
            }
            rules
        });
        Ok(rules)
    }

    fn keep_rule(&self, rule: &NewRule, known: &BTreeSet<RuleId>) -> Result<LifecycleRule> {
        let id = match rule.id {
            Some(id) if known.contains(&id) => id,
            Some(id) => {
                let detail =
                    format!("there is no rule {id} to take the place of: leave the id out");
                return Err(Error::invalid(detail));
            }
            None => RuleId::new(&self.inner.env),
        };
        Ok(LifecycleRule {
            id,
            name: rule.name.clone(),
            enabled: rule.enabled,
            // One spelling: without slashes at its ends.
            prefix: TreePath::parse(&rule.prefix)?.to_string(),
            expire: rule.expire,
            noncurrent: rule.noncurrent,
            abort_uploads_after: rule.abort_uploads_after,
        })
    }
}

/// The stored rules of a space.
pub(crate) async fn lifecycle_of(
    snapshot: &dyn Snapshot,
    space: SpaceId,
) -> Result<Option<Stored<Lifecycle>>> {
    txn::get(snapshot, &schema::lifecycle_key(space)).await
}

fn check(rules: &[NewRule]) -> Result<()> {
    if rules.len() > RULES_MAX {
        return Err(Error::invalid(format!("a space has at most {RULES_MAX} lifecycle rules")));
    }
    let mut ids = BTreeSet::new();
    for rule in rules {
        if rule.id.is_some_and(|id| !ids.insert(id)) {
            return Err(Error::invalid("two rules have the same id"));
        }
        if rule.name.len() > NAME_BYTES_MAX || rule.name.chars().any(char::is_control) {
            let detail = format!("a rule's name has at most {NAME_BYTES_MAX} bytes, all printable");
            return Err(Error::invalid(detail));
        }
        TreePath::parse(&rule.prefix)?;
        if rule.abort_uploads_after.is_some() {
            // Uploads in sessions have one age for all (`upload.session_ttl`).
            let detail = "abort_uploads_after is not supported for trees; see upload.session_ttl";
            return Err(Error::new(ErrorKind::NotImplemented, detail));
        }
        let nothing = rule.expire.is_none()
            && rule.noncurrent.is_none()
            && rule.abort_uploads_after.is_none();
        if nothing {
            let detail = "a rule does something: expire or noncurrent";
            return Err(Error::invalid(detail));
        }
        let expires_after = match rule.expire {
            Some(Expire::After(age)) => Some(age),
            Some(Expire::At(_)) | None => None,
        };
        // Zero would take files as soon as they are there: nobody means that.
        if [expires_after, rule.abort_uploads_after].contains(&Some(Duration::ZERO)) {
            return Err(Error::invalid("an age of a rule is more than zero"));
        }
        let older = rule.noncurrent.map(|noncurrent| noncurrent.older_than);
        let ages = [expires_after, rule.abort_uploads_after, older];
        if ages.into_iter().flatten().any(|age| age > AGE_MAX) {
            return Err(Error::invalid("an age of a rule is at most a hundred years"));
        }
    }
    Ok(())
}
