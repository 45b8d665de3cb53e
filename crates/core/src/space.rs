//! Spaces: make, list, change, remove; and homes, which come into being at first use.
//!
//! Promises: I-SPACE-1 a space and all its records appear in one commit (hazard N02), so that no
//! half-made one blocks a retry; I-SPACE-2 of n first uses of a home one makes it and all get
//! the same; I-SPACE-3 a name stands for one space.
//!
//! Not here: removing what a deleted space held (`job::purge`).

use larder_base::{
    ErrorKind,
    id::{NodeId, SpaceId},
};
use larder_chunk::placement::Placement;
use larder_meta::{FieldOp, Snapshot};

use crate::{
    Larder,
    access::{Right, require_admin},
    caller::Caller,
    entry::{
        ListOptions, NewSpace, Page, PolicyChange, SpaceChange, SpaceInfo, SpaceKind, SpaceLimits,
        SpacePolicy, SpaceRef,
    },
    error::{Error, Result},
    idempotency,
    object::Versioning,
    schema::{self, Authority, DirState, JobWork, Location, Place, Space, SpaceState},
    txn::{self, Txn, transact},
};

/// Most days of a policy: a hundred years.
const DAYS_MAX: u32 = 36_600;

/// Most homes whose ids are remembered in memory.
const HOMES_MAX: usize = 10_000;

impl SpacePolicy {
    /// What a space of this kind keeps unless it is told otherwise: trees keep older revisions.
    pub fn default_of(kind: SpaceKind) -> Self {
        let versions_keep = match kind {
            SpaceKind::Home | SpaceKind::Project => None,
            SpaceKind::Bucket => Some(0),
        };
        Self { placement: Placement::SINGLE, versions_keep, versions_days: None, trash_days: None }
    }
}

impl Larder {
    /// The caller's home, made at its first use.
    pub(crate) async fn home(&self, caller: &Caller) -> Result<SpaceId> {
        if let Some(id) = self.inner.homes().get(&caller.user) {
            return Ok(*id);
        }
        let key = schema::home_key(caller.user);
        let snapshot = self.inner.meta.snapshot().await?;
        if let Some(home) = txn::get::<SpaceId>(&*snapshot, &key).await? {
            return Ok(self.remember_home(caller, home.value));
        }
        drop(snapshot);
        let (id, _) = transact!(self, None, |txn| {
            if let Some(home) = txn.get::<SpaceId>(&key).await? {
                return Ok(self.remember_home(caller, home.value));
            }
            txn.incidental();
            // Nobody who was just deleted is given a home that no one would remove.
            caller.hold(&mut txn);
            let id = SpaceId::new(&self.inner.env);
            let name = self.home_name(&txn, caller, id).await?;
            txn.hold_absent(key.clone());
            txn.put(key.clone(), &id);
            let (kind, limits) = (SpaceKind::Home, SpaceLimits::default());
            let new = NewSpace { name, kind, limits, policy: PolicyChange::default() };
            self.put_space(&mut txn, caller, id, new);
            id
        });
        Ok(self.remember_home(caller, id))
    }

    fn remember_home(&self, caller: &Caller, id: SpaceId) -> SpaceId {
        let mut homes = self.inner.homes();
        if homes.len() >= HOMES_MAX {
            homes.clear();
        }
        homes.insert(caller.user, id);
        id
    }

    /// `home-NAME`, or if that is taken one that nobody else can have.
    async fn home_name(&self, txn: &Txn, caller: &Caller, id: SpaceId) -> Result<String> {
        let name = format!("home-{}", caller.name);
        let taken = txn.snapshot.get(&schema::space_name_key(&name)).await?.is_some();
        Ok(if taken { format!("home-{id}") } else { name })
    }

    /// Makes a space. Administrators only.
    pub async fn create_space(&self, caller: &Caller, new: NewSpace) -> Result<SpaceInfo> {
        require_admin(caller)?;
        if let Some((id, _)) = idempotency::before::<SpaceId>()? {
            return self.space(caller, &SpaceRef::Id(id)).await;
        }
        check_name(&new.name)?;
        check_policy(&new.policy.apply(&SpacePolicy::default_of(new.kind)))?;
        match new.kind {
            SpaceKind::Project | SpaceKind::Bucket => {}
            SpaceKind::Home => {
                return Err(Error::invalid("a home comes into being when its user first uses it"));
            }
        }
        let id = SpaceId::new(&self.inner.env);
        transact!(self, id, |txn| {
            let key = schema::space_name_key(&new.name);
            if let Some(other) = txn.get::<SpaceId>(&key).await? {
                return Err(name_taken(other.value));
            }
            self.put_space(&mut txn, caller, id, new.clone());
            txn.outcome(&id);
        });
        // Committed: what fails now must not be told as if nothing had happened.
        self.space(caller, &SpaceRef::Id(id)).await.map_err(Error::of_unknown_outcome)
    }

    /// Writes all records of a new space.
    pub(crate) fn put_space(&self, txn: &mut Txn, caller: &Caller, id: SpaceId, new: NewSpace) {
        let root = NodeId::new(&self.inner.env);
        let name_key = schema::space_name_key(&new.name);
        // An instance that is being loaded has nothing else.
        txn.hold_absent(schema::load_key(schema::WHOLE_LOAD));
        txn.hold_absent(name_key.clone());
        txn.put(name_key, &id);
        let policy = new.policy.apply(&SpacePolicy::default_of(new.kind));
        let space = Space {
            name: new.name,
            kind: new.kind,
            owner: caller.user,
            root,
            state: SpaceState::Enabled,
            limits: new.limits,
            policy,
            created: txn.now,
            bucket: None,
        };
        txn.put(schema::space_key(id), &space);
        let authority = Authority { place: None, state: DirState::Live };
        txn.put(schema::authority_key(id, root), &authority);
        txn.put(schema::location_key(root), &Location { space: id, place: Place::Dir });
        let none = FieldOp::Add(0);
        let now = FieldOp::Max(txn.now.millis());
        txn.add(schema::stat_key(id, root), [none, none, none, now]);
        txn.add(schema::quota_key(id), [none; 4]);
    }

    /// One page of the spaces that the caller may see; the cursor is the last id given.
    pub async fn spaces(&self, caller: &Caller, options: &ListOptions) -> Result<Page<SpaceInfo>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let limit = options.page_limit();
        let prefix = schema::spaces_prefix();
        let mut after = match &options.cursor {
            None => None,
            Some(cursor) => {
                let id = cursor
                    .parse()
                    .map_err(|_| Error::invalid("the cursor is not one that a page gave"))?;
                Some(schema::space_key(id))
            }
        };
        let mut entries = Vec::new();
        let known = self.known_spaces(&*snapshot, caller).await?;
        loop {
            let records = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
            for (key, record) in &records {
                let id = SpaceId::from_bytes(schema::trailing_id(key)?);
                let space: Space = schema::decode(key, &record.value)?;
                let visible = space.state == SpaceState::Enabled && known.has(caller, id, &space);
                if visible && entries.len() < limit {
                    entries.push(self.space_info(&*snapshot, id, space).await?);
                }
            }
            match records.last() {
                Some((key, _)) if entries.len() < limit && records.len() == limit => {
                    after = Some(key.clone());
                }
                _ => break,
            }
        }
        let full = entries.len() == limit;
        let cursor = entries.last().filter(|_| full).map(|last| last.id.to_string());
        Ok(Page { entries, cursor })
    }

    /// A space and what it holds.
    pub async fn space(&self, caller: &Caller, space: &SpaceRef) -> Result<SpaceInfo> {
        let id = self.locate_space(caller, space).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, id, Right::Read).await?;
        self.space_info(&*snapshot, id, (*room).clone()).await
    }

    /// Changes a space: limits by administrators, name and policy by its owner too. Of changes at
    /// once to different fields none is lost. A limit may be set below what the space holds; then
    /// only what does not add to it is accepted.
    pub async fn change_space(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        change: SpaceChange,
    ) -> Result<SpaceInfo> {
        if let Some((id, _)) = idempotency::before::<SpaceId>()? {
            return self.space(caller, &SpaceRef::Id(id)).await;
        }
        let id = self.locate_space(caller, space).await?;
        let right = if change.limits.is_empty() { Right::Manage } else { Right::Administer };
        if let Some(name) = &change.name {
            check_name(name)?;
        }
        transact!(self, id, |txn| {
            let mut space = self.enter_space(&mut txn, caller, id, right).await?;
            if let Some(name) = change.name.clone().filter(|name| *name != space.name) {
                let key = schema::space_name_key(&name);
                if let Some(other) = txn.get::<SpaceId>(&key).await? {
                    return Err(name_taken(other.value));
                }
                txn.hold_absent(key.clone());
                txn.put(key, &id);
                txn.delete(schema::space_name_key(&space.name));
                space.name = name;
            }
            space.limits = change.limits.apply(space.limits);
            if !change.policy.is_empty() {
                space.policy = change.policy.apply(&space.policy);
                check_policy(&space.policy)?;
            }
            txn.put(schema::space_key(id), &space);
            txn.outcome(&id);
        });
        // A new policy is looked at with the next round.
        *self.inner.revisions_due() = std::time::Duration::ZERO;
        self.wake_jobs();
        // Committed: what fails now must not be told as if nothing had happened.
        self.space(caller, &SpaceRef::Id(id)).await.map_err(Error::of_unknown_outcome)
    }

    /// Removes a space with everything in it, trash included. Administrators only; homes stay as
    /// long as their user. From the answer on nothing can commit into it; a job removes the rest.
    pub async fn delete_space(&self, caller: &Caller, space: &SpaceRef) -> Result<()> {
        let id = self.locate_space(caller, space).await?;
        transact!(self, id, |txn| {
            let space = self.enter_space(&mut txn, caller, id, Right::Administer).await?;
            if space.kind == SpaceKind::Home {
                let detail = "a home goes with its user: delete the user";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            if space.bucket.is_some_and(|rules| rules.lock.is_some()) {
                let detail = "the bucket has object lock: it is removed when it is empty";
                return Err(Error::new(ErrorKind::Denied, detail));
            }
            self.condemn_space(&mut txn, id, space);
        });
        self.wake_jobs();
        Ok(())
    }

    async fn space_info(
        &self,
        snapshot: &dyn Snapshot,
        id: SpaceId,
        space: Space,
    ) -> Result<SpaceInfo> {
        Ok(SpaceInfo {
            id,
            name: space.name,
            kind: space.kind,
            owner: space.owner,
            limits: space.limits,
            policy: space.policy,
            usage: self.usage_now(snapshot, id).await?,
            created: space.created,
            versioning: space.bucket.map_or(Versioning::Off, |rules| rules.versioning),
            lock: space.bucket.and_then(|rules| rules.lock),
        })
    }

    /// Marks a space as going and queues the job that removes it.
    pub(crate) fn condemn_space(&self, txn: &mut Txn, id: SpaceId, space: Space) {
        txn.frees();
        txn.delete(schema::space_name_key(&space.name));
        let space = Space { state: SpaceState::Purging, ..space };
        txn.put(schema::space_key(id), &space);
        self.queue_job(txn, JobWork::PurgeSpace { space: id });
    }
}

pub(crate) fn name_taken(id: SpaceId) -> Error {
    Error::new(ErrorKind::AlreadyExists, "a space has this name").with_existing(id)
}

/// S3's rules for bucket names, so that every space can be one: 3 to 63 of `a-z 0-9 - .`, with a
/// letter or digit at both ends and beside each dot; not `home`, and nothing that reads as an id.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || byte == b'-' || byte == b'.';
    let ends = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    let well_formed = (3..=63).contains(&name.len()) && name.bytes().all(inner) && ends;
    if !well_formed || ["..", ".-", "-."].iter().any(|pair| name.contains(pair)) {
        let detail = "a space's name is 3 to 63 of a-z, 0-9, `-` and `.`, \
                      with a letter or digit at both ends and beside each dot";
        return Err(Error::invalid(detail));
    }
    if name == "home" || name.parse::<SpaceId>().is_ok() {
        return Err(Error::invalid("this name is reserved"));
    }
    Ok(())
}

/// Policies that one machine can keep.
fn check_policy(policy: &SpacePolicy) -> Result<()> {
    use larder_chunk::placement::{Copies, Split};
    policy.placement.check().map_err(|error| Error::invalid(error.to_string()))?;
    let days = policy.versions_days.max(policy.trash_days);
    if days.is_some_and(|days| days > DAYS_MAX) {
        return Err(Error::invalid(format!("days of a policy are at most {DAYS_MAX}")));
    }
    match policy.placement.split {
        Split::Fixed { bytes } if bytes < 1 << 20 => {
            return Err(Error::invalid("a split of fixed size has at least 1 MiB per chunk"));
        }
        Split::Stripe { count } if !(1..=64).contains(&count) => {
            return Err(Error::invalid("a stripe has 1 to 64 chunks"));
        }
        _ => {}
    }
    match (policy.placement.copies, policy.placement.ack) {
        (Copies::Count(1) | Copies::All, 1) => Ok(()),
        _ => Err(Error::invalid("there is one store: copies and ack can only be 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_for_buckets() {
        for name in ["abc", "a-b.c", "0ab", &"x".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let id = SpaceId::new(&larder_base::Env::manual(1).0).to_string();
        for name in
            ["ab", "Abc", "a_b", "-ab", "ab-", "a..b", "a.-b", "a-.b", "home", &id, &"x".repeat(64)]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
