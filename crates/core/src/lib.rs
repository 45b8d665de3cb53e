//! The file store itself: one handle, [`Larder`], and all domain rules.
//!
//! A *space* owns one tree and one quota. A *node* is a file or directory with an id for ever; an
//! *entry* is a name in a directory that stands for a node. A file has *revisions*, the newest of
//! which is current; a revision's content is a *blob*, inline in the metadata or in *chunks*.
//! Deleting moves a node into the *trash*; purging destroys it.
//!
//! Every operation is: read one snapshot, decide, commit one transaction (`txn`); bytes are
//! durable before the commit that makes them exist, and destroyed only after one that has made
//! it impossible that anything refers to them.
//!
//! Imports go down only: `lib` -> `check, job` -> `copy` -> `relocate, revision` ->
//! `download, trash, upload` -> `blob, tree` -> `identity, space` -> `lease` ->
//! `access, quota, schema, txn, work` and the plain types.
//!
//! Not here: wire formats (doors), engines (meta), disks (chunk).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use larder_base::{
    Env, ErrorKind, Memory, Timestamp,
    id::{BlobId, ChunkId, Incarnation, InstanceId, JobId, ServerId, SpaceId, UserId},
};
use larder_chunk::StoreHealth;
use larder_meta::{Health, MetaStore};

mod access;
pub mod account;
mod blob;
mod board;
mod bucket;
pub mod caller;
mod check;
mod condition;
mod copy;
mod download;
pub mod dump;
pub mod entry;
pub mod error;
mod expiry;
mod feed;
pub mod idempotency;
mod identity;
mod job;
mod lease;
pub mod lifecycle;
mod metrics;
mod object;
mod quota;
mod relocate;
pub mod report;
mod revision;
mod room;
mod schema;
pub mod session;
mod share;
mod space;
#[cfg(feature = "testing")]
pub mod testing;
mod trash;
mod tree;
mod txn;
mod upload;
mod version;
mod work;

pub use access::{Principal, Role};
pub use account::{
    GroupInfo, GroupRef, HomePolicy, KeyInfo, MadeKey, MemberInfo, NewKey, NewUser, S3Secrets,
    UserChange, UserInfo, UserRef,
};
pub use blob::{read::Body, write::Stores};
pub use bucket::{
    is_network,
    lifecycle::{BucketExpire, BucketLifecycle, BucketRule},
};
pub use caller::{Access, Caller, CredentialKind, Credentials, Scope};
pub use condition::NOTHING_MATCHES;
pub use download::Download;
pub use entry::{
    Conditions, Copies, Entry, EntryKind, Etag, EtagSet, LimitsChange, ListOptions, NewSpace, Page,
    Placement, PolicyChange, RefTarget, RestoreOptions, RevisionInfo, SpaceChange, SpaceInfo,
    SpaceKind, SpaceLimits, SpacePolicy, SpaceRef, Split, Target, TrashItem, UploadOptions, Usage,
    Written,
};
pub use error::{Error, Result};
pub use feed::{CURSOR_NOW, Change, ChangeKind, ChangePage};
pub use idempotency::Operation;
pub use identity::seal::{MasterKey, MasterKeyId};
pub use lifecycle::{Expire, LifecycleRule, NewRule, Noncurrent};
pub use object::{
    Acl, AclGrant, Ask, Bucket, BucketSetting, ChecksumAlgorithm, Compare, Completion, CopyOptions,
    Effect, Grantee, KeyEntry, KeyListing, KeyPage, LockRules, MultipartEntry, MultipartInfo,
    MultipartListing, MultipartPage, MultipartPart, MultipartRef, NamedPart, NewMultipart,
    ObjectChange, ObjectChecksum, ObjectDigest, ObjectEntry, ObjectInfo, Ownership, Patterns,
    Permission, Policy, PolicyCondition, Principals, PublicAccess, Removed, Retention,
    RetentionMode, Statement, VersionId, VersionListing, Versioning,
};
pub use report::{CheckCounts, CheckReport, CollectReport, Finding, JobInfo, JobKind};
pub use session::{
    Append, AppendRefused, Checksum, NewAppend, NewSession, PartInfo, PartUpload, SessionInfo,
    SessionState,
};
pub use share::{
    LinkInfo, LinkTerms, LinkView, NewShare, ShareChange, ShareFilter, ShareInfo, ShareWith,
    SharedWith,
};
pub use upload::Upload;
pub use work::{Admitted, Class, Client, Priority, TaskInfo, TaskState, WorkSettings};

use crate::{
    blob::{
        Staging,
        epoch::{Epochs, InlinePins},
    },
    identity::{
        guard::Guard,
        key::Uses,
        login::{Checking, Verified},
        password::Hashings,
        seal::Sealer,
    },
    metrics::Metrics,
    quota::Reservations,
    schema::Instance,
    txn::{Gates, Stored, Txn},
    work::Work,
};

/// Settings of the file store.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long trash is kept where the space does not say otherwise; `None` is for ever.
    pub trash_retention: Option<Duration>,
    /// Older revisions kept per file where the space does not say otherwise; `None` is all.
    pub revisions_keep: Option<u32>,
    /// How long they are kept where the space does not say otherwise; `None` is for ever.
    pub revisions_retention: Option<Duration>,
    /// Pause between two rounds of background jobs.
    pub collect_interval: Duration,
    /// Time in which the scrub reads every chunk once; `None` switches it off.
    pub scrub_interval: Option<Duration>,
    /// How long changes stay in the feeds of spaces; `None` is for ever.
    pub feed_retention: Option<Duration>,
    /// Most changes that the feed of a space keeps.
    pub feed_entries_max: u64,
    /// Pause between two walks that apply lifecycle rules.
    pub lifecycle_interval: Duration,
    /// What a day is to lifecycle rules of buckets.
    pub lifecycle_day: Duration,
    /// How long operations with an `Idempotency-Key` are remembered.
    pub idempotency_retention: Duration,
    /// Most of them that are remembered for one user.
    pub idempotency_keys_max: u64,
    /// How long an unfinished upload session is kept after it was last heard of.
    pub upload_session_ttl: Duration,
    /// The same of an unfinished multipart upload of S3.
    pub multipart_ttl: Duration,
    /// Pause between two searches for expired ones.
    pub upload_sweep_interval: Duration,
    /// Most open sessions of one user.
    pub upload_sessions_per_user_max: u32,
    /// How long what became of a session is remembered.
    pub upload_result_retention: Duration,
    /// How long a lease is held.
    pub lease_ttl: Duration,
    /// What the buffers of all requests draw from. The chunk stores should draw from it too.
    pub memory: Memory,
    /// How much heavy work is done at once.
    pub work: WorkSettings,
    /// What secrets are sealed under; `None` draws one that nobody else will ever have, so that
    /// the next process can open nothing of what this one seals.
    pub master_key: Option<MasterKey>,
    /// Whether another key than the recorded one is accepted; what that sealed is lost.
    pub master_key_replace: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trash_retention: Some(Duration::from_secs(30 * 24 * 3600)),
            revisions_keep: None,
            revisions_retention: None,
            collect_interval: Duration::from_secs(30),
            scrub_interval: Some(Duration::from_secs(7 * 24 * 3600)),
            feed_retention: Some(Duration::from_secs(7 * 24 * 3600)),
            feed_entries_max: 1_000_000,
            lifecycle_interval: Duration::from_secs(3600),
            lifecycle_day: bucket::lifecycle::DAY,
            idempotency_retention: Duration::from_secs(24 * 3600),
            idempotency_keys_max: 250_000,
            upload_session_ttl: Duration::from_secs(3600),
            multipart_ttl: Duration::from_secs(7 * 24 * 3600),
            upload_sweep_interval: Duration::from_secs(300),
            upload_sessions_per_user_max: 1000,
            upload_result_retention: Duration::from_secs(24 * 3600),
            lease_ttl: Duration::from_secs(15),
            memory: Memory::default(),
            work: WorkSettings::default(),
            master_key: None,
            master_key_replace: false,
        }
    }
}

/// The file store. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Larder {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    env: Env,
    meta: Arc<dyn MetaStore>,
    stores: Stores,
    instance: InstanceId,
    incarnation: Incarnation,
    inline_bytes_max: usize,
    started: Timestamp,
    started_monotonic: Duration,
    gates: Gates,
    staging: Arc<Staging>,
    epochs: Arc<Epochs>,
    /// The epoch that ended when a condemned blob was first seen.
    condemned_epochs: Mutex<BTreeMap<BlobId, u64>>,
    reservations: Arc<Reservations>,
    sessions: session::Sessions,
    /// Held by whoever sweeps sessions.
    sweep_turn: tokio::sync::Mutex<()>,
    /// Wakes the sweep of uploads when the store is shut down.
    sweeps_end: tokio::sync::Notify,
    hashings: Hashings,
    verified: Mutex<Verified>,
    checking: Checking,
    guard: Guard,
    uses: Uses,
    login_salt: [u8; 32],
    sealer: Sealer,
    homes: Mutex<BTreeMap<UserId, SpaceId>>,
    feeds: feed::Feeds,
    /// Jobs that must not remove the copies of directories which they are for: these go on.
    copies: Mutex<BTreeSet<JobId>>,
    inline_pins: Arc<InlinePins>,
    /// Loads that go on: what they have written so far must not be removed.
    loads: Mutex<BTreeMap<JobId, dump::Going>>,
    /// Whether a whole instance is being loaded: until it is there, nobody is let in.
    loading: AtomicBool,
    scrub_cursors: Mutex<BTreeMap<ServerId, ChunkId>>,
    /// When older revisions are looked at next, by the monotonic clock.
    revisions_due: Mutex<Duration>,
    /// Operations with a name that run.
    operations: idempotency::Running,
    /// Jobs that run.
    board: board::Board,
    /// When it is looked whether lifecycle rules must be applied, by the monotonic clock.
    lifecycle_due: Mutex<Duration>,
    /// The tasks that run jobs, until the store is shut down.
    lanes: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Held by whoever runs long jobs.
    long_jobs_turn: tokio::sync::Mutex<()>,
    long_jobs_wanted: tokio::sync::Notify,
    /// Held by whoever runs jobs.
    jobs_turn: tokio::sync::Mutex<()>,
    jobs_wanted: tokio::sync::Notify,
    stop: AtomicBool,
    metrics: Metrics,
    work: Work,
}

/// What the metadata says of this installation, before anything else is opened.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The installation.
    pub instance: InstanceId,
    /// Whether it was made just now: its chunk stores must be new too.
    pub new: bool,
    /// The chunk stores that belong to it.
    pub servers: Vec<ServerId>,
    /// The master key that it must be opened with; `None` if any will do.
    pub master_key: Option<MasterKeyId>,
}

/// The root user of a first start.
#[derive(Clone)]
pub struct FirstUser {
    /// Name.
    pub name: String,
    /// Password; `None` has one made.
    pub password: Option<String>,
}

impl fmt::Debug for FirstUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirstUser({})", self.name)
    }
}

impl Larder {
    /// Reads which installation the metadata belongs to; an empty one becomes a new installation.
    /// The caller opens the chunk stores by what it says, so that an empty directory where there
    /// should be data is noticed (hazard B09).
    pub async fn bootstrap(meta: &dyn MetaStore, env: &Env) -> Result<Bootstrap> {
        let key = schema::instance_key();
        let snapshot = meta.snapshot().await?;
        if let Some(found) = txn::get::<Instance>(&*snapshot, &key).await? {
            let Instance { id, servers, .. } = found.value;
            // A start that ended before its stores were recorded left nothing in them.
            let master_key = identity::seal::recorded(meta).await?;
            return Ok(Bootstrap { instance: id, new: servers.is_empty(), servers, master_key });
        }
        let mut txn = Txn::new(snapshot, env.now());
        let instance = Instance {
            id: InstanceId::new(env),
            created: txn.now,
            incarnation: Incarnation(0),
            servers: Vec::new(),
        };
        txn.hold_absent(key.clone());
        txn.put(key, &instance);
        meta.commit(txn.spec).await?;
        Ok(Bootstrap { instance: instance.id, new: true, servers: Vec::new(), master_key: None })
    }

    /// Opens the file store over its engines, as a new incarnation that fences all before it,
    /// and starts its background jobs. Answers the password of the root user if it made one.
    pub async fn open(
        config: Config,
        meta: Arc<dyn MetaStore>,
        stores: Stores,
        first_user: FirstUser,
        env: Env,
    ) -> Result<(Self, Option<String>)> {
        let master = config.master_key.clone().unwrap_or_else(|| MasterKey::new(&env));
        identity::seal::admit(&*meta, &master, config.master_key_replace, env.now()).await?;
        let sealer = Sealer::new(&master, &env);
        drop(master);
        let (instance, incarnation) = become_incarnation(&*meta, &stores, &env).await?;
        let mut login_salt = [0; 32];
        env.fill_random(&mut login_salt);
        let larder = Self {
            inner: Arc::new(Inner {
                work: Work::new(&config.work, &env),
                config,
                inline_bytes_max: meta.limits().inline_bytes_max,
                started: env.now(),
                started_monotonic: env.monotonic(),
                env,
                meta,
                stores,
                instance,
                incarnation,
                gates: Gates::default(),
                staging: Arc::default(),
                epochs: Arc::default(),
                condemned_epochs: Mutex::default(),
                reservations: Arc::default(),
                sessions: session::Sessions::default(),
                sweep_turn: tokio::sync::Mutex::new(()),
                sweeps_end: tokio::sync::Notify::new(),
                hashings: Hashings::default(),
                verified: Mutex::default(),
                checking: Checking::default(),
                guard: Guard::default(),
                uses: Uses::default(),
                login_salt,
                sealer,
                homes: Mutex::default(),
                feeds: feed::Feeds::default(),
                copies: Mutex::default(),
                inline_pins: Arc::default(),
                loads: Mutex::default(),
                loading: AtomicBool::new(false),
                scrub_cursors: Mutex::default(),
                revisions_due: Mutex::default(),
                operations: idempotency::Running::default(),
                board: board::Board::default(),
                lifecycle_due: Mutex::default(),
                lanes: Mutex::default(),
                long_jobs_turn: tokio::sync::Mutex::new(()),
                long_jobs_wanted: tokio::sync::Notify::new(),
                jobs_turn: tokio::sync::Mutex::new(()),
                jobs_wanted: tokio::sync::Notify::new(),
                stop: AtomicBool::new(false),
                metrics: Metrics::default(),
            }),
        };
        larder.note_whole_load().await?;
        let password = larder.ensure_first_user(first_user).await?;
        let jobs = larder.inner.env.spawn("background jobs", larder.clone().run_jobs());
        let sweeps = larder.inner.env.spawn("sweep of uploads", larder.clone().run_sweeps());
        let long = larder.clone().run_long_jobs();
        let long = larder.inner.env.spawn("long background jobs", long);
        locked(&larder.inner.lanes).extend([jobs, sweeps, long]);
        Ok((larder, password))
    }

    /// Makes the root user if there is no user at all.
    async fn ensure_first_user(&self, first: FirstUser) -> Result<Option<String>> {
        let prefix = schema::users_prefix();
        let snapshot = self.inner.meta.snapshot().await?;
        if !txn::page(&*snapshot, &prefix, None, 1).await?.is_empty() {
            return Ok(None);
        }
        drop(snapshot);
        identity::check_user_name(&first.name)?;
        let made = match &first.password {
            Some(_) => None,
            None => Some(identity::login::new_password(&self.inner.env)),
        };
        let password = first.password.or_else(|| made.clone()).unwrap_or_default();
        let hash = self.hash_password(&password).await?;
        let id = UserId::new(&self.inner.env);
        txn::transact!(self, None, |txn| {
            txn.spec.empty.push(prefix.clone());
            identity::put_new_user(&mut txn, id, &first.name, hash.clone(), true).await?;
        });
        Ok(made)
    }

    /// Stops background jobs and closes the engines; what was accepted is finished.
    pub async fn shutdown(&self) -> Result<()> {
        self.inner.stop.store(true, Ordering::Release);
        self.inner.feeds.wake_all();
        self.wake_jobs();
        // The job that runs now sees the flag at its next step.
        self.inner.long_jobs_wanted.notify_one();
        self.inner.sweeps_end.notify_one();
        self.inner.board.wake_all();
        let turn = self.inner.jobs_turn.lock().await;
        let sweep = self.inner.sweep_turn.lock().await;
        let long_turn = self.inner.long_jobs_turn.lock().await;
        // Who waits for a turn gets it, and sees the flag. They hold the engines open.
        drop((turn, sweep, long_turn));
        let lanes = std::mem::take(&mut *locked(&self.inner.lanes));
        for lane in lanes {
            if let Err(error) = lane.await {
                tracing::error!(%error, "a lane of jobs broke");
            }
        }
        Ok(self.inner.meta.close().await?)
    }

    /// Why this process should be given no requests; nothing if it should.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.inner.stopping() {
            reasons.push("shutting down".to_owned());
        }
        if self.inner.loading.load(Ordering::Acquire) {
            reasons.push("being loaded from a dump".to_owned());
        }
        match self.inner.meta.health() {
            Health::Ready => {}
            Health::Full => reasons.push("metadata: disk full".to_owned()),
            Health::Failed(why) => reasons.push(format!("metadata: {why}")),
        }
        for store in self.inner.stores.all() {
            match store.health() {
                StoreHealth::Ready => {}
                StoreHealth::Full => reasons.push("chunk store: disk full".to_owned()),
                StoreHealth::Failed(why) => reasons.push(format!("chunk store: {why}")),
            }
        }
        reasons
    }

    /// This crate's numbers as OpenMetrics text, without the final `# EOF`.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        self.inner.metrics.render(&mut text);
        for (name, value) in self.inner.meta.statistics() {
            let name = format!("larder_meta_{name}");
            metrics::render_figure(&mut text, &name, "Of the metadata engine.", value);
        }
        self.render_work(&mut text);
        let ready = u64::from(self.not_ready().is_empty());
        let (name, help) = metrics::READY;
        metrics::render_gauge(&mut text, name, help, ready);
        text
    }

    /// Name and meaning of every metric of [`Larder::metrics`] that is not of an engine.
    pub fn metric_table() -> &'static [(&'static str, &'static str)] {
        Metrics::TABLE
    }

    /// The installation that this is.
    pub fn instance(&self) -> InstanceId {
        self.inner.instance
    }
}

/// Takes the next incarnation number, fences all others, and records the stores.
async fn become_incarnation(
    meta: &dyn MetaStore,
    stores: &Stores,
    env: &Env,
) -> Result<(InstanceId, Incarnation)> {
    let key = schema::instance_key();
    let snapshot = meta.snapshot().await?;
    let stored = txn::get::<Instance>(&*snapshot, &key).await?;
    let Stored { value: mut instance, version } =
        stored.ok_or_else(|| Error::internal("opened without bootstrap"))?;
    let mut txn = Txn::new(snapshot, env.now());
    let others = txn::page(&*txn.snapshot, &schema::incarnations_prefix(), None, 100).await?;
    // What the processes before have leased is free: they can commit no more.
    let leases = txn::page(&*txn.snapshot, &schema::leases_prefix(), None, 100).await?;
    for (other, _) in others.into_iter().chain(leases).take(80) {
        txn.delete(other);
    }
    instance.incarnation = Incarnation(instance.incarnation.0 + 1);
    instance.servers = stores.all().iter().map(|store| store.server()).collect();
    // Else a full disk could not be emptied after a restart.
    txn.frees();
    txn.hold(key.clone(), version);
    txn.put(key, &instance);
    txn.put(larder_meta::spec::incarnation_key(instance.incarnation), &());
    meta.commit(txn.spec).await.map_err(|error| {
        let detail = "could not become the running process";
        Error::new(ErrorKind::Unavailable, detail).with_source(error)
    })?;
    Ok((instance.id, instance.incarnation))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Refuses while a whole instance is being loaded.
    fn require_loaded(&self) -> Result<()> {
        if self.loading.load(Ordering::Acquire) {
            let detail = "the instance is being loaded from a dump: wait until that has ended";
            return Err(Error::new(ErrorKind::Unavailable, detail));
        }
        Ok(())
    }

    fn homes(&self) -> MutexGuard<'_, BTreeMap<UserId, SpaceId>> {
        locked(&self.homes)
    }

    fn verified(&self) -> MutexGuard<'_, Verified> {
        locked(&self.verified)
    }

    fn condemned_epochs(&self) -> MutexGuard<'_, BTreeMap<BlobId, u64>> {
        locked(&self.condemned_epochs)
    }

    fn copies(&self) -> MutexGuard<'_, BTreeSet<JobId>> {
        locked(&self.copies)
    }

    fn revisions_due(&self) -> MutexGuard<'_, Duration> {
        locked(&self.revisions_due)
    }

    fn scrub_cursors(&self) -> MutexGuard<'_, BTreeMap<ServerId, ChunkId>> {
        locked(&self.scrub_cursors)
    }
}

impl fmt::Debug for Larder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Larder({}, incarnation {})", self.inner.instance, self.inner.incarnation)
    }
}
