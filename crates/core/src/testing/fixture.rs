//! Stores in one line: a [`Fixture`] is a file store over engines in memory, or in a directory,
//! with its root user and shorthands for what tests do most.
//!
//! Promises: nothing is shared between two fixtures; the bodies that it makes are told apart by
//! their seed.
//!
//! Not here: faults (`larder_meta::chaos`), the model ([`super::model`]).

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{
    Env,
    id::{NodeId, ServerId, TrashId, UserId},
    name::TreePath,
};
use larder_chunk::{BufferPool, ChunkStore, Expect, LocalOptions, LocalStore, MemoryChunks};
use larder_meta::{
    MetaStore,
    engine::{
        embedded::{EmbeddedOptions, EmbeddedStore},
        memory::MemoryStore,
    },
};

use crate::{
    Caller, CheckReport, Conditions, Config, Entry, FirstUser, Larder, LimitsChange, ListOptions,
    MasterKey, NewSpace, NewUser, PolicyChange, RestoreOptions, Result, RevisionInfo, SpaceChange,
    SpaceKind, SpaceLimits, SpaceRef, Stores, Target, TrashItem, Upload, UploadOptions, Usage,
    Written, schema, txn,
};

/// Password of every user that a fixture makes.
pub const PASSWORD: &str = "correct horse";

/// A file store and what it stands on. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The file store.
    pub larder: Larder,
    /// Its root user.
    pub root: Caller,
    /// Its clock.
    pub env: Env,
    /// Its metadata.
    pub meta: Arc<dyn MetaStore>,
    /// Its chunks, if they are in memory.
    pub chunks: Option<MemoryChunks>,
}

impl Fixture {
    /// Over engines in memory, by the system's clock.
    pub async fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()), Env::system()).await
    }

    /// Over this metadata engine and chunks in memory.
    pub async fn over(meta: Arc<dyn MetaStore>, env: Env) -> Self {
        let chunks = MemoryChunks::new(ServerId::new(&env), BufferPool::new(16 << 20));
        Self::with(meta, chunks, env).await
    }

    /// Over this metadata engine and these chunks: again over the same ones is a restart.
    pub async fn with(meta: Arc<dyn MetaStore>, chunks: MemoryChunks, env: Env) -> Self {
        Larder::bootstrap(&*meta, &env).await.expect("bootstrap");
        let store: Arc<dyn ChunkStore> = Arc::new(chunks.clone());
        Self { chunks: Some(chunks), ..Self::open(meta, store, env).await }
    }

    /// Over the embedded engine and a local store in `directory`, new or as they were left.
    pub async fn embedded(directory: &Path) -> Self {
        let env = Env::system();
        let options = EmbeddedOptions::default();
        let meta = EmbeddedStore::open(&directory.join("meta"), options, &env);
        let meta: Arc<dyn MetaStore> = Arc::new(meta.expect("open metadata"));
        let bootstrap = Larder::bootstrap(&*meta, &env).await.expect("bootstrap");
        let expect = if bootstrap.new { Expect::New } else { Expect::Existing(None) };
        let options = LocalOptions::new(BufferPool::new(16 << 20), bootstrap.instance, expect);
        let store = LocalStore::open(&directory.join("store"), options, &env);
        Self::open(meta, Arc::new(store.expect("open chunk store")), env).await
    }

    /// Over engines in memory, with other settings.
    pub async fn tuned(tune: impl FnOnce(&mut Config)) -> Self {
        let env = Env::system();
        let meta: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
        Larder::bootstrap(&*meta, &env).await.expect("bootstrap");
        let chunks = MemoryChunks::new(ServerId::new(&env), BufferPool::new(16 << 20));
        let store: Arc<dyn ChunkStore> = Arc::new(chunks.clone());
        Self { chunks: Some(chunks), ..Self::open_tuned(meta, store, env, tune).await }
    }

    async fn open(meta: Arc<dyn MetaStore>, store: Arc<dyn ChunkStore>, env: Env) -> Self {
        Self::open_tuned(meta, store, env, |_| {}).await
    }

    async fn open_tuned(
        meta: Arc<dyn MetaStore>,
        store: Arc<dyn ChunkStore>,
        env: Env,
        tune: impl FnOnce(&mut Config),
    ) -> Self {
        let first = FirstUser { name: "root".to_owned(), password: Some(PASSWORD.to_owned()) };
        // Jobs run when there is work, and else when a test says so.
        let mut config = Config {
            collect_interval: Duration::from_secs(3600),
            // One for all fixtures, so that a restart finds it again.
            master_key: MasterKey::parse(&"ab".repeat(32)),
            ..Config::default()
        };
        tune(&mut config);
        let stores = Stores::new(vec![store]).expect("a store");
        let opened = Larder::open(config, Arc::clone(&meta), stores, first, env.clone()).await;
        let (larder, _) = opened.expect("open");
        let root = caller(&*meta, "root").await;
        Self { larder, root, env, meta, chunks: None }
    }

    /// The same store when its users are others than before.
    pub async fn with_other_users(self) -> Self {
        let root = caller(&*self.meta, "root").await;
        Self { root, ..self }
    }

    /// Another user, without rights of administration.
    pub async fn user(&self, name: &str) -> Caller {
        let new = NewUser { name: name.to_owned(), password: PASSWORD.to_owned(), admin: false };
        self.larder.create_user(&self.root, new).await.expect("create user");
        caller(&*self.meta, name).await
    }

    /// A new project space of this name.
    pub async fn space(&self, name: &str, limits: SpaceLimits) -> SpaceRef {
        let policy = PolicyChange::default();
        let new = NewSpace { name: name.to_owned(), kind: SpaceKind::Project, limits, policy };
        SpaceRef::Id(self.larder.create_space(&self.root, new).await.expect("create space").id)
    }

    /// Stops it; what was accepted is finished.
    pub async fn shutdown(&self) {
        self.larder.shutdown().await.expect("shutdown");
    }

    /// Runs all jobs and collects until there is nothing left to do.
    pub async fn settle(&self) {
        for _ in 0..100 {
            let report = self.larder.collect(&self.root).await.expect("collect");
            let jobs = self.larder.jobs(&self.root).await.expect("jobs");
            let failed = jobs.iter().find(|job| job.state == "failed");
            assert!(failed.is_none(), "a job failed: {failed:?}");
            let idle = (report.blobs, report.orphans, report.waiting) == (0, 0, 0);
            if jobs.is_empty() && idle {
                return;
            }
        }
        panic!("jobs and collection do not come to an end");
    }

    /// Demands that the checker finds nothing.
    pub async fn assert_sound(&self) -> CheckReport {
        let report = self.larder.check(&self.root).await.expect("check");
        assert_eq!(report.violations, 0, "violated: {:#?}", report.findings);
        report
    }

    /// Settles, and demands that the checker finds nothing and that every chunk in memory is one
    /// that a committed blob refers to.
    pub async fn assert_clean(&self) -> CheckReport {
        self.settle().await;
        let report = self.assert_sound().await;
        if let Some(chunks) = &self.chunks {
            assert_eq!(chunks.count() as u64, report.counts.chunks, "chunks that nobody needs");
        }
        report
    }
}

/// Shorthands in the root user's home.
impl Fixture {
    /// Makes a directory and those above it.
    pub async fn mkdir(&self, at: &str) -> NodeId {
        let made = self.larder.create_dir(&self.root, &SpaceRef::Home, &path(at), true).await;
        made.expect("create directory").0.id
    }

    /// Uploads bytes with a declared length and missing directories.
    pub async fn put(&self, at: &str, bytes: impl Into<Bytes>) -> Result<Written> {
        self.put_if(at, bytes, Conditions::default()).await
    }

    /// The same under conditions.
    pub async fn put_if(
        &self,
        at: &str,
        bytes: impl Into<Bytes>,
        conditions: Conditions,
    ) -> Result<Written> {
        let options = UploadOptions { conditions, parents: true, ..UploadOptions::default() };
        self.upload(&SpaceRef::Home, at, bytes, options).await
    }

    /// Uploads bytes with a declared length.
    pub async fn upload(
        &self,
        space: &SpaceRef,
        at: &str,
        bytes: impl Into<Bytes>,
        options: UploadOptions,
    ) -> Result<Written> {
        let bytes = bytes.into();
        let options = UploadOptions { length: Some(bytes.len() as u64), ..options };
        let mut upload = self.larder.open_upload(&self.root, space, &path(at), options).await?;
        upload.write(bytes).await?;
        upload.commit().await
    }

    /// The content of a file.
    pub async fn get(&self, at: &str) -> Result<Bytes> {
        self.get_of(&SpaceRef::Home, at, None).await
    }

    /// The content of one revision of a file.
    pub async fn get_of(&self, space: &SpaceRef, at: &str, revision: Option<u64>) -> Result<Bytes> {
        let target = Target::Path(space.clone(), path(at));
        let download = self.larder.download(&self.root, &target, revision).await?;
        read_all(&download).await
    }

    /// The state of an entry.
    pub async fn stat(&self, at: &str) -> Result<Entry> {
        self.larder.stat(&self.root, &Target::Path(SpaceRef::Home, path(at))).await
    }

    /// The revisions of a file, newest first.
    pub async fn revisions(&self, at: &str) -> Result<Vec<RevisionInfo>> {
        let all = ListOptions::default();
        let page = self.larder.revisions(&self.root, &SpaceRef::Home, &path(at), &all).await?;
        Ok(page.entries)
    }

    /// Every entry below a directory.
    pub async fn tree(&self, at: &str) -> Vec<Entry> {
        let all = ListOptions { recursive: true, ..ListOptions::default() };
        let page = self.larder.list(&self.root, &SpaceRef::Home, &path(at), &all).await;
        page.expect("list").entries
    }

    /// Begins an upload.
    pub async fn open_upload(&self, at: &str, options: UploadOptions) -> Result<Upload> {
        self.larder.open_upload(&self.root, &SpaceRef::Home, &path(at), options).await
    }

    /// Makes an older revision current again.
    pub async fn restore_revision(&self, at: &str, revision: u64) -> Result<Entry> {
        let home = SpaceRef::Home;
        self.larder.restore_revision(&self.root, &home, &path(at), revision).await
    }

    /// Removes an older revision.
    pub async fn delete_revision(&self, at: &str, revision: u64) -> Result<()> {
        let home = SpaceRef::Home;
        self.larder.delete_revision(&self.root, &home, &path(at), revision).await
    }

    /// Moves an entry.
    pub async fn mv(&self, from: &str, to: &str, overwrite: bool) -> Result<(Entry, bool)> {
        let home = SpaceRef::Home;
        self.larder.move_entry(&self.root, &home, &path(from), &path(to), overwrite).await
    }

    /// Copies an entry.
    pub async fn cp(&self, from: &str, to: &str, overwrite: bool) -> Result<(Entry, bool)> {
        let home = SpaceRef::Home;
        let (from, to) = (path(from), path(to));
        self.larder.copy_entry(&self.root, (&home, &from), (&home, &to), overwrite).await
    }

    /// Moves an entry to the trash.
    pub async fn rm(&self, at: &str) -> Result<TrashItem> {
        let target = Target::Path(SpaceRef::Home, path(at));
        self.larder.delete(&self.root, &target, &Conditions::default()).await
    }

    /// The trash, newest first.
    pub async fn trash(&self) -> Vec<TrashItem> {
        let all = ListOptions::default();
        self.larder.trash(&self.root, &SpaceRef::Home, &all).await.expect("trash").entries
    }

    /// Puts an item back where it was.
    pub async fn restore(&self, item: TrashId) -> Result<Entry> {
        let options = RestoreOptions::default();
        self.larder.restore(&self.root, &SpaceRef::Home, item, &options).await
    }

    /// Destroys an item.
    pub async fn purge(&self, item: TrashId) -> Result<()> {
        self.larder.purge(&self.root, &SpaceRef::Home, item).await
    }

    /// What the home holds.
    pub async fn usage(&self) -> Usage {
        self.larder.space(&self.root, &SpaceRef::Home).await.expect("space").usage
    }

    /// Limits the live bytes of the home.
    pub async fn limit(&self, live: Option<u64>) {
        let limits = LimitsChange { live: Some(live), retained: None };
        let change = SpaceChange { limits, ..SpaceChange::default() };
        let changed = self.larder.change_space(&self.root, &SpaceRef::Home, change).await;
        changed.expect("change space");
    }
}

/// The user of this name, as a login would find it, without the cost of a hash.
async fn caller(meta: &dyn MetaStore, name: &str) -> Caller {
    let snapshot = meta.snapshot().await.expect("snapshot");
    let id = txn::get::<UserId>(&*snapshot, &schema::user_name_key(name)).await;
    let id = id.expect("read").expect("a user of this name").value;
    let user = txn::get::<schema::User>(&*snapshot, &schema::user_key(id)).await;
    let user = user.expect("read").expect("a user");
    Caller {
        user: id,
        name: name.into(),
        admin: user.value.admin,
        record: user.version,
        scope: crate::Scope::full(),
        credential: None,
        grounds: crate::caller::Grounds::default(),
        link: None,
        priority: crate::Priority::DEFAULT,
    }
}

/// A path of the test.
pub fn path(text: &str) -> TreePath {
    TreePath::parse(text).expect("a path")
}

/// Everything of a download.
pub async fn read_all(download: &crate::Download) -> Result<Bytes> {
    let mut body = download.read(0..download.entry().size).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}
